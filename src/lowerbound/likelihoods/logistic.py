"""log E[sigmoid(η)] over a value's own distribution: the probability of what depends on it by a logistic curve.

Deterministic and differentiable: a draw would make a bound of what can be had to many digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SCALES = (16, 0.235, 3.6)  # how many, and from where to where: to 1e-9
_EDGES = (28, 16)  # around the middle of a t, and around where the curve turns
_COUNTS, _EXACT = 96, 16  # how many counts are looked at, and how many of them from 0 on one by one


def _mixture() -> tuple[list[float], list[float]]:
    """λ_i and log p_i: sigmoid(x) = Σ p_i Φ(x/λ_i), by the trapezoidal rule in log λ.

    A logistic variable is normal with the scale 2K, K of Kolmogorov's distribution: Andrews & Mallows 1974.
    """
    count, low, high = _SCALES
    step = math.log(high / low) / (count - 1)
    k, j = low * np.exp(step * np.arange(count)), np.arange(1, 40)[:, None]
    density = 8 * k * (np.where(j % 2, 1, -1) * j**2 * np.exp(-2 * (j * k) ** 2)).sum(0)
    weight = density * k / (density * k).sum()
    return (2 * k).tolist(), np.log(weight).tolist()


_WIDTHS, _LOG_WEIGHTS = _mixture()
_NODES, _NODE_WEIGHTS = (each.tolist() for each in np.polynomial.legendre.leggauss(4))


def normal_expectation(loc: Tensor, scale: Tensor) -> Tensor:
    """log E[sigmoid(η)] of η ~ N(loc, scale²), elementwise, to 1e-8 whatever the two.

    As a mixture of normals the sigmoid has E = Σ p_i Φ(loc / √(scale² + λ_i²)). Its tail is none of a normal's, so what
    lies far below is turned over first: E[sigmoid(η)] = e^(loc + v/2) E[sigmoid(η')], η' ~ N(−loc − v, v), v = scale².
    """
    variance = scale.square()
    turned = loc < -variance / 2
    outside = torch.where(turned, loc + variance / 2, 0)
    loc = torch.where(turned, -loc - variance, loc)
    widths, log_weights = loc.new_tensor(_WIDTHS), loc.new_tensor(_LOG_WEIGHTS)
    at = loc.unsqueeze(-1) * (variance.unsqueeze(-1) + widths.square()).rsqrt()
    below: Tensor = torch.special.log_ndtr(at)
    return outside + (below + log_weights).logsumexp(-1)


def t_expectation(loc: Tensor, scale: Tensor, df: Tensor) -> Tensor:
    """log E[sigmoid(loc + scale · t)], t of Student's distribution, elementwise, to 1e-5 (below 3 degrees 1e-4).

    The rule of Gauss and Legendre of 4 points between edges that crowd around 0, where t has its mass, and around where
    the curve turns, and spread by powers from there, as far as t's tails need.
    """
    with torch.no_grad():
        steep = scale.abs().clamp(min=1e-3)
        turn = (-loc / steep).clamp(-1e4, 1e4)
        reach = ((1 + turn.abs()) * 10 ** (5 / df) + 8).asinh()
        near = (steep * (1 + turn.abs())).asinh()
        first, second = (torch.linspace(-1, 1, n, dtype=loc.dtype, device=loc.device) for n in _EDGES)
        around = turn.unsqueeze(-1) + (near.unsqueeze(-1) * second).sinh() / steep.unsqueeze(-1)
        edges = torch.cat([(reach.unsqueeze(-1) * first).sinh(), around], -1).sort(-1).values
        half, middle = edges.diff() / 2, (edges[..., 1:] + edges[..., :-1]) / 2
        points = (middle.unsqueeze(-1) + half.unsqueeze(-1) * half.new_tensor(_NODES)).flatten(-2)
        weights = (half.unsqueeze(-1) * half.new_tensor(_NODE_WEIGHTS)).flatten(-2)
    log_p = weights.log() - (df + 1) / 2 * torch.log1p(points.square() / df)  # but for a constant, which cancels
    return _mean(log_p, loc.unsqueeze(-1) + scale.abs().unsqueeze(-1) * points)


def count_expectation(
    log_prob: Callable[[Tensor], Tensor],
    mean: Tensor,
    deviation: Tensor,
    tail: Tensor,
    logit: Callable[[Tensor], Tensor],
) -> Tensor:
    """log E[sigmoid(logit(x))] of counts x by their ``log_prob``, elementwise.

    To 1e-5 of slopes up to 3 for a standard deviation of x given z; to 2e-3 at 8.

    ``deviation``: that of x, or somewhat more. ``tail``: how slowly p falls, as e^(−x/tail). All counts are summed
    where 96 of them hold the mass. Where they do not, p is smooth at the scale of 1 and fewer stand for all, evenly
    spaced around a mean far from 0, and else one by one from 0 and then ever wider.
    """
    with torch.no_grad():
        low = (mean - 6 * deviation).floor().clamp(min=0).unsqueeze(-1)
        high = (mean + 7 * deviation + 13 * tail).unsqueeze(-1)
        place = torch.arange(_COUNTS, dtype=mean.dtype, device=mean.device)
        later = ((place - _EXACT) / (_COUNTS - 1 - _EXACT)).clamp(min=0)
        step = torch.where(low > 0, ((high - low) / (_COUNTS - 1)).clamp(min=1), 1.0)
        bend = torch.where(low > 0, 0.0, (high - (_COUNTS - 1)).clamp(min=0))
        x = low + step * place + bend * later**4
        width = step + bend * 4 * later**3 / (_COUNTS - 1 - _EXACT)
    return _mean(log_prob(x) + width.log(), logit(x))


def _mean(log_weights: Tensor, logit: Tensor) -> Tensor:
    """log of the weighted mean of sigmoid(logit) over the last axis; exact where all are alike."""
    return (log_weights + functional.logsigmoid(logit)).logsumexp(-1) - log_weights.logsumexp(-1)
