"""How methods stand next to each other over many tables: ranks, how often near the best, how far from it at worst."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats

NEAR = 1.05  # times the best

Line = Mapping[str, float | None]
"""Of one table: each method's loss (smaller is better), None if it did not finish; methods not yet run are absent."""


def standings(lines: Mapping[str, Line]) -> dict[str, dict[str, float]]:
    """Of each method, by mean rank: ``mean_rank``, ``near``, ``worst``, ``lines`` and ``finished``.

    A method that did not finish shares the last rank of its line, and is not near the best; ``worst`` is the largest
    ratio to the best over the lines that the method finished, NaN if it finished none.
    """
    methods = dict.fromkeys(method for line in lines.values() for method in line)
    found = {}
    for method in methods:
        mine = [line for line in lines.values() if method in line]
        ratios = np.array([_ratios(line)[method] for line in mine])
        finished = ratios[np.isfinite(ratios)]
        found[method] = {
            "mean_rank": float(np.mean([_ranks(line)[method] for line in mine])),
            "near": float((ratios <= NEAR).mean()),
            "worst": float(finished.max()) if len(finished) else float("nan"),
            "lines": len(mine),
            "finished": len(finished),
        }
    return dict(sorted(found.items(), key=lambda each: each[1]["mean_rank"]))


def _ranks(line: Line) -> dict[str, float]:
    """1 is the smallest loss; equal ones share the mean of their ranks."""
    return dict(zip(line, stats.rankdata(_losses(line)), strict=True))


def _ratios(line: Line) -> dict[str, float]:
    """Each loss over the smallest; infinite where the method did not finish."""
    losses = _losses(line)
    if not np.isfinite(losses).any():
        return dict.fromkeys(line, np.inf)
    return dict(zip(line, losses / max(losses.min(), 1e-12), strict=True))


def _losses(line: Line) -> np.ndarray:
    return np.array([np.inf if loss is None else loss for loss in line.values()])
