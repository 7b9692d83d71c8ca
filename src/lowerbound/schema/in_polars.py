"""Convert polars series to cells, and cells to polars series."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lowerbound.schema import in_arrow
from lowerbound.schema.column import Family, Name, Storage

Array = NDArray[Any]
Mask = NDArray[np.bool_]
PLAIN = {"float": "Float64", "int": "Int64", "bool": "Boolean", "text": "String", "time": "Datetime", "null": "Null"}
PLAIN["duration"] = "Duration"
TYPES: dict[Family, tuple[str, ...]] = {
    "int": tuple(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    "float": ("Float16", "Float32", "Float64"),
    "bool": ("Boolean",),
    "text": ("String",),
    "category": ("Categorical", "Enum"),
    "time": ("Date", "Datetime"),
    "duration": ("Duration",),
    "decimal": ("Decimal",),
    "null": ("Null",),
}
_TAKEN = {name for names in TYPES.values() for name in names}
_PHYSICAL = ("UInt8", "UInt16", "UInt32")
_MOST_DIGITS = 38


def read(series: Any, name: Name) -> tuple[Storage, Array, Mask]:
    """Read a series: the type of its cells, their values, and a mask that is False for null and NaN."""
    dtype = series.dtype
    base = dtype.base_type().__name__
    if base not in _TAKEN:
        row = next((row for row, null in enumerate(series.is_null()) if not null), None)
        way_out = "convert it to a Duration by pl.col(…).cast(pl.Duration)" if base == "Time" else ""
        raise in_arrow.refusal(
            name, str(dtype), row, None if row is None else series.slice(row, 1).to_list()[0], way_out
        )
    # without its name: polars fails on a name that contains a null character
    storage, values, mask = in_arrow.read(series.alias("").to_arrow(), name)
    storage = replace(storage, dtype=base, detail=())
    if base == "Enum":  # the order of an Enum's names need not mean anything
        storage = replace(storage, categories=tuple(dtype.categories.to_list()), ordered=False)
    elif base == "Categorical":
        storage = replace(storage, categories=None, ordered=False, detail=_named_categories(dtype))
    elif base == "Decimal":
        storage = replace(storage, digits=(dtype.precision or _MOST_DIGITS, dtype.scale))
    return storage, values, mask


def build(storage: Storage, values: Array, mask: Mask) -> Any:
    """Build a series of the cells."""
    import polars as pl

    if storage.family == "null":
        return pl.Series([None] * len(mask), dtype=pl.Null)
    dtype = _dtype(storage)
    if storage.family in ("text", "category", "decimal"):
        given = in_arrow.shown_only(values, mask).tolist()
        return pl.Series(given, dtype=dtype if storage.family == "decimal" else pl.String).cast(dtype)
    if not mask.any():
        return pl.Series([None] * len(mask), dtype=dtype)
    series = pl.from_arrow(pa.array(np.where(mask, values, 0).astype(values.dtype), mask=~mask))
    assert isinstance(series, pl.Series)
    return (series.cast(pl.Int32) if dtype == pl.Date else series).cast(dtype)


def frame(names: Sequence[Name], columns: Sequence[Any], rows: int, index: Any) -> Any:
    """Build a frame of the columns."""
    import polars as pl

    return pl.DataFrame([column.alias(str(name)) for name, column in zip(names, columns, strict=True)])


def known(storage: Storage) -> bool:
    """Whether ``storage`` is one that ``read`` can return."""
    dtype, detail = storage.dtype, storage.detail
    if dtype not in TYPES[storage.family]:
        return False
    if storage.unit is not None:
        zoned = storage.zone is None or dtype == "Datetime"
        return zoned and storage.unit in (("D",) if dtype == "Date" else ("ms", "us", "ns"))
    if storage.digits is not None:
        precision, scale = storage.digits
        return 1 <= precision <= _MOST_DIGITS and 0 <= scale <= precision
    if storage.family in ("time", "duration", "decimal"):
        return False
    if dtype == "Enum":
        return not (detail or storage.ordered) and all(isinstance(level, str) for level in storage.categories or (0,))
    named = not detail or (len(detail) == 3 and detail[0] != "" and detail[2] in _PHYSICAL)
    return named and storage.categories is None and not storage.ordered


def _dtype(storage: Storage) -> Any:
    import polars as pl

    if storage.dtype == "Enum":
        return pl.Enum([str(level) for level in storage.categories or ()])
    if storage.dtype == "Datetime":
        return pl.Datetime(storage.unit, storage.zone)  # type: ignore[arg-type]
    if storage.dtype == "Duration":
        return pl.Duration(storage.unit)  # type: ignore[arg-type]
    if storage.dtype == "Decimal" and storage.digits is not None:
        return pl.Decimal(*storage.digits)
    if storage.dtype == "Categorical" and storage.detail:
        name, namespace, physical = storage.detail
        return pl.Categorical(pl.Categories(name, namespace, getattr(pl, _one_of(_PHYSICAL, physical))))
    return getattr(pl, _one_of(_TAKEN, storage.dtype))


def _one_of(known_names: Collection[str], name: str) -> str:
    if name not in known_names:
        raise ValueError(f"{name!r} is not a supported polars type.")
    return name


def _named_categories(dtype: Any) -> tuple[str, ...]:
    """Name, namespace and physical type of named categories; empty for polars' global ones."""
    categories = getattr(dtype, "categories", None)
    if categories is None or categories.is_global():
        return ()
    return categories.name(), categories.namespace(), categories.physical().__name__
