"""Peers that draw rows like a table's: TVAE and CTGAN with their own settings, columns apart, and real rows."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from table_peers.data import Table

QUICK_EPOCHS = 2


def synthesise(table: Table, count: int, method: str, seed: int, quick: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """``count`` rows like the table's, ``[count, D]``, and the seconds that it took."""
    rng = np.random.default_rng(seed)
    if method == "real rows":
        return table.values[rng.permutation(len(table.values))[:count]], {}
    if method == "columns apart":
        return np.column_stack([rng.choice(column, count) for column in table.values.T]), {}
    start = time.perf_counter()
    model = fitted(table, method, seed, quick)
    middle = time.perf_counter()
    drawn = table.numbers(model.sample(count))
    return drawn, {
        "minutes_fitting": (middle - start) / 60,
        "fit_seconds": middle - start,
        "seconds_sampling": time.perf_counter() - middle,
    }


def fitted(table: Table, method: str, seed: int, quick: bool) -> Any:
    """TVAE or CTGAN (Xu et al. 2019) with the settings that its package gives it; ``quick``: fewer epochs."""
    import ctgan
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002, the package draws from it
    settings = {"epochs": QUICK_EPOCHS} if quick else {}
    model = {"TVAE": ctgan.TVAE, "CTGAN": ctgan.CTGAN}[method](**settings)
    model.set_random_state(seed)
    frame = table.frame()
    words = [name for name, classes in zip(table.columns, table.classes, strict=True) if classes]
    frame = frame.astype(dict.fromkeys(words, object))
    model.fit(pd.DataFrame(frame), discrete_columns=words)
    return model
