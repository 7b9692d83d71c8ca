"""Random numbers per row, keyed by the row's contents, so that results do not depend on other rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.distributions import RowGenerators
from lowerbound.row_source import RowSource
from lowerbound.training import in_order


@dataclass(frozen=True)
class RowStreams:
    """One key per row, from which independent streams of random numbers are derived.

    A row's key is a digest of its observed values, mask, context and the seed; its position is not used. Equal rows
    therefore get equal results. For random draws this would be wrong, because equal rows are different units with
    independent missing values: with ``apart``, the number of equal rows before it is added to a row's key (the first
    keeps its key). Results then still do not depend on rows that differ; if the order changes, equal rows may exchange
    their draws.
    """

    keys: Sequence[bytes]
    device: torch.device

    @classmethod
    def of(cls, rows: RowSource, rng: torch.Generator, apart: bool = False) -> RowStreams:
        """Return the streams of ``rows``. One number is drawn from ``rng``, whatever the number of rows."""
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device)).to_bytes(8, "little")
        keys = [
            hashlib.blake2b(bytes(row), digest_size=16, key=seed).digest()
            for batch, real in in_order(rows, min(1000, max(1, len(rows))))
            for row in _bytes(batch.x[:real], batch.mask, batch.context)
        ]
        return cls(_apart(keys) if apart else keys, rows.device)

    def take(self, places: NDArray[np.int64]) -> RowStreams:
        """Return the streams of the rows at ``places``."""
        return RowStreams([self.keys[place] for place in places], self.device)

    def generators(self, *stream: str | int) -> RowGenerators:
        """Return one generator per row, for one kind of random number."""
        name = repr(stream).encode()
        return RowGenerators.of([_number(key + name) for key in self.keys], self.device)

    def uniform(self, columns: int, stream: int) -> NDArray[np.float64]:
        """Return uniform numbers in [0, 1), ``[N, columns]``."""
        found = [
            np.random.Generator(np.random.Philox(_number(key + b"levels" + stream.to_bytes(8, "little")))).random(
                columns
            )
            for key in self.keys
        ]
        return np.stack(found) if found else np.empty((0, columns))


def _bytes(x: Tensor, mask: Tensor | None, context: Tensor | None) -> NDArray[np.uint8]:
    """The contents of each row as bytes ``[B, n]``; unobserved values and the sign of 0 are ignored."""
    if mask is not None:
        x = torch.where(mask[: len(x)], x, 0)
    parts = [x + 0.0, *(each[: len(x)] for each in (mask, context) if each is not None)]
    flat = [np.ascontiguousarray(each.reshape(len(x), -1).cpu().numpy()) for each in parts]
    return np.ascontiguousarray(np.concatenate([each.view(np.uint8) for each in flat], 1))


def _apart(keys: Sequence[bytes]) -> list[bytes]:
    """Make the keys of equal rows different; the first of them keeps its key."""
    seen: Counter[bytes] = Counter()
    found = []
    for key in keys:
        found.append(key + seen[key].to_bytes(8, "little") if seen[key] else key)
        seen[key] += 1
    return found


def _number(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
