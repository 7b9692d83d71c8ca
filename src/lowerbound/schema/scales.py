"""Whole numbers of few values: codes of classes, levels of a scale, or counts."""

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
    """``"categorical"``, ``"ordinal"`` or ``"binary"`` of whole numbers of 0 or more that are no counts, else None.

    ``levels``: the different ones in their order, 3 to 10, each there ``counts`` times, 4 times on average. They are
    classes by their name, or where no count looks so: a tenth are the largest; or of a count with their mean and
    variance more than 2 would be above all that were seen; or more than 5 be a value between that none is. Then their
    order is taken to say something if their frequencies rise to one peak and fall. Two up to 10 that follow each other,
    as 1 and 2, are classes in 6 cells or more.
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
    """How many of a count of this mean and variance would be above the largest: the least that a family says."""
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
    """Whether frequencies rise and then fall, but for what chance does."""
    at = int(np.argmax(counts))
    falls = np.concatenate([counts[: at + 1][::-1], counts[at:]])
    steps = np.diff(falls.astype(np.float64))
    steps[at : at + 1] = 0  # from the one side to the other
    return bool((steps <= 3 * np.sqrt(falls[1:] + falls[:-1])).all())
