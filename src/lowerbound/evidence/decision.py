"""The decision rule of all checks: passed, failed, or too few rows to decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lowerbound.evidence.estimates import Array

Answer = Literal["passed", "failed", "cannot tell"]
Interval = Callable[[int], tuple[float, float]]
"""A function of n that gives the confidence limits of a quantity if there were n rows with the same statistics."""
LEVEL = 0.05  # probability of a false answer, half on each side, for normal rows
_MOST = 1000  # the most rows that are asked for, as a multiple of those available


@dataclass(frozen=True)
class Decision:
    """Whether a quantity, estimated from ``rows`` rows, lies within limits.

    ``answer``: "passed" if its confidence interval is within the limits, "failed" if it is outside, else "cannot tell".
    ``needs``: the number of rows that would decide if the estimate stayed the same; None if more than 1,000 times as
    many as there are. ``unit``: what the rows are called.
    """

    answer: Answer
    rows: int
    needs: int | None = None
    unit: str = "rows"

    def __str__(self) -> str:
        if self.answer != "cannot tell":
            return self.answer
        most = _rounded(_MOST * self.rows)
        needs = f"more than {most:,}" if self.needs is None else f"about {_rounded(self.needs):,}"
        return f"cannot tell with {self.rows:,} {self.unit if self.rows != 1 else self.unit[:-1]} (needs {needs})"


def decide(
    interval: Interval, rows: int, least: float = -math.inf, most: float = math.inf, unit: str = "rows"
) -> Decision:
    """Whether a quantity with this confidence interval lies between ``least`` and ``most``."""
    if (answer := _answer(*interval(rows), least, most)) != "cannot tell":
        return Decision(answer, rows, unit=unit)
    needs = rows
    while needs <= _MOST * rows:
        needs = math.ceil(1.1 * needs)
        if _answer(*interval(needs), least, most) != "cannot tell":
            return Decision(answer, rows, needs, unit)
    return Decision(answer, rows, None, unit)


def of_mean(
    values: Array,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    scale: float,
    comparisons: int = 1,
    unit: str = "rows",
) -> Decision:
    """Decide whether the expectation of independent ``values [N]`` is between ``least`` and ``most``.

    Uses Student's t interval at a level divided by ``comparisons`` (Bonferroni). The standard deviation is taken to be
    at least ``scale``, which should be about the width of the limits, so that a few similar rows cannot decide.
    """
    rows, mean = len(values), float(np.mean(values))
    deviation = float(np.std(values, ddof=1)) if rows > 1 and math.isfinite(mean) else scale

    def interval(n: int) -> tuple[float, float]:
        # a mean of −∞ is outside any limits
        half = 0.0 if math.isinf(mean) else quantile(n - 1, comparisons) * max(deviation, scale) / math.sqrt(n)
        return mean - half, mean + half

    return decide(interval, rows, least, most, unit)


def of_share(
    hits: int, rows: int, least: float = 0.0, most: float = 1.0, *, comparisons: int = 1, unit: str = "rows"
) -> Decision:
    """Decide whether a probability, estimated by ``hits`` of ``rows``, is between ``least`` and ``most``.

    Uses the exact binomial interval. Clopper & Pearson 1934.
    """
    from scipy.special import betaincinv

    tail = LEVEL / (2 * comparisons)

    def interval(n: int) -> tuple[float, float]:
        k = hits * n / rows
        low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
        return low, float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0

    return decide(interval, rows, least, most, unit)


def together(decisions: Sequence[Decision]) -> Decision:
    """Combine decisions: passed if all are, failed if any is; ``needs`` is the largest of theirs."""
    for answer in ("failed", "cannot tell"):
        if found := [each for each in decisions if each.answer == answer]:
            return max(found, key=lambda each: math.inf if each.needs is None else each.needs)
    return decisions[0]


def quantile(degrees: float, comparisons: int = 1) -> float:
    """The two-sided quantile of Student's t at the level for ``comparisons``; ∞ for 0 degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - LEVEL / (2 * comparisons))) if degrees > 0 else math.inf


def _answer(low: float, high: float, least: float, most: float) -> Answer:
    if math.isnan(low) or math.isnan(high):
        return "cannot tell"
    if least <= low and high <= most:
        return "passed"
    return "failed" if high < least or low > most else "cannot tell"


def _rounded(n: int) -> int:
    """Round up to two digits."""
    unit: int = 10 ** max(0, len(str(n)) - 2)
    return math.ceil(n / unit) * unit
