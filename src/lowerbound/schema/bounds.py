"""Bounds on the values of a column: declared by the user, or those of shares and percentages."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.schema import times
from lowerbound.schema.column import Column, Name
from lowerbound.schema.measures import FEW

Floats = NDArray[np.float64]
_TOPS = 1, 100
_PERCENT = re.compile(
    r"(?i)pct|percent|prozent|pourcent|%|proportion|fraction|(?:^|[^a-z])(perc|prob|frac)s?(?:$|[^a-z])"
)
_RATE = re.compile(r"(?i)(?:^|[^a-z])(share|rate|ratio|quota|coverage|score|prop)s?(?:$|[^a-z])")
_SPREAD = 0.8


def share_or_percentage(name: Name, levels: NDArray[Any], counts: NDArray[np.int64]) -> int | None:
    """The upper bound of a column of shares (1) or percentages (100); None for other numbers.

    ``levels``: the different values in ascending order; ``counts``: how often each occurs. A bound is returned only if
    all values are between 0 and the bound, and one of these holds:

    - the column's name means a percentage (percent, fraction, …), and the largest value is above 1/4 of the bound;
    - the name means a rate (rate, share, score, …), and the largest value is above 0.5 (bound 1) or 90 (bound 100);
    - values up to 1: the range of the values is wider than 0.8;
    - 20 or more numbers, not all whole: the largest equals the bound, or they reach from 2 or less to 98 or more;
    - whole numbers: they pile up at 100 (see ``_piles_up``). Whole numbers up to 1 never have a bound.
    """
    low, high, n = float(levels[0]), float(levels[-1]), int(counts.sum())
    top = next((top for top in _TOPS if high <= top), None)
    whole = bool((levels == np.floor(levels)).all())
    if top is None or low < 0 or (whole and top == 1):
        return None
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name) if isinstance(name, str) else ""
    if _PERCENT.search(words) and high > top / 4:
        return top
    if _RATE.search(words) and high > top * (0.5 if top == 1 else 0.9):
        return top
    if whole:
        return top if _piles_up(levels, counts, top) else None
    if top == 1 and high - low > _SPREAD:
        return top
    reaches = high == top or (top == 100 and high >= 98 and low <= 2)
    return top if n >= FEW and reaches else None


def is_plain(low: float, high: float) -> bool:
    """Whether values cover so much of [0, 1] that they are read as shares without a note."""
    return high <= 1 and high - low > _SPREAD


def _piles_up(levels: NDArray[Any], counts: NDArray[np.int64], top: int) -> bool:
    """Whether ``top`` is at least twice as frequent as the ten whole numbers below it are on average."""
    below = counts[(levels >= top - 10) & (levels < top)].sum() / 10
    return bool(levels[-1] == top and counts[-1] >= max(3, 2 * below) and counts.sum() >= FEW)


def found(column: Column, given: Column | None, seen: Floats) -> tuple[float, float, tuple[bool, bool]]:
    """``Column.low``, ``high`` and ``bounded`` for a column with the encoded values ``seen``.

    A bound is the declared one if there is one, else that of the column's kind, else the smallest or largest value.
    Raises ValueError for an invalid declared bound.
    """
    low, high = (None, None) if given is None else (_encoded(column, given, end) for end in ("low", "high"))
    if column.kind == "interval":
        natural = _natural(column, seen)
        low, high = natural[0] if low is None else low, natural[1] if high is None else high
    if column.kind in ("count", "positive") and high is not None and low is None:
        low = 0.0
    if low is not None and high is not None and not low < high:
        assert given is not None
        raise ValueError(
            f"schema gives {column.name!r} the interval from {given.low} to {given.high}; give low below high."
        )
    bounded = low is not None, high is not None
    return float(seen.min()) if low is None else low, float(seen.max()) if high is None else high, bounded


def _natural(column: Column, seen: Floats) -> tuple[float, float]:
    """The default bounds of an interval: [0, 1] or [0, 100] if all values are inside, else the range of the values."""
    low, high = float(seen.min()), float(seen.max())
    top = next((float(top) for top in _TOPS if high <= top), None)
    return (low, high) if top is None or low < 0 or column.unit is not None else (0.0, top)


def _encoded(column: Column, given: Column, end: str) -> float | None:
    """A declared bound as an encoded value."""
    value: Any = getattr(given, end)
    if value is None:
        return None
    try:
        if column.unit is None:
            number = float(value) - column.offset
            if not np.isfinite(number):
                raise ValueError
            return number
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        if isinstance(value, int | float | bool):
            raise ValueError
        code = "m8" if column.storage.family == "duration" else "M8"
        stamp = np.array(value, f"{code}[{column.unit}]")
        if np.isnat(stamp):
            raise ValueError
        return float(times.steps(stamp.view(np.int64).reshape(1), column.offset, column.step)[0])
    except (TypeError, ValueError, OverflowError):
        due = "a number" if column.unit is None else "a timedelta" if column.storage.family == "duration" else "a date"
        example = ", as '2001-12-31'" if due == "a date" else ""
        raise ValueError(f"schema gives {column.name!r} {end}={value!r}; give {due}{example}.") from None
