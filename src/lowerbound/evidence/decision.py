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
"""Confidence limits of a quantity from n rows, if n were another number and all else as it is."""
LEVEL = 0.05  # of false answers, half of them on each side, where rows are normal
_MOST = 1000  # times as many rows as there are: more are not asked for


@dataclass(frozen=True)
class Decision:
    """What ``rows`` say of a quantity that should lie within limits, and how many would decide it.

    ``answer``: "passed" if its confidence interval lies within the limits, "failed" if it lies outside, and otherwise
    "cannot tell". ``needs``: how many rows would then be enough for an answer if the estimate stayed as it is, None if
    more than 1000 times as many. ``unit``: what rows are.
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
    """Whether the mean of which ``values [N]`` are independent draws lies between ``least`` and ``most``.

    By Student's t, at a level divided by ``comparisons`` (Bonferroni). The deviation is taken for ``scale`` at least,
    about the width of the limits: a few rows that happen to be alike prove nothing of others.
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
    """Whether the share of which ``hits`` of ``rows`` is an estimate lies between ``least`` and ``most``.

    By the exact binomial interval. Clopper & Pearson 1934.
    """
    from scipy.special import betaincinv

    tail = LEVEL / (2 * comparisons)

    def interval(n: int) -> tuple[float, float]:
        k = hits * n / rows
        low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
        return low, float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0

    return decide(interval, rows, least, most, unit)


def together(decisions: Sequence[Decision]) -> Decision:
    """Passed if all are, failed if any is; otherwise as many rows as the most demanding needs."""
    for answer in ("failed", "cannot tell"):
        if found := [each for each in decisions if each.answer == answer]:
            return max(found, key=lambda each: math.inf if each.needs is None else each.needs)
    return decisions[0]


def quantile(degrees: float, comparisons: int = 1) -> float:
    """Of Student's t, two-sided at the level of one of ``comparisons``; ∞ where no spread is known."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - LEVEL / (2 * comparisons))) if degrees > 0 else math.inf


def _answer(low: float, high: float, least: float, most: float) -> Answer:
    if math.isnan(low) or math.isnan(high):
        return "cannot tell"
    if least <= low and high <= most:
        return "passed"
    return "failed" if high < least or low > most else "cannot tell"


def _rounded(n: int) -> int:
    """To two digits, upwards."""
    unit: int = 10 ** max(0, len(str(n)) - 2)
    return math.ceil(n / unit) * unit
