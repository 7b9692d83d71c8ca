"""Every value of a folder's JSON forged in every way of ``forgeries``: refused by name, or it does what it says.

One process takes many forgeries, one after the other; what each costs in time and in memory is looked at.
"""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from folders import reseal
from forgeries import forged

import lowerbound as lb
from injection import trees
from injection.hostile import MEMORY, SECONDS
from injection.processes import Child, warm
from injection.tally import Tally
from lowerbound.errors import FormatError, LowerboundError
from lowerbound.storage import checkpoints
from lowerbound.storage.contents import contents

ROWS = 60
OPTIONS: dict[str, Any] = {"hidden": (4,), "epochs": 2, "batch_size": 20, "threads": 1, "random_state": 0}
STEPS = {"test": (401, 211), "quick": (41, 21), "full": (3, 3)}
"""Of the values of a configuration and of a state, one in so many."""


def _array() -> Any:
    return np.random.default_rng(0).normal(size=(ROWS, 3))


def _table() -> Any:
    draw = np.random.default_rng(0)
    return pa.table(
        {
            "a": draw.normal(size=ROWS).round(1),
            "count": draw.integers(0, 90, ROWS),
            "share": draw.random(ROWS),
            "city": pa.array(draw.choice(["Bonn", "Ulm", "Köln"], ROWS)).dictionary_encode(),
            "day": pa.array(np.datetime64("2020-01-01") + draw.integers(0, 900, ROWS).astype("m8[D]")),
            "flag": draw.random(ROWS) < 0.5,
            "k": [1.5] * ROWS,
        }
    )


def run(size: str, seed: int, base: Path) -> list[Tally]:
    warm(lambda: _fit_all(base), base)
    of_config, of_state = STEPS[size]
    found = []
    for name, rows in (("array", _array()), ("table", _table())):
        tally = Tally(f"forged value of config.json, of a model of a{'n' if name == 'array' else ''} {name}")
        _all(tally, base, base / name, "config.json", of_config, seed, lambda run, rows=rows: _use(run, rows))
        found.append(tally)
    tally = Tally("forged value of state.json, gone on with")
    newest = checkpoints.listed(base / "array")[-1].relative_to(base / "array")
    _all(tally, base, base / "array", str(newest / "state.json"), of_state, seed, _resume)
    return [*found, tally]


def _fit_all(base: Path) -> None:
    lb.VAE(2, **OPTIONS).fit(_array(), run_dir=base / "array", checkpoint_every=2)
    for path in checkpoints.listed(base / "array")[:-1]:
        shutil.rmtree(path)
    lb.VAE(2, **OPTIONS).fit(_table()).save(base / "table")


def _use(run: Path, rows: Any) -> None:
    contents(run)
    vae = lb.load(run)
    if not isinstance(vae, lb.VAE):  # what was kept beside the model is one's own, where it names no estimator
        return
    vae.sample(2)
    vae.transform(rows[:3])
    vae.reconstruct(rows[:3])


def _resume(run: Path) -> None:
    lb.VAE(2, **OPTIONS).fit(_array(), run_dir=run, checkpoint_every=2)


def _all(
    tally: Tally, base: Path, whole: Path, file: str, every: int, seed: int, action: Callable[[Path], None]
) -> None:
    """Forge one value of ``file`` in so many, each in a copy of the folder ``whole``."""
    outside = base / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "not yours").write_bytes(b"precious")
    before = trees.tree(outside)
    child = Child(lambda ready: _measured(whole, base / "run", file, every, seed, action, base / "found"))
    code, said = child.wait(1800)
    if code != 0:
        tally.add("hang" if code is None else f"exit {code}", [said[-300:]], file)
        return
    for line in (base / "found").read_text().splitlines():
        done, outcome, troubles = json.loads(line)
        tally.add(outcome, troubles, done)
    tally.trouble([] if trees.tree(outside) == before else ["what is outside was changed"], file)


def _measured(
    whole: Path, run: Path, file: str, every: int, seed: int, action: Callable[[Path], None], found: Path
) -> None:
    warnings.simplefilter("ignore")
    good = json.loads((whole / file).read_bytes())
    with found.open("w") as out:
        for done, value in _chosen(good, every, seed):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(whole, run)
            (run / file).write_text(json.dumps(value).replace("Infinity", "1e400"))
            reseal((run / file).parent)
            held, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            outcome, troubles = _outcome(run, action)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) * 1024
            seconds = time.process_time() - start
            troubles += [f"{grown >> 20} MB of memory"] if grown > MEMORY else []
            troubles += [f"{seconds:.1f} s"] if seconds > SECONDS else []
            out.write(json.dumps([done, outcome, troubles]) + "\n")


def _chosen(good: Any, every: int, seed: int) -> Iterator[tuple[str, Any]]:
    return itertools.islice(forged(good), seed % every, None, every)


def _outcome(run: Path, action: Callable[[Path], None]) -> tuple[str, list[str]]:
    """How the action ended, and what should not have happened."""
    try:
        action(run)
    except LowerboundError as error:
        words = str(error)
        troubles = ["not one sentence"] if "\n" in words or len(words) > 1000 else []
        troubles += [f"names no file: {words}"] if isinstance(error, FormatError) and str(run) not in words else []
        return f"refused: {type(error).__name__}", troubles
    except ValueError as error:
        other = "of another fit" in str(error)
        return "refused: ValueError", [] if other else [f"ValueError: {error}"]
    except Exception as error:
        return type(error).__name__, [f"{type(error).__name__}: {error}"]
    return "did what it says", []
