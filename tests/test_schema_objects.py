"""Columns of mixed Python objects, sparse columns, record batches, and pandas' labels of rows in arrow's tables."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from messages import assert_one_sentence
from pyarrow import dataset, parquet

import lowerbound as lb
from lowerbound import data
from lowerbound.errors import DataError
from lowerbound.schema import Schema, infer

RNG = np.random.default_rng(0)
STAMPS = list(pd.date_range("2024-01-01 07:30", periods=30, freq="31h"))
ZONES = [stamp.tz_localize("UTC").tz_convert("Europe/Berlin" if j % 2 else "+03:00") for j, stamp in enumerate(STAMPS)]

# cells, the kind, and the numbers that the first three stand for
OBJECTS: dict[str, tuple[list[Any], str, list[float]]] = {
    "whole numbers beside floats": ([1, 2.5, 3] * 10, "positive", [1, 2.5, 3]),
    "decimals beside floats": ([Decimal("1.10"), 2.5, 3] * 10, "positive", [1.1, 2.5, 3]),
    "decimals beside whole numbers": ([Decimal("1.10"), 2, Decimal(7)] * 10, "positive", [1.1, 2, 7]),
    "NumPy's numbers": ([np.int64(1), np.float32(2.5), 3] * 10, "positive", [1, 2.5, 3]),
    "what pandas has for missing": ([1.5, pd.NA, None, 3, np.nan, 2.5] * 5, "positive", [1.5, np.nan, np.nan]),
    "a marker": ([1, "n/a", 2.5, 3.5] * 10, "positive", [1, np.nan, 2.5]),
    "markers in many cells": ([1, "?", "-", 4.5, 3.5] * 10, "positive", [1, np.nan, np.nan]),
    "one stray text": ([1, 2.5, 3] * 10 + ["see note"], "positive", [1, 2.5, 3]),
    "numbers in text among numbers": ([1, "2.5", 3] * 10, "positive", [1, 2.5, 3]),
    "times without a zone": (STAMPS, "datetime", [0, 31, 62]),
    "Python's times": ([stamp.to_pydatetime() for stamp in STAMPS], "datetime", [0, 31, 62]),
    "dates beside times": ([[each.date(), each.floor("D")][each.day % 2] for each in STAMPS], "datetime", [0, 1, 2]),
    "times of one zone": ([stamp.tz_localize("Europe/Berlin") for stamp in STAMPS], "datetime", [0, 31, 62]),
    "times of two zones": (ZONES, "datetime", [0, 31, 62]),
    "a time that is not known": ([*STAMPS[:20], "unknown", None], "datetime", [0, 31, 62]),
}  # fmt: skip


def identical(mine: Any, theirs: Any) -> bool:
    """The same object for all that can be told: 1 is not 1.0, and a time has its zone."""
    if pd.isna(mine) or pd.isna(theirs):
        return bool(pd.isna(mine) and pd.isna(theirs))
    zones = str(getattr(mine, "tzinfo", None)) == str(getattr(theirs, "tzinfo", None))
    return type(mine) is type(theirs) and mine == theirs and zones


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_of_several_types(name: str) -> None:
    cells, kind, numbers = OBJECTS[name]
    frame = pd.DataFrame({"x": pd.Series(cells, dtype=object), "y": RNG.normal(size=len(cells))})
    schema = Schema.from_json(infer(frame).to_json())
    assert schema["x"].kind == kind
    coded = schema.encode(frame)
    np.testing.assert_array_equal(coded.values[:3, 0], numbers)
    back = schema.decode(coded)
    assert back["x"].dtype == object
    assert all(map(identical, back["x"], frame["x"]))
    filled = schema.decode(coded.filled(np.full(coded.values.shape, 9.0)))
    assert all(map(identical, filled["x"][coded.mask[:, 0]], frame["x"][coded.mask[:, 0]]))
    assert not filled["x"].isna().any()
    assert not any(isinstance(cell, str) for cell in filled["x"][~coded.mask[:, 0]])
    drawn = schema.decode(RNG.normal(2, 1, size=(9, 2)))
    assert schema.encode(drawn, strict=True).mask.all()


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([1, "x", 2.5], ("'a' mixes int", "row 0 is 1", "row 1 is 'x'")),
        (["x", "y", 2.5] * 20, ("'a' mixes str", "row 2 is 2.5")),
        ([True, 1, 2] * 20, ("'a' mixes bool", "row 1 is 1")),
        ([STAMPS[0], ZONES[0]] * 20, ("times of one zone", "row 0")),
        ([STAMPS[0], 3.5] * 20, ("'a' mixes Timestamp", "row 1 is 3.5")),
        ([1.5, np.inf, 2] * 20, ("row 1 of column 'a' is infinite",)),
    ],
)
def test_objects_that_have_nothing_in_common(cells: list[Any], words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as refused:
        infer(pd.DataFrame({"a": pd.Series(cells, dtype=object)}))
    assert_one_sentence(str(refused.value), words)


def test_missing_values_of_pandas_in_arrays_of_objects() -> None:
    cells = np.array([[1.5, 2], [pd.NA, 3], [4, pd.NaT], [5, 6], [7, None]] * 4, dtype=object)
    floats = np.array([[1.5, 2], [np.nan, 3], [4, np.nan], [5, 6], [7, np.nan]] * 4)
    imputed = [
        lb.LatentImputer(1, hidden=(4,), epochs=1, samples=9, random_state=0).fit_transform(each)
        for each in (cells, floats)
    ]
    np.testing.assert_array_equal(*imputed)
    vaes = [lb.VAE(1, hidden=(4,), epochs=1, random_state=0).fit(each) for each in (cells, floats)]
    np.testing.assert_array_equal(*[vae.transform(floats) for vae in vaes])


@pytest.mark.parametrize(
    "array",
    [
        pd.arrays.SparseArray(RNG.integers(0, 3, 40)),
        pd.arrays.SparseArray(RNG.poisson(0.3, 40).astype(float), fill_value=0.0),
        pd.arrays.SparseArray(np.where(RNG.random(40) < 0.7, np.nan, RNG.normal(size=40))),
        pd.arrays.SparseArray(RNG.random(40) < 0.1),
    ],
    ids=str,
)
def test_sparse_columns(array: Any) -> None:
    frame = pd.DataFrame({"x": array, "y": RNG.normal(size=40)})
    schema = Schema.from_json(infer(frame).to_json())
    assert schema["x"].kind == infer(frame.assign(x=np.asarray(array)))["x"].kind
    back = schema.decode(schema.encode(frame))
    pd.testing.assert_frame_equal(back, frame)
    assert schema.decode(np.ones((3, 2)))["x"].dtype == frame["x"].dtype


def test_arrow_that_is_not_a_table_yet() -> None:
    table = pa.table({"a": RNG.normal(size=40), "c": ["u", "v"] * 20})
    (batch,) = table.to_batches()
    assert not lb.check(batch).problems
    assert lb.check(batch).rows == 40
    model = lb.VAE(1, hidden=(4,), epochs=1, random_state=0).fit(batch)
    assert model.impute(batch).equals(table)
    assert lb.VAE(1, hidden=(4,), epochs=1, likelihood="Normal").fit(batch.select(["a"])).shape_ == (1,)
    for stream, way_out in ((table.to_reader(), r"X\.read_all\(\)"), (dataset.dataset(table), r"X\.to_table\(\)")):
        with pytest.raises(DataError) as refused:
            lb.VAE(1).fit(stream)
        assert_one_sentence(str(refused.value), ("not in memory", way_out))


@pytest.mark.parametrize("index", [None, "key", ["key", "no"]])
def test_labels_of_rows_are_no_feature_and_come_back(index: Any, tmp_path: Path) -> None:
    n = 50
    frame = pd.DataFrame({"a": RNG.normal(size=n), "b": RNG.normal(size=n), "key": RNG.permutation(n), "no": range(n)})
    frame = (frame.iloc[RNG.permutation(n)[:40]] if index is None else frame.set_index(index))[["a", "b"]]
    frame.to_parquet(tmp_path / "t.parquet")
    frame.iloc[3, 0] = np.nan
    for table in (pa.Table.from_pandas(frame), parquet.read_table(tmp_path / "t.parquet")):
        schema = infer(table)
        assert schema.names == ("a", "b")
        coded = schema.encode(table)
        assert schema.decode(coded).equals(table)
        filled = schema.decode(coded.filled(np.zeros((len(frame), 2)))).to_pandas()
        assert filled.index.equals(frame.index)
        assert list(filled.columns) == ["a", "b"]
        assert len(schema.decode(np.zeros((3, 2))).column_names) == 2
    assert lb.check(tmp_path / "t.parquet").schema.names == ("a", "b")  # type: ignore[union-attr]
    x = data.load(tmp_path / "t.parquet")
    assert isinstance(x, data.Table)
    assert x.names == ("a", "b")
    assert lb.VAE(1, hidden=(4,), epochs=1, likelihood="Normal").fit(table).shape_ == (2,)
    odd = lb.VAE(1, hidden=(4,), epochs=1, random_state=0).fit(table).anomaly(table, samples=20)
    assert odd.cells.column_names == ["a", "b"]


def test_labels_of_rows_that_another_library_reads_are_a_key() -> None:
    frame = pd.DataFrame({"a": RNG.normal(size=50)}).iloc[RNG.permutation(50)[:40]]
    schema = infer(pl.from_arrow(pa.Table.from_pandas(frame).replace_schema_metadata(None)))
    assert schema["__index_level_0__"].kind == "identifier"


def test_schemas_of_before_that_took_labels_for_a_feature_still_read_them() -> None:
    frame = pd.DataFrame({"a": RNG.normal(size=50)}).iloc[RNG.permutation(50)[:40]]
    table = pa.Table.from_pandas(frame)
    before = infer(table.replace_schema_metadata(None), {"__index_level_0__": "count"})
    assert before.encode(table).values.shape == (40, 2)
    assert before.decode(before.encode(table)).equals(table)


def test_metadata_of_pandas_that_are_none(tmp_path: Path) -> None:
    table = pa.table({"a": RNG.normal(size=40)})
    for text in (b"{", b"[]", b"3", json.dumps({"index_columns": [{"kind": "range"}, 3, "b"]}).encode()):
        assert infer(table.replace_schema_metadata({b"pandas": text})).names == ("a",)


def test_days_as_objects_are_as_they_were() -> None:
    frame = pd.DataFrame({"x": [datetime.date(2001, 1, day) for day in range(1, 29)]})
    assert infer(frame)["x"].storage.unit == "D"
