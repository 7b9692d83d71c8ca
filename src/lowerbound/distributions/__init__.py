"""Families of distributions: noise, samples, log-densities. All random numbers come from an explicit generator."""

from lowerbound.distributions.closed_gradients import student_t_log_prob
from lowerbound.distributions.covariance import FullNormal, LowRankNormal
from lowerbound.distributions.densities import (
    beta_binomial_log_prob,
    beta_log_prob,
    inverse_positive,
    logistic_noise,
    negative_binomial_log_prob,
    normal_log_prob,
    poisson_log_prob,
    positive,
    stirling_remainder,
)
from lowerbound.distributions.discrete import Bernoulli, Categorical, Discrete
from lowerbound.distributions.family import Distribution, Reparameterisation, a_distribution
from lowerbound.distributions.flow import Flow, Transforms
from lowerbound.distributions.gamma import Gamma, Weibull
from lowerbound.distributions.kl import kl, kl_per_dim
from lowerbound.distributions.latents import Latents, size
from lowerbound.distributions.markov import Guided, LinearMarkov, Markov, Steps
from lowerbound.distributions.mixtures import Mixture
from lowerbound.distributions.normal import Normal, kl_normal
from lowerbound.distributions.normal_mixture import NormalMixture
from lowerbound.distributions.observed import Observed, observed
from lowerbound.distributions.recurrent import GuidedRecurrent, Recurrent
from lowerbound.distributions.simplex import Beta, Dirichlet, LogisticNormal
from lowerbound.distributions.sphere import HypersphericalUniform, VonMisesFisher
from lowerbound.distributions.streams import Randomness, RowGenerators, by_row, generator

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Dirichlet",
    "Discrete",
    "Distribution",
    "Flow",
    "FullNormal",
    "Gamma",
    "Guided",
    "GuidedRecurrent",
    "HypersphericalUniform",
    "Latents",
    "LinearMarkov",
    "LogisticNormal",
    "LowRankNormal",
    "Markov",
    "Mixture",
    "Normal",
    "NormalMixture",
    "Observed",
    "Randomness",
    "Recurrent",
    "Reparameterisation",
    "RowGenerators",
    "Steps",
    "Transforms",
    "VonMisesFisher",
    "Weibull",
    "a_distribution",
    "beta_binomial_log_prob",
    "beta_log_prob",
    "by_row",
    "generator",
    "inverse_positive",
    "kl",
    "kl_normal",
    "kl_per_dim",
    "logistic_noise",
    "negative_binomial_log_prob",
    "normal_log_prob",
    "observed",
    "poisson_log_prob",
    "positive",
    "size",
    "stirling_remainder",
    "student_t_log_prob",
]
