"""Gradient estimators: a draw and an objective → a surrogate ``[B]``, whose gradient estimates the objective's."""

from lowerbound.gradients.base import GradientEstimator, Objective, Traits, estimator, traits, why_biased
from lowerbound.gradients.nodes import ByNode, by_family
from lowerbound.gradients.pathwise import (
    doubly_reparameterised,
    partially_importance_weighted,
    reparameterised,
    sticking_the_landing,
)
from lowerbound.gradients.relax import Relax
from lowerbound.gradients.relaxed import enumerated, rebar, relaxed, straight_through
from lowerbound.gradients.score import (
    LearnedBaseline,
    bounded,
    control_variate,
    leave_one_out,
    rao_blackwellised,
    score_function,
    second_order,
)

__all__ = [
    "ByNode",
    "GradientEstimator",
    "LearnedBaseline",
    "Objective",
    "Relax",
    "Traits",
    "bounded",
    "by_family",
    "control_variate",
    "doubly_reparameterised",
    "enumerated",
    "estimator",
    "leave_one_out",
    "partially_importance_weighted",
    "rao_blackwellised",
    "rebar",
    "relaxed",
    "reparameterised",
    "score_function",
    "second_order",
    "sticking_the_landing",
    "straight_through",
    "traits",
    "why_biased",
]
