"""What the loop is given, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lowerbound.draw import Batch
from lowerbound.storage.history import History as History
from lowerbound.storage.history import Record as Record
from lowerbound.storage.history import Stopped as Stopped
from lowerbound.training.schedules import Schedule
from lowerbound.training.state import State

Metrics = dict[str, Tensor]
Scalars = Mapping[str, Tensor]


class Rows(Protocol):
    """Data, as the loop sees them: rows by number, in batches, on a device (``lowerbound.data.Rows`` is one)."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __len__(self) -> int: ...
    def batch(self, index: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Batch: ...


class TooLarge(Exception):
    """A batch does not fit in memory: the step is to be taken again, in the more ``parts`` that the state now has."""


class Procedure(Protocol):
    """What an inference method gives the loop.

    Metrics are scalars on the device, means over a batch's real rows; "objective" is one, to be maximised.
    """

    state: State

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The step's scalars as functions of time in epochs; "learning_rate" is one."""
        ...

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        """What a step draws at random, drawn outside it."""
        ...

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        """One update of the state (in place is allowed)."""
        ...

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        """The metrics of rows not trained on; the state stays as it is."""
        ...

    def explain(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> str:
        """Where in a step a value that is not finite first appears, in words."""
        ...


@dataclass(frozen=True)
class Event:
    """What a callback is told: every few steps, and with ``record`` at the end of an epoch."""

    step: int
    total_steps: int
    record: Record | None
    state: State
    history: History


Callback = Callable[[Event], bool | None]
"""A plain function, called with each event; fitting stops when it returns True."""
