"""The loop: a step, repeated over the data. It knows no model and no objective.

It owns the place in the data, the random draws, the schedules, validation, the best state so far, and the way back
from values that are not finite. It reads from the device every ``check_every`` steps and at the end of a pass, never
each step.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from lowerbound.distributions import generator
from lowerbound.errors import DivergedError
from lowerbound.nn import seeded
from lowerbound.training.bookkeeping import Best, Clock, Meter, Snapshot
from lowerbound.training.cursor import Cursor, in_order
from lowerbound.training.interrupt import Interrupt
from lowerbound.training.procedure import Callback, Event, History, Procedure, Record, Rows, Scalars
from lowerbound.training.state import State

TRIES = 3
SLOWER = 0.25


def train(
    procedure: Procedure,
    rows: Rows,
    *,
    passes: int,
    batch_size: int,
    seed: int,
    validation: Rows | None = None,
    patience: int | None = None,
    patience_from: float = 0.0,
    callbacks: Sequence[Callback] = (),
    first_pass: int = 0,
    check_every: int = 100,
) -> History:
    """Step over ``rows`` up to pass ``passes``, or until ``patience`` passes brought no better validation objective.

    Patience counts from pass ``patience_from``. The modules end at their best validation objective; without
    validation, at the last step. Where values stop being finite the loop goes back to where they were, says so in a
    warning, and lowers the learning rate; after three such tries within a pass it raises ``DivergedError``.
    """
    state, history, meter, best = procedure.state, History(), Meter(), Best()
    cursor = Cursor(rows, batch_size, seed, first_pass)
    clock = Clock(procedure, cursor.full_weight)
    good = Snapshot(state, cursor, meter)
    tries, total_steps = 0, passes * cursor.steps_per_pass
    with Interrupt() as interrupt, seeded(seed), state.mode(training=True):
        while cursor.passes < passes and history.stopped is None:
            this_pass = cursor.passes
            for _ in range(min(check_every, cursor.steps_per_pass - cursor.position)):
                scalars = clock.at(cursor.time)
                batch, real = cursor.next()
                noise = procedure.noise(len(batch.index), cursor.rng)
                state, metrics = procedure.step(state, batch, noise, scalars)
                meter.add(metrics, real)
                if interrupt.asked:
                    history.stopped = "interrupted"
                    break

            if not (meter.finite() and state.finite()):
                _rescue(procedure, good, clock, best, history, tries, check_every)
                tries += 1
                continue

            record = None
            if cursor.passes > this_pass:
                record = {"pass": cursor.passes, "step": cursor.steps, **clock.read(this_pass), **meter.means("train_")}
                meter, tries = Meter(), 0
                if validation is not None:
                    record |= evaluate(procedure, state, validation, batch_size, seed, clock.at(passes))
                    best.offer(record["valid_objective"], cursor.passes, state)
                history.records.append(record)
                if patience is not None and cursor.passes - max(best.passes, patience_from) >= patience:
                    history.stopped = "patience"
            good = Snapshot(state, cursor, meter)

            event = Event(cursor.steps, total_steps, record, state)
            if _any_stops(callbacks, event):
                history.stopped = history.stopped or "callback"
    history.best_pass = best.keep(state, cursor.passes)
    history.stopped = history.stopped or "passes"
    return history


def evaluate(procedure: Procedure, state: State, rows: Rows, batch_size: int, seed: int, scalars: Scalars) -> Record:
    """Mean metrics of held-out rows, with the same draws each time."""
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


def _rescue(
    procedure: Procedure, good: Snapshot, clock: Clock, best: Best, history: History, tries: int, steps: int
) -> None:
    """Go back to the last good moment, say what went wrong, and lower the learning rate; or give up."""
    good.restore()
    found = _first_not_finite(procedure, good.state, good.cursor, clock, steps)
    good.restore()
    if tries == TRIES:
        history.best_pass, history.stopped = best.keep(good.state, good.cursor.passes), "diverged"
        raise DivergedError(
            f"{found}, and {TRIES} lower learning rates did not help: the best model so far is kept; "
            "look for extreme values in the data, or start with a lower learning_rate.",
            history,
        )
    clock.slowed *= SLOWER
    history.rescues.append(
        f"{found}; went back to step {good.cursor.steps} and lowered the learning rate to "
        f"{clock.read(good.cursor.time)['learning_rate']:.3g} (try {tries + 1} of {TRIES})"
    )
    warnings.warn(history.rescues[-1], RuntimeWarning, stacklevel=3)


def _first_not_finite(procedure: Procedure, state: State, cursor: Cursor, clock: Clock, steps: int) -> str:
    """Replay from the last good moment, one step at a time, up to the step that breaks; say where it does."""
    for _ in range(steps + 1):  # what breaks in an update shows in the step after it
        scalars, here = clock.at(cursor.time), f"at step {cursor.steps + 1} (pass {cursor.passes + 1})"
        batch, _ = cursor.next()
        noise = procedure.noise(len(batch.index), cursor.rng)
        reason = procedure.explain(state, batch, noise, scalars)
        if reason:
            return f"{reason} {here}"
        state, _ = procedure.step(state, batch, noise, scalars)
    return f"a value that a replay did not show again was not finite before step {cursor.steps + 1}"
