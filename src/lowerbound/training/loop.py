"""The loop: a step, repeated over the data. It knows no model and no objective.

It owns the place in the data, the random draws, the schedules, validation, the best state so far, and the way back
from values that are not finite. It reads from the device every ``check_every`` steps and at the end of an epoch, never
each step.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from lowerbound.distributions import generator
from lowerbound.errors import DivergedError
from lowerbound.storage.checkpoints import Checkpoints
from lowerbound.training.allocator import keep_memory
from lowerbound.training.bookkeeping import TRIES, Meter, Progress, Snapshot
from lowerbound.training.cursor import Cursor, in_order
from lowerbound.training.interrupt import Interrupt
from lowerbound.training.procedure import (
    Callback,
    Event,
    History,
    Procedure,
    Record,
    Rows,
    Scalars,
    Stopped,
    TooLarge,
)
from lowerbound.training.state import State

SLOWER = 0.25


def train(
    procedure: Procedure,
    rows: Rows,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    validation: Rows | None = None,
    patience: int | None = None,
    patience_from: float = 0.0,
    callbacks: Sequence[Callback] = (),
    first_epoch: int = 0,
    check_every: int = 100,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Step over ``rows`` up to epoch ``epochs``, or until ``patience`` epochs brought no better validation objective.

    Patience counts from epoch ``patience_from``. The modules end at their best validation objective; without
    validation, at the last step. Where values stop being finite the loop goes back to where they were, says so in a
    warning, and lowers the learning rate; after three such tries within an epoch it raises ``DivergedError``.
    ``checkpoints``: where to go on from, and where to write.
    """
    keep_memory()
    run = Progress(procedure, rows, batch_size, seed, first_epoch)
    cursor, history, every = run.cursor, run.history, checkpoints.every if checkpoints else None
    with Interrupt() as interrupt, run.state.mode(training=True):
        if checkpoints is not None:
            checkpoints.resume(run)
        good = Snapshot(run)
        while (end := _ended(run, epochs, patience, patience_from)) is None and history.stopped is None:
            this_epoch, record, fits = cursor.epochs, None, True
            look = cursor.steps + _steps_ahead(cursor, check_every, every)
            try:
                while cursor.steps < look and history.stopped is None:
                    scalars = run.clock.at(cursor.time)
                    batch, real = cursor.next()
                    noise = procedure.noise(len(batch.index), cursor.rng)
                    with run.lent():
                        run.state, metrics = procedure.step(run.state, batch, noise, scalars)
                    run.meter.add(metrics, real)
                    if interrupt.asked:
                        history.stopped = "interrupted"

                if not run.finite():
                    _rescue(procedure, good, check_every)
                    continue
                if cursor.epochs > this_epoch:
                    at_end = run.clock.at(epochs)
                    with run.lent():
                        found = evaluate(procedure, run.state, validation, cursor.batch_size, seed, at_end)
                    record = run.end_epoch(this_epoch, found)
            except TooLarge:
                fits = False  # only out of this block are the tensors let go that did
            if not fits or (cursor.steps < look and checkpoints is not None):
                good.restore()  # and what goes on from a checkpoint looks where it would have looked
                continue
            good = Snapshot(run)

            event = Event(cursor.steps, epochs * cursor.steps_per_epoch, record, run.state, history)
            if _any_stops(callbacks, event):
                history.stopped = history.stopped or "callback"
            if checkpoints is not None and cursor.steps % checkpoints.every == 0:
                checkpoints.save(run)
        if checkpoints is not None:
            checkpoints.save(run)
    history.best_epoch = run.best.keep(run.state, cursor.epochs)
    history.stopped = history.stopped or end
    return history


def _ended(run: Progress, epochs: int, patience: int | None, patience_from: float) -> Stopped | None:
    """Why no epoch is left to do, if so."""
    if patience is not None and run.cursor.epochs - max(run.best.epochs, patience_from) >= patience:
        return "patience"
    return "epochs" if run.cursor.epochs >= epochs else None


def _steps_ahead(cursor: Cursor, check_every: int, checkpoint_every: int | None) -> int:
    """Steps to the next look at the values, on a grid of steps: a fit that goes on looks where it would have."""
    look = check_every - cursor.position % check_every
    ahead = min(look, cursor.steps_per_epoch - cursor.position)
    return ahead if checkpoint_every is None else min(ahead, checkpoint_every - cursor.steps % checkpoint_every)


def evaluate(
    procedure: Procedure, state: State, rows: Rows | None, batch_size: int, seed: int, scalars: Scalars
) -> Record:
    """Mean metrics of held-out rows, if there are any, with the same draws each time."""
    if rows is None:
        return {}
    rng, meter = generator(seed, "validation", device=rows.device), Meter()
    with torch.no_grad(), state.mode(training=False):
        for batch, real in in_order(rows, batch_size, rng):
            noise = procedure.noise(len(batch.index), rng)
            meter.add(procedure.evaluate(state, batch, noise, scalars), real)
    if not meter.finite():
        warnings.warn("the objective of the held-out rows is not finite: look for extreme values", stacklevel=3)
    return meter.means("valid_")


def _any_stops(callbacks: Sequence[Callback], event: Event) -> bool:
    """Call every callback, with the modules as they are when used; whether any asks to stop."""
    if not callbacks:
        return False
    with event.state.mode(training=False):
        answers = [callback(event) for callback in callbacks]
    return any(answers)


def _rescue(procedure: Procedure, good: Snapshot, steps: int) -> None:
    """Go back to the last good moment, say what went wrong, and lower the learning rate; or give up."""
    run = good.progress
    good.restore()
    found = _first_not_finite(procedure, run, steps)
    good.restore()
    if run.tries == TRIES:
        run.history.best_epoch, run.history.stopped = run.best.keep(run.state, run.cursor.epochs), "diverged"
        raise DivergedError(
            f"{found}, and {TRIES} lower learning rates did not help: the best model so far is kept; "
            "look for extreme values in the data, or start with a lower learning_rate.",
            run.history,
        )
    run.clock.slowed *= SLOWER
    run.tries += 1
    run.history.rescues.append(
        f"{found}; went back to step {run.cursor.steps} and lowered the learning rate to "
        f"{run.clock.read(run.cursor.time)['learning_rate']:.3g} (try {run.tries} of {TRIES})"
    )
    warnings.warn(run.history.rescues[-1], RuntimeWarning, stacklevel=3)


def _first_not_finite(procedure: Procedure, run: Progress, steps: int) -> str:
    """Replay from the last good moment, one step at a time, up to the step that breaks; say where it does."""
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
