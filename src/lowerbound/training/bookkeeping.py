"""The bookkeeping of the training loop: running means, scheduled scalars, the best state, the last finite one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from lowerbound.checks import OBJECT, TEXTS, Check, is_list, is_number, is_whole, or_none, shown, whole
from lowerbound.errors import FormatError
from lowerbound.row_source import RowSource
from lowerbound.training.cursor import Cursor, Place
from lowerbound.training.finish import Finish, Finishing
from lowerbound.training.procedure import History, Metrics, Procedure, Record, Scalars, Stopped
from lowerbound.training.state import State, Tensors, copied

TRIES = 3  # times that the learning rate is lowered within an epoch, before the fit gives up
LEARNING_RATE = "learning_rate"
_FEWEST = 10  # held-out rows from which the error of a difference is estimated
_LATER = ("finishing",)  # numbers that are absent from older checkpoints


class Meter:
    """Running means of metrics, weighted by rows. They stay on the device until they are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows = 0
        self._total: Tensor | None = None
        self._new: list[Tensor] = []
        self._new_rows: list[int] = []

    def add(self, metrics: Metrics, rows: int) -> None:
        if self.names != list(metrics) and "objective" not in metrics:
            raise ValueError(f'a step must give the metric "objective", a scalar to maximise; it gave {list(metrics)}.')
        if self._total is not None and self.names != list(metrics):
            raise FormatError(
                f"the checkpoint's running means are of {', '.join(self.names)[:60]}, where this fit has "
                f"{', '.join(metrics)}; start it anew."
            )
        self.names = list(metrics)
        self.rows += rows
        self._new += metrics.values()
        self._new_rows.append(rows)

    @property
    def total(self) -> Tensor | None:
        """The sum over rows of each metric; None before the first."""
        if self._new:
            values = torch.stack(self._new).view(len(self._new_rows), -1)
            sums = values.new_tensor(self._new_rows) @ values
            self._total = sums if self._total is None else self._total + sums
            self._new, self._new_rows = [], []
        return self._total

    @total.setter
    def total(self, total: Tensor | None) -> None:
        self._total, self._new, self._new_rows = total, [], []

    def finite(self) -> bool:
        return self.total is None or bool(self.total.isfinite().all())

    def means(self, prefix: str) -> Record:
        assert self.total is not None
        means = (self.total.double() / self.rows).tolist()
        return {prefix + name: mean for name, mean in zip(self.names, means, strict=True)}


class Clock:
    """The scalars of a step, from the schedules: tensors that are filled again if their value has changed."""

    def __init__(self, procedure: Procedure, like: Tensor) -> None:
        self._schedules = dict(procedure.schedules)
        self._scalars = {name: like.new_zeros(()) for name in self._schedules}
        self._held = dict.fromkeys(self._schedules, 0.0)
        self.slowed = 1.0
        self.finishing: Finishing | None = None

    def at(self, time: float) -> Scalars:
        for name, value in self.read(time).items():
            if value != self._held[name]:
                self._scalars[name].fill_(value)
                self._held[name] = value
        return self._scalars

    def read(self, time: float) -> Record:
        values = {name: float(schedule(time)) for name, schedule in self._schedules.items()}
        if LEARNING_RATE in values:
            values[LEARNING_RATE] *= self.slowed if self.finishing is None else self.slowed * self.finishing.rate(time)
        return values

    @property
    def has_learning_rate(self) -> bool:
        return LEARNING_RATE in self._schedules


@dataclass
class Best:
    """The state after the epoch with the best validation objective; none without validation.

    ``improved``: the last epoch with an improvement that is not noise: the mean of the paired differences between its
    ``rows [N]``, the objectives of the held-out rows, and those of the improvement before exceeds its standard error.
    """

    objective: float = -math.inf
    epochs: int = 0
    tensors: Tensors | None = None
    improved: int = 0
    rows: Tensor | None = None

    def offer(self, objective: float, epochs: int, state: State, rows: Tensor | None = None) -> None:
        if objective > self.objective:
            if self._is_improvement(rows):
                self.improved, self.rows = epochs, rows
            self.objective, self.epochs = objective, epochs
            self.tensors = copied(state.module_tensors(), self.tensors)

    def _is_improvement(self, rows: Tensor | None) -> bool:
        if rows is None or self.rows is None or len(rows) < _FEWEST:
            return True
        difference = rows.double() - self.rows.double()
        return bool(difference.mean() > difference.std() / math.sqrt(len(rows)))

    def keep(self, state: State, epochs: int) -> int:
        """Set ``state`` to the best one and return its epoch; without validation, leave it and return ``epochs``."""
        if self.tensors is None:
            return epochs
        state.load_modules(self.tensors)
        return self.epochs


class Progress:
    """The full state of training: model, optimiser, position in the data, random generators, metrics so far."""

    def __init__(
        self,
        procedure: Procedure,
        rows: RowSource,
        batch_size: int,
        seed: int,
        first_epoch: int = 0,
        finish: Finish | None = None,
    ) -> None:
        self._finish = finish
        self.state = procedure.state
        self.cursor = Cursor(rows, batch_size, seed, first_epoch)
        self.clock = Clock(procedure, self.cursor.full_weight)
        self.meter, self.best, self.history = Meter(), Best(), History()
        self.tries = 0  # times that the learning rate was lowered in this epoch

    def lent(self) -> contextlib.AbstractContextManager[None]:
        """Run the block with the fit's own random numbers in place of torch's global generator, if steps may use it."""
        return self.cursor.draws.lent() if self.state.draws else contextlib.nullcontext()

    def finite(self) -> bool:
        return self.meter.finite() and self.state.finite()

    @property
    def finishing(self) -> Finishing | None:
        """The last phase, if it is under way."""
        return self.clock.finishing

    def last_epoch(self, epochs: int) -> int:
        """The epoch after which the fit, or its last phase, ends at the latest."""
        return epochs if self.finishing is None else self.finishing.last

    def begin_finish(self, why: Stopped) -> bool:
        """Begin the last phase, if there is one and it has not begun, from the best state; whether it was begun."""
        finish, cursor = self._finish, self.cursor
        if finish is None or self.finishing is not None:
            return False
        best = cursor.steps_to(self.best.keep(self.state, cursor.epochs))
        epochs = finish.epochs(best, cursor.batch_size)
        self._follow(Finishing(cursor.epochs, cursor.steps, epochs, why))
        return True

    def _follow(self, phase: Finishing) -> None:
        """Take all rows, in the last phase."""
        assert self._finish is not None
        cursor, draws = self.cursor, self.cursor.draws.state
        self.cursor = Cursor(self._finish.rows, cursor.batch_size, cursor.seed, phase.first, phase.steps)
        self.cursor.draws.state = draws
        self.clock.finishing, self.best = phase, Best()

    def end_epoch(self, number: int, found: Record, rows: Tensor | None = None) -> Record:
        """Add the record of epoch ``number`` (from 0), with the validation metrics ``found``, to the history.

        ``rows [N]``: the objective of each held-out row.
        """
        epochs, steps = self.cursor.epochs, self.cursor.steps
        record = {"epoch": epochs, "step": steps, **self.clock.read(number), **self.meter.means("train_"), **found}
        if self.finishing is not None:
            record["last_phase"] = 1.0
        if rows is not None and len(rows) > 1:
            record["valid_standard_error"] = float(rows.double().std()) / math.sqrt(len(rows))
        self.history.records.append(record)
        self.meter, self.tries = Meter(), 0
        if found:
            self.best.offer(found["valid_objective"], epochs, self.state, rows)
        return record

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.cursor.steps

    @property
    def best_epoch(self) -> int:
        """The epoch of the best modules so far; of the present ones if there is no validation."""
        return self.cursor.epochs if self.best.tensors is None else self.best.epochs

    @property
    def best_tensors(self) -> Tensors | None:
        """The modules' tensors at their best so far; None if there is no validation."""
        return self.best.tensors

    def scalars(self) -> Record:
        """The values of the schedules now."""
        return self.clock.read(self.cursor.time)

    def tensors(self) -> Tensors:
        """Its tensors by name, live, except those of the best state."""
        place, total = self.cursor.place(), self.meter.total
        running = {} if total is None else {"meter.total": total}
        held_out = {} if self.best.rows is None else {"best_rows": self.best.rows}
        places = {"place.rng": place.rng, "place.global_rng": place.global_rng}
        return self.state.tensors() | running | held_out | places

    def numbers(self) -> dict[str, Any]:
        """Its numbers and texts as JSON, except the records."""
        return {
            "epoch": self.cursor.epochs,
            "position": self.cursor.position,
            "meter": {"names": self.meter.names, "rows": self.meter.rows},
            "best": None if self.best.tensors is None else [self.best.epochs, self.best.objective, self.best.improved],
            "finishing": None if self.finishing is None else list(astuple(self.finishing)),
            "parts": self.state.parts,
            "slowed": self.clock.slowed,
            "tries": self.tries,
            "optimizer": self.state.options(),
            "rescues": self.history.rescues,
        }

    def load(
        self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], records: Sequence[Record], best: Tensors
    ) -> None:
        """Restore what ``tensors()`` and ``numbers()`` gave; ``best``: the tensors of the best state.

        Raises ``KeyError``, ``TypeError`` or ``ValueError`` if they are of another fit.
        """
        self._resume_finish(numbers)
        epochs, position = self._place(numbers)
        own = {name: value for name, value in tensors.items() if not name.startswith(("place.", "meter.", "best_"))}
        self.state.load(own)
        self.state.set_options(numbers["optimizer"])
        self.state.parts = int(numbers["parts"])
        self.cursor.go(Place(epochs, position, tensors["place.rng"], tensors["place.global_rng"]))
        self.meter.names, self.meter.rows = list(numbers["meter"]["names"]), int(numbers["meter"]["rows"])
        if "meter.total" in tensors:
            self.meter.total = tensors["meter.total"].to(self.cursor.full_weight.device)
            if self.meter.total.shape != (len(self.meter.names),):
                raise ValueError("the running means are not as many as their names")
        if numbers["best"] is not None:
            epochs, objective, *improved = numbers["best"]
            since = int(improved[0]) if improved else int(epochs)
            self.best = Best(float(objective), int(epochs), copied(best), since)  # what was read need not be writable
            self.best.rows = tensors.get("best_rows")
        self.clock.slowed, self.tries = float(numbers["slowed"]), int(numbers["tries"])
        self.history.records, self.history.rescues = list(records), list(numbers["rescues"])

    def _resume_finish(self, numbers: Mapping[str, Any]) -> None:
        """Go to the last phase, if ``numbers`` are of one."""
        if (phase := numbers.get("finishing")) is None:
            return
        if self._finish is None or not _NUMBERS["finishing"].holds(phase):
            raise ValueError(f"finishing is {shown(phase)}, which is no last phase of this fit")
        self._follow(Finishing(*phase))

    def _place(self, numbers: Mapping[str, Any]) -> tuple[int, int]:
        """Check that all of ``numbers`` can be of a fit to these rows; return epoch and position."""
        for key, check in _NUMBERS.items():
            if key in _LATER and key not in numbers:
                continue
            if not check.holds(numbers[key]):
                raise ValueError(f"{key} is {shown(numbers[key])}, where {check.due} is due")
        epochs, position, meter = numbers["epoch"], numbers["position"], numbers["meter"]
        if position >= self.cursor.steps_per_epoch:
            raise ValueError(f"position {position} is beyond an epoch of {self.cursor.steps_per_epoch} steps")
        if numbers["parts"] > 2 * self.cursor.batch_size or meter["rows"] > len(self.cursor.rows):
            raise ValueError(f"there are fewer than {numbers['parts']} rows a batch, or {meter['rows']} an epoch")
        return epochs, position


_NUMBERS = {
    "epoch": whole("a whole number of 0 or more", 0, 10**12),
    "position": whole("a whole number of 0 or more"),
    "meter": Check(
        "an object of names and a number of rows",
        lambda value: (
            isinstance(value, dict)
            and value.keys() == {"names", "rows"}
            and TEXTS.holds(value["names"])
            and is_whole(value["rows"], 1 if value["names"] else 0)
        ),
    ),
    "best": or_none(
        Check(
            "an epoch and an objective",
            lambda value: is_list(value, is_number) and len(value) in (2, 3) and is_whole(value[0], 1),
        )
    ),
    "finishing": or_none(
        Check(
            "an epoch, a step, a number of epochs and a reason",
            lambda value: (
                isinstance(value, list)
                and len(value) == 4
                and all(is_whole(each, least) for each, least in zip(value, (0, 0, 1), strict=False))
                and value[3] in ("epochs", "patience")
            ),
        )
    ),
    "parts": whole("a whole number above 0", 1),
    "slowed": Check("a number above 0, of 1 at most", lambda value: is_number(value, 0, 1) and value > 0),
    "tries": whole(f"a whole number of {TRIES} at most", 0, TRIES),
    "optimizer": Check("a list of objects", lambda value: is_list(value, OBJECT.holds)),
    "rescues": TEXTS,
}
"""The check of each field of ``Progress.numbers``."""


class Snapshot:
    """A copy of state, position in the data, random generators and running means, to return to."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self._tensors = progress, dict[str, Tensor]()
        self.take()

    def take(self) -> None:
        """Take the state as it is now, in the memory of the copy before."""
        progress = self.progress
        self._tensors = copied(progress.state.tensors(), self._tensors)
        self._place = progress.cursor.place()
        meter = progress.meter
        self._names, self._total, self._rows = meter.names, meter.total, meter.rows

    def restore(self) -> None:
        self.progress.state.load(self._tensors)
        self.progress.cursor.go(self._place)
        meter = self.progress.meter
        meter.names, meter.total, meter.rows = self._names, self._total, self._rows
