"""Where a fit stands in its data: which pass, which position; and the generators that its draws come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.process import Draws
from lowerbound.training.procedure import Rows


@dataclass(frozen=True)
class Place:
    """A point that a cursor can go back to."""

    passes: int
    position: int
    rng: Tensor
    global_rng: Tensor  # what modules such as dropout draw from


class Cursor:
    """Batches of ``rows`` without end, in a new order each pass; the order of pass p depends on (seed, p) alone.

    Every batch has the same shape: the last of a pass is padded, its padding weighing 0.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, first_pass: int = 0) -> None:
        self.rows = rows
        self.batch_size = min(batch_size, len(rows))
        self.seed = seed
        self.rng = generator(seed, "noise", first_pass, device=rows.device)
        self.draws = Draws(seed)
        self.passes, self.position = first_pass, 0
        self._padding = -len(rows) % self.batch_size
        self.full_weight = torch.full((self.batch_size,), 1 / self.batch_size, dtype=rows.dtype, device=rows.device)
        self._last = self.full_weight * self.batch_size / (self.batch_size - self._padding)
        self._last[self.batch_size - self._padding :] = 0
        self._start_pass()

    @property
    def steps_per_pass(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps taken since the start."""
        return self.passes * self.steps_per_pass + self.position

    @property
    def time(self) -> float:
        """Passes since the start, with their fraction."""
        return self.steps / self.steps_per_pass

    def next(self) -> tuple[Batch, int]:
        """The next batch, and how many of its rows are real. At the end of a pass, the next one starts."""
        start = self.position * self.batch_size
        index = self._order[start : start + self.batch_size]
        self.position += 1
        last = self.position == self.steps_per_pass
        batch = self.rows.batch(index, self._last if last else self.full_weight, self.rng)
        if last:
            self.passes, self.position = self.passes + 1, 0
            self._start_pass()
        return batch, self.batch_size - (self._padding if last else 0)

    def place(self) -> Place:
        return Place(self.passes, self.position, self.rng.get_state(), self.draws.state)

    def go(self, place: Place) -> None:
        self.passes, self.position = place.passes, place.position
        self.rng.set_state(place.rng)
        self.draws.state = place.global_rng
        self._start_pass()

    def _start_pass(self) -> None:
        order = torch.randperm(len(self.rows), generator=generator(self.seed, "order", self.passes))
        padding = order[: self._padding]
        self._order = torch.cat([order, padding]).to(self.rows.device)


def in_order(rows: Rows, batch_size: int, rng: torch.Generator | None = None) -> Iterator[tuple[Batch, int]]:
    """All rows once, in order, in batches of ``batch_size``, the last padded; with how many rows of each are real."""
    places = torch.arange(batch_size, device=rows.device)
    for start in range(0, len(rows), batch_size):
        real = min(batch_size, len(rows) - start)
        weight = (places < real).to(rows.dtype) / real
        yield rows.batch((start + places).clamp(max=len(rows) - 1), weight, rng), real
