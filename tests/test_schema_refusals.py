"""Tables that no schema takes: one sentence each, which names the column, the row and the way out."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from messages import assert_one_sentence

from lowerbound.schema import Column, infer

MIXED = [datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2001, 1, 1)]
FITTED = infer(pd.DataFrame({"n": [1, 2, 3], "t": ["a", "b", "c"], "p": [0.5, 1.5, 2.25]}))
WHEN = infer(pl.DataFrame({"d": [datetime.datetime(2001, 1, 1), datetime.datetime(2002, 1, 1)]}))
TWICE = pd.DataFrame([[1, 2]], columns=["a", "a"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: infer(TWICE), ("two columns called 'a'",)),
        (lambda: infer(pa.table([[1], [2]], names=["a", "a"])), ("two columns called 'a'",)),
        (lambda: infer(pd.DataFrame({("a", 1): [1]})), (r"called \('a', 1\)", "rename")),
        (lambda: infer(pd.DataFrame({"a": [1, "x", 2.5]})), ("'a' mixes int", "row 0 is 1", "row 1 is 'x'")),
        (lambda: infer(pd.DataFrame({"a": [1.5, np.inf]})), ("row 1 of column 'a' is infinite",)),
        (lambda: infer(pl.DataFrame({"a": [[1], [2]]})), ("'a' holds cells of type List", "row 0")),
        (lambda: infer(pd.DataFrame({"a": [None, [1, 2]]})), ("'a' holds cells of type list", "row 1")),
        (lambda: infer(pa.table({"a": [{"b": 1}]})), ("'a' holds cells of type struct",)),
        (lambda: infer(pl.DataFrame({"a": [datetime.time(1)]})), ("type Time", "Duration")),
        (lambda: infer(pd.DataFrame({"a": pd.period_range("2001", periods=2)})), ("'a' holds cells of type period",)),
        (lambda: infer(pd.DataFrame({"a": [1 + 2j]})), ("'a' holds cells of type complex128", "row 0")),
        (lambda: infer(pd.DataFrame({"a": pd.cut([1, 2, 3], 2)})), ("Interval", "rename_categories")),
        (lambda: infer(pd.DataFrame({"a": MIXED}, dtype=object)), ("times of one zone", "row 0")),
        (
            lambda: infer(pd.DataFrame({"a": ["1.5", "x"]}), {"a": Column("real", form="0.0")}),
            ("row 1 of column 'a' is 'x'", "not written as '0.0'", "markers="),
        ),
        (lambda: infer(pd.DataFrame({"a": ["1"]}), {"a": Column("real", form="%q")}), ("'a' an invalid form", "'%q'")),
        (
            lambda: infer(pd.DataFrame({"a": ["1.5", "2"]}), {"a": Column("datetime", form="%d.%m.%Y")}),
            ("row 0 of column 'a' is '1.5'", "not written as '%d.%m.%Y'"),
        ),
        (
            lambda: infer(pa.table({"a": [f"c{i % 200_000}" for i in range(400_000)]})),
            ("'a' has 200,000 different values",),
        ),
        (lambda: infer(pd.DataFrame({"a": []})), ("0 rows and 1 columns",)),
        (lambda: infer(pd.DataFrame(index=[1, 2])), ("2 rows and 0 columns",)),
        (lambda: infer([[1, 2]]), ("is a list, not a table",)),
        (lambda: infer(pl.LazyFrame({"a": [1]})), ("lazy", r"\.collect\(\)")),
        (lambda: infer(pd.DataFrame({"a": [1]}), {"b": "real"}), ("names 'b'",)),
        (lambda: infer(pd.DataFrame({"a": [1]}), {"a": "number"}), ("'number'", "kinds are real")),
        (lambda: infer(pd.DataFrame({"a": ["x", "y"]}), {"a": "real"}), ("'a' is real", "holds text", "binary")),
        (lambda: infer(pd.DataFrame({"a": ["x", "y"]}), {"a": "ordinal"}), ("text has no order",)),
        (lambda: infer(pd.DataFrame({"a": ["x", "y"]}), {"a": "constant"}), ("holds 'x' and 'y'",)),
        (lambda: infer(pd.DataFrame({"a": [1, 2, 3]}), {"a": "binary"}), ("'a' is binary", "3 levels")),
        (
            lambda: infer(pd.DataFrame({"a": [1.5, 2]}), {"a": Column("real", precision=-1.0)}),
            ("'a' a precision of -1",),
        ),
        (lambda: infer(pd.DataFrame({"a": [1.5, -2]}), {"a": "count"}), ("row 0 of column 'a' is 1.5", "whole")),
        (
            lambda: infer(pd.DataFrame({"a": [1, 5]}), {"a": Column("interval", low=0, high=4)}),
            ("row 1 of column 'a' is 5", "from 0 to 4"),
        ),
        (
            lambda: infer(pd.DataFrame({"a": ["x", "z"]}), {"a": Column("ordinal", levels=("x", "y"))}),
            ("row 1 of column 'a' is 'z'", "not one of the levels"),
        ),
        (lambda: infer(pd.DataFrame({"a": [1]}), max_categories=1), ("max_categories is 1",)),
        (lambda: FITTED.encode(pd.DataFrame({"n": [1], "t": ["a"]})), ("lacks 'p'", "'n', 't', 'p'")),
        (lambda: FITTED.encode(pl.DataFrame({"n": 1, "t": "a", "p": 1.5, "q": 2})), ("holds the extra 'q'",)),
        (
            lambda: FITTED.encode(pl.DataFrame({"n": ["1"], "t": ["a"], "p": [1.5]})),
            ("'n' holds text", "row 0 is '1'", "holds numbers"),
        ),
        (lambda: FITTED.encode(pl.DataFrame({"n": [1], "t": [2], "p": [1.5]})), ("'t' holds numbers",)),
        (lambda: FITTED.encode(pl.DataFrame({"n": [-1], "t": ["a"], "p": [1.5]})), ("row 0 of column 'n' is -1",)),
        (lambda: FITTED.encode(pl.DataFrame({"n": [1], "t": ["a"], "p": [0.0]})), ("row 0 of column 'p'", "above 0")),
        (lambda: FITTED.encode(pd.DataFrame({"n": [1], "t": ["a"], "p": [-np.inf]})), ("'p' is infinite",)),
        (lambda: FITTED.decode(np.zeros((2, 2))), (r"\[2, 2\]; give \[N, 3\]",)),
        (lambda: FITTED.decode(np.zeros((2, 3)), like=pd.DataFrame({"n": [1]})), ("like lacks 't', 'p'",)),
        (
            lambda: WHEN.encode(pl.DataFrame({"d": MIXED[:1]})),
            ("'d' holds times with a time zone", "holds times"),
        ),
    ],
)
def test_bad_input(make: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"[.]$") as refused:
        make()
    assert_one_sentence(str(refused.value), words)
