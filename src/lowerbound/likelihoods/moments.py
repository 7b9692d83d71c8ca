"""Moments of the observed data in double precision, from which likelihoods are initialised; the open unit interval."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import constraints

TINY = 1e-300  # instead of a sum of weights of 0
_AT_ONCE = 2**20  # values in double precision


def n_observed(x: Tensor, mask: Tensor | None) -> Tensor:
    """The number of observations of each value of a row (at least 1)."""
    return x.new_tensor(float(len(x))) if mask is None else mask.sum(0).clamp(min=1).to(x.dtype)


def mean_of(x: Tensor, mask: Tensor | None) -> Tensor:
    return exact_mean(x, mask).to(x.dtype)


def deviation_of(x: Tensor, mask: Tensor | None) -> Tensor:
    """The standard deviation; 0 if x varies only by rounding error."""
    mean = exact_mean(x, mask)
    deviation = _by_column(lambda x, mask, mean: _mean((x - mean).square(), mask), x, mask, mean).sqrt()
    return torch.where(deviation > torch.finfo(x.dtype).eps * mean.abs(), deviation, 0).to(x.dtype)


def exact_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over observed rows, in double precision."""
    return _by_column(_mean, x, mask)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    values = x.double() if mask is None else torch.where(mask, x, 0).double()
    return values.sum(0) / n_observed(x, mask)


def _by_column(of: Callable[..., Tensor], x: Tensor, mask: Tensor | None, *each: Tensor) -> Tensor:
    """``of(x, mask, *each)``, some columns at a time, so that its copies in double precision stay small."""
    if x.numel() <= _AT_ONCE:
        return of(x, mask, *each)
    size = max(1, _AT_ONCE // len(x))
    given = [part.reshape(len(x), -1).split(size, 1) for part in (x, mask) if part is not None]
    given += [part.flatten().split(size) for part in each]
    parts = [of(*((own[0], None, *own[1:]) if mask is None else own)) for own in zip(*given, strict=True)]
    return torch.cat(parts).view(x.shape[1:])


def moments_of(x: Tensor, mask: Tensor | None) -> Tensor:
    """1, x and x² of each observed value, ``[N, 3, *X]``, and 0 for the others."""
    known = x if mask is None else torch.where(mask, x, 0)
    seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    return torch.stack([seen, known, known.square()], 1)


def log_mean_count(x: Tensor, mask: Tensor | None) -> Tensor:
    """log of the mean count, with half a count added so that it is finite for a column of zeros."""
    return (mean_of(x, mask) + 0.5 / n_observed(x, mask)).log()


def class_counts(x: Tensor, mask: Tensor | None, n_classes: int) -> Tensor:
    """The frequency of each class, ``[C, *X]``, with half a count added so that logarithms are finite."""
    rows = [(x == c).to(x.dtype) for c in range(n_classes)]
    return torch.stack([mean_of(row, mask) * n_observed(x, mask) for row in rows]) + 0.5


def median_and_quartiles(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The median, and half the interquartile range (0 if x varies only by rounding error)."""
    # torch.quantile is limited to 16 million values; here unobserved values are sorted to the end.
    ordered = (x if mask is None else torch.where(mask, x, torch.inf)).sort(0).values
    last = n_observed(x, mask).double() - 1
    low, median, high = (_interpolated(ordered, last * q) for q in (0.25, 0.5, 0.75))
    half = (high - low) / 2
    return median.to(x.dtype), torch.where(half > torch.finfo(x.dtype).eps * median.abs(), half, 0).to(x.dtype)


def _interpolated(ordered: Tensor, place: Tensor) -> Tensor:
    """Interpolate between rows of ``ordered [N, *X]`` at a fractional position: ``[*X]``; 0 if nothing is observed."""
    place = place.expand(ordered.shape[1:]).unsqueeze(0)
    below, above = (ordered.gather(0, at.long()).squeeze(0).double() for at in (place.floor(), place.ceil()))
    value = below + (above - below) * place.frac().squeeze(0)
    return torch.where(below.isfinite(), value, 0)


class _OpenUnitInterval(constraints.Constraint):
    """0 < x < 1. torch's ``unit_interval`` includes 0 and 1, where a beta density is 0 or infinite."""

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


open_unit = _OpenUnitInterval()
