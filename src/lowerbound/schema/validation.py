"""Check a schema that was read from a file: first each field, then the fields of a column against each other.

Files are not trusted: types, units and time zones must be among those that ``infer`` can produce, and numbers must be
in range. ``COLUMN`` and ``STORAGE`` have one check for each field of the two classes.
"""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from types import ModuleType
from typing import Any, get_args

from lowerbound.checks import (
    NUMBER,
    OBJECT,
    POSITIVE,
    SHARE,
    SMALLEST,
    TEXT,
    TEXTS,
    TRUTH,
    WAY_OUT,
    WORD,
    Check,
    check_fields,
    is_list,
    is_number,
    is_text,
    is_whole,
    one_of,
    or_none,
    shown,
    whole,
    wrong,
)
from lowerbound.data.dialect import Csv
from lowerbound.errors import FormatError
from lowerbound.schema import in_arrow, in_pandas, in_polars, times, written
from lowerbound.schema.cells import Backend
from lowerbound.schema.column import ASIDE, CLASSES, KINDS, LATER, Column, Family, Level, Name, Storage
from lowerbound.schema.rules import ALLOWED

FORMAT = 1
_IN: dict[Backend, ModuleType] = {"pandas": in_pandas, "polars": in_polars, "pyarrow": in_arrow}
_MOST_LEVELS = 100_000
_EXPONENT = 1100  # the largest exponent of a decimal; the smallest double has 1,074 digits after the point


def is_level(value: Any) -> bool:
    """Whether ``value`` can be a class: text, a finite number or a truth value."""
    return is_text(value) or is_number(value) or isinstance(value, bool)


def _levels(value: Any) -> bool:
    return is_list(value, is_level) and len(set(value)) == len(value)


LEVELS = Check("a list of different texts, finite numbers or truth values", _levels)

COLUMN: dict[str, Check] = {
    "kind": one_of(*KINDS),
    "name": Check("text or a whole number", lambda value: is_text(value) or is_whole(value, -WORD)),
    "why": TEXT,
    "problems": TEXTS,
    "missing": SHARE,
    "storage": OBJECT,
    "low": or_none(NUMBER),
    "high": or_none(NUMBER),
    "bounded": Check("two truth values", lambda value: is_list(value, TRUTH.holds) and len(value) == 2),
    "precision": or_none(POSITIVE),
    "atom": or_none(NUMBER),
    "atoms": or_none(SHARE),
    "heavy": Check("a list of finite numbers", lambda value: is_list(value, is_number)),
    "heavy_tailed": TRUTH,
    "curved": TRUTH,
    "dispersion": or_none(Check("a number of 0 or more", lambda value: is_number(value, 0))),
    "centre": NUMBER,
    "scale": Check("a finite number above 0", lambda value: is_number(value, SMALLEST)),
    "offset": Check("a whole number of 64 bits", lambda value: is_whole(value, -(2**63))),
    "step": Check("a whole number from 1 to a day in the column's unit", lambda value: is_whole(value, 1)),
    "levels": LEVELS,
    "pooled": LEVELS,
    "weights": Check("a list of whole numbers above 0", lambda value: is_list(value, lambda each: is_whole(each, 1))),
    "form": or_none(Check("a form of numbers or times", lambda value: written.is_form(value))),
    "markers": TEXTS,
    "value": Check("text, a finite number, a truth value or null", lambda value: value is None or is_level(value)),
}
"""The check of each field of a column."""
STORAGE: dict[str, Check] = {
    "family": one_of(*get_args(Family)),
    "dtype": TEXT,
    "unit": one_of(None, *times.PER_UNIT),
    "zone": or_none(Check("a known time zone", lambda value: is_text(value) and times.is_zone(value))),
    "digits": or_none(Check("two whole numbers", lambda value: is_list(value, _is_digits) and len(value) == 2)),
    "categories": or_none(LEVELS),
    "ordered": TRUTH,
    "detail": TEXTS,
    "arrow": TRUTH,
}
"""The check of each field of a column's storage."""


def _is_digits(value: Any) -> bool:
    return is_whole(value, -_EXPONENT, _EXPONENT)


SCHEMA: dict[str, Check] = {
    "format": Check(f"{FORMAT}, unless a later version wrote it", lambda value: is_whole(value, FORMAT, FORMAT)),
    "backend": one_of(*_IN),
    "rows": whole("a whole number above 0", 1, 2**63 - 1),
    "columns": Check("a list of columns", lambda value: is_list(value, lambda each: True) and len(value) > 0),
    "csv": or_none(OBJECT),
}
"""The check of each field of a schema."""


def checked(found: Any, what: str) -> tuple[tuple[Column, ...], Backend, int, Csv | None]:
    """Columns, library, rows and csv of a schema read from the file ``what``. Raises ``FormatError``."""
    found = check_fields(found, SCHEMA, "the schema", what, ("csv",))
    backend: Backend = found["backend"]
    columns = tuple(_column(each, j, backend, what) for j, each in enumerate(found["columns"]))
    names: set[Name] = set()
    for column in columns:
        if column.name in names:
            raise wrong(what, "the name of a column", column.name, "a name that no other column has")
        names.add(column.name)
    return columns, backend, found["rows"], _csv(found.get("csv"), what)


def _csv(found: Any, what: str) -> Csv | None:
    """How a csv file is written, if the schema says so."""
    if found is None:
        return None
    try:
        if not isinstance(found, dict) or set(found) != {"separator", "decimal", "missing"}:
            raise ValueError("separator, decimal or missing is absent")
        marks = [found[name] for name in ("separator", "decimal") if found[name] is not None]
        if not all(is_text(mark) and mark.isascii() and mark != "\0" for mark in marks) or not TEXTS.holds(
            found["missing"]
        ):
            raise ValueError("a mark is not text")
        return Csv(found["separator"], found["decimal"], tuple(found["missing"]))
    except ValueError:
        raise wrong(what, "the schema's csv", found, "a separator, a decimal mark and a list of texts") from None


def _column(found: Any, j: int, backend: Backend, what: str) -> Column:
    named = isinstance(found, dict) and COLUMN["name"].holds(found.get("name"))
    where = f"column {shown(found['name'])}" if named else f"column number {j}"
    given = _tuples(check_fields(found, COLUMN, where, what, LATER))
    storage = Storage(**_tuples(check_fields(given["storage"], STORAGE, f"the storage of {where}", what, LATER)))
    if not _is_known(storage, backend):
        raise FormatError(
            f"{what}: the storage of {where} is {storage.family!r} of dtype {shown(storage.dtype)}; a {backend} table "
            f"has no such type with these units, digits and categories; {WAY_OUT}."
        )
    form = given["form"] and written.OLD.get(given["form"], given["form"])
    column = Column(**{**given, "storage": storage, "form": form})
    if problem := _check_form(column):
        raise FormatError(f"{what}: {where} is {column.kind}, and {problem}; {WAY_OUT}.")
    column_read = column.inner
    for check in (_check_classes, _check_numbers, _check_value):
        if problem := check(column_read):
            raise FormatError(f"{what}: {where} is {column.kind}, and {problem}; {WAY_OUT}.")
    return column


def _tuples(found: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _is_known(storage: Storage, backend: Backend) -> bool:
    """Whether reading a frame of the library ``backend`` can produce the storage."""
    if (storage.unit is None) != (storage.family not in ("time", "duration")):
        return False
    if storage.zone is not None and storage.family != "time":
        return False
    if (storage.digits is None) != (storage.family != "decimal"):
        return False
    if storage.family != "category" and (storage.categories is not None or storage.detail or storage.ordered):
        return False
    if storage.arrow and backend != "pandas":
        return False
    module = in_arrow if storage.arrow else _IN[backend]
    return bool(module.known(storage))


def _check_form(column: Column) -> str:
    """The problem with the form of a column, in words."""
    family, form = column.storage.family, column.form
    if form is None:
        return ""
    if family != "text" and not (family in ("int", "float") and form == "%Y%m%d"):
        return f"its cells are {family}, which cannot have the form {shown(form)}"
    return f"its form {shown(form)} does not fit that" if column.kind in ASIDE else ""


def _check_classes(column: Column) -> str:
    """The problem with the levels of a column, in words."""
    levels, pooled, family = column.levels, column.pooled, column.storage.family
    if column.kind not in ALLOWED[family]:
        return f"its cells are {family}, which cannot be of that kind"
    if column.kind not in CLASSES:
        return "it has levels, which only classes have" if levels or pooled or column.weights else ""
    if not levels or (column.kind == "binary" and len(levels) != 2) or len(levels) > _MOST_LEVELS:
        return f"it has {len(levels)} levels"
    if len(pooled) != len(column.weights) or not set(levels).isdisjoint(pooled):
        return "its pooled levels are not distinct from its levels, or lack weights"
    if pooled and column.kind != "categorical":
        return "it has pooled levels, which only a categorical column has"
    wrong = [level for level in (*levels, *pooled) if not _fits(level, column.storage)]
    return f"its level {shown(wrong[0])} is not of {column.storage.dtype}" if wrong else ""


def _check_numbers(column: Column) -> str:
    """The problem with the range, the offset or the step of a column, in words."""
    low, high = column.low, column.high
    if low is not None and high is not None and low > high:
        return f"its range is from {low!r} to {high!r}"
    if any(low is None or high is None or not low <= value <= high for value in column.heavy):
        return f"its heavy values are {shown(list(column.heavy))}, not all in its range"
    if column.unit is not None and any(abs(column.offset + column.step * at) > WORD for at in (low, high) if at):
        return f"its range is from {low!r} to {high!r}, which needs more than 64 bits"
    if not math.isfinite(column.centre / column.scale):
        return f"its centre is {column.centre!r}, too large for a scale of {column.scale!r}"
    ends = column.bounded if column.kind != "interval" else (True, True)
    if any(end and at is None for end, at in zip(ends, (low, high), strict=True)):
        return "it has no range"
    if all(ends) and low == high:
        return f"its range is from {low!r} to {high!r}"
    if column.unit is None and column.step != 1:
        return f"its step is {column.step}, but must be 1"
    if column.unit is not None and column.step * times.PER_UNIT[column.unit] not in times.NATURAL:
        return f"its step is {column.step} {column.unit}, which is not a day, hour, minute, second or decimal part"
    first, last = column.storage.range
    if column.offset and not ((column.storage.family == "int" or column.unit) and first <= column.offset <= last):
        return f"its offset is {column.offset}, which is outside the range of its type"
    return ""


def _check_value(column: Column) -> str:
    """The problem with the value of a constant column, in words."""
    value = column.value
    if value is None:
        return ""
    if column.kind != "constant":
        return "it has a value, which only constants have"
    return "" if _fits(value, column.storage) else f"its value {shown(value)} is not of {column.storage.dtype}"


def _fits(value: Level, storage: Storage) -> bool:
    """Whether a cell of a storage can hold ``value``."""
    family = storage.family
    if family == "text":
        return isinstance(value, str)
    if family == "category":
        return isinstance(value, str) if storage.categories is None else value in storage.categories
    if family == "decimal":
        return isinstance(value, str) and _is_decimal(value)
    if isinstance(value, str) or family == "null":
        return False
    if family in ("int", "time", "duration"):
        return storage.range[0] <= value <= storage.range[1]
    return True


def _is_decimal(text: str) -> bool:
    try:
        number = Decimal(text) if len(text) <= 2 * _EXPONENT else None
    except InvalidOperation:
        return False
    return number is not None and number.is_finite() and abs(number.adjusted()) <= _EXPONENT
