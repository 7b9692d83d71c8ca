"""KL(q ‖ p) in closed form, by the families of q and p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lowerbound.distributions.covariance import FullNormal, LowRankNormal, kl_normals
from lowerbound.distributions.discrete import Bernoulli, Categorical, kl_bernoulli, kl_categorical
from lowerbound.distributions.family import Distribution
from lowerbound.distributions.gamma import Gamma, Weibull, kl_gamma, kl_weibull_gamma
from lowerbound.distributions.normal import Normal, kl_normal
from lowerbound.distributions.observed import Observed
from lowerbound.distributions.simplex import (
    Beta,
    Dirichlet,
    LogisticNormal,
    kl_beta,
    kl_dirichlet,
    kl_logistic_normal,
)
from lowerbound.distributions.sphere import HypersphericalUniform, VonMisesFisher, kl_sphere

Rule = Callable[[Any, Any], Tensor]

_PER_DIM: dict[tuple[type, type], Rule] = {
    (Normal, Normal): kl_normal,
    (Bernoulli, Bernoulli): kl_bernoulli,
    (Categorical, Categorical): kl_categorical,
    (Observed, Categorical): kl_categorical,
    (Gamma, Gamma): kl_gamma,
    (Weibull, Gamma): kl_weibull_gamma,
    (Beta, Beta): kl_beta,
}
"""Pairs of families with independent dimensions: the function gives the KL of each dimension, ``[B, *E]``."""

_WHOLE: dict[tuple[type, type], Rule] = {
    (FullNormal, FullNormal): kl_normals,
    (FullNormal, LowRankNormal): kl_normals,
    (FullNormal, Normal): kl_normals,
    (LowRankNormal, FullNormal): kl_normals,
    (LowRankNormal, LowRankNormal): kl_normals,
    (LowRankNormal, Normal): kl_normals,
    (Normal, FullNormal): kl_normals,
    (Normal, LowRankNormal): kl_normals,
    (Dirichlet, Dirichlet): kl_dirichlet,
    (LogisticNormal, LogisticNormal): kl_logistic_normal,
    (VonMisesFisher, HypersphericalUniform): kl_sphere,
}
"""Other pairs of families: the function gives the KL, ``[B]``."""


def kl_per_dim(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) of each latent dimension, ``[B, *E]`` or ``[K, B, *E]``; None if it has no closed form."""
    rule = _PER_DIM.get((type(q), type(p)))
    return None if rule is None else rule(q, p)


def kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p), ``[B]``, or ``[K, B]`` if q or p depends on the draw of a parent; None if it has no closed form."""
    rule = _WHOLE.get((type(q), type(p)))
    if rule is not None:
        return rule(_with_draws(q, p), p)
    per_dim = kl_per_dim(q, p)
    return None if per_dim is None else per_dim.flatten(lead := batch_dims(q, p)).sum(lead)


def batch_dims(q: Distribution, p: Distribution) -> int:
    """The number of leading dimensions of KL(q ‖ p): 1, or 2 if q or p depends on the draw of a parent."""
    return max(1, q.batch_dims, p.batch_dims)


def _with_draws(q: Distribution, p: Distribution) -> Distribution:
    """q with a dimension of draws, ``[1, B, *P]``, if p has one."""
    return q.by_draw(1, -1) if p.batch_dims == 2 else q
