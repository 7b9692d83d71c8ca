"""Data frames (pandas, polars, pyarrow) as matrices of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowerbound.data.arrays import NUMERIC, Array
from lowerbound.errors import DataError

if TYPE_CHECKING:
    import narwhals as nw


def from_frame(frame: Any, source: str = "the frame") -> tuple[Array, tuple[str, ...]]:
    """Numeric and bool columns as ``[N, D]`` in their common type, with the columns' names.

    A null is NaN, in a floating type. Raises ``DataError``, naming ``source``, for a column of anything else.
    """
    import narwhals as nw

    table = nw.from_native(frame, eager_only=True)
    names = tuple(str(name) for name in table.columns)
    if not names:
        raise DataError(f"{source} has no columns; give at least one of numbers.")
    columns = [_column(table[name], source) for name in table.columns]
    matrix = np.empty((len(table), len(columns)), np.result_type(*[column.dtype for column in columns]))
    for j, column in enumerate(columns):
        matrix[:, j] = column
    return matrix, names


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
        float(str(value))
    except ValueError:
        return False
    return True
