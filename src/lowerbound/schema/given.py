"""Read one value of a column that a user gives: a Python object, or text from the command line."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from lowerbound.errors import DataError
from lowerbound.schema import written
from lowerbound.schema.cells import Backend, Cells, read_value
from lowerbound.schema.column import Column, Storage

_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")
_EXAMPLE = {"float": "37.5", "int": "37", "decimal": "37.5", "bool": "true", "time": "2001-12-31", "duration": "90"}
_KINDS = {"bool": "truth value (true or false)", "time": "date or time", "duration": "number of seconds"}


def read(column: Column, backend: Backend, value: Any) -> tuple[Storage, Cells]:
    """Convert a value to a cell of ``column``, with its type. Times without a zone are in the column's zone.

    Raises ``DataError``, which names the column and the value, if the text cannot be parsed or the value is missing.
    """
    name = column.name
    if isinstance(value, str):
        value = _of_text(column, value)
    if isinstance(value, float) and math.isinf(value):
        raise DataError(f"column {name!r} is given {value!r}, which is infinite; give a finite number.")
    inner = column.inner.storage
    if inner.family == "time" and _is_time(value):
        return inner, Cells(np.array([_stamp(column, inner, value)], np.int64), np.ones(1, bool))
    if isinstance(value, np.timedelta64):
        value = value.astype("m8[us]").item()
    try:
        storage, cells = read_value(backend, name, value)
    except DataError as error:
        raise DataError(
            f"column {name!r} is given {value!r}, which cannot be a cell; give a number, text or a time."
        ) from error
    if not cells.mask.all():
        raise DataError(f"column {name!r} is given no value ({value!r}); leave it out, or give one.")
    return storage, cells


def _of_text(column: Column, text: str) -> Any:
    """Parse ``text`` as a value of a column; a column of text takes it as it is."""
    family = column.storage.family
    if family == "category":
        family = "text" if any(isinstance(level, str) for level in column.levels) else "float"
    inner = column.inner.storage.family
    if family == "text" and inner in ("float", "bool") and column.form is not None:
        if written.read(np.array([text], object), np.ones(1, bool), column.form)[1].all():
            return text
        try:
            return _READERS[inner](text)  # plain numbers are accepted as well as the column's form
        except ValueError:
            return text
    if family == "text" and inner == "time":
        try:
            return datetime.datetime.fromisoformat(text)  # ISO dates are accepted as well as the column's form
        except ValueError:
            return text
    if family not in _READERS:
        return text
    try:
        return _READERS[family](text)
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"column {column.name!r} is given {text!r}, which is not a {_KINDS.get(family, 'number')}; give one such "
            f"as {_EXAMPLE[family]}."
        ) from error


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _truth(text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise ValueError(text)
    return text.lower() in _YES


_READERS: dict[str, Callable[[str], Any]] = {
    "float": _number,
    "int": _number,
    "decimal": _number,
    "bool": _truth,
    "time": datetime.datetime.fromisoformat,
    "duration": lambda text: datetime.timedelta(seconds=float(text)),
}


def _is_time(value: Any) -> bool:
    """Whether ``value`` is a date or time of Python, pandas or NumPy other than NaT."""
    return isinstance(value, datetime.date | np.datetime64) and not np.isnat(np.datetime64(_bare(value)))


def _bare(value: Any) -> Any:
    """The time without its zone; a pandas timestamp becomes a NumPy datetime64, which keeps nanoseconds."""
    if isinstance(value, datetime.datetime):
        value = value.replace(tzinfo=None)
    return value.to_datetime64() if hasattr(value, "to_datetime64") else value


def _stamp(column: Column, storage: Storage, value: Any) -> int:
    """A time as a whole number in the unit of ``storage``, in UTC if that has a zone."""
    zone = None if storage.zone is None else _zone(storage.zone)
    if zone is not None and isinstance(value, np.datetime64):
        value = value.astype("M8[us]").item()
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None and zone is None:
            raise DataError(
                f"column {column.name!r} is given {value!s}, which has a time zone, but the column's times have none; "
                "leave the time zone out."
            )
        if zone is not None:
            there = value if value.tzinfo is not None else value.replace(tzinfo=zone)
            value = there.astimezone(datetime.UTC)
    elif zone is not None and isinstance(value, datetime.date):
        value = datetime.datetime(value.year, value.month, value.day, tzinfo=zone).astimezone(datetime.UTC)
    found = np.datetime64(_bare(value)).astype(f"M8[{storage.unit}]")
    return int(found.view(np.int64))


def _zone(name: str) -> datetime.tzinfo:
    if name[:1] in "+-":
        sign, hours, minutes = (1 if name[0] == "+" else -1), int(name[1:3]), int(name[-2:])
        return datetime.timezone(sign * datetime.timedelta(hours=hours, minutes=minutes))
    return ZoneInfo(name)
