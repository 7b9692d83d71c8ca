"""What the columns of a table are taken for, what is measured of them, and what is refused."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from messages import assert_one_sentence
from scipy import stats

from lowerbound.errors import DataError, FormatError
from lowerbound.schema import KINDS, Column, Schema, infer

N = 200
TABLES = Path(__file__).parents[2] / "shared/data/tables"


def adult(rows: int = N) -> pd.DataFrame:
    """The columns of the table that a user starts with: numbers, categories, dates, booleans, text codes, holes."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "row_id": np.arange(rows) * 7 + 1000,
            "age": draw.integers(17, 91, rows),
            "workclass": draw.choice(["Private", "State-gov", "Self-emp"], rows),
            "fnlwgt": draw.integers(10_000, 1_000_000, rows).astype(float),
            "education": pd.Categorical(draw.choice(["HS", "BSc", "MSc"], rows), ["HS", "BSc", "MSc", "PhD"], True),
            "sex": draw.choice(["Female", "Male"], rows),
            "capital-gain": np.where(draw.random(rows) < 0.9, 0, draw.integers(100, 99_999, rows)),
            "hours": draw.integers(1, 99, rows).astype(float),
            "rate": np.round(draw.random(rows), 2),
            "wage": np.round(draw.lognormal(3, 0.5, rows), 1),
            "change": draw.normal(size=rows),
            "hired": pd.Timestamp("2001-01-01") + pd.to_timedelta(draw.integers(0, 5000, rows), "D"),
            "member": draw.random(rows) < 0.5,
            "zip": [f"0{code}" for code in draw.integers(1000, 1020, rows)],
            "country": "Norway",
            "note": [f"note {row} of a long text" for row in range(rows)],
            "empty": None,
            "größe": draw.integers(0, 2, rows),
        }
    )
    frame.loc[::5, ["hours", "workclass", "hired", "rate"]] = None
    return frame


KINDS_OF_ADULT = {
    "row_id": "identifier",
    "age": "count",
    "workclass": "categorical",
    "fnlwgt": "count",
    "education": "ordinal",
    "sex": "binary",
    "capital-gain": "count",
    "hours": "count",
    "rate": "interval",
    "wage": "positive",
    "change": "real",
    "hired": "datetime",
    "member": "binary",
    "zip": "categorical",
    "country": "constant",
    "note": "identifier",
    "empty": "constant",
    "größe": "binary",
}


def test_kinds() -> None:
    schema = infer(adult())
    assert {column.name: column.kind for column in schema.columns} == KINDS_OF_ADULT
    assert {column.kind for column in schema.columns} == set(KINDS)
    assert schema["hours"].missing == pytest.approx(0.2)
    assert schema["education"].levels == ("HS", "BSc", "MSc")  # in their own order; the empty one is no class
    assert schema["hired"].why.endswith("in whole days")
    assert all(column.why for column in schema.columns)


def test_the_same_kinds_in_other_libraries() -> None:
    frame = adult().drop(columns="empty")
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    assert {c.name: c.kind for c in infer(arrow).columns} == {k: v for k, v in KINDS_OF_ADULT.items() if k != "empty"}
    found = infer(pl.from_arrow(arrow))
    others = {c.name: c.kind for c in found.columns if c.kind != KINDS_OF_ADULT[str(c.name)]}
    assert others == {"education": "categorical"}  # polars' Enum says no scale
    mine, theirs = infer(frame).encode(frame), infer(frame).encode(pl.from_arrow(arrow))
    np.testing.assert_array_equal(mine.values, theirs.values)
    back = infer(frame).decode(mine.values, like=pl.from_arrow(arrow))
    assert isinstance(back, pl.DataFrame)
    assert back.schema == pl.from_arrow(arrow).schema  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([1.0, 0.0, None], "binary"),
        ([3, 5] * 9, "count"),
        ([3, 5] * 10, "binary"),
        ([-1, 2, 3], "real"),
        ([-1, 2, 3] * 10, "ordinal"),
        ([*range(-1, 20)] * 10, "real"),
        ([0.1, 0.7], "positive"),
        ([0.25, 0.5, None], "positive"),
        ([0.05, 0.95], "interval"),
        ([0.0, 2.5], "positive"),
        ([2**60, 5], "real"),
        ([None, None], "constant"),
        (["a"] * 5, "constant"),
        ([f"t{i}" for i in range(19)], "categorical"),
        ([f"t{i}" for i in range(20)], "identifier"),
        ([f"t{i}" for i in range(18)] * 2, "categorical"),
        (list(range(25)), "identifier"),
        (list(range(2, 27)), "count"),  # years of one row each are no key
        (list(range(24, -1, -1)), "count"),
        ([2.0 * i for i in range(25)], "count"),
        ([datetime.timedelta(seconds=5), datetime.timedelta(seconds=-3)], "real"),
        (["2001-01-01", "2001-02-30"], "binary"),
        (["2001-01-01", "2001-02-28"], "datetime"),
    ],
)
def test_rules(cells: list[Any], kind: str) -> None:
    for frame in (pl.DataFrame({"x": cells}, strict=False), pa.table({"x": cells}), pd.DataFrame({"x": cells})):
        assert infer(frame)["x"].kind == kind


@pytest.mark.parametrize("name", ["id", "ID", "customer_id", "CustomerID", "order.key", "Unnamed: 0", "uuid"])
def test_names_of_keys(name: str) -> None:
    odd = [7 * i * i + 3 for i in range(40)]
    assert infer(pd.DataFrame({name: odd}))[name].kind == "identifier"
    assert infer(pd.DataFrame({name: [*odd[:-1], odd[0]]}))[name].kind == "count"  # one is there twice
    for other in ("paid", "grid", "valid", "monkey"):
        assert infer(pd.DataFrame({other: odd}))[other].kind == "count"


def test_overrides() -> None:
    frame = pd.DataFrame({"grade": ["mid", "low", "high"], "code": [3, 1, 2], "share": [1.0, 2.0, 5.5]})
    schema = infer(
        frame,
        {
            "grade": Column("ordinal", levels=("low", "mid", "high")),
            "code": "categorical",
            "share": Column("interval", low=0, high=10, precision=0.25),
        },
    )
    assert schema.encode(frame).values.tolist() == [[1, 2, 1.0], [0, 0, 2.0], [2, 1, 5.5]]
    assert schema.decode(np.array([[5.0, 9.0, 11.0], [-1.0, 0.4, 3.13]])).values.tolist() == [
        ["high", 3, 10.0],
        ["low", 1, 3.25],
    ]
    assert schema["grade"].why == "declared"


def test_other_and_unseen_levels() -> None:
    names = [f"c{i:03}" for i in range(60) for _ in range(61 - i)]
    frame = pd.DataFrame({"c": pd.Categorical(names), "x": np.arange(len(names)) / 7})
    schema = infer(frame, max_categories=10)
    column = schema["c"]
    assert column.levels == tuple(f"c{i:03}" for i in range(9))
    assert (column.n_classes, len(column.pooled), sum(column.weights)) == (10, 51, names.index("c059") + 2 - 513)
    encoded = schema.encode(frame)
    assert encoded.values[:, 0].max() == 9
    pd.testing.assert_frame_equal(schema.decode(encoded), frame)
    others = np.full((20_000, 2), 9.0)
    assert schema.decode(others)["c"].isna().all()
    drawn = schema.decode(others, generator=np.random.default_rng(1))["c"].value_counts()
    expected = np.array(column.weights) / sum(column.weights) * len(others)
    test = stats.chisquare([drawn[level] for level in column.pooled], expected)
    assert test.pvalue > 1e-3
    assert stats.chisquare([drawn[level] for level in column.pooled]).pvalue < 1e-6  # not all alike


def test_levels_never_seen() -> None:
    schema = infer(pl.DataFrame({"c": ["a", "b", "c"], "k": [1, 1, 1], "x": [0.5, 2.5, 3.5]}))
    new = pl.DataFrame({"c": ["a", "z", None], "k": [1, 2, None], "x": [1.0, 2.0, None]})
    encoded = schema.encode(new)
    assert encoded.unseen == {"c": 1, "k": 1}
    assert encoded.mask.tolist() == [[True, True], [False, True], [False, False]]
    assert schema.decode(encoded).equals(new)
    full = schema.decode(encoded.filled(np.full((3, 2), 1.23)))  # what the user gave stays, holes are filled
    assert full.rows() == [("a", 1, 1.0), ("z", 2, 2.0), ("b", 1, 1.2)]
    with pytest.raises(DataError, match="row 1 of column 'c' is 'z', which is not a level of the column") as refused:
        schema.encode(new, strict=True)
    assert_one_sentence(str(refused.value), ())


def test_order_of_columns_and_changes_of_the_frame() -> None:
    frame = adult()
    schema = infer(frame)
    before, text = schema.encode(frame), schema.to_json()
    turned = frame[frame.columns[::-1]]
    np.testing.assert_array_equal(schema.encode(turned).values, before.values)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(turned)), turned)
    original = frame.copy(deep=True)
    for name in ("age", "change", "wage"):
        frame[name].to_numpy().setflags(write=True)
        frame.loc[:, name] = 0
    frame.loc[:, "sex"] = "x"
    assert schema.to_json() == text
    pd.testing.assert_frame_equal(schema.decode(before), original)


def test_the_index_of_pandas_comes_back() -> None:
    frame = pd.DataFrame({"x": [1.5, None, 2.5]}, index=["a", "b", "c"])
    schema = infer(frame)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame)
    assert schema.decode(np.zeros((3, 1)), like=frame).index.tolist() == ["a", "b", "c"]
    assert schema.decode(np.zeros((2, 1)), like=frame).index.tolist() == [0, 1]


def test_a_frame_of_another_type_of_number() -> None:
    schema = infer(pd.DataFrame({"age": [20, 30, 41], "sex": ["f", "m", "f"], "on": [True, False, True]}))
    holes = pd.DataFrame({"age": [20.0, None], "sex": [None, "m"], "on": [None, True]})
    encoded = schema.encode(holes)
    np.testing.assert_array_equal(encoded.values, [[20, np.nan, np.nan], [np.nan, 1, 1]])
    full = schema.decode(encoded.filled(np.ones((2, 3))))
    assert full.values.tolist() == [[20.0, "m", True], [1.0, "m", True]]
    row = pl.DataFrame({"age": [37], "sex": [None], "on": [None]})  # a type that holds nothing gives way
    filled = schema.decode(schema.encode(row).filled(np.zeros((1, 3))))
    assert filled.rows() == [(37, "f", False)]


def test_json() -> None:
    schema = infer(adult(), {"zip": Column("categorical")}, max_categories=15)
    text = schema.to_json()
    again = Schema.from_json(text)
    assert again == schema
    assert again.to_json() == text
    assert again.identity == schema.identity != infer(adult(N - 1)).identity
    json.loads(text, parse_constant=pytest.fail)  # no NaN, no infinity
    np.testing.assert_array_equal(again.encode(adult()).values, schema.encode(adult()).values)
    found = json.loads(text)
    before = [{key: of for key, of in column.items() if key != "dispersion"} for column in found["columns"]]
    older = Schema.from_json(json.dumps({**found, "columns": before}))
    assert [column.kind for column in older.columns] == [column.kind for column in schema.columns]
    for damage in (
        "[]",
        "{",
        json.dumps({**found, "format": 2}),
        json.dumps({**found, "columns": [{}]}),
        text.replace('"kind": "count"', '"kind": "counts"'),
        text.replace('"step": 1,', '"step": 0,'),
        text.replace('"why"', '"whys"'),
    ):
        with pytest.raises(FormatError, match="schema"):
            Schema.from_json(damage)


def test_printed() -> None:
    frame = adult()
    frame["新しい列"] = np.arange(N) % 7 / 3
    frame["a\nb"] = [f"{i}" for i in range(N // 2)] * 2
    lines = str(infer(frame, {"a\nb": "categorical"})).split("\n")
    assert lines[0] == "200 rows and 20 columns of pandas, 16 of them to be learned"
    assert lines[1].split() == ["column", "kind", "why", "missing", "problems"]
    assert len(lines) == 2 + frame.shape[1]
    at = lines[1].index("kind")
    assert all(line[at - 1] == " " != line[at] for line in lines[1:] if line.isascii())
    assert "20 %" in next(line for line in lines if line.startswith("hours"))
    assert "consists of numbers" in next(line for line in lines if line.startswith(r"a\nb"))
    assert "the column is not modelled" in next(line for line in lines if line.startswith("empty"))
    few = infer(pd.DataFrame({"a": [1.5, 2.5], "b": [1, 1], "c": [1, 1]}))
    assert "fewer rows (2) than columns (3)" in str(few)


@pytest.mark.parametrize("name", ["adult", "wine", "default_credit"])
def test_real_tables(name: str) -> None:
    if not TABLES.is_dir():
        pytest.skip("the tables are not there")
    frame = pd.read_csv(TABLES / name / "data.csv", header=None)
    cells = pd.read_csv(TABLES / name / "missing20_1.csv", header=None).to_numpy() - 1
    holes = np.zeros(frame.shape, bool)
    holes[cells[:, 0], cells[:, 1]] = True
    frame = frame.mask(holes)
    schema = infer(frame)
    encoded = schema.encode(frame)
    np.testing.assert_array_equal(encoded.mask, ~frame.isna())
    assert not encoded.aside
    pd.testing.assert_frame_equal(schema.decode(encoded), frame, check_exact=True)
    drawn, finer = schema.decode(encoded.values), [0, 1, 2, 3, 5, 6, 10] if name == "wine" else []
    pd.testing.assert_frame_equal(drawn.drop(columns=finer), frame.drop(columns=finer), check_exact=True)
    for j in finer:  # some cells are finer than the step of draws
        assert (drawn[j] - frame[j]).abs().max() <= 0.51 * schema[j].precision
    kinds = {column.name: column.kind for column in schema.columns}
    if name == "wine":
        assert (kinds[0], schema[0].precision) == ("positive", 0.1)
        assert schema[11].dispersion == pytest.approx(0.13, abs=0.01)  # a grade from 3 to 9
        assert kinds[12] == "binary"
    if name == "default_credit":
        assert schema[0].precision == 20  # most are multiples of 10,000, one is 327,680
        assert kinds[11] == "real"  # what is owed may be less than nothing
        assert kinds[5] == "ordinal"  # months of delay, −2 to 8
    if name == "adult":
        assert schema[9].atom == 0
        assert schema[9].atoms == pytest.approx(0.916, abs=0.003)
