"""Independent streams of random numbers for the parts of a fit and for the rows of a query."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, *stream: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator for one stream of random numbers of a seed; streams are independent of each other."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return torch.Generator(device=device).manual_seed(int(state[0]))


@dataclass(frozen=True)
class RowGenerators:
    """One generator per row of a batch: a row's random numbers do not depend on the rows next to it.

    A loop over one ``torch.Generator`` per row costs about 10 µs per row and call. A counter-based generator in tensor
    arithmetic would be slower.
    """

    rows: Sequence[torch.Generator]

    @classmethod
    def of(cls, seeds: Sequence[int], device: torch.device | str = "cpu") -> RowGenerators:
        """Return generators seeded by ``seeds``, one per row."""
        return cls([torch.Generator(device=device).manual_seed(seed) for seed in seeds])


Randomness = torch.Generator | RowGenerators
"""The source of a batch's random numbers: one generator for all rows, or one per row."""


def by_row(rng: Randomness, rows: int, draw: Callable[[torch.Generator, range], Tensor]) -> Tensor:
    """Return the random numbers ``[K, B, …]`` of B = ``rows`` rows.

    ``draw(generator, range(i, j))`` must return those of rows i to j − 1, ``[K, j − i, …]``. It is called once for all
    rows, or once per row if ``rng`` is ``RowGenerators``.
    """
    if isinstance(rng, torch.Generator):
        return draw(rng, range(rows))
    if len(rng.rows) != rows:
        raise ValueError(f"there are {len(rng.rows)} generators for {rows} rows; give one per row.")
    return torch.cat([draw(own, range(row, row + 1)) for row, own in enumerate(rng.rows)], 1)
