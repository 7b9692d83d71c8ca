"""The interface between the training loop and a way to learn: ``Procedure``; and what the loop reports."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
OF_ROWS = "objective_of_rows"
"""The metric of ``Procedure.evaluate`` that is not a mean: the objective of each row, ``[B]``."""


class TooLarge(Exception):
    """A batch does not fit in memory. The loop repeats the step with the ``parts`` that the state now has: more."""


@runtime_checkable
class Procedure(Protocol):
    """One fit of one model, as the training loop sees it: a state, and the step that changes it.

    A class that inherits from this one writes ``state`` and ``step``, and ``evaluate`` if rows are held out; the rest
    has defaults. All that a fit changes must be tensors of ``state``: checkpoints, the best state and the return from
    values that are not finite are copies of it. ``step`` and ``evaluate`` give metrics: scalars on the device, means
    over the batch's real rows. One of them is "objective", which is maximised.

    A procedure may also be one that ``EndsEpochs``.
    """

    state: State

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The step's scalars as functions of time in epochs. "learning_rate" is lowered if values are not finite."""
        return {}

    def check_batches(self, rows: int) -> None:
        """Refuse batches of ``rows`` rows, before the first step."""
        return  # not abstract

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        """The random numbers of a step on ``rows`` rows, drawn before it."""
        return torch.empty(0)

    @abstractmethod
    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        """Update the state (in place is allowed); return it and the metrics of the batch."""
        ...

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        """Compute the metrics of rows that are not trained on; the state stays as it is.

        If the objective of each row ``[B]`` is among them, as ``OF_ROWS``, the loop computes the standard error of a
        difference between two epochs, and does not take noise for an improvement.
        """
        raise NotImplementedError(
            f"{type(self).__name__} evaluates no rows that are held out: write its evaluate, or give validation=0."
        )

    def explain(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> str:
        """Name the first value of a step that is not finite; "" if there is none, or it is not known."""
        return ""

    def advise(self, history: History) -> str:
        """Describe what looks wrong about a fit that has ended, as a warning to the user; "" for nothing."""
        return ""


@runtime_checkable
class EndsEpochs(Protocol):
    """A procedure with work to do at the end of each epoch, such as the M-step of EM."""

    def epoch_end(self, state: State) -> None:
        """Update the state in place, after the last step of an epoch and before validation."""
        ...


@dataclass(frozen=True)
class Event:
    """The progress of a fit, given to callbacks every few steps and, with ``record``, at the end of each epoch.

    ``total_steps``: the most steps that the fit can take. ``waiting``: what decides when it ends, in words.
    """

    step: int
    total_steps: int
    record: Record | None
    state: State
    history: History
    waiting: str = ""


Callback = Callable[[Event], bool | None]
"""A function that is called with each event; the fit stops if it returns True."""
