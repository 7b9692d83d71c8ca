"""Encode the cells of a column as double-precision numbers for a model, and decode numbers to cells."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError
from lowerbound.schema import in_arrow, loose, measures, notes, times, written
from lowerbound.schema.cells import Cells
from lowerbound.schema.column import CLASSES, Column, Level, Storage
from lowerbound.schema.rules import shown

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_GROUPS = {"float": "numbers", "int": "numbers", "decimal": "numbers", "bool": "numbers", "text": "text"}
_SINGLE, _DOUBLE = (4 * float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))
_GROUPS |= {"time": "times", "duration": "durations", "null": "nothing"}


def group(storage: Storage) -> str:
    """What the cells are, in a word for messages: numbers, text, times, durations or nothing."""
    if storage.family == "category":
        text = any(isinstance(level, str) for level in storage.categories or ("",))
        return "text" if text else "numbers"
    return _GROUPS[storage.family]


def holds(storage: Storage, column: Column) -> bool:
    """Whether a type can hold a column's cells."""
    return any(
        group(storage) == group(due) and (storage.zone is None) == (due.zone is None)
        for due in (column.storage, column.inner.storage)
    )


def is_written(column: Column, storage: Storage) -> bool:
    """Whether cells are still written in the column's form (as text, say), not yet parsed to numbers or times."""
    if column.form is None or storage.zone is not None:
        return False
    return group(storage) == group(column.storage) and storage.family != column.inner.storage.family


def read_by_form(column: Column, storage: Storage, cells: Cells) -> tuple[Storage, Cells, Mask]:
    """Parse cells that are written in the column's form: their new type and values, and which could not be parsed."""
    if is_written(column, storage) and column.form is not None:
        values, there, unknown = written.read(cells.values, cells.mask, column.form, column.markers)
        return column.inner.storage, Cells(values, there), unknown
    if loose.is_loose(storage, cells):
        return (storage, *loose.read(storage, cells, column.markers))
    hit = np.zeros(len(cells.mask), bool)
    if column.markers and cells.values.dtype == object:
        hit = np.array([value in column.markers for value in cells.values.tolist()], bool)
    return storage, Cells(cells.values, cells.mask & ~hit), np.zeros(len(hit), bool)


def written_cells(column: Column, storage: Storage, cells: Cells) -> Cells:
    """Write numbers or times in the column's form, as text or whole numbers."""
    assert column.form is not None
    texts = written.write(cells.values, column.form)
    if storage.family in ("text", "category"):
        return Cells(in_arrow.objects(texts), cells.mask)
    made = [int(text) if there else 0 for text, there in zip(texts, cells.mask.tolist(), strict=True)]
    return Cells(_typed(made, storage), cells.mask)


def check_type(column: Column, storage: Storage, cells: Cells) -> None:
    """Raise ``DataError`` if the cells are of another type than the schema's."""
    if not cells.mask.any() or holds(storage, column) or column.kind in ("constant", "identifier"):
        return
    row = int(np.argmax(cells.mask))
    theirs, due = (
        f"{group(each)}{' with a time zone' if each.zone is not None else ''} ({each.dtype})"
        for each in (storage, column.storage)
    )
    raise DataError(
        f"column {column.name!r} holds {theirs} (row {row} is {shown(cells.values[row], storage)}), but in the schema "
        f"it holds {due}; convert it to that type."
    )


def refuse_infinite(column: Column, cells: Cells) -> None:
    """Raise ``DataError``, which names the first row, if a cell is ±∞."""
    if cells.values.dtype.kind != "f":
        return
    wrong = cells.mask & np.isinf(cells.values)
    if wrong.any():
        raise DataError(
            f"row {int(np.argmax(wrong))} of column {column.name!r} is infinite; drop the row, or set the cell to a "
            "finite value or to missing."
        )


def numbers(column: Column, storage: Storage, cells: Cells) -> Floats:
    """Encode numbers or times: ``[N]``, NaN for missing cells."""
    if storage.family in ("int", "time", "duration"):
        found = _stepped(column, storage, cells)
    elif storage.family == "decimal":
        found = np.where(cells.mask, cells.values, 0).astype(np.float64) - column.offset
    else:
        found = cells.values.astype(np.float64) - column.offset if column.offset else cells.values.astype(np.float64)
    return np.where(cells.mask, found, np.nan)


def codes(column: Column, cells: Cells) -> Floats:
    """Encode classes as codes ``[N]``: NaN for missing cells, −1 for levels that are not in the schema."""
    place: dict[Level, int] = {level: code for code, level in enumerate(column.levels)}
    place |= dict.fromkeys(column.pooled, len(column.levels))
    if cells.values.dtype == object:
        found = np.array([place.get(value, -1) for value in cells.values], np.float64)
    else:
        levels, at = np.unique(cells.values, return_inverse=True)
        found = np.array([place.get(level.item(), -1) for level in levels], np.float64)[at.reshape(-1)]
    return np.where(cells.mask, found, np.nan)


def outside(column: Column, values: Floats, cells: Cells) -> tuple[Mask, str]:
    """Which encoded values ``[N]`` are outside the range of the column's kind; and that range, in words."""
    (low, high), positive = _ends(column), not _is_reached(column)
    with np.errstate(invalid="ignore"):
        wrong = (values < low) | (values > high) | (positive & (values <= 0))
        wrong = (wrong | (values != np.floor(values))) if column.kind == "count" else wrong
    least, most = (notes.written(column, end) if np.isfinite(end) else "" for end in (low, high))
    due = f"from {least} to {most}" if least and most else f"{least} or more" if least else f"{most} or less"
    due = "above 0" if positive and not most else f"a whole number of {due}" if column.kind == "count" else due
    return wrong & cells.mask, due


def check_range(column: Column, values: Floats, cells: Cells) -> None:
    """Raise ``DataError``, which names the first row, for encoded values outside the range of the column's kind."""
    wrong, due = outside(column, values, cells)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"row {row} of column {column.name!r} is {shown(cells.values[row], column.storage)}, but a value of kind "
            f"{column.kind} is {due}; set the cell to missing, or declare another kind by "
            f"schema={{{column.name!r}: 'real'}}."
        )


def draws(column: Column, values: Floats) -> Floats:
    """Round values to the column's grid, and bring them into its range."""
    if column.kind in CLASSES:
        return np.clip(np.rint(values), 0, column.n_classes - 1)
    low, high = _ends(column)
    if not column.is_between:  # reflected: clipping would pile draws up at the bound
        for end, beyond in ((low, values < low), (high, values > high)):
            if np.isfinite(end) and _is_reached(column) and (column.kind != "count" or column.large):
                values = np.where(beyond, end - (values - end), values)
    found = values if column.precision is None else measures.snap(values, column.precision)
    found = np.rint(found) if column.kind == "count" else found
    if column.kind == "positive" and not _is_reached(column):
        low = min(column.precision or _smallest(column.storage), column.low or np.inf)
    return _heavy(column, np.clip(found, low, high), values)


def _heavy(column: Column, found: Floats, values: Floats) -> Floats:
    """``found``, with heavy values of the column where ``values`` are these up to the rounding of single precision."""
    for value in column.heavy:
        near = _SINGLE * abs(value - column.centre) + _DOUBLE * (abs(value) + abs(column.centre))
        found = np.where(np.abs(values - value) <= near, value, found)
    return found


def _ends(column: Column) -> tuple[float, float]:
    """The smallest and the largest encoded value that a column can have."""
    low, high = column.low, column.high
    least = -np.inf if low is None or not (column.bounded[0] or column.kind == "interval") else low
    most = np.inf if high is None or not (column.bounded[1] or column.kind == "interval") else high
    return max(least, 0.0) if column.kind in ("count", "positive") else least, most


def _is_reached(column: Column) -> bool:
    """Whether a column can have its lower bound as a value; positive numbers without a 0 cannot."""
    return column.kind != "positive" or column.low == 0 or column.bounded[0]


def _smallest(storage: Storage) -> float:
    """The smallest number above 0 that a type can hold."""
    if storage.family == "decimal" and storage.digits is not None:
        return float(Decimal(1).scaleb(-storage.digits[1]))
    return float(np.finfo(storage.floating).smallest_subnormal)


Uniform = np.random.Generator | Floats
"""A source of uniform numbers: a generator, or an array of numbers in [0, 1), one per cell."""


def cells(column: Column, storage: Storage, values: Floats, observed: Mask, generator: Uniform | None = None) -> Cells:
    """Decode values to cells of the type ``storage``; NaN becomes a missing cell.

    ``observed`` values are decoded exactly; others are first rounded and brought into range by ``draws``. For the class
    "other", one of its levels is drawn in proportion to how often each was seen; without a ``generator``, such a cell
    is missing.
    """
    mask = ~np.isnan(values)
    safe = np.where(mask, values, 0.0)
    if not observed.all():
        safe = np.where(observed, safe, draws(column, safe))
    if column.kind in CLASSES:
        return _levels(column, storage, safe.astype(np.int64), mask, generator)
    if storage.family in ("int", "time", "duration"):
        return Cells(_from_steps(column, storage, safe), mask)
    if storage.family == "decimal":
        return Cells(_decimals(safe + column.offset, storage), mask)
    found = safe + column.offset if column.offset else safe
    if storage.family == "bool":
        return Cells(found >= 0.5, mask)
    limit = float(np.finfo(storage.floating).max)
    return Cells(np.where(observed, found, np.clip(found, -limit, limit)), mask)


def keys(column: Column, storage: Storage, rows: int) -> Cells:
    """New keys for ``rows`` rows: whole numbers continue from the largest one seen; keys of other types are missing."""
    if column.high is None or storage.family != "int" or column.offset + rows > storage.range[1]:
        return Cells(np.full(rows, None, object), np.zeros(rows, bool))
    return Cells(times.whole(np.arange(1.0, rows + 1), column.offset, 1, storage.range), np.ones(rows, bool))


def constant(column: Column, storage: Storage, rows: int) -> Cells:
    """The cells of a constant column."""
    values = _typed([column.value] * rows, storage)
    if storage.unit is not None and column.unit is not None:
        values = times.in_unit(values, column.unit, storage.unit)
    return Cells(values, np.full(rows, column.value is not None))


def _stepped(column: Column, storage: Storage, given: Cells) -> Floats:
    values, unit = given.values, storage.unit
    if unit == column.unit or unit is None or column.unit is None:
        return times.steps(values, column.offset, column.step)
    ratio = times.PER_UNIT[column.unit] // times.PER_UNIT[unit]
    if ratio:  # the cells have the finer unit, in which the offset and the step are whole numbers
        return times.steps(values, column.offset * ratio, column.step * ratio)
    return times.steps(times.in_unit(values, unit, column.unit), column.offset, column.step)


def _from_steps(column: Column, storage: Storage, values: Floats) -> NDArray[Any]:
    unit = storage.unit
    if unit is None or column.unit is None:
        return times.whole(values, column.offset, column.step, storage.range)
    ratio, limits = times.PER_UNIT[column.unit] // times.PER_UNIT[unit], _limits(column, storage, unit)
    if ratio:
        found = times.whole(values, column.offset * ratio, column.step * ratio, limits)
    else:
        found = times.whole(values, column.offset, column.step, column.storage.range)
        found = np.clip(times.in_unit(found, column.unit, unit), *limits)
    return found


def _limits(column: Column, storage: Storage, unit: str) -> tuple[int, int]:
    """The first and the last time or duration, in ``unit``, that can be decoded.

    Both the type and Python's dates must be able to hold them. If the data go beyond Python's dates, so do the limits.
    """
    first, last = times.readable(unit, storage.family == "duration", storage.zone is not None)
    if column.low is not None and column.high is not None and column.unit is not None:
        ends = times.whole(
            np.array([column.low, column.high], np.float64), column.offset, column.step, column.storage.range
        )
        seen = times.in_unit(ends, column.unit, unit).tolist()
        first, last = min(first, seen[0]), max(last, seen[1])
    return max(first, storage.range[0]), min(last, storage.range[1])


def _levels(column: Column, storage: Storage, at: NDArray[np.int64], mask: Mask, generator: Uniform | None) -> Cells:
    levels: list[Any] = list(column.levels)
    if column.pooled:
        shared = mask & (at == len(column.levels))
        if generator is None:
            mask, at = mask & ~shared, np.where(shared, 0, at)
        else:
            share = np.array(column.weights, np.float64)
            share = share / share.sum()
            if isinstance(generator, np.random.Generator):
                drawn = generator.choice(len(share), int(shared.sum()), p=share)
            else:
                drawn = np.searchsorted(share.cumsum()[:-1], generator[shared], side="right")
            at = at.copy()
            at[shared] = len(column.levels) + drawn
            levels += column.pooled
    if storage.family in ("text", "category"):
        return Cells(in_arrow.objects(levels)[at], mask)
    return Cells(_typed(levels, storage)[at], mask)


def _typed(given: list[Any], storage: Storage) -> NDArray[Any]:
    """Python objects as an array of the dtype in which cells of ``storage`` are read."""
    if storage.family in ("text", "category", "null"):
        return in_arrow.objects(given)
    if storage.family == "decimal":
        return in_arrow.objects([None if value is None else Decimal(str(value)) for value in given])
    whole = np.uint64 if storage.range[1] >= 2**63 else np.int64
    dtype = {"float": np.float64, "bool": np.bool_}.get(storage.family, whole)
    return np.array([0 if value is None else value for value in given], dtype)


def _decimals(values: Floats, storage: Storage) -> NDArray[Any]:
    """Numbers as decimals of the type, clipped to the largest that its precision can hold."""
    precision, digits = storage.digits or (38, 0)
    unit, most = Decimal(1).scaleb(-digits), Decimal((0, (9,) * precision, -digits))
    exact = Context(prec=precision + 1)
    held = [min(max(Decimal(repr(float(value))), -most), most) for value in values]
    return in_arrow.objects([value.quantize(unit, context=exact) for value in held])
