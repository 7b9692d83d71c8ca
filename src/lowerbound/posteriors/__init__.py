"""Approximate posteriors q(z|x): a network that maps rows to a distribution of their latents."""

from lowerbound.posteriors.base import Posterior
from lowerbound.posteriors.covariance import FullNormal, LowRankNormal
from lowerbound.posteriors.discrete import Bernoulli, Categorical
from lowerbound.posteriors.flow import Flow
from lowerbound.posteriors.latents import Latents
from lowerbound.posteriors.markov import Markov
from lowerbound.posteriors.mixture import NormalMixture
from lowerbound.posteriors.normal import DiagonalNormal, PrecisionWeighted
from lowerbound.posteriors.positive import Gamma, MergedWeibull, Weibull
from lowerbound.posteriors.recurrent import Recurrent
from lowerbound.posteriors.simplex import Beta, Dirichlet, LogisticNormal
from lowerbound.posteriors.sphere import VonMisesFisher

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "DiagonalNormal",
    "Dirichlet",
    "Flow",
    "FullNormal",
    "Gamma",
    "Latents",
    "LogisticNormal",
    "LowRankNormal",
    "Markov",
    "MergedWeibull",
    "NormalMixture",
    "Posterior",
    "PrecisionWeighted",
    "Recurrent",
    "VonMisesFisher",
    "Weibull",
]
