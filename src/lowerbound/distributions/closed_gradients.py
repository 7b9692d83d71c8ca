"""Elementwise functions whose gradients are computed by a formula, with fewer operations than autograd would use."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_STIRLING_FROM = 16.0
_LOG_LEAST_SCALE = math.log(1e-3)
_SERIES_FROM = 1e3  # of ν/2, above which two terms of a series are exact


class _Remainder(torch.autograd.Function):
    """R(y) = log Γ(y + 1) − y log y + y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        large = y > _STIRLING_FROM
        near, far = torch.where(large, 1.0, y), torch.where(large, y, _STIRLING_FROM)
        direct = torch.lgamma(near + 1) - torch.xlogy(near, near) + near
        inverse = 1 / far
        series = inverse * (1 / 12 - inverse.square() * (1 / 360 - inverse.square() / 1260))
        return torch.where(large, 0.5 * far.log() + HALF_LOG_2PI + series, direct)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """R'(y) = ψ(y + 1) − log y."""
        (y,) = ctx.saved_tensors
        large = y > _STIRLING_FROM
        near, inverse = torch.where(large, 1.0, y), 1 / torch.where(large, y, _STIRLING_FROM)
        square = inverse.square()
        series = 0.5 * inverse - square * (1 / 12 - square * (1 / 120 - square / 252))
        return gradient * torch.where(large, series, torch.digamma(near + 1) - near.log())


class _TTerms(torch.autograd.Function):
    """−log σ − (ν + 1)/2 · log(1 + r²/ν) with r = (x − μ)/σ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loc: Tensor, scale: Tensor, df: Tensor) -> Tensor:
        ctx.save_for_backward(x, loc, scale, df)
        u = ((x - loc) / (scale * df.sqrt())).abs()
        large = u.clamp(min=1)
        small = u.clamp(max=1) / large  # u or 1/u: u² could overflow although its logarithm does not
        logarithm = torch.add(small.square().log1p(), large.log(), alpha=2)
        return logarithm * (-0.5 * (df + 1)) - scale.log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, loc, scale, df = ctx.saved_tensors
        of_x, of_loc, of_scale, of_df = ctx.needs_input_grad
        r = (x - loc) / scale
        v = (r * (r / df)).clamp(max=torch.finfo(r.dtype).max / 4)
        inverse, slope = 1 / (1 + v), gradient / scale
        found: list[Tensor | None] = [None] * 4
        if of_x or of_loc:
            moved = slope * r * inverse * (1 + 1 / df)
            found[:2] = (-moved).sum_to_size(x.shape) if of_x else None, moved.sum_to_size(loc.shape)
        share = v * inverse
        if of_scale:
            found[2] = (slope * (share * (df + 1) - 1)).sum_to_size(scale.shape)
        if of_df:
            found[3] = (gradient * (0.5 * (1 + 1 / df) * share - 0.5 * v.log1p())).sum_to_size(df.shape)
        return tuple(found)


class _InverseAffine(torch.autograd.Function):
    """(y − shift) e^−a and a = raw/(1 + |raw/log 1000|); ``parameters [*, d · 2]``: shift and raw of each dimension."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(y, parameters)
        shift, raw = parameters.unflatten(-1, (-1, 2)).unbind(-1)
        log_scale = raw / (1 + (raw / _LOG_LEAST_SCALE).abs())
        return (y - shift) * (-log_scale).exp(), log_scale

    @staticmethod
    def backward(ctx: Any, of_x: Tensor, of_log_scale: Tensor) -> tuple[Tensor, Tensor]:
        y, parameters = ctx.saved_tensors
        shift, raw = parameters.unflatten(-1, (-1, 2)).unbind(-1)
        rest = 1 / (1 + (raw / _LOG_LEAST_SCALE).abs())
        moved = of_x * (-raw * rest).exp()
        change = (of_log_scale - (moved * (y - shift)).sum_to_size(raw.shape)) * rest.square()
        return moved, torch.stack([(-moved).sum_to_size(raw.shape), change], -1).flatten(-2)


def inverse_affine(y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """The x of ``y [*, d]`` = scale · x + shift, and log scale, as zuko's ``MonotonicAffineTransform`` has them.

    ``parameters [*, d · 2]``: the shift and the unconstrained scale of each dimension.
    """
    found: tuple[Tensor, Tensor] = _InverseAffine.apply(y, parameters)  # type: ignore[no-untyped-call]
    return found


def stirling_remainder(y: Tensor) -> Tensor:
    """R(y) = log Γ(y + 1) − y log y + y, elementwise, for y > 0; by Stirling's series for large y."""
    found: Tensor = _Remainder.apply(y)  # type: ignore[no-untyped-call]
    return found


def student_t_log_prob(x: Tensor, loc: Tensor, scale: Tensor, df: Tensor) -> Tensor:
    """log-density of Student's t with ν = ``df``, elementwise, accurate also for large ν or x."""
    terms: Tensor = _TTerms.apply(x, loc, scale, df)  # type: ignore[no-untyped-call]
    return terms + _t_constant(df)


def _t_constant(df: Tensor) -> Tensor:
    """log Γ(a + ½) − log Γ(a) − ½ log 2πa with a = ν/2; in double precision, because large terms cancel."""
    a = 0.5 * df.double()
    near = a.clamp(max=_SERIES_FROM)
    direct = torch.lgamma(near + 0.5) - torch.lgamma(near) - 0.5 * near.log()
    inverse = 1 / a
    series = inverse * (inverse.square() / 192 - 0.125)
    return (torch.where(a > _SERIES_FROM, series, direct) - HALF_LOG_2PI).to(df.dtype)
