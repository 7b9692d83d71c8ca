"""The last phase of a fit: all rows, those held out too, and a learning rate that falls to almost 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowerbound.row_source import RowSource
from lowerbound.storage.history import Stopped

_END = 0.02  # the last learning rate, relative to the first


@dataclass(frozen=True)
class Finish:
    """After the held-out rows have shown when to stop, learn from all ``rows`` at a learning rate that falls.

    The phase starts from the best state. It lasts ``share`` of the steps that led there, but at least ``least`` steps,
    in whole epochs. The learning rate falls to 2 % of its value along half a cosine.
    """

    rows: RowSource
    share: float = 0.5
    least: int = 500

    def __post_init__(self) -> None:
        if not self.share >= 0 or self.least < 1:
            raise ValueError(f"finish takes a share of 0 or more and at least 1 step, got {self.share}, {self.least}.")

    def epochs(self, steps: int, batch_size: int) -> int:
        """The length of the phase in epochs, after ``steps`` steps in batches of ``batch_size`` rows."""
        per_epoch = -(-len(self.rows) // min(batch_size, len(self.rows)))
        return -(-max(self.least, round(self.share * steps)) // per_epoch)


@dataclass(frozen=True)
class Finishing:
    """A last phase under way: from epoch ``first``, after ``steps`` steps, over ``epochs`` epochs. ``why`` it began."""

    first: int
    steps: int
    epochs: int
    why: Stopped

    @property
    def last(self) -> int:
        """The number of epochs after which it has ended."""
        return self.first + self.epochs

    def rate(self, time: float) -> float:
        """The factor of the learning rate after ``time`` epochs."""
        share = min(max(time - self.first, 0.0) / self.epochs, 1.0)
        return _END + (1 - _END) * 0.5 * (1 + math.cos(math.pi * share))
