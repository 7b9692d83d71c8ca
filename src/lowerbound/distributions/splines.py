"""Monotone rational-quadratic splines with linear tails, one per value of a row. Durkan et al. 2019.

``knots [3, n, *X]`` holds the places, the values and the slopes at n knots; places and values increase, and slopes are
positive. Outside the knots the spline is linear, with the slope at the outermost knot.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spline(knots: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The spline at ``x [..., *X]``, and the logarithm of its slope there."""
    inside = x.clamp(knots[0, 0], knots[0, -1])
    x0, y0, d0, width, height, d1 = _bin_of(knots, knots[0], inside)
    secant, t = height / width, ((inside - x0) / width).clamp(0, 1)
    below, log_slope = _at(t, secant, d0, d1)
    y = y0 + height * (secant * t.square() + d0 * t * (1 - t)) / below
    return y + (x - inside) * log_slope.exp(), log_slope


def inverse_spline(knots: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The x at which the spline is ``y [..., *X]``, and the logarithm of the spline's slope there."""
    inside = y.clamp(knots[1, 0], knots[1, -1])
    x0, y0, d0, width, height, d1 = _bin_of(knots, knots[1], inside)
    secant, share = height / width, ((inside - y0) / height).clamp(0, 1)
    bend = share * (d0 + d1 - 2 * secant)
    a, b, c = secant - d0 + bend, d0 - bend, -secant * share
    root = (b.square() - 4 * a * c).clamp(min=torch.finfo(y.dtype).tiny).sqrt()
    t = torch.where(b > 0, -2 * c, root - b) / torch.where(b > 0, root + b, 2 * a)  # no difference of equal numbers
    t = t.clamp(0, 1)
    log_slope = _at(t, secant, d0, d1)[1]
    return x0 + width * t + (y - inside) * (-log_slope).exp(), log_slope


def _at(t: Tensor, secant: Tensor, d0: Tensor, d1: Tensor) -> tuple[Tensor, Tensor]:
    """The denominator of the spline, and the logarithm of its slope, at the share ``t`` of a bin."""
    rest = t * (1 - t)
    below = secant + (d0 + d1 - 2 * secant) * rest
    slope = 2 * secant * rest + d0 * (1 - t).square() + d1 * t.square()
    return below, 2 * (secant.log() - below.log()) + slope.log()


def _bin_of(knots: Tensor, edges: Tensor, at: Tensor) -> tuple[Tensor, ...]:
    """Of the bin that contains each value of ``at``: place, value and slope at its start; width, height; end slope."""
    count = len(edges)
    columns, flat = edges.reshape(count, -1), at.reshape(-1, edges[0].numel())
    place = torch.searchsorted(columns[1:-1].T.contiguous(), flat.detach().T.contiguous()).T
    start, end = (knots.reshape(3, count, -1)[:, k] for k in (slice(0, -1), slice(1, None)))
    found = torch.stack([*start, end[0] - start[0], end[1] - start[1], end[2]])
    return found.gather(1, place.expand(6, -1, -1)).view(6, *at.shape).unbind(0)
