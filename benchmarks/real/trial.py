"""One table through check, fit, impute, sample, save and load."""

from __future__ import annotations

import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lowerbound as lb
from real import audit

HIDDEN = 0.2  # share of the observed cells
SAMPLES = 500
LIMIT = 300  # seconds per table


def trial(name: str, frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """What happened: ``crash`` (None, or the error), ``wrong`` (readings), and errors of completions per column."""
    found: dict[str, Any] = {"table": name, "rows": len(frame), "columns": frame.shape[1], "crash": None, "wrong": []}
    start = time.perf_counter()
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(LIMIT)
    try:
        _use(frame, seed, found)
    except Exception as error:  # whatever a user would meet is the finding
        kind = "refused" if isinstance(error, ValueError | OSError) else "crash"
        found[kind] = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return found | {"seconds": time.perf_counter() - start}


def _late(*_: object) -> None:
    raise RuntimeError(f"not done after {LIMIT} seconds")


def _use(frame: pd.DataFrame, seed: int, found: dict[str, Any]) -> None:
    schema = lb.check(frame).schema
    assert schema is not None
    found["kinds"] = {str(column.name): column.kind for column in schema.columns}
    found["wrong"] += audit.readings(frame, schema)
    names = {column.name for column in schema.modelled}
    rng = np.random.default_rng(seed)
    hidden = (rng.random(frame.shape) < HIDDEN) & frame.notna().to_numpy()
    hidden &= np.array([column in names for column in frame.columns])
    holes = frame.mask(hidden)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = lb.VAE(random_state=seed, threads=1).fit(holes)
        filled, drawn = model.impute(holes), model.sample(SAMPLES)
    found["warnings"] = sorted({str(each.message)[:200] for each in said})
    found["wrong"] += audit.dropped(model.schema_, {str(each.message) for each in said})
    found["wrong"] += audit.samples(frame, holes, drawn, model.schema_)
    found["wrong"] += audit.completions(holes, hidden, filled, model.schema_)
    found["errors"] = _errors(frame, holes, hidden, filled)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(Path(folder) / "run")
        again = lb.load(Path(folder) / "run")
        assert isinstance(again, lb.VAE)
        pd.testing.assert_frame_equal(again.impute(holes), filled)
        pd.testing.assert_frame_equal(again.sample(SAMPLES), drawn)


def _errors(frame: pd.DataFrame, holes: pd.DataFrame, hidden: np.ndarray, filled: pd.DataFrame) -> dict[str, Any]:
    """Errors of hidden cells by column: RMSE per standard deviation of numbers, the share wrong of classes."""
    ours, simple, kinds = [], [], []
    for j, column in enumerate(frame.columns):
        at = hidden[:, j]
        if at.sum() < 3 or holes[column].notna().sum() < 3:
            continue
        true, new, seen = frame[column][at], filled[column][at], holes[column].dropna()
        if pd.api.types.is_numeric_dtype(true) and not pd.api.types.is_bool_dtype(true) and seen.nunique() > 2:
            spread = float(seen.std()) or 1.0
            ours.append(float(np.sqrt(np.mean((new.to_numpy(float) - true.to_numpy(float)) ** 2))) / spread)
            simple.append(float(np.sqrt(np.mean((float(seen.mean()) - true.to_numpy(float)) ** 2))) / spread)
            kinds.append("number")
        else:
            ours.append(float((new.to_numpy(object) != true.to_numpy(object)).mean()))
            simple.append(float((true.to_numpy(object) != seen.mode().iloc[0]).mean()))
            kinds.append("class")
    return {"ours": ours, "mean_or_mode": simple, "kinds": kinds}
