"""Priors p(z) over the latent of a row."""

from lowerbound.priors.base import Prior
from lowerbound.priors.discrete import Bernoulli, Categorical
from lowerbound.priors.flexible import Flow, NormalMixture
from lowerbound.priors.latents import Given, Latents
from lowerbound.priors.markov import Markov
from lowerbound.priors.normal import ConditionalNormal, LaplaceDirichlet, LearnedNormal, Normal
from lowerbound.priors.positive import Beta, ConditionalGamma, Dirichlet, Gamma
from lowerbound.priors.recurrent import Recurrent
from lowerbound.priors.sphere import HypersphericalUniform
from lowerbound.priors.vamp import VampPrior

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ConditionalGamma",
    "ConditionalNormal",
    "Dirichlet",
    "Flow",
    "Gamma",
    "Given",
    "HypersphericalUniform",
    "LaplaceDirichlet",
    "Latents",
    "LearnedNormal",
    "Markov",
    "Normal",
    "NormalMixture",
    "Prior",
    "Recurrent",
    "VampPrior",
]
