"""What the loop keeps beside the state: running means, scalars, the best state, the last good one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowerbound.training.cursor import Cursor
from lowerbound.training.procedure import Metrics, Procedure, Record, Scalars
from lowerbound.training.state import State, Tensors, copied


class Meter:
    """Running means of metrics, weighted by rows; they stay on the device until read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.total: Tensor | None = None
        self.rows = 0

    def add(self, metrics: Metrics, rows: int) -> None:
        values = torch.stack(list(metrics.values())) * rows
        self.names = list(metrics)
        self.total = values if self.total is None else self.total + values
        self.rows += rows

    def finite(self) -> bool:
        return self.total is None or bool(self.total.isfinite().all())

    def means(self, prefix: str) -> Record:
        assert self.total is not None
        means = (self.total.double() / self.rows).tolist()
        return {prefix + name: mean for name, mean in zip(self.names, means, strict=True)}


class Clock:
    """The scalars of a step at a time, as tensors that are filled anew each step."""

    def __init__(self, procedure: Procedure, like: Tensor) -> None:
        self._schedules = dict(procedure.schedules)
        self._scalars = {name: like.new_zeros(()) for name in self._schedules}
        self.slowed = 1.0

    def at(self, time: float) -> Scalars:
        for name, value in self.read(time).items():
            self._scalars[name].fill_(value)
        return self._scalars

    def read(self, time: float) -> Record:
        values = {name: schedule(time) for name, schedule in self._schedules.items()}
        values["learning_rate"] *= self.slowed
        return values


class Best:
    """The state of the pass with the best validation objective; without validation, none."""

    def __init__(self) -> None:
        self.objective = -math.inf
        self.passes = 0
        self.tensors: Tensors | None = None

    def offer(self, objective: float, passes: int, state: State) -> None:
        if objective > self.objective:
            self.objective, self.passes = objective, passes
            self.tensors = copied(state.module_tensors())

    def keep(self, state: State, passes: int) -> int:
        """Leave ``state`` at its best; the pass that was after, or ``passes`` where there was no validation."""
        if self.tensors is None:
            return passes
        state.load_modules(self.tensors)
        return self.passes


class Snapshot:
    """A moment of a fit to go back to: state, place in the data, random draws, running means."""

    def __init__(self, state: State, cursor: Cursor, meter: Meter) -> None:
        self.state, self.cursor, self.meter = state, cursor, meter
        self._tensors = copied(state.tensors())
        self._place = cursor.place()
        self._names, self._total, self._rows = meter.names, meter.total, meter.rows

    def restore(self) -> None:
        self.state.load(self._tensors)
        self.cursor.go(self._place)
        self.meter.names, self.meter.total, self.meter.rows = self._names, self._total, self._rows
