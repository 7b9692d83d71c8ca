"""Rows as an encoder sees them: standardised numbers, classes as 0 and 1, flags of missing values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_AT_ONCE = 2**20  # values in double precision


class Standardise(nn.Module):
    """(x − shift)/spread, or (log(1 + x) − shift)/spread with ``log1p``, taken from data and then kept.

    A missing value becomes 0, the mean of the others. Mattei & Frellsen 2019.
    """

    masked = True
    shift: Tensor
    spread: Tensor

    def __init__(self, shape: Sequence[int], log1p: bool = False) -> None:
        super().__init__()
        self.shape, self.log1p = tuple(shape), log1p
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out = ((x.log1p() if self.log1p else x) - self.shift) / self.spread
        return out if mask is None else torch.where(mask, out, 0)

    @torch.no_grad()
    def fit(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take shift and spread from ``x [N, *X]``: for each value of a row, or one of each where shape is ()."""
        x = x.log1p() if self.log1p else x
        if self.shape and x.numel() > _AT_ONCE:  # some columns at a time
            size = max(1, _AT_ONCE // len(x))
            masks = [None] * x[0].numel() if mask is None else mask.flatten(1).split(size, 1)
            parts = [_moments(own, seen, [0]) for own, seen in zip(x.flatten(1).split(size, 1), masks, strict=False)]
            mean, deviation = (torch.cat(each).view(self.shape) for each in zip(*parts, strict=True))
        else:
            mean, deviation = _moments(x, mask, [0] if self.shape else list(range(x.dim())))
        precision = torch.finfo(x.dtype)
        varies = deviation > precision.eps * mean.abs() + 1e3 * precision.tiny  # more than by rounding
        self.shift.copy_(mean)
        self.spread.copy_(torch.where(varies, deviation, 1.0))


def _moments(x: Tensor, mask: Tensor | None, over: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the observed values over some axes, in double precision."""
    wide = x.double()
    if mask is None:
        return wide.mean(over), wide.std(over, correction=0)
    count = mask.sum(over).clamp(min=1)
    mean = torch.where(mask, wide, 0).sum(over) / count
    return mean, (torch.where(mask, wide - mean, 0).square().sum(over) / count).sqrt()


class Cells(nn.Module):
    """Rows of a table as an encoder sees them: ``[N, D]`` → ``[N, Σ_j max(1, C_j) + D + Σ_j m_j]``.

    ``classes [D]``: C_j classes of column j become as many values of 0 and 1; where it is 0, numbers are standardised
    (after log(1 + x) where ``log1p [D]``). What is missing is 0, which is the mean of numbers, and D flags say what is
    there. Nazábal et al. 2020; Mattei & Frellsen 2019. ``atoms [D]``: m_j values of column j that get a flag of 0 or 1
    each, such as those of ``likelihoods.Atoms``; compared in single precision.
    """

    masked = True
    shift: Tensor
    spread: Tensor
    logs: Tensor
    points: Tensor
    marked: Tensor
    coded: Tensor
    codes: Tensor
    places: Tensor

    def __init__(self, classes: Sequence[int], log1p: Sequence[bool], atoms: Sequence[Sequence[float]] = ()) -> None:
        super().__init__()
        for name, count in (("log1p", len(log1p)), ("atoms", len(atoms or classes))):
            if count != len(classes):
                there = f"there are classes of {len(classes)} columns and {name} of {count}"
                raise ValueError(f"{there}; give one of each per column.")
        self.classes, self.log1p = tuple(classes), tuple(log1p)
        self.atoms = tuple(tuple(float(each) for each in own) for own in atoms)
        codes = [(j, code) for j, count in enumerate(self.classes) for code in range(count)]
        self.register_buffer("coded", torch.tensor([j for j, _ in codes], dtype=torch.int64), persistent=False)
        self.register_buffer("codes", torch.tensor([float(code) for _, code in codes]), persistent=False)
        self.register_buffer("places", torch.tensor(_places(self.classes), dtype=torch.int64), persistent=False)
        marks = [(j, point) for j, own in enumerate(self.atoms) for point in own]
        self.register_buffer("marked", torch.tensor([j for j, _ in marks], dtype=torch.int64), persistent=False)
        self.register_buffer("points", torch.tensor([point for _, point in marks]), persistent=False)
        self.register_buffer("shift", torch.zeros(len(classes)))
        self.register_buffer("spread", torch.ones(len(classes)))
        self.register_buffer("logs", torch.tensor(self.log1p), persistent=False)

    @property
    def out_features(self) -> int:
        """Numbers that a row becomes."""
        return sum(max(1, each) for each in self.classes) + len(self.classes) + len(self.points)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        there = torch.ones_like(x) if mask is None else mask.to(x.dtype)
        numbers = (self._scaled(x) - self.shift) / self.spread * there
        parts = [numbers]
        if len(self.codes):
            flags = (x.index_select(1, self.coded) == self.codes) * there.index_select(1, self.coded)
            parts = [torch.cat([numbers, flags], 1).index_select(1, self.places)]
        if self.atoms:
            parts.append((x[:, self.marked].float() == self.points.float()) * there[:, self.marked])
        return torch.cat([*parts, there], 1)

    def _scaled(self, x: Tensor) -> Tensor:
        return torch.where(self.logs, x.clamp(min=0).log1p(), x)

    @torch.no_grad()
    def fit(self, x: Tensor, mask: Tensor) -> None:
        """Take the means and deviations of numbers from observed values of ``x [N, D]``."""
        values, count = self._scaled(torch.where(mask, x, 0)).double(), mask.sum(0).clamp(min=1)
        mean = torch.where(mask, values, 0).sum(0) / count
        deviation = (torch.where(mask, values - mean, 0).square().sum(0) / count).sqrt()
        numbers = torch.tensor([each == 0 for each in self.classes], device=x.device)
        self.shift.copy_(torch.where(numbers, mean, 0))
        self.spread.copy_(torch.where(numbers & (deviation > 0), deviation, 1))


def _places(classes: Sequence[int]) -> list[int]:
    """Of the D numbers and, after these, the flags of all classes: the places of each column's own, in their order."""
    found: list[int] = []
    first = len(classes)
    for j, count in enumerate(classes):
        found += range(first, first + count) if count else [j]
        first += count
    return found
