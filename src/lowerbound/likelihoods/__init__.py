"""Likelihoods p(x|z): one short class each.

A likelihood takes the decoder's output ``params [K, B, P, *X]``, P = ``n_parameters`` numbers per value, and data
``x [B, *X]``. Log-probabilities are in nats, with respect to the likelihood's ``measure``: "counting" for discrete
values, "Lebesgue" (in the data's own units) for continuous ones, or "mixed" (a product of both, or a sum if single
values have a positive probability). Log-probabilities with respect to different measures are not comparable.
"""

from lowerbound.likelihoods.atoms import Atoms, InflatedLogitNormal, ZeroInflatedLogNormal
from lowerbound.likelihoods.base import Factorised, Likelihood, Measure
from lowerbound.likelihoods.cholesky import CholeskyNormal
from lowerbound.likelihoods.continuous import LogitNormal, LogNormal, Normal, StudentT
from lowerbound.likelihoods.correlated import FullNormal, LowRankNormal
from lowerbound.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from lowerbound.likelihoods.discrete import Bernoulli, Categorical, Ordinal
from lowerbound.likelihoods.each_step import EachStep
from lowerbound.likelihoods.levels import DiscretizedLogistic, DiscretizedLogisticMixture, RoundedLogistic
from lowerbound.likelihoods.multinomial import Multinomial
from lowerbound.likelihoods.product import Product
from lowerbound.likelihoods.proportions import Beta, BetaBinomial
from lowerbound.likelihoods.selfmasking import SelfMasking
from lowerbound.likelihoods.warped import Warped

__all__ = [
    "Atoms",
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Categorical",
    "CholeskyNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "EachStep",
    "Factorised",
    "FullNormal",
    "InflatedLogitNormal",
    "Likelihood",
    "LogNormal",
    "LogitNormal",
    "LowRankNormal",
    "Measure",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "Poisson",
    "Product",
    "RoundedLogistic",
    "SelfMasking",
    "StudentT",
    "Warped",
    "ZeroInflatedLogNormal",
    "ZeroInflatedNegativeBinomial",
]
