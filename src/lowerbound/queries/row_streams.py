"""Random numbers per row, keyed by what the row holds: an answer does not depend on the rows next to it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.distributions import RowGenerators
from lowerbound.training import in_order


@dataclass(frozen=True)
class RowStreams:
    """One ``key`` per row, from which each kind of random number gets a stream of its own.

    A row's key is the digest of its observed values, its mask, its context and the seed, never its position. Equal rows
    therefore have equal answers. Where several draws are wanted that would be wrong, since equal rows are different
    units with independent missing values: rows ``apart`` are distinguished by a counter of the equal rows before them.
    The first of them has the key that it has alone. So no answer depends on a row that differs, and equal rows may
    exchange their draws if their order changes.
    """

    keys: Sequence[bytes]
    device: torch.device

    @classmethod
    def of(cls, rows: Rows, rng: torch.Generator, apart: bool = False) -> RowStreams:
        """Return the streams of ``rows``; of ``rng`` one number is used, however many rows there are."""
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
    """What each row holds, as bytes ``[B, n]``; unobserved values and the sign of 0 do not count."""
    if mask is not None:
        x = torch.where(mask[: len(x)], x, 0)
    parts = [x + 0.0, *(each[: len(x)] for each in (mask, context) if each is not None)]
    flat = [np.ascontiguousarray(each.reshape(len(x), -1).cpu().numpy()) for each in parts]
    return np.ascontiguousarray(np.concatenate([each.view(np.uint8) for each in flat], 1))


def _apart(keys: Sequence[bytes]) -> list[bytes]:
    """Keys of their own for equal rows; the first of them keeps its key."""
    seen: Counter[bytes] = Counter()
    found = []
    for key in keys:
        found.append(key + seen[key].to_bytes(8, "little") if seen[key] else key)
        seen[key] += 1
    return found


def _number(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
