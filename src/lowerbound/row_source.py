"""The interface to rows of data, wherever they are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.draw import Batch


@runtime_checkable
class RowSource(Protocol):
    """Rows by number, given in batches on one device.

    Subclasses implement all members but ``order``, ``total`` and ``labels``, which have defaults; a ``subset`` whose
    batches keep the numbers of the whole has the whole's ``total``. ``lowerbound.data.Rows`` is the source for arrays
    in memory, memory-mapped files, sparse matrices and torch's ``Dataset``.
    """

    dtype: torch.dtype
    """The type that batches come in."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape X of one row."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that batches come on."""
        ...

    @property
    def has_missing(self) -> bool:
        """Whether batches have a mask."""
        ...

    @property
    def context(self) -> Tensor | None:
        """The numbers that each row is given, ``[N, C]``, if any."""
        ...

    @property
    def labels(self) -> Mapping[str, Tensor] | None:
        """The observed classes of latents by their names, ``[N]`` each (−1: not observed), if any; ``Batch.labels``."""
        return None

    def __len__(self) -> int: ...

    @property
    def total(self) -> int:
        """How many rows the data have of which these are some: the numbers in ``Batch.index`` are below it."""
        return len(self)

    def batch(self, index: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The rows ``index [B]`` (int64), each with its ``weight [B]``. The same index gives the same rows, each time.

        ``generator``: for rows that are random by definition, such as those binarised anew in each batch.
        """
        ...

    def subset(self, index: Tensor) -> Self:
        """The rows ``index [M]`` as a source of their own, which copies none of them."""
        ...

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of rows in one epoch, a permutation ``[N]`` that depends on (seed, epoch) alone."""
        return torch.randperm(len(self), generator=generator(seed, "order", epoch))

    def digest(self) -> str:
        """A text that is the same for the same rows: part of what a fit must share with one that resumes it."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same rows, whose batches come on ``device``."""
        ...


def observed(rows: RowSource) -> Tensor:
    """How many values of each row are observed, ``[N]``."""
    size = math.prod(rows.shape)
    if not rows.has_missing:
        return torch.full((len(rows),), size, device=rows.device)
    found, rng = [], torch.Generator(rows.device)  # for rows whose values, but not what is observed, are random
    for index in torch.arange(len(rows), device=rows.device).split(1000):
        mask = rows.batch(index, torch.ones(len(index), device=rows.device), rng).mask
        found.append(index.new_full((len(index),), size) if mask is None else mask.flatten(1).sum(1))
    return torch.cat(found)
