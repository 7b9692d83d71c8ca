"""Bounds that the values of a column cannot pass: declared, or those of shares and percentages."""

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
    """1 of shares, 100 of percentages, None of other numbers of 0 or more: ``levels`` in their order, and how often.

    Values from 0 to that top, of which the data show that it is one: they spread over more than 0.8 (to 1), or 20
    values or more come to the very top (whole numbers pile up there), or near both ends of 0 to 100; or a name says
    percent, or rate, and values go beyond a quarter, or a half (of 100: nine tenths), of the top.
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
    """Whether shares cover enough of [0, 1] to be read as shares without a note."""
    return high <= 1 and high - low > _SPREAD


def _piles_up(levels: NDArray[Any], counts: NDArray[np.int64], top: int) -> bool:
    """Whether more than twice as many whole numbers are the top as are each of the ten below it, on average."""
    below = counts[(levels >= top - 10) & (levels < top)].sum() / 10
    return bool(levels[-1] == top and counts[-1] >= max(3, 2 * below) and counts.sum() >= FEW)


def found(column: Column, given: Column | None, seen: Floats) -> tuple[float, float, tuple[bool, bool]]:
    """``low``, ``high`` and ``bounded`` of a column of the encoded values ``seen``: as declared, of its kind, or seen.

    Raises ValueError for bounds that are none.
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
    """The ends of an interval that declares none: [0, 1] or [0, 100] if they hold all values, else their range."""
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
