"""log E[sigmoid(η)] for a random η: the probability of an event whose logit is η, integrated over η.

Computed by deterministic, differentiable quadrature, which is nearly exact; sampling would only give a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SCALES = (16, 0.235, 3.6)  # number, smallest and largest of the scales λ_i; the error is 1e-9
_EDGES = (28, 16)  # quadrature intervals around the centre of t, and around the middle of the sigmoid
_COUNTS, _EXACT = 96, 16  # number of counts that are evaluated, and how many of them consecutively from 0


def _mixture() -> tuple[list[float], list[float]]:
    """λ_i and log p_i with sigmoid(x) = Σ p_i Φ(x/λ_i), by the trapezoidal rule in log λ.

    A logistic variable is a normal variable with a random scale 2K, where K has Kolmogorov's distribution. Andrews &
    Mallows 1974.
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
    """log E[sigmoid(η)] for η ~ N(loc, scale²), elementwise, with an error of 1e-8.

    The sigmoid is approximated by a mixture of normal CDFs, so that E = Σ p_i Φ(loc / √(scale² + λ_i²)). The mixture is
    inaccurate in the lower tail, where instead E[sigmoid(η)] = e^(loc + v/2) E[sigmoid(η')] with η' ~ N(−loc − v, v)
    and v = scale² is used.
    """
    variance = scale.square()
    turned = loc < -variance / 2
    outside = torch.where(turned, loc + variance / 2, 0)
    loc = torch.where(turned, -loc - variance, loc)
    widths, log_weights = loc.new_tensor(_WIDTHS), loc.new_tensor(_LOG_WEIGHTS)
    at = loc.unsqueeze(-1) * (variance.unsqueeze(-1) + widths.square()).rsqrt()
    below: Tensor = torch.special.log_ndtr(at)
    return outside + (below + log_weights).logsumexp(-1)


def t_expectation(loc: Tensor, scale: Tensor, df: Tensor, logit: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """log E[sigmoid(loc + scale · t)] for Student's t, elementwise, with an error of 1e-5 (1e-4 for ``df`` below 3).

    ``logit``: another increasing or decreasing function of t instead of loc + scale · t, which is then near it where it
    is 0.

    Gauss-Legendre quadrature with 4 points per interval. The intervals are short around 0, where t has its mass, and
    around the middle of the sigmoid, and grow exponentially towards the tails.
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
    log_p = weights.log() - (df + 1) / 2 * torch.log1p(points.square() / df)  # up to a constant, which cancels
    if logit is not None:
        return _mean(log_p, logit(points))
    return _mean(log_p, loc.unsqueeze(-1) + scale.abs().unsqueeze(-1) * points)


def count_expectation(
    log_prob: Callable[[Tensor], Tensor],
    mean: Tensor,
    deviation: Tensor,
    tail: Tensor,
    logit: Callable[[Tensor], Tensor],
) -> Tensor:
    """log E[sigmoid(logit(x))] for counts x with the given ``log_prob``, elementwise.

    The error is 1e-5 if the logit changes by up to 3 per standard deviation of x given z, and 2e-3 at a change of 8.

    ``deviation``: the standard deviation of x, or an upper bound. ``tail``: the rate at which p falls, e^(−x/tail). If
    96 counts cover the mass, all are summed. Otherwise p is smooth and 96 counts represent all: evenly spaced around
    the mean if that is far from 0, else consecutive from 0 and then with growing distances.
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
    """log of the weighted mean of sigmoid(logit) over the last axis; exact if all logits are equal."""
    return (log_weights + functional.logsigmoid(logit)).logsumexp(-1) - log_weights.logsumexp(-1)
