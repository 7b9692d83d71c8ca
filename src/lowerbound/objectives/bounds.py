"""Bounds on log p(x): a draw → nats per row, ``[B]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowerbound.draw import Draw, in_groups, over_draws
from lowerbound.objectives.base import lower_bound, no_bound

_NEGLIGIBLE = 46.0  # nats: e⁻⁴⁶ ≈ 1e-20


@lower_bound
def elbo(draw: Draw) -> Tensor:
    """The evidence lower bound with the KL in closed form (SGVB-B of Kingma & Welling 2013, eq. 7).

    mean_K log p(x|z) − KL(q(z|x) ‖ p(z)). If a latent has no closed-form KL, this equals ``elbo_sampled``.
    """
    return elbo_sampled(draw) if draw.kl is None else draw.log_lik.mean(0) - over_draws(draw.kl)


@lower_bound
def elbo_sampled(draw: Draw) -> Tensor:
    """The evidence lower bound without closed forms (SGVB-A, eq. 6): mean_K [log p(x, z) − log q(z|x)]."""
    return draw.log_w.mean(0)


@lower_bound
def elbo_entropy(draw: Draw) -> Tensor:
    """The evidence lower bound with the entropy in closed form: mean_K log p(x, z) + H(q(z|x))."""
    if draw.entropy is None:
        raise ValueError("elbo_entropy needs a posterior with a closed-form entropy; use elbo_sampled.")
    return (draw.log_lik + draw.log_prior).mean(0) + over_draws(draw.entropy)


@lower_bound
def iwae(draw: Draw) -> Tensor:
    """The importance-weighted bound, log mean_K w. With K = 1 it equals ``elbo_sampled``. Burda et al. 2016.

    Weights below 1e-20 of the largest get a gradient of exactly 0, because subnormal numbers would slow down the
    backward pass. This changes the value by less than K·1e-20.
    """
    return _log_mean_exp(draw.log_w)


def _no_renyi_bound(alpha: float) -> str:
    return "" if 0 <= alpha <= 1 else "the Rényi bound of K draws is a lower bound for α in [0, 1] only"


@no_bound(_no_renyi_bound)
def renyi(draw: Draw, alpha: float) -> Tensor:
    """The variational Rényi bound, 1/(1 − α) · log mean_K w^(1−α). Li & Turner 2016.

    α = 1 is ``elbo_sampled``, α = 0 is ``iwae``. It is a lower bound on log p(x) for α in [0, 1] and any K.
    """
    if alpha == 1:
        return elbo_sampled(draw)
    return _log_mean_exp((1 - alpha) * draw.log_w) / (1 - alpha)


@no_bound(
    lambda **_: "it is an upper bound, and with finitely many draws its estimate is biased downwards",
    maximised=False,
)
def cubo(draw: Draw, order: float = 2.0) -> Tensor:
    """The χ upper bound (CUBO), 1/n · log mean_K wⁿ with n = ``order``. Dieng et al. 2017.

    It is an upper bound only in the limit K → ∞: exp(n·CUBO) is estimated without bias, but its logarithm is not. It is
    finite if q has heavier tails than the posterior. To fit q, maximise ``minus_cubo`` with the model's parameters
    fixed.
    """
    return _log_mean_exp(order * draw.log_w) / order


@no_bound(lambda **_: "it is the negative of an upper bound")
def minus_cubo(draw: Draw, order: float = 2.0) -> Tensor:
    """−``cubo``; maximising it over q minimises the χ-divergence from the posterior."""
    return -cubo(draw, order)


@lower_bound
def multi_iwae(draw: Draw, groups: int) -> Tensor:
    """The mean of ``groups`` importance-weighted bounds of K/``groups`` draws each (MIWAE of Rainforth et al. 2018)."""
    return iwae(in_groups(draw, groups)).view(groups, -1).mean(0)


@no_bound(lambda share=0.0: "" if 0 <= share <= 1 else "with a share outside [0, 1] it is not a mean of two bounds")
def combined_iwae(draw: Draw, share: float) -> Tensor:
    """``share`` · ELBO + (1 − ``share``) · IWAE, of the same draws (CIWAE of Rainforth et al. 2018)."""
    return share * elbo_sampled(draw) + (1 - share) * iwae(draw)


def of_one_draw(objective: Callable[..., Tensor], draws: int) -> bool:
    """Whether ``draws`` is 1 for a bound that needs several draws to differ from the ELBO."""
    settings: dict[str, Any] = {}
    while isinstance(objective, partial):
        settings, objective = {**objective.keywords, **settings}, objective.func
    if objective is multi_iwae:
        return draws <= int(settings.get("groups", 1))
    return draws == 1 and objective in (iwae, renyi, combined_iwae)


def _log_mean_exp(values: Tensor) -> Tensor:
    floor = values.detach().amax(0) - _NEGLIGIBLE
    return torch.maximum(values, floor).logsumexp(0) - math.log(len(values))
