"""Objectives: a draw → a bound on log p(x) in nats per row, ``[B]``, to be maximised.

Objectives work on tensors only; they know neither the model nor the training loop. A penalty depends on all rows of a
batch together: it is a separate scalar and not a bound.
"""

from lowerbound.objectives.base import is_marked_no_bound, lower_bound, no_bound, sums_states, why_no_bound
from lowerbound.objectives.bits import DescriptionLength, description_length
from lowerbound.objectives.bounds import (
    combined_iwae,
    cubo,
    elbo,
    elbo_entropy,
    elbo_sampled,
    iwae,
    minus_cubo,
    multi_iwae,
    of_one_draw,
    renyi,
)
from lowerbound.objectives.enumerated import elbo_enumerated
from lowerbound.objectives.penalties import (
    Decomposition,
    cross_entropy,
    decomposition,
    disentangled,
    free_bits,
    maximum_mean_discrepancy,
    total_correlation,
)
from lowerbound.objectives.weighted import Constrained, capacity

__all__ = [
    "Constrained",
    "Decomposition",
    "DescriptionLength",
    "capacity",
    "combined_iwae",
    "cross_entropy",
    "cubo",
    "decomposition",
    "description_length",
    "disentangled",
    "elbo",
    "elbo_entropy",
    "elbo_enumerated",
    "elbo_sampled",
    "free_bits",
    "is_marked_no_bound",
    "iwae",
    "lower_bound",
    "maximum_mean_discrepancy",
    "minus_cubo",
    "multi_iwae",
    "no_bound",
    "of_one_draw",
    "renyi",
    "sums_states",
    "total_correlation",
    "why_no_bound",
]
