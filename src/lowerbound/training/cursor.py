"""The position of a fit in its data (epoch and batch), and the generators of its random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.process import Draws
from lowerbound.row_source import RowSource


@dataclass(frozen=True)
class Place:
    """A position to which a cursor can return."""

    epochs: int
    position: int
    rng: Tensor
    global_rng: Tensor  # of modules that draw from torch's global generator, such as dropout


class Cursor:
    """Batches of ``rows`` without end, in a new order each epoch; the order of epoch p depends on (seed, p) alone.

    Every batch has the same shape: the last of an epoch is padded, its padding weighing 0.
    """

    def __init__(
        self, rows: RowSource, batch_size: int, seed: int, first_epoch: int = 0, first_step: int | None = None
    ) -> None:
        self.rows = rows
        self._first = first_epoch, first_step
        self.batch_size = min(batch_size, len(rows))
        self.seed = seed
        self.rng = generator(seed, "noise", first_epoch, device=rows.device)
        self.draws = Draws(seed)
        self.epochs, self.position = first_epoch, 0
        self._padding = -len(rows) % self.batch_size
        self.full_weight = torch.full((self.batch_size,), 1 / self.batch_size, dtype=rows.dtype, device=rows.device)
        self._last = self.full_weight * self.batch_size / (self.batch_size - self._padding)
        self._last[self.batch_size - self._padding :] = 0
        self._start_epoch()

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps since the start."""
        return self.steps_to(self.epochs) + self.position

    def steps_to(self, epochs: int) -> int:
        """Steps from the start to the end of epoch ``epochs``; ``first_step`` were those before ``first_epoch``."""
        epoch, step = self._first
        return epochs * self.steps_per_epoch if step is None else step + (epochs - epoch) * self.steps_per_epoch

    @property
    def time(self) -> float:
        """Epochs since the start, with the fraction of the current one."""
        return self.epochs + self.position / self.steps_per_epoch

    def next(self) -> tuple[Batch, int]:
        """The next batch, and how many of its rows are not padding. After the last batch, the next epoch starts."""
        start = self.position * self.batch_size
        index = self._order[start : start + self.batch_size]
        self.position += 1
        last = self.position == self.steps_per_epoch
        batch = self.rows.batch(index, self._last if last else self.full_weight, self.rng)
        if last:
            self.epochs, self.position = self.epochs + 1, 0
            self._start_epoch()
        return batch, self.batch_size - (self._padding if last else 0)

    def place(self) -> Place:
        return Place(self.epochs, self.position, self.rng.get_state(), self.draws.state)

    def go(self, place: Place) -> None:
        self.epochs, self.position = place.epochs, place.position
        self.rng.set_state(place.rng)
        self.draws.state = place.global_rng
        self._start_epoch()

    def _start_epoch(self) -> None:
        order = self.rows.order(self.seed, self.epochs)
        padding = order[: self._padding]
        self._order = torch.cat([order, padding]).to(self.rows.device)


def in_order(rows: RowSource, batch_size: int, rng: torch.Generator | None = None) -> Iterator[tuple[Batch, int]]:
    """All rows once, in order, in batches of ``batch_size``, the last padded; each with its number of real rows."""
    places = torch.arange(batch_size, device=rows.device)
    for start in range(0, len(rows), batch_size):
        real = min(batch_size, len(rows) - start)
        weight = (places < real).to(rows.dtype) / real
        yield rows.batch((start + places).clamp(max=len(rows) - 1), weight, rng), real
