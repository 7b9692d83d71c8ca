"""The interface of gradient estimators, and the properties of an objective that they use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from lowerbound.distributions import Discrete
from lowerbound.draw import Draw, Node, in_groups, of_terms

Objective = Callable[[Draw], Tensor]
GradientEstimator = Callable[[Draw, Objective], Tensor]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Traits:
    """Properties of a gradient estimator.

    - ``detached``: whether it needs draws through which no gradient flows.
    - ``least_draws``: the smallest K that it needs.
    - ``biased``: why its mean is not the gradient of the objective; "" if it is unbiased.
    - ``biased_means``: whether it is also biased for objectives that are means over the draws.
    - ``rescales``: whether it rescales the gradient of the draws, so that other terms of the same draws (penalties)
      cannot be used with it.
    """

    detached: bool = False
    least_draws: int = 1
    biased: str = ""
    biased_means: bool = True
    rescales: bool = False


def estimator(
    detached: bool = False, least_draws: int = 1, biased: str = "", biased_means: bool = True, rescales: bool = False
) -> Callable[[F], F]:
    """Decorator that marks a function as a gradient estimator with the given ``Traits``."""

    def mark(function: F) -> F:
        function.traits = Traits(detached, least_draws, biased, biased_means, rescales)  # type: ignore[attr-defined]
        function.is_part = True  # type: ignore[attr-defined]
        return function

    return mark


def traits(gradient: GradientEstimator) -> Traits:
    """The traits of a gradient estimator, also of a ``functools.partial`` of one."""
    while isinstance(gradient, partial):
        gradient = gradient.func
    found: Traits = getattr(gradient, "traits", Traits())
    return found


def per_draw(draw: Draw, objective: Objective) -> Tensor:
    """The objective of each draw alone, ``[K, B]``."""
    return objective(in_groups(draw, len(draw.log_lik))).view_as(draw.log_lik)


def is_summed(node: Node, objective: Objective) -> bool:
    """Whether the objective is a sum over the states of this latent, so that no gradient needs its draws."""
    name = None
    while isinstance(objective, partial):
        name, objective = name or objective.keywords.get("latent"), objective.func
    return sums_states(objective) and isinstance(node.q, Discrete) and name in (None, node.name)


def sums_states(objective: Callable[..., Any]) -> bool:
    """Whether the objective is a sum over the states of a latent (``objectives.sums_states``)."""
    while isinstance(objective, partial):
        objective = objective.func
    return bool(getattr(objective, "sums_states", False))


@lru_cache
def is_mean(objective: Objective) -> bool:
    """Whether an objective is a mean over the draws, like the ELBO, so that each draw contributes its own term."""
    log_lik = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    one = log_lik.new_ones(1)
    probe = of_terms(log_lik, 3 * log_lik, 0.5 * log_lik, one, one)
    with torch.no_grad():
        return math.isclose(objective(probe).item(), per_draw(probe, objective).mean().item(), abs_tol=1e-9)


def why_biased(gradient: GradientEstimator, objective: Objective) -> str:
    """Why the estimator is biased for this objective; "" if it is unbiased."""
    found = traits(gradient)
    return found.biased if found.biased_means or not is_mean(objective) else ""


def needs_mean(name: str, objective: Objective) -> None:
    """Raise ValueError if the objective is not a mean over the draws."""
    if not is_mean(objective):
        raise ValueError(f"{name} needs an objective that is a mean over the draws, such as elbo; use leave_one_out.")


def only_node(name: str, draw: Draw) -> Node:
    """The only latent of a draw whose gradient is estimated. Raises ValueError if there are several."""
    nodes = [node for node in draw.nodes if not node.given]
    if len(nodes) > 1:
        raise ValueError(f"{name} is for models with one latent, but this has {len(nodes)}; use by_family or ByNode.")
    return nodes[0]


@dataclass(frozen=True)
class Sensitivity:
    """∂ objective / ∂ (log p(x|z), log p(z), log q(z|x)) of each draw, ``[K, B]``."""

    log_lik: Tensor
    log_p: Tensor
    log_q: Tensor


def sensitivity(draw: Draw, objective: Objective) -> Sensitivity:
    """The derivatives of the objective with respect to the terms of each draw."""
    with torch.enable_grad():
        terms = [term.detach().requires_grad_() for term in (draw.log_lik, draw.log_prior, draw.log_q)]
        value = objective(of_terms(*terms))
        found = torch.autograd.grad(value.sum(), terms, allow_unused=True)
    return Sensitivity(*(torch.zeros_like(t) if g is None else g for t, g in zip(terms, found, strict=True)))
