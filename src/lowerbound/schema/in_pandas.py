"""Convert pandas series to cells, and cells to arrays for a pandas frame."""

from __future__ import annotations

import datetime
import importlib
import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.errors import DataError
from lowerbound.schema import in_arrow, times
from lowerbound.schema.column import Family, Name, Storage

Array = NDArray[Any]
Mask = NDArray[np.bool_]
PLAIN = {"float": "float64", "int": "Int64", "bool": "boolean", "text": "object", "time": "datetime64[us]"}
PLAIN |= {"null": "object", "duration": "timedelta64[us]"}
TYPES: dict[Family, tuple[str, ...]] = {
    "int": (*in_arrow.WHOLE, *(name.replace("i", "I").replace("u", "U") for name in in_arrow.WHOLE)),
    "float": ("float16", "float32", "float64", "Float32", "Float64", ">f2", ">f4", ">f8"),
    "bool": ("bool", "boolean"),
    "text": tuple(f"string[{storage}, {missing}]" for storage in ("python", "pyarrow") for missing in ("NA", "nan")),
}
TYPES["int"] += tuple(f">{kind}{size}" for kind in "iu" for size in (2, 4, 8))
_SPARSE = re.compile(r"Sparse\[(\w+), (nan|True|False|-?\d{1,19}(?:\.\d{1,17})?(?:e-?\d{1,3})?)\]")
_NO_TIME = np.iinfo(np.int64).min  # NumPy's NaT
_OBJECTS: tuple[tuple[type[Any] | tuple[type[Any], ...], Family], ...] = (
    (str, "text"),
    ((bool, np.bool_), "bool"),
    ((int, np.integer), "int"),
    ((float, np.floating), "float"),
    (Decimal, "decimal"),
    (datetime.date, "time"),
)


def read(series: Any, name: Name) -> tuple[Storage, Array, Mask]:
    """Read a series: the type of its cells, their values, and a mask that is False for NaN, NaT, None and pd.NA."""
    pd = _pandas()
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _categories(series, name)
    if dtype == np.dtype(object):
        return _objects(series, name)
    if isinstance(dtype, pd.ArrowDtype):
        storage, values, mask = in_arrow.read(pa.array(series), name)
        return replace(storage, arrow=True), values, mask
    if isinstance(dtype, pd.SparseDtype):
        storage, values, mask = read(series.sparse.to_dense(), name)
        return replace(storage, dtype=str(dtype)), values, mask
    mask = series.notna().to_numpy(bool)
    if isinstance(dtype, pd.StringDtype):
        return Storage("text", _name(dtype)), in_arrow.shown_only(series.to_numpy(object), mask), mask
    if isinstance(dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        storage = Storage("time", str(dtype), dtype.unit, _zone(dtype, name))
        return storage, series.to_numpy().view(np.int64).copy(), mask
    plain = dtype if isinstance(dtype, np.dtype) else getattr(dtype, "numpy_dtype", None)
    if not isinstance(plain, np.dtype) or plain.kind not in "biufmM" or plain.itemsize > 8:
        row = int(np.argmax(mask)) if mask.any() else None
        raise in_arrow.refusal(name, str(dtype), row, None if row is None else series.iloc[row])
    if plain.kind in "mM":
        unit = np.datetime_data(plain)[0]
        family: Family = "time" if plain.kind == "M" else "duration"
        return (
            Storage(family, str(dtype), unit),
            series.to_numpy().astype(f"{plain.kind}8[{unit}]").view(np.int64),
            mask,
        )
    values = series.to_numpy(plain, na_value=plain.type(0)) if isinstance(dtype, _extension()) else series.to_numpy()
    return _numbers(str(dtype), values, mask)


def build(storage: Storage, values: Array, mask: Mask) -> Any:
    """Build an array of the cells for a column of a frame.

    A type that cannot hold missing values is replaced as pandas does it (int by float, say) if cells are missing.
    """
    pd = _pandas()
    if storage.arrow:
        array = in_arrow.build(storage, values, mask)
        return pd.ArrowDtype(array.type).__from_arrow__(array)
    if storage.family == "category":
        place = {level: code for code, level in enumerate(storage.categories or ())}
        codes = [place.get(value, -1) if seen else -1 for value, seen in zip(values, mask, strict=True)]
        levels = pd.Index(list(storage.categories or ()), dtype=_dtype(storage.detail[0]))
        return pd.Categorical.from_codes(np.array(codes, np.int64), levels, ordered=storage.ordered)
    if storage.dtype == "object":
        return _as_objects(storage, values, mask)
    if storage.dtype.startswith("Sparse["):
        sparse = _dtype(storage.dtype)
        dense = build(replace(storage, dtype=sparse.subtype.name), values, mask)
        return pd.arrays.SparseArray(dense, dtype=sparse) if dense.dtype == sparse.subtype else dense
    dtype = _dtype(storage.dtype)
    if storage.family == "text":
        return pd.array(in_arrow.shown_only(values, mask), dtype=dtype)
    if storage.family in ("time", "duration"):
        code = "M8" if storage.family == "time" else "m8"
        stamps = pd.Series(np.where(mask, values, _NO_TIME).astype(np.int64).view(f"{code}[{storage.unit}]"))
        return (stamps if storage.zone is None else stamps.dt.tz_localize("UTC")).astype(dtype).array
    if isinstance(dtype, _extension()):
        numbers = np.where(mask, values, 0).astype(dtype.numpy_dtype)
        return dtype.__from_arrow__(pa.array(numbers, mask=~mask))
    if storage.family == "float" or (storage.family == "int" and not mask.all()):
        return np.where(mask, values, np.nan).astype(dtype if storage.family == "float" else np.float64)
    return values.astype(dtype) if mask.all() else in_arrow.shown_only(values, mask)


def frame(names: Sequence[Name], columns: Sequence[Any], rows: int, index: Any) -> Any:
    """Build a frame of the columns, with the given index or 0, 1, …"""
    pd = _pandas()
    held = [pd.Series(column, dtype=column.dtype) for column in columns]  # without dtype, pandas would convert text
    table = pd.DataFrame(dict(enumerate(held)), index=pd.RangeIndex(rows))
    table.columns = pd.Index(list(names))
    return table if index is None else table.set_axis(index, axis=0)


def known(storage: Storage) -> bool:
    """Whether ``storage`` is one that ``read`` can return."""
    family, dtype, unit = storage.family, storage.dtype, storage.unit
    if family == "category":
        levels, detail = storage.categories, storage.detail
        return dtype == "category" and levels is not None and len(detail) == 1 and _known_level(levels, detail[0])
    if dtype == "object":
        precision, scale = storage.digits or (1, 0)
        fits = unit in ("us", "ns") if storage.zone is not None else unit in (None, "D", "us", "ns")
        return family != "duration" and fits and precision > 0 <= scale
    if unit is not None:
        name = "datetime64" if family == "time" else "timedelta64"
        zone = "" if storage.zone is None else f", {storage.zone}"
        return unit in in_arrow.UNITS and dtype == f"{name}[{unit}{zone}]"
    if (sparse := _SPARSE.fullmatch(dtype)) is not None:
        return sparse[1] in TYPES.get(family, ()) and family in ("float", "int", "bool") and _is_sparse(dtype)
    return dtype in TYPES.get(family, ())


def _is_sparse(name: str) -> bool:
    """Whether pandas accepts the name of a sparse type, which includes its fill value."""
    try:
        _dtype(name)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _known_level(levels: Sequence[Any], name: str) -> bool:
    """Whether an index of the type called ``name`` can hold the levels."""
    if not levels and name in (f"{of}64[{unit}]" for of in ("datetime", "timedelta") for unit in in_arrow.UNITS):
        return True
    if name.endswith("[pyarrow]"):
        return in_arrow.fit(levels, in_arrow.TYPES, name.removesuffix("[pyarrow]"))
    return name == "object" or in_arrow.fit(levels, TYPES, name)


def _pandas() -> Any:
    """Import pandas only when a pandas frame is used."""
    return importlib.import_module("pandas")


def _extension() -> Any:
    return _pandas().api.extensions.ExtensionDtype


def _numbers(name: str, values: Array, mask: Mask) -> tuple[Storage, Array, Mask]:
    if values.dtype.kind == "b":
        return Storage("bool", name), values.astype(bool), mask
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        return Storage("float", name), wide, mask & ~np.isnan(wide)
    exact = np.uint64 if values.dtype.kind == "u" and values.dtype.itemsize == 8 else np.int64
    return Storage("int", name), values.astype(exact), mask


def _categories(series: Any, name: Name) -> tuple[Storage, Array, Mask]:
    index, codes = series.cat.categories, series.cat.codes.to_numpy()
    levels = index.tolist()
    in_arrow.check_levels(levels, name, str(index.dtype))
    values = in_arrow.objects([levels[code] if code >= 0 else None for code in codes])
    ordered, detail = bool(series.cat.ordered), (_name(index.dtype),)
    return Storage("category", "category", categories=tuple(levels), ordered=ordered, detail=detail), values, codes >= 0


def _objects(series: Any, name: Name) -> tuple[Storage, Array, Mask]:
    """Read a column of Python objects."""
    mask = series.notna().to_numpy(bool)
    values = in_arrow.shown_only(series.to_numpy(object), mask)
    rows = np.flatnonzero(mask)
    families = [_family(values[row], name, int(row)) for row in rows]
    if not families:
        return Storage("null", "object"), values, mask
    if len(set(families)) == 1 and families[0] in get_args(Family):
        return _typed(families[0], values, mask, name)
    return _mixed(values[mask].tolist(), families, name, rows), values, mask


def _family(value: Any, name: Name, row: int) -> Any:
    """The family of a Python object; for datetimes "stamp", or "zoned" if they have a zone."""
    if isinstance(value, datetime.datetime):
        return "stamp" if value.tzinfo is None else "zoned"
    for kind, family in _OBJECTS:
        if isinstance(value, kind):
            return family
    raise in_arrow.refusal(name, type(value).__name__, row, value)


def _mixed(values: list[Any], families: list[Any], name: Name, rows: Array) -> Storage:
    """The storage for objects of mixed types: float for numbers, time (in one zone) for dates and times."""
    kinds = set(families) - {"text"}
    if kinds and kinds <= {"int", "float", "decimal"}:
        return Storage("float", "object")
    if {"stamp", "zoned"} <= kinds:
        way_out = "convert the column to times of one zone by pandas.to_datetime(…, utc=True)"
        raise in_arrow.refusal(name, f"{type(values[0]).__name__} as objects", int(rows[0]), values[0], way_out)
    if kinds and (kinds <= {"stamp", "time"} or kinds == {"zoned"}):
        unit = "ns" if any(getattr(value, "nanosecond", 0) for value in values) else "us"
        zones = {str(value.tzinfo) for value, kind in zip(values, families, strict=True) if kind == "zoned"}
        zone = zones.pop() if len(zones) == 1 else "UTC" if zones else None
        return Storage("time", "object", unit, zone if zone is None or times.is_zone(zone) else "UTC")
    raise mixed(name, values, rows.tolist())


def mixed(name: Name, values: Sequence[Any], rows: Sequence[int]) -> DataError:
    """The error for objects whose types cannot be combined; ``rows``: the row of each value."""
    other = next((j for j, value in enumerate(values) if type(value) is not type(values[0])), 0)
    first, second = values[0], values[other]
    return DataError(
        f"column {name!r} mixes {type(first).__name__} (row {rows[0]} is {first!r}) and {type(second).__name__} "
        f"(row {rows[other]} is {second!r}); convert its cells to one type, by .astype(str) or pandas.to_numeric."
    )


def _typed(family: Family, values: Array, mask: Mask, name: Name) -> tuple[Storage, Array, Mask]:
    """Objects of one family as a storage, an array of its dtype, and a mask."""
    if family == "text":
        return Storage("text", "object"), values, mask
    if family == "decimal":
        return Storage("decimal", "object", digits=_digits(values[mask], name, np.flatnonzero(mask))), values, mask
    if family == "time":
        days = np.zeros(len(mask), np.int64)
        days[mask] = values[mask].astype("M8[D]").view(np.int64)
        return Storage("time", "object", "D"), days, mask
    if family == "int":
        largest = max(int(value) for value in values[mask])
        smallest = min(int(value) for value in values[mask])
        if smallest < -(2**63) or largest >= 2**63:
            row = next(row for row in np.flatnonzero(mask) if not -(2**63) <= int(values[row]) < 2**63)
            raise DataError(
                f"row {row} of column {name!r} is {values[row]}, which needs more than 64 bits; convert the column to "
                "text."
            )
    made: dict[Family, type[np.generic]] = {"bool": np.bool_, "int": np.int64, "float": np.float64}
    found = np.where(mask, values, 0).astype(made[family])
    return Storage(family, "object"), found, mask & ~np.isnan(found) if family == "float" else mask


def _digits(values: Array, name: Name, rows: Array) -> tuple[int, int]:
    wrong = next((row for row, value in zip(rows, values, strict=True) if not value.is_finite()), None)
    if wrong is not None:
        raise DataError(
            f"row {wrong} of column {name!r} is not finite; drop the row, or set the cell to a number or to missing."
        )
    return 38, max(0, *(-int(value.as_tuple().exponent) for value in values))


def _as_objects(storage: Storage, values: Array, mask: Mask) -> Array:
    found = np.full(len(mask), None, object)
    if storage.family == "time" and storage.unit != "D" and values.dtype != object:
        stamps = _pandas().Series(np.where(mask, values, 0).astype(np.int64).view(f"M8[{storage.unit}]"))
        stamps = stamps if storage.zone is None else stamps.dt.tz_localize("UTC").dt.tz_convert(storage.zone)
        values = in_arrow.objects(list(stamps))
    elif storage.family == "time" and storage.unit == "D":
        values = np.where(mask, values, 0).astype(np.int64).view(f"M8[{storage.unit}]").astype("M8[D]").astype(object)
    found[mask] = in_arrow.objects(values[mask].tolist())
    return found


def _zone(dtype: Any, name: Name) -> str:
    try:
        known = _dtype(str(dtype)) == dtype
    except TypeError:
        known = False
    if not known:
        raise DataError(
            f"column {name!r} has a time zone without a name ({dtype.tz}); convert it to one with a name, by "
            ".dt.tz_convert('UTC')."
        )
    return str(dtype.tz)


def _name(dtype: Any) -> str:
    """A name from which ``_dtype`` can restore the type; pandas uses one name for several text types."""
    pd = _pandas()
    if not isinstance(dtype, pd.StringDtype):
        return str(dtype)
    return f"string[{dtype.storage}, {'NA' if dtype.na_value is pd.NA else 'nan'}]"


def _dtype(name: str) -> Any:
    pd = _pandas()
    found = re.fullmatch(r"string\[(python|pyarrow), (NA|nan)\]", name)
    if (sparse := _SPARSE.fullmatch(name)) is not None:
        plain = np.dtype(sparse[1])
        return pd.SparseDtype(plain, sparse[2] == "True" if plain.kind == "b" else plain.type(sparse[2]))
    if found is None:
        return pd.api.types.pandas_dtype(name)
    return pd.StringDtype(found[1]) if found[2] == "NA" else pd.StringDtype(found[1], na_value=np.nan)
