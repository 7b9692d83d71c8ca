"""Convert pyarrow arrays to cells, and cells to pyarrow arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from lowerbound.errors import DataError
from lowerbound.schema import times
from lowerbound.schema.column import Family, Name, Storage

Array = NDArray[Any]
Mask = NDArray[np.bool_]
PLAIN = {"float": "double", "int": "int64", "bool": "bool", "text": "string", "time": "timestamp", "null": "null"}
PLAIN["duration"] = "duration"
UNITS = ("s", "ms", "us", "ns")
WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
TYPES: dict[Family, tuple[str, ...]] = {
    "float": ("halffloat", "float", "double"),
    "int": WHOLE,
    "bool": ("bool",),
    "text": ("string", "large_string", "string_view"),
    "null": ("null",),
}
_UNITS = {"timestamp": UNITS, "duration": UNITS, "date32[day]": ("D",), "date64[ms]": ("ms",)}
_DECIMALS = {"decimal32": 9, "decimal64": 18, "decimal128": 38, "decimal256": 76}
"""The largest precision of each decimal type, in digits."""


def read(array: Any, name: Name) -> tuple[Storage, Array, Mask]:
    """Read an array: the type of its cells, their values, and a mask that is False for missing cells."""
    if isinstance(array, pa.ChunkedArray):
        array = (array.unify_dictionaries() if types.is_dictionary(array.type) else array).combine_chunks()
    kind = array.type
    mask = np.array(array.is_valid().to_numpy(zero_copy_only=False), bool)
    if types.is_null(kind):
        return Storage("null", "null"), np.full(len(mask), None, object), np.zeros(len(mask), bool)
    if types.is_integer(kind):
        wide = np.uint64 if str(kind) == "uint64" else np.int64
        return Storage("int", str(kind)), _filled(array, 0).astype(wide), mask
    if types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
        return Storage("float", str(kind)), values, mask & ~np.isnan(values)
    if types.is_boolean(kind):
        return Storage("bool", "bool"), _filled(array, False).astype(bool), mask
    if _is_text(kind):
        return Storage("text", str(kind)), objects(array.to_pylist()), mask
    if types.is_decimal(kind):
        storage = Storage("decimal", str(kind), digits=(kind.precision, kind.scale))
        return storage, objects(array.to_pylist()), mask
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_duration(kind):
        return _times(array, mask, name)
    if types.is_dictionary(kind):
        return _categories(array, name)
    row = int(np.argmax(mask)) if mask.any() else None
    raise refusal(name, str(kind), row, None if row is None else array[row].as_py())


def build(storage: Storage, values: Array, mask: Mask) -> Any:
    """Build an array of the cells."""
    kind = type_of(storage)
    if storage.family == "null":
        return pa.nulls(len(mask))
    if storage.family == "category":
        place = {level: code for code, level in enumerate(storage.categories or ())}
        codes = [place.get(value, -1) if seen else -1 for value, seen in zip(values, mask, strict=True)]
        found = np.array(codes, np.int64)
        indices = pa.array(np.maximum(found, 0), mask=found < 0).cast(kind.index_type)
        levels = pa.array(list(storage.categories or ()), kind.value_type)
        return pa.DictionaryArray.from_arrays(indices, levels, ordered=kind.ordered)
    if storage.family in ("text", "decimal"):
        return pa.array(shown_only(values, mask).tolist(), kind)
    if storage.family in ("time", "duration"):
        whole = pa.array(np.where(mask, values, 0).astype(np.int64), mask=~mask)
        return (whole.cast(pa.int32()) if types.is_date32(kind) else whole).cast(kind)
    return pa.array(np.where(mask, values, 0).astype(kind.to_pandas_dtype()), kind, mask=~mask)


def frame(names: Sequence[Name], columns: Sequence[Any], rows: int, index: Any) -> Any:
    """Build a table of the columns. ``index``: the columns that store pandas' index, appended with their metadata."""
    table = pa.table(list(columns), names=[str(name) for name in names])
    if index is None or set(index.column_names) & set(table.column_names):
        return table
    for name in index.column_names:
        table = table.append_column(index.schema.field(name), index[name])
    return table.replace_schema_metadata(index.schema.metadata)


def known(storage: Storage) -> bool:
    """Whether ``storage`` is one that ``read`` can return."""
    family, dtype = storage.family, storage.dtype
    if family == "category":
        return dtype == "dictionary" and storage.categories is not None and _known_detail(storage)
    if family in ("time", "duration"):
        in_its_units = storage.unit in _UNITS.get(dtype, ()) and (dtype == "duration") == (family == "duration")
        return in_its_units and (storage.zone is None or dtype == "timestamp")
    if family == "decimal" and storage.digits is not None:
        name, (precision, scale) = dtype.partition("(")[0], storage.digits
        most = _DECIMALS.get(name, 0)
        return 1 <= precision <= most and -most <= scale <= most and dtype == f"{name}({precision}, {scale})"
    return dtype in TYPES.get(family, ())


def _known_detail(storage: Storage) -> bool:
    """Whether the index type and the value type of a dictionary type are valid and can hold its categories."""
    if len(storage.detail) != 2 or storage.detail[0] not in WHOLE:
        return False
    (index, name), levels = storage.detail, storage.categories or ()
    codes = Storage("int", index).range[1] + 1
    return len(levels) <= codes and (fit(levels, TYPES, name) if levels else _is_alias(name))


def _is_alias(name: str) -> bool:
    try:
        return bool(pa.type_for_alias(name))
    except ValueError:
        return False


def fit(levels: Sequence[Any], types: Mapping[Family, Collection[str]], name: str) -> bool:
    """Whether the type called ``name`` is one of ``types`` and can hold all levels."""
    family = next((family for family, names in types.items() if name in names), None)
    if family == "int":
        low, high = Storage("int", name).range
        return all(type(level) is int and low <= level <= high for level in levels)
    if family is None:
        return False
    kinds: dict[Family, tuple[type[Any], ...]] = {"text": (str,), "bool": (bool,), "float": (int, float)}
    return all(type(level) in kinds.get(family, ()) for level in levels)


def type_of(storage: Storage) -> Any:
    """The arrow type that a storage describes."""
    if storage.family == "category":
        index, level = (pa.type_for_alias(name) for name in storage.detail)
        return pa.dictionary(index, level, storage.ordered)
    if storage.family == "duration":
        return pa.duration(storage.unit)
    if storage.family == "time" and not storage.dtype.startswith("date"):
        return pa.timestamp(storage.unit, storage.zone)
    if storage.family == "decimal" and storage.digits is not None:
        make = {"decimal32": pa.decimal32, "decimal64": pa.decimal64, "decimal256": pa.decimal256}
        return make.get(storage.dtype.partition("(")[0], pa.decimal128)(*storage.digits)
    return pa.type_for_alias(storage.dtype)


def shown_only(values: Array, mask: Mask) -> Array:
    """The values as objects where ``mask``, None elsewhere."""
    found = np.full(len(mask), None, object)
    found[mask] = values[mask]
    return found


def objects(values: Sequence[Any]) -> Array:
    """Python objects as an array of them."""
    found = np.empty(len(values), object)
    found[:] = values
    return found


def refusal(name: Name, dtype: str, row: int | None, value: Any, way_out: str = "") -> DataError:
    """The error for cells of a type that is not supported."""
    shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
    where = "" if row is None else f" (row {row} is {shown})"
    way_out = way_out or "convert them to numbers, text or times, or leave the column out"
    return DataError(f"column {name!r} holds cells of type {dtype}{where}, which is not supported; {way_out}.")


def check_levels(levels: Sequence[Any], name: Name, dtype: str) -> None:
    """Raise ``DataError`` if a category is not text, a finite number or a bool."""
    for level in levels:
        if not isinstance(level, str | int | float | bool) or (isinstance(level, float) and not math.isfinite(level)):
            raise DataError(
                f"column {name!r} has the category {str(level)!r} of type {type(level).__name__} ({dtype}); make its "
                "categories text, as .cat.rename_categories(str) does in pandas."
            )


def _filled(array: Any, value: Any) -> Array:
    found: Array = (array.fill_null(value) if array.null_count else array).to_numpy(zero_copy_only=False)
    return found


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view")


def _times(array: Any, mask: Mask, name: Name) -> tuple[Storage, Array, Mask]:
    kind = array.type
    if types.is_date32(kind):
        storage, whole = Storage("time", str(kind), "D"), array.cast(pa.int32())
    else:
        unit = "ms" if types.is_date64(kind) else kind.unit
        zone = kind.tz if types.is_timestamp(kind) else None
        if zone is not None and not times.is_zone(zone):
            raise DataError(
                f"column {name!r} has the time zone {zone[:40]!r}, which is not in the time zone database; cast it to "
                "one that is, such as pyarrow.timestamp('us', 'UTC')."
            )
        family = "duration" if types.is_duration(kind) else "time"
        storage, whole = Storage(family, str(kind).partition("[")[0], unit, zone), array.cast(pa.int64())  # type: ignore[arg-type]
        storage = Storage("time", "date64[ms]", "ms") if types.is_date64(kind) else storage
    return storage, _filled(whole, 0).astype(np.int64), mask


def _categories(array: Any, name: Name) -> tuple[Storage, Array, Mask]:
    kind = array.type
    levels = array.dictionary.to_pylist()
    known = [level for level in levels if level is not None]
    check_levels(known, name, str(kind))
    values = objects([levels[code] if code is not None else None for code in array.indices.to_pylist()])
    detail = (str(kind.index_type), str(kind.value_type))
    categories = tuple(dict.fromkeys(known))
    storage = Storage("category", "dictionary", categories=categories, ordered=bool(kind.ordered), detail=detail)
    return storage, values, np.array([value is not None for value in values], bool)
