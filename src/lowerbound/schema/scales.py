"""Decide whether whole numbers of few different values are codes of classes, levels of a scale, or counts."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lowerbound.schema.column import Kind, Name
from lowerbound.schema.measures import FEW

Ints = NDArray[np.int64]
_MOST, _EACH, _CELLS = 10, 4, 12
_OF_CLASSES = re.compile(
    r"(?i)(?:^|[^a-z])(target|class|label|cluster|category|cat|group|grp|type|kind|code|species|segment|cohort|arm|"
    r"treatment|status|region|sector|brand|gender|sex|race|ethnicity|marital|outcome)(?:e?s|_?\d+)?(?:$|[^a-z])"
)
_TOP, _BEYOND, _ABSENT = 0.1, 2.0, 5.0


def of_whole_numbers(name: Name, levels: NDArray[np.float64], counts: Ints) -> Kind | None:
    """The kind of non-negative whole numbers of few different values; None if they look like counts.

    ``levels``: the different values in ascending order; ``counts``: how often each occurs.

    Two consecutive values up to 10 are ``"binary"`` if there are 6 or more cells. 3 to 10 values in 12 or more cells, 4
    per value on average, are ``"categorical"`` if the column's name is that of classes. Otherwise they are compared
    with counts. They are not counts if at least 10 % of the cells are the largest value (it looks like a top level); if
    more than 2 values above it would be expected from a count of this mean and variance; or if a gap between two values
    has neighbours so frequent that more than 5 cells would be expected in it. They are then ``"ordinal"`` if their
    frequencies rise to one peak and fall, else ``"categorical"``.
    """
    n, k = int(counts.sum()), len(levels)
    if k == 2 and levels[1] - levels[0] == 1 and levels[1] <= _MOST:
        return "binary" if n >= 6 else None
    if not 3 <= k <= _MOST or n < max(_EACH * k, _CELLS):
        return None
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name) if isinstance(name, str) else ""
    if _OF_CLASSES.search(words):
        return "categorical"
    if not (counts[-1] >= _TOP * n or _beyond(levels, counts) > _BEYOND or _absent(levels, counts) > _ABSENT):
        return None
    return "ordinal" if _has_one_peak(counts) else "categorical"


def _beyond(levels: NDArray[np.float64], counts: Ints) -> float:
    """The number of cells expected above the largest level, for a count of this mean and variance.

    The count is negative binomial. If the variance is below the mean, a rounded normal count is considered too, and the
    smaller of the two expectations is returned.
    """
    n, top = counts.sum(), float(levels[-1])
    mean = float(levels @ counts / n)
    variance = float((levels - mean) ** 2 @ counts / n)
    over = max(variance, mean * (1 + 1e-9))
    counted = stats.nbinom.sf(top, mean**2 / (over - mean), mean / over) if mean > 0 else 0.0
    rounded = stats.norm.sf((top + 0.5 - mean) / np.sqrt(variance)) if variance > 0 else 0.0
    return float(n * (min(counted, rounded) if variance < mean else counted))


def _absent(levels: NDArray[np.float64], counts: Ints) -> float:
    """The largest mean frequency of two levels on both sides of a gap, for 20 values or more."""
    gaps = np.diff(levels) > 1
    return float(((counts[1:] + counts[:-1])[gaps] / 2).max(initial=0)) if counts.sum() >= FEW else 0.0


def _has_one_peak(counts: Ints) -> bool:
    """Whether frequencies rise and then fall, up to deviations of three standard errors."""
    at = int(np.argmax(counts))
    falls = np.concatenate([counts[: at + 1][::-1], counts[at:]])
    steps = np.diff(falls.astype(np.float64))
    steps[at : at + 1] = 0  # the step between the two sides of the peak
    return bool((steps <= 3 * np.sqrt(falls[1:] + falls[:-1])).all())
