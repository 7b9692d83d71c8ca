"""The training loop: a step, repeated over the data. It knows no model and no objective.

It owns the position in the data, the random numbers, the schedules, validation, the best state so far, and the return
from values that are not finite. It reads from the device every ``check_every`` steps and at the end of an epoch, never
at each step.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Sequence
from types import FrameType, TracebackType

import torch
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.errors import DivergedError
from lowerbound.row_source import RowSource
from lowerbound.storage.checkpoints import Checkpoints
from lowerbound.training.allocator import keep_memory
from lowerbound.training.bookkeeping import LEARNING_RATE, TRIES, Meter, Progress, Snapshot
from lowerbound.training.cursor import Cursor, in_order
from lowerbound.training.finish import Finish
from lowerbound.training.procedure import (
    OF_ROWS,
    Callback,
    EndsEpochs,
    Event,
    History,
    Procedure,
    Record,
    Scalars,
    Stopped,
    TooLarge,
)
from lowerbound.training.state import State

SLOWER = 0.25


def train(
    procedure: Procedure,
    rows: RowSource,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    validation: RowSource | None = None,
    patience: int | None = None,
    patience_from: float = 0.0,
    callbacks: Sequence[Callback] = (),
    first_epoch: int = 0,
    check_every: int = 100,
    checkpoints: Checkpoints | None = None,
    finish: Finish | None = None,
) -> History:
    """Train on ``rows`` up to epoch ``epochs``, or until ``patience`` epochs brought no better validation objective.

    Better means beyond the standard error of the paired difference, if the procedure gives the objective of each row.
    Patience counts from epoch ``patience_from``. The modules end at their best validation objective; without
    validation, at the last step. With ``finish``, a last phase on all rows follows. If values are no longer finite, the
    loop returns to the last check at which they were, warns, and lowers the learning rate; after three such tries
    within an epoch, or if there is no learning rate, it raises ``DivergedError``. ``checkpoints``: where to resume
    from, and where to write.
    """
    keep_memory()
    run = Progress(procedure, rows, batch_size, seed, first_epoch, finish)
    every = checkpoints.every if checkpoints else None
    with Interrupt() as interrupt, run.state.mode(training=True):
        if checkpoints is not None:
            checkpoints.resume(run)
        good, history = Snapshot(run), run.history
        while history.stopped is None:
            if (end := _ended(run, epochs, patience, patience_from)) is not None:
                if not run.begin_finish(end):
                    break
                good.take()
            cursor, record = run.cursor, None
            check, epoch = cursor.steps + _steps_ahead(cursor, check_every, every), cursor.epochs
            try:
                _step_to(check, procedure, run, interrupt)
                if not (finite := run.finite()):
                    _rescue(procedure, good, check_every)
                elif cursor.epochs > epoch and (finite := _epoch_ended(procedure, good)):
                    held_out = validation if run.finishing is None else None
                    record = run.end_epoch(epoch, *_validate(procedure, run, held_out, epochs))
                repeat = not finite or (cursor.steps < check and checkpoints is not None)
            except TooLarge:
                repeat = True  # only outside this block are the tensors freed that did fit
            if repeat:
                good.restore()  # so that a fit that resumes checks its values at the same steps
                continue
            good.take()
            total = cursor.steps_to(run.last_epoch(epochs))
            event = Event(cursor.steps, total, record, run.state, history, _waiting(run, patience, patience_from))
            if _any_stops(callbacks, event):
                history.stopped = history.stopped or "callback"
            if checkpoints is not None and cursor.steps % checkpoints.every == 0:
                checkpoints.save(run)
        if checkpoints is not None:
            checkpoints.save(run)
    history.best_epoch = run.best.keep(run.state, run.cursor.epochs)
    history.stopped = history.stopped or end
    return history


def _waiting(run: Progress, patience: int | None, patience_from: float) -> str:
    """What the fit waits for before it ends, in words."""
    if run.finishing is not None:
        return "learning from all rows"
    if patience is None or run.best.tensors is None:
        return ""
    left = max(run.best.improved, patience_from) + patience - run.cursor.epochs
    return f"ends in {max(1, round(left * run.cursor.steps_per_epoch)):,} steps unless better"


def _step_to(step: int, procedure: Procedure, run: Progress, interrupt: Interrupt) -> None:
    """Train up to step ``step``, or until Ctrl-C."""
    cursor = run.cursor
    while cursor.steps < step and run.history.stopped is None:
        scalars = run.clock.at(cursor.time)
        batch, real = cursor.next()
        noise = procedure.noise(len(batch.index), cursor.rng)
        with run.lent():
            run.state, metrics = procedure.step(run.state, batch, noise, scalars)
        run.meter.add(metrics, real)
        if interrupt.asked:
            run.history.stopped = "interrupted"


def _epoch_ended(procedure: Procedure, good: Snapshot) -> bool:
    """Let the procedure end the epoch. If values are no longer finite then, return to ``good``, and give False."""
    if not isinstance(procedure, EndsEpochs):
        return True
    run = good.progress
    with run.lent():
        procedure.epoch_end(run.state)
    if name := run.state.first_not_finite():
        _lower(good, f"{name} was no longer finite at the end of epoch {run.cursor.epochs}")
    return not name


def _validate(procedure: Procedure, run: Progress, rows: RowSource | None, epochs: int) -> tuple[Record, Tensor | None]:
    """The metrics of held-out rows, and the objective of each, under the schedules' values at the last epoch."""
    scalars = run.clock.at(epochs)
    with run.lent():
        return evaluate(procedure, run.state, rows, run.cursor.batch_size, run.cursor.seed, scalars)


def _ended(run: Progress, epochs: int, patience: int | None, patience_from: float) -> Stopped | None:
    """Why no epoch is left to run; None if one is."""
    if run.finishing is not None:
        return run.finishing.why if run.cursor.epochs >= run.finishing.last else None
    if patience is not None and run.cursor.epochs - max(run.best.improved, patience_from) >= patience:
        return "patience"
    return "epochs" if run.cursor.epochs >= epochs else None


def _steps_ahead(cursor: Cursor, check_every: int, checkpoint_every: int | None) -> int:
    """Steps to the next check of the values, on a grid of steps that is the same for a fit that resumes."""
    check = check_every - cursor.position % check_every
    ahead = min(check, cursor.steps_per_epoch - cursor.position)
    return ahead if checkpoint_every is None else min(ahead, checkpoint_every - cursor.steps % checkpoint_every)


def evaluate(
    procedure: Procedure, state: State, rows: RowSource | None, batch_size: int, seed: int, scalars: Scalars
) -> tuple[Record, Tensor | None]:
    """Mean metrics of held-out rows, if there are any, with the same random numbers each time.

    Besides, the objective of each row ``[N]``, if the procedure gives it.
    """
    if rows is None:
        return {}, None
    rng, meter, each = generator(seed, "validation", device=rows.device), Meter(), []
    with torch.no_grad(), state.mode(training=False):
        for batch, real in in_order(rows, batch_size, rng):
            noise = procedure.noise(len(batch.index), rng)
            metrics = procedure.evaluate(state, batch, noise, scalars)
            if (of_rows := metrics.pop(OF_ROWS, None)) is not None:
                each.append(of_rows[:real])
            meter.add(metrics, real)
    if not meter.finite():
        warnings.warn("the objective of the held-out rows is not finite: look for extreme values", stacklevel=3)
    return meter.means("valid_"), torch.cat(each) if each else None


def _any_stops(callbacks: Sequence[Callback], event: Event) -> bool:
    """Call every callback, with the modules in evaluation mode; whether any asks to stop."""
    if not callbacks:
        return False
    with event.state.mode(training=False):
        answers = [callback(event) for callback in callbacks]
    return any(answers)


def _rescue(procedure: Procedure, good: Snapshot, steps: int) -> None:
    """Return to the last finite state, find out what went wrong, and lower the learning rate; or give up."""
    good.restore()
    _lower(good, _first_not_finite(procedure, good.progress, steps))


def _lower(good: Snapshot, found: str) -> None:
    """Return to the last finite state and lower the learning rate, because of what was ``found``; or give up."""
    run = good.progress
    good.restore()
    if run.tries == TRIES or not run.clock.has_learning_rate:
        run.history.best_epoch, run.history.stopped = run.best.keep(run.state, run.cursor.epochs), "diverged"
        why, more = "there is no learning rate to lower", ""
        if run.clock.has_learning_rate:
            why, more = f"{TRIES} lower learning rates did not help", ", or start with a lower learning_rate"
        raise DivergedError(
            f"{found}, and {why}: the best model so far is kept; look for extreme values in the data{more}.",
            run.history,
        )
    run.clock.slowed *= SLOWER
    run.tries += 1
    run.history.rescues.append(
        f"{found}; went back to step {run.cursor.steps} and lowered the learning rate to "
        f"{run.clock.read(run.cursor.time)[LEARNING_RATE]:.3g} (try {run.tries} of {TRIES})"
    )
    warnings.warn(run.history.rescues[-1], RuntimeWarning, stacklevel=4)


def _first_not_finite(procedure: Procedure, run: Progress, steps: int) -> str:
    """Replay from the last finite state, one step at a time, and describe the first value that is not finite."""
    state, cursor = run.state, run.cursor
    for _ in range(steps):
        scalars, here = run.clock.at(cursor.time), f"at step {cursor.steps + 1} (epoch {cursor.epochs + 1})"
        batch, _ = cursor.next()
        noise = procedure.noise(len(batch.index), cursor.rng)
        with run.lent():
            if reason := procedure.explain(state, batch, noise, scalars):
                return f"{reason} {here}"
            state, _ = procedure.step(state, batch, noise, scalars)
        if name := state.first_not_finite():
            return f"{name} stopped being finite {here}"
    return f"a value that a replay did not show again was not finite before step {cursor.steps + 1}"


class Interrupt:
    """While the block runs, the first SIGINT sets ``asked`` and the second raises ``KeyboardInterrupt``.

    Not outside the main thread, nor if SIGINT is ignored.
    """

    asked = False

    def __enter__(self) -> Interrupt:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._listens = in_main_thread and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)
        if self._listens:
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
