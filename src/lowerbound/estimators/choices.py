"""What "auto" stands for in the arguments of an estimator, given the rows to fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from lowerbound.estimators.defaults import takes_flow
from lowerbound.estimators.learning import is_aevb
from lowerbound.storage.choice import Choice as Choice

Auto = Literal["auto"]
AUTO: Final = "auto"
_ARRAY: dict[str, Any] = {
    "batch_size": 100,
    "learning_rate": 1e-3,
    "validation": 0.1,
    "epochs": 200,
    "patience": 40,
}
CHOSEN = tuple(_ARRAY)
"""The arguments that can be "auto" and get a value here."""
SEARCHED = ("prior", "hidden", "latent_dim")
"""The arguments that a search chooses, see ``search``."""
_HELD_OUT, _FEWEST, _MOST = 0.1, 30, 0.25  # share of held-out rows; at least so many, but at most that share
_BATCHES = ((1_000, 32), (5_000, 64))  # rows below which a batch has so many rows
_LARGE_BATCH = 128
_RATE = 2e-3
_STEPS, _EPOCHS = 5_000, 60  # the most steps, or epochs if these are more
_WAIT, _WAIT_EPOCHS = 800, 5  # steps without improvement, or epochs if these are more
LAST_STEPS = 500
"""The least number of steps of a last phase on all rows."""
_FLOW_ROWS = 500  # with 200 rows, a flow has a lower held-out bound than N(0, I)
_FIXED = 1_000  # steps if no rows are held out


def is_auto(value: object) -> bool:
    """Whether an argument is "auto"."""
    return isinstance(value, str) and value == AUTO


def lengths(rows: int, table: bool, batch_size: int | Auto, validation: float | Auto) -> tuple[int, float, int, int]:
    """The rows of a batch, the share of held-out rows, and the epochs of a fit and of its patience, with no "auto"."""
    given = {**dict.fromkeys(CHOSEN, AUTO), "batch_size": batch_size, "validation": validation}
    found = choose(given, rows, table)
    values = {**given, **{name: choice.value for name, choice in found.items()}}
    return int(values["batch_size"]), float(values["validation"]), int(values["epochs"]), int(values["patience"])


def choose(given: Mapping[str, Any], rows: int, table: bool) -> dict[str, Choice]:
    """Choose a value for each of an estimator's arguments ``given`` that is "auto", for so many rows.

    For tables, the length of a fit is counted in steps, because a small table has few steps per epoch.
    """
    names = [name for name in _ARRAY if is_auto(given[name])]
    if not table:
        return {name: Choice(_ARRAY[name], "the default for arrays") for name in names}
    size = f"{rows:,} rows"
    batch = next((batch for below, batch in _BATCHES if rows < below), _LARGE_BATCH)
    share = max(_HELD_OUT, min(_FEWEST / max(rows, 1), _MOST))
    known = {name: value for name, value in given.items() if name not in names}
    found = {
        "batch_size": Choice(batch, size),
        "learning_rate": Choice(_RATE, "the default for tables"),
        "validation": Choice(share, f"at least {_FEWEST} of {size}, if that is no more than a quarter"),
    }
    values = {name: choice.value for name, choice in found.items()} | known
    kept = max(1, rows - round(values["validation"] * rows))
    steps = -(-kept // min(values["batch_size"], kept))
    held_out = values["validation"] * rows >= 0.5
    most, least = (_STEPS, _EPOCHS) if held_out else (_FIXED, 1)
    found["epochs"] = _epochs(most, steps, least)
    found["patience"] = _epochs(_WAIT, steps, _WAIT_EPOCHS)
    return {name: found[name] for name in names}


def choose_prior(given: Mapping[str, Any], rows: int) -> dict[str, Choice]:
    """The prior of a table without a context, if none is ``given`` and there are enough rows for one that is learnt.

    A search compares priors by itself.
    """
    free = given["prior"] is None and given["search"] is None and is_aevb(given["inference"])
    if rows < _FLOW_ROWS or not free or not takes_flow(given["posterior"]):
        return {}
    return {"prior": Choice("Flow", f"a table of at least {_FLOW_ROWS} rows")}


def _epochs(due: int, steps: int, least: int) -> Choice:
    """The epochs, of ``steps`` steps each, that ``due`` steps take; at least ``least``."""
    found = -(-due // steps)
    if found < least:
        return Choice(least, f"at least {least} epochs, of {steps:,} steps each")
    return Choice(found, f"{due:,} steps, of which an epoch has {steps:,}")
