"""What is measured of completions: errors as HI-VAE has them, calibration, and paired intervals."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from table_peers.data import Table

DRAWS = 19
"""Draws of an interval: where truth and draws are alike, it lies between the least and the largest 18 times of 20."""


def mean_squared_error(truth: np.ndarray, completed: np.ndarray, hidden: np.ndarray) -> float:
    """Over the hidden cells of all columns."""
    return float(((completed - truth)[hidden] ** 2).mean())


def column_errors(table: Table, completed: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    """Of each column's hidden cells, as in HI-VAE (Nazabal et al. 2020):

    numbers: √mean(error²) / (largest − least of the column); categories: share of errors; ordinals: mean |error| / R.
    """
    errors = {}
    for j, (name, kind) in enumerate(zip(table.columns, table.kinds, strict=True)):
        cells = hidden[:, j]
        if not cells.any():
            continue
        error = completed[cells, j] - table.values[cells, j]
        if not np.isfinite(error).all():
            raise ValueError(f"column {name} was not completed")
        if kind == "cat":
            errors[name] = float((error != 0).mean())
        elif kind == "ordinal":
            errors[name] = float(np.abs(error).mean() / table.classes[j])
        else:
            errors[name] = float(np.sqrt((error**2).mean()) / np.ptp(table.values[~np.isnan(table.values[:, j]), j]))
    return errors


def summary(table: Table, errors: dict[str, float]) -> dict[str, float]:
    """Averages over columns: of all, and by kind."""
    kinds = dict(zip(table.columns, table.kinds, strict=True))
    groups = {"numeric": ("real", "pos", "count"), "categorical": ("cat",), "ordinal": ("ordinal",)}
    found = {"average": float(np.mean(list(errors.values())))}
    for group, members in groups.items():
        values = [error for name, error in errors.items() if kinds[name] in members]
        if values:
            found[group] = float(np.mean(values))
    return found


def coverage(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """How often ``DRAWS`` draws ``[M, n]`` of cells hold the ``truth [n]``: 90 % where they are calibrated.

    Values that are equal have their order drawn, else repeated ones (zeros, whole numbers) would count as covered
    whatever their share; ``inclusive`` counts them so. ``width``: the median of the interval's.
    """
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    rank = below + rng.integers(0, equal + 1)
    low, high = draws.min(0), draws.max(0)
    return {
        "coverage": float(((rank > 0) & (rank < len(draws))).mean()),
        "inclusive": float(((truth >= low) & (truth <= high)).mean()),
        "width": float(np.median(high - low)),
    }


def paired(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean of ours − theirs over the same masks, with Student's 95 % interval."""
    difference = np.asarray(ours) - np.asarray(theirs)
    count = len(difference)
    error = float(difference.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    reach = error * float(stats.t.ppf(0.975, count - 1)) if count > 1 else math.nan
    mean = float(difference.mean())
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "masks": count}
