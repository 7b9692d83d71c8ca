"""Data frames (pandas, polars, pyarrow) as matrices of numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerbound.data.arrays import NUMERIC, Array
from lowerbound.data.reading import repeated
from lowerbound.errors import DataError

if TYPE_CHECKING:
    import narwhals as nw


def from_frame(frame: Any, source: str = "the frame") -> tuple[Array, tuple[str, ...]]:
    """Numeric and bool columns as ``[N, D]`` in their common type, with the columns' names.

    A null is NaN, in a floating type. Raises ``DataError``, naming ``source``, for a column of anything else.
    """
    import narwhals as nw

    frame = without_index(table_of(frame, source))
    names = tuple(str(name) for name in _names(frame, source))
    table = nw.from_native(frame, eager_only=True)
    if not names:
        raise DataError(f"{source} has no columns; give at least one of numbers.")
    columns = [_column(table[name], source) for name in table.columns]
    matrix = np.empty((len(table), len(columns)), np.result_type(*[column.dtype for column in columns]))
    for j, column in enumerate(columns):
        matrix[:, j] = column
    return matrix, names


def table_of(frame: Any, source: str = "the frame") -> Any:
    """The frame; a table of an arrow record batch. Raises ``DataError`` for arrow's streams and datasets."""
    import pyarrow as pa

    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if is_stream(frame):
        way_out = "read_all" if hasattr(frame, "read_all") else "to_table"
        raise DataError(f"{source} is a {type(frame).__name__}, which is not in memory; give {source}.{way_out}().")
    return frame


def is_stream(frame: Any) -> bool:
    """Whether it is a table of arrow that is not in memory."""
    return type(frame).__module__.startswith("pyarrow") and (hasattr(frame, "read_all") or hasattr(frame, "to_table"))


def index_columns(table: Any) -> list[str]:
    """The columns of an arrow table in which pandas has written its labels of rows, by what its schema says."""
    try:
        found = json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"]
        named = [name for name in found if isinstance(name, str)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [name for name in table.column_names if name in named]


def without_index(frame: Any) -> Any:
    """The frame without pandas' labels of rows, where an arrow table has them as columns."""
    import pyarrow as pa

    labels = index_columns(frame) if isinstance(frame, pa.Table) else []
    return frame.drop_columns(labels) if labels else frame


def checked(frame: Any, source: str = "the frame", order: Sequence[str] | None = None) -> Any:
    """The frame, its columns in ``order`` by their names. Raises ``DataError`` for columns that cannot be used."""
    import narwhals as nw

    frame = without_index(table_of(frame, source))
    names = _names(frame, source)
    other = next((name for name in names if isinstance(name, str) != isinstance(names[0], str)), None)
    if other is not None:
        raise DataError(f"{source} has columns called {names[0]!r} and {other!r}; make every name a string.")
    table = nw.from_native(frame, eager_only=True)
    for series in table.iter_columns():
        _check_column(series, source)
    if order is None or not isinstance(names[0] if names else None, str):
        return frame
    due, there = set(order), set(names)
    lacking, added = [name for name in order if name not in there], [name for name in names if name not in due]
    if lacking or added:
        wrong = [f"lack {_listed(lacking)}"] * bool(lacking) + [f"hold the extra {_listed(added)}"] * bool(added)
        raise DataError(
            f"the feature names of {source} {' and '.join(wrong)}; give the columns that were fitted, in any order: "
            f"{_listed(order)}."
        )
    return frame if names == list(order) else table.select(list(order)).to_native()


def _names(frame: Any, source: str) -> list[Any]:
    """The names of a frame's columns, each once."""
    names = [*getattr(frame, "column_names", frame.columns)]
    twice = repeated(names)
    if twice is not None:
        raise DataError(f"{source} has two columns called {twice!r}; give each a name of its own.")
    return names


def _check_column(series: nw.Series[Any], source: str) -> None:
    """Refuse a column that holds anything but numbers and nulls."""
    import narwhals as nw

    if series.dtype.is_numeric() or series.dtype == nw.Boolean:
        return
    given = [value for value, null in zip(series.to_list(), series.is_null().to_list(), strict=True) if not null]
    if given and (series.dtype != nw.Object or not all(isinstance(value, Real | Decimal) for value in given)):
        raise DataError(_refusal(series, source))


def _listed(names: Sequence[str]) -> str:
    """Names for a sentence: the first of many."""
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _column(series: nw.Series[Any], source: str) -> Array:
    """One column ``[N]``. A column of nulls alone has no type to go by and is NaN throughout."""
    import narwhals as nw

    numeric = series.dtype.is_numeric() or series.dtype == nw.Boolean
    if not numeric and series.null_count() < len(series):
        raise DataError(_refusal(series, source))
    values = series.to_numpy() if numeric else np.empty(0, object)
    return values if values.dtype.kind in NUMERIC else series.cast(nw.Float64).to_numpy()


def _refusal(series: nw.Series[Any], source: str) -> str:
    rows = zip(series.to_list(), series.is_null().to_list(), strict=True)
    found = [(row, value) for row, (value, null) in enumerate(rows) if not null]
    row, value = next((pair for pair in found if not is_number(pair[1])), found[0])
    shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
    return (
        f"{source}: column {series.name!r} holds {series.dtype}, not numbers (row {row} is {shown}); "
        "leave the column out or encode it as numbers."
    )


def is_number(value: object) -> bool:
    """Whether ``value`` reads as a number."""
    try:
        float(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
    except ValueError:
        return False
    return True
