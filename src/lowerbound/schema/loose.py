"""Columns of Python objects with mixed types, read as numbers or times."""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.schema import in_pandas, written
from lowerbound.schema.cells import Cells
from lowerbound.schema.column import Column, Name, Storage

Mask = NDArray[np.bool_]
_STRAY, _FEW = 0.05, 20


def is_loose(storage: Storage, cells: Cells) -> bool:
    """Whether cells are Python objects of mixed types that must still be converted to numbers or times."""
    return storage.family in ("float", "time") and cells.values.dtype == object


def read(storage: Storage, cells: Cells, markers: tuple[str, ...] = ()) -> tuple[Cells, Mask]:
    """Convert objects to numbers (text is parsed) or times: the cells, and which could not be converted.

    Texts that mark a missing value become missing cells.
    """
    number = storage.family == "float"
    found = np.zeros(len(cells.mask), np.float64 if number else np.int64)
    there, unknown = np.zeros(len(cells.mask), bool), np.zeros(len(cells.mask), bool)
    take: Callable[[Any], Any] = float if number else lambda value: _stamp(value, storage.unit or "us")
    for row in np.flatnonzero(cells.mask).tolist():
        value = cells.values[row]
        if isinstance(value, str) and written.is_marker(value, markers):
            continue
        try:
            found[row], there[row] = take(value), True
        except (ValueError, OverflowError, AttributeError):
            unknown[row] = True
    return Cells(found, there), unknown


def find(name: Name, storage: Storage, cells: Cells, given: Column | None) -> tuple[Cells, tuple[str, ...], list[str]]:
    """The cells as numbers or times, the texts among them that are taken as missing, and notes for the user.

    Raises ``DataError`` if more than 5 % of the cells cannot be converted, or any of fewer than 20.
    """
    own = () if given is None else given.markers
    found, unknown = read(storage, cells, own)
    strays, others = int(unknown.sum()), int(found.mask.sum())
    if not others or (strays and (strays > _STRAY * (strays + others) or others < _FEW)):
        raise in_pandas.mixed(name, cells.values[cells.mask].tolist(), np.flatnonzero(cells.mask).tolist())
    notes, missing = [], cells.mask & ~found.mask
    texts = tuple(dict.fromkeys(str(value) for value in cells.values[missing].tolist()))
    if texts:
        named = ", ".join(map(repr, texts[:3])) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
        many = int(missing.sum())
        first = int(np.argmax(missing))
        notes.append(
            f"{many} cell{'s' * (many > 1)} of text ({named}, the first in row {first}) "
            f"{'are' if many > 1 else 'is'} taken as missing"
        )
    return found, tuple(dict.fromkeys((*own, *texts))), notes


def _stamp(value: Any, unit: str) -> int:
    """A date or time as a whole number of ``unit`` since 1970, in UTC if it has a zone."""
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    nanoseconds = int(getattr(value, "nanosecond", 0))
    if value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    whole = calendar.timegm(value.timetuple()) * 10**6 + int(value.microsecond)
    return whole if unit == "us" else whole * 1000 + nanoseconds
