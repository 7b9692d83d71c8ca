"""Data frames of pandas, polars and pyarrow as matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from lowerbound.data import from_frame, read
from lowerbound.errors import DataError

FRAMES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames(kind: str) -> None:
    make = FRAMES[kind]
    x, names = from_frame(make({"i": [1, 2], "f": [0.5, None], "b": [True, False], "n": [None, 3]}))
    assert names == ("i", "f", "b", "n")
    np.testing.assert_array_equal(x, [[1, 0.5, 1, np.nan], [2, np.nan, 0, 3]])
    assert x.dtype == np.float64
    assert from_frame(make({"i": [1, 2], "j": [3, 4]}))[0].dtype == np.int64
    assert from_frame(make({"b": [True, False]}))[0].dtype == np.bool_
    assert np.isnan(from_frame(make({"i": [1, 2], "e": [None, None]}))[0][:, 1]).all()
    with pytest.raises(DataError, match=r"the frame: column 't' holds \w+, .*row 2 is 'x'"):
        from_frame(make({"i": [1, 2, 3], "t": ["1", None, "x"]}))


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table])
def test_bools_with_nulls(make: Callable[[dict[str, list[Any]]], Any]) -> None:
    np.testing.assert_array_equal(from_frame(make({"b": [True, None]}))[0], [[1], [np.nan]])


def test_bytes_stay_bytes_and_decimals_are_numbers() -> None:
    assert from_frame(pa.table({"u": pa.array([1, 255], pa.uint8())}))[0].dtype == np.uint8
    decimals = pa.table({"d": pa.array([1, None]).cast(pa.decimal128(22, 2))})
    np.testing.assert_array_equal(from_frame(decimals)[0], [[1], [np.nan]])


def test_a_frame_without_columns() -> None:
    with pytest.raises(DataError, match="no columns"):
        from_frame(pd.DataFrame())


def test_a_nested_parquet_column_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"l": [[1.0], [2.0]]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: column 'l' holds List"):
        read(tmp_path / "t.parquet")
