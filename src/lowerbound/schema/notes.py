"""Notes on columns of numbers or times: suspicious values, and what to do about them."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from lowerbound.schema import measures
from lowerbound.schema.column import Column

Floats = NDArray[np.float64]
_STANDS_FOR = re.compile(r"-?9{2,}(\.9+)?|-1|-9|-?8{2,}")
_OPEN = ("9999-12-31", "9999-12-30", "9999-01-01", "2999-12-31", "2262-04-11", "2099-12-31")
_UNKNOWN = ("0001-01-01", "1677-09-21", "1677-09-22", "1753-01-01", "1899-12-30", "1900-01-01", "1970-01-01")
_SHARE, _CELLS = 0.02, 5  # the least share and number of cells of a value that is reported as a code


def of_values(column: Column, seen: Floats) -> tuple[str, ...]:
    """Notes on the encoded values ``seen [n]`` of a column: codes such as 999 for unknown, and very frequent values."""
    found, code = [], _code(column, seen)
    if code is not None:
        value, share, means = code
        found.append(
            f"{100 * share:.3g} % of the values are {value}, which often stands for {means}; if it does here, set "
            "those cells to missing"
        )
    elif column.kind == "datetime" and (spikes := measures.heavy(seen, column.precision)):
        found.append(
            f"{_share(column, seen, spikes[0])}; a continuous distribution fits such a spike poorly; if it is a code "
            "for something else, set those cells to missing, or add a column that marks them"
        )
    stated = {code[0]} if code is not None else set()
    stated |= {written(column, 0.0)} if column.kind in ("positive", "count") else set()
    if masses := [value for value in column.heavy if written(column, value) not in stated]:
        first, *more = [_share(column, seen, value) for value in masses]
        *between, last = [first, *(text.replace(" of the values are exactly", "") for text in more)]
        listed = f"{', '.join(between)} and {last}" if between else last
        found.append(f"{listed}: modelled as {'point masses' if more else 'a point mass'}")
    return tuple(found)


def _share(column: Column, seen: Floats, value: float) -> str:
    return f"{100 * float((seen == value).mean()):.3g} % of the values are exactly {written(column, value)}"


def written(column: Column, value: float) -> str:
    """An encoded value as the user knows it: in the column's own numbers or times."""
    if column.unit is None:
        number = value * column.step + column.offset
        return f"{number:.0f}" if abs(number) < 1e15 and number == round(number) else f"{number:.6g}"
    at = column.offset + round(value * column.step)
    code = "m8" if column.storage.family == "duration" else "M8"
    return re.sub(r"(T00:00:00)?(\.0+)?$", "", str(np.array(at, f"{code}[{column.unit}]")))


def _code(column: Column, seen: Floats) -> tuple[str, float, str] | None:
    """The smallest or largest value, if it looks like a code: the value, its share, and what it usually means."""
    levels, counts = np.unique(seen, return_counts=True)
    if len(seen) < measures.FEW or len(levels) < 3 or column.storage.family == "duration":
        return None
    for at, others in ((0, levels[1:]), (-1, levels[:-1])):
        value, share = written(column, float(levels[at])), float(counts[at] / len(seen))
        if share < _SHARE or counts[at] < _CELLS:
            continue
        if column.unit is not None:
            known = (_UNKNOWN, "an unknown date") if at == 0 else (_OPEN, "an open end")
            if value[:10] in known[0]:
                return value, share, known[1]
        elif _STANDS_FOR.fullmatch(value) and _apart(float(levels[at]), others):
            return value, share, "an unknown value"
    return None


def _apart(value: float, others: Floats) -> bool:
    """Whether a code is apart from the other values: −1 or −9 if none is below 0, or farther away than their range."""
    low, high = float(others[0]), float(others[-1])
    if value in (-1, -9):
        return low >= 0
    return min(abs(value - low), abs(value - high)) > high - low
