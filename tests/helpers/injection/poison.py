"""Batches with NaN, infinities or 1e30 in them, once or for ever: the fit is rescued, or ends with its best model."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import lowerbound as lb
from injection import trees
from injection.tally import Tally
from injection.victims import fit_vae
from lowerbound.data import Rows
from lowerbound.draw import Batch
from lowerbound.errors import DivergedError

VALUES = (float("nan"), float("inf"), -float("inf"), 1e30)
MOMENTS = {"test": 1, "quick": 2, "full": 12}
LIKELIHOODS: dict[str, dict[str, Any]] = {
    "Bernoulli": {"binarise": "afresh", "max_value": 16},
    "Normal": {"likelihood": "Normal"},
    "Poisson": {"likelihood": "Poisson"},
    "NegativeBinomial": {"likelihood": "NegativeBinomial"},
    "DiscretizedLogistic": {"likelihood": "DiscretizedLogistic", "max_value": 16},
    "Categorical": {"likelihood": "Categorical"},
}
KINDS = ("one batch", "one value of a batch", "one row for ever")
OPTIONS = {"epochs": 3}
START = 2  # batches read before the first epoch: one to initialise the model, and all rows to check their values
CALLS = START + 3 * (11 + 2)  # then 11 of training and 2 of validation in each epoch


def run(size: str, seed: int, base: Path) -> list[Tally]:
    rng, tallies = random.Random(seed), []
    for kind in KINDS:
        tally = Tally(f"poison in {kind}")
        cases = list(itertools.product(LIKELIHOODS, VALUES))
        for name, value in rng.sample(cases, 5) if size == "test" else cases:
            for _ in range(MOMENTS[size]):
                call = rng.randrange(START, CALLS if kind != KINDS[-1] else CALLS - 14)  # a row is met in each epoch
                tally.add(*_fit(base / "run", name, kind, value, call), f"{name}, {value}, batch {call}")
        tallies.append(tally)
    return tallies


def _fit(run: Path, name: str, kind: str, value: float, call: int) -> tuple[str, list[str]]:
    """A fit with poison in it: how it ended, and what is wrong with that."""
    shutil.rmtree(run, ignore_errors=True)
    with warnings.catch_warnings(record=True) as caught, poisoned(kind, value, call):
        warnings.simplefilter("always")
        try:
            history = fit_vae(LIKELIHOODS[name] | OPTIONS, run, every=20).history_
            outcome = "rescued" if history.rescues else "went on"
            troubles = [] if history.stopped == "epochs" else [f"stopped by {history.stopped}"]
            troubles += [] if caught or value == 1e30 else ["nothing was said"]
        except DivergedError as error:
            outcome = "gave up, the best model kept"
            troubles = [] if error.history.stopped == "diverged" and len(str(error).splitlines()) == 1 else [str(error)]
        except Exception as error:
            return type(error).__name__, [f"{type(error).__name__}: {error}"[:300]]
    return outcome, troubles + trees.unreadable(run) + _not_finite(run)


def _not_finite(run: Path) -> list[str]:
    """What of the saved model is not finite."""
    vae = lb.load(run)
    named = itertools.chain(vae.model_.state_dict().items(), vae.posterior_.state_dict().items())
    return [f"{name} is not finite" for name, tensor in named if not bool(torch.as_tensor(tensor).isfinite().all())]


@contextlib.contextmanager
def poisoned(kind: str, value: float, call: int) -> Iterator[None]:
    """While the block runs, rows come with ``value`` in them, from the batch numbered ``call``."""
    whole, calls = Rows.batch, itertools.count()

    def batch(rows: Rows, index: torch.Tensor, weight: torch.Tensor, rng: torch.Generator | None = None) -> Batch:
        found, number = whole(rows, index, weight, rng), next(calls)
        bad = torch.zeros(len(found.x), dtype=torch.bool)
        if kind == "one row for ever":
            bad = (found.index == 7) & (number >= call)
        elif number == call:
            bad[0 : 1 if kind == "one value of a batch" else None] = True
        x = found.x.clone()
        if kind == "one value of a batch":
            x.flatten(1)[bad, 3] = value
        else:
            x[bad] = value
        return replace(found, x=x)

    Rows.batch = batch  # type: ignore[method-assign]
    try:
        yield
    finally:
        Rows.batch = whole  # type: ignore[method-assign]
