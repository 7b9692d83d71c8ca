"""What is measured of imputations: errors and CRPS per column in its standard deviations, and coverage of intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from table_peers import scores
from table_peers.data import Table

FEW, MANY = 5, 20  # draws
LEVEL = 0.9


def score(table: Table, hidden: np.ndarray, best: np.ndarray, draws: np.ndarray, seed: int) -> dict[str, Any]:
    """All figures of one imputation: ``best [N, D]``, ``draws [M, N, D]`` with M = 0 of a method that has none."""
    errors = column_errors(table, best, hidden)
    found: dict[str, Any] = {"error": float(np.mean(list(errors.values()))), "errors": errors}
    numeric = np.zeros_like(hidden)
    numeric[:, table.numeric] = hidden[:, table.numeric]
    if len(draws) < FEW or not numeric.any():
        return found
    truth, cells = table.values[numeric], draws[:, numeric]
    found[f"crps_{FEW}"] = column_crps(table, draws[:FEW], hidden)
    found[f"coverage_{FEW}"] = float(covered_by_t(truth, cells[:FEW]).mean())
    if len(draws) >= MANY:
        found[f"crps_{MANY}"] = column_crps(table, draws[:MANY], hidden)
        between = scores.coverage(truth, cells[: scores.DRAWS], np.random.default_rng(seed))
        found[f"coverage_{MANY}"] = between["coverage"]
    return found


def column_errors(table: Table, best: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    """Of each column's hidden cells: √mean(error²) / standard deviation of the column; of classes the error rate."""
    errors = {}
    for j, name in enumerate(table.columns):
        cells = hidden[:, j]
        if not cells.any():
            continue
        error = best[cells, j] - table.values[cells, j]
        if not np.isfinite(error).all():
            raise ValueError(f"column {name} was not completed")
        numeric = float(np.sqrt((error**2).mean())) / spread(table, j)
        errors[name] = float((error != 0).mean()) if table.classes[j] else numeric
    return errors


def column_crps(table: Table, draws: np.ndarray, hidden: np.ndarray) -> float:
    """The mean over numeric columns of the mean CRPS of their hidden cells, in standard deviations of the column."""
    found = [
        crps(table.values[hidden[:, j], j], draws[:, hidden[:, j], j]).mean() / spread(table, j)
        for j in table.numeric
        if hidden[:, j].any()
    ]
    return float(np.mean(found))


def crps(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The continuous ranked probability score of the draws' empirical distribution: ``truth [n]``, ``draws [M, n]``.

    Energy form (Gneiting & Raftery 2007): mean_i |x_i − y| − ½ mean_ij |x_i − x_j|, the second mean over all pairs, a
    draw with itself included. For |truth − one draw| it is the absolute error; it falls as draws are added.
    """
    count = len(draws)
    ordered = np.sort(draws, axis=0)
    weights = 2 * np.arange(1, count + 1) - count - 1  # Σ_ij |x_i − x_j| = 2 Σ_i weights_i x_(i)
    return np.asarray(np.abs(draws - truth).mean(0) - np.tensordot(weights, ordered, 1) / count**2)


def covered_by_t(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Which cells lie in the 90 % prediction interval of M draws, mean ± t_(.95, M−1) · deviation · √(1 + 1/M).

    Exact for a normal distribution: truth and draws are then M + 1 independent values of the same normal.
    """
    count = len(draws)
    quantile = stats.t.ppf((1 + LEVEL) / 2, count - 1)
    reach = quantile * draws.std(0, ddof=1) * np.sqrt(1 + 1 / count)
    return np.asarray(np.abs(truth - draws.mean(0)) <= reach + 1e-9 * np.abs(truth))


def spread(table: Table, j: int) -> float:
    """The standard deviation of the column's known cells."""
    return max(float(np.nanstd(table.values[:, j])), 1e-12)
