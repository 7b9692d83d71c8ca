"""Likelihoods p(x|z): one short class each.

A likelihood reads the decoder's output ``params [K, B, P, *X]``, P = ``n_parameters`` numbers per value, and data
``x [B, *X]``. Log-probabilities are in nats with respect to the measure it names: counting for discrete values,
Lebesgue in the data's own units for continuous ones, or mixed: their product, or their sum where a single value has
a probability of its own. They are never compared.
"""

from lowerbound.likelihoods.atoms import InflatedLogitNormal, ZeroInflatedLogNormal
from lowerbound.likelihoods.base import Factorised, Likelihood, Measure
from lowerbound.likelihoods.continuous import LogitNormal, LogNormal, Normal, StudentT
from lowerbound.likelihoods.correlated import FullNormal, LowRankNormal
from lowerbound.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from lowerbound.likelihoods.discrete import Bernoulli, Categorical, Ordinal
from lowerbound.likelihoods.levels import DiscretizedLogistic, DiscretizedLogisticMixture, RoundedLogistic
from lowerbound.likelihoods.product import Product
from lowerbound.likelihoods.proportions import Beta, BetaBinomial
from lowerbound.likelihoods.selfmasking import SelfMasking

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Factorised",
    "FullNormal",
    "InflatedLogitNormal",
    "Likelihood",
    "LogNormal",
    "LogitNormal",
    "LowRankNormal",
    "Measure",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "Product",
    "RoundedLogistic",
    "SelfMasking",
    "StudentT",
    "ZeroInflatedLogNormal",
    "ZeroInflatedNegativeBinomial",
]
