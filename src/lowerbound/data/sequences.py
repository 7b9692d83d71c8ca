"""Sequences of different lengths, handed out in padded batches."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.row_source import RowSource


class Sequences(RowSource):
    """Rows ``[T_i, *X]`` of different lengths T_i. NaN marks a missing value unless ``masks`` are given.

    A batch is ``x [B, T, *X]`` with T the length of its longest row; its mask is False where a value is missing and
    after the end of a row, and there x is 0. ``shape`` is that of the longest row of the data. In each epoch, the rows
    come in a random order in which every ``block`` of rows is sorted by length, the longest first, so that little of a
    batch is padding; it depends on (seed, epoch) alone. Raises ``DataError`` for a row without steps, of another
    shape, or with an infinite value.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        masks: Sequence[Any] | None = None,
        *,
        block: int = 500,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if block < 1:
            raise ValueError(f"block must be at least 1 row, got {block}.")
        if len(rows) == 0:
            raise DataError("there are no sequences; give one array [T, *X] per row.")
        if masks is not None and len(masks) != len(rows):
            raise DataError(f"there are {len(masks)} masks for {len(rows)} sequences; give one per row.")
        self.dtype, self.block = dtype, block
        values = [_values(i, row, dtype) for i, row in enumerate(rows)]
        for i, own in enumerate(values):
            if own.shape[1:] != values[0].shape[1:]:
                raise DataError(
                    f"row {i} has steps of shape {list(own.shape[1:])}, and row 0 of {list(values[0].shape[1:])}; give "
                    "all rows steps of one shape."
                )
        lengths = [len(own) for own in values]
        self._x = torch.cat(values)
        self._seen = ~self._x.isnan() if masks is None else torch.cat(_masks(masks, values))
        if bool((wrong := ~self._x.isfinite() & self._seen).any()):
            at = int(wrong.flatten(1).any(1).nonzero()[0])
            row = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise DataError(f"row {row} holds an infinite or missing value that is to be observed; drop or mask it.")
        self._x = torch.where(self._seen, self._x, 0)
        self._lengths = torch.tensor(lengths)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._index = torch.arange(len(rows))
        self._more, self._trimmed = 0, True
        self._longest = max(lengths)
        self._missing = len(set(lengths)) > 1 or not bool(self._seen.all())

    def __len__(self) -> int:
        return len(self._index)

    @property
    def total(self) -> int:
        return len(self._lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, *X), with T the length of the longest row of the whole data."""
        return (self._longest + self._more, *self._x.shape[1:])

    @property
    def lengths(self) -> Tensor:
        """The number of steps of each row, ``[N]``."""
        return self._lengths[self._index] + self._more

    @property
    def device(self) -> torch.device:
        return self._x.device

    @property
    def has_missing(self) -> bool:
        return self._missing or self._more > 0

    @property
    def context(self) -> None:
        return None

    def batch(self, index: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The rows ``index [B]`` (int64), padded to the longest of them, each counting ``weight [B]``."""
        chosen = self._index[index]
        lengths, starts = self._lengths[chosen].unsqueeze(1), self._starts[chosen].unsqueeze(1)
        longest = int(lengths.max()) + self._more if self._trimmed else self.shape[0]
        steps = torch.arange(longest, device=self.device)
        there, at = steps < lengths, starts + torch.minimum(steps, lengths - 1)
        event = (...,) + (None,) * (self._x.dim() - 1)
        mask = self._seen[at] & there[event]
        return Batch(torch.where(mask, self._x[at], 0), mask if self.has_missing else None, chosen, weight)

    def order(self, seed: int, epoch: int) -> Tensor:
        """A permutation ``[N]`` of which every ``block`` rows are sorted by length, the longest first."""
        order = torch.randperm(len(self), generator=generator(seed, "order", epoch)).to(self.device)
        blocks = (own[self.lengths[own].argsort(descending=True, stable=True)] for own in order.split(self.block))
        return torch.cat(list(blocks)).cpu()

    def subset(self, index: Tensor) -> Sequences:
        rows = copy.copy(self)
        rows._index = self._index[index.to(self.device)]
        return rows

    def extended(self, steps: int) -> Sequences:
        """The same rows with so many missing steps after the last of each, to be forecast."""
        if steps < 0:
            raise ValueError(f"steps must be at least 0, got {steps}.")
        rows = copy.copy(self)
        rows._more = self._more + steps
        return rows

    def padded(self) -> Sequences:
        """The same rows in batches that all have the length of the longest row of the data."""
        rows = copy.copy(self)
        rows._trimmed = False
        return rows

    def digest(self) -> str:
        """SHA-256 of the values, the masks, the lengths and the settings."""
        about = (tuple(self._x.shape), str(self.dtype), self.block, self._more, self._trimmed)
        found = hashlib.sha256(repr(about).encode())
        for each in (self._x, self._seen, self._lengths, self._index):
            found.update(each.cpu().contiguous().numpy().data)
        return found.hexdigest()

    def to(self, device: torch.device | str) -> Sequences:
        rows = copy.copy(self)
        for name in ("_x", "_seen", "_lengths", "_starts", "_index"):
            setattr(rows, name, getattr(self, name).to(device))
        return rows


def _values(i: int, row: Any, dtype: torch.dtype) -> Tensor:
    try:
        found = torch.as_tensor(row)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"row {i} is no array of numbers [T, *X] ({error}); give one array per row.") from error
    if found.dim() == 0 or len(found) == 0 or found.is_complex():
        raise DataError(f"row {i} has shape {list(found.shape)}; give each row at least one step, [T, *X] of numbers.")
    return found.to(dtype)


def _masks(masks: Sequence[Any], values: Sequence[Tensor]) -> list[Tensor]:
    found = [torch.as_tensor(mask, dtype=torch.bool) for mask in masks]
    for i, (mask, own) in enumerate(zip(found, values, strict=True)):
        if mask.shape != own.shape:
            raise DataError(
                f"the mask of row {i} is {list(mask.shape)} and the row {list(own.shape)}; make them alike."
            )
    return found
