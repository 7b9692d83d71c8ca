"""Values of ``given``: as Python, NumPy and pandas write them, and as text, as at the command line."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from messages import assert_one_sentence

from lowerbound.errors import DataError
from lowerbound.schema import infer

N = 40
NOON = dt.datetime(2024, 1, 15, 12)


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    day = pd.date_range("2024-01-01", periods=N)
    return pd.DataFrame(
        {
            "x": rng.normal(size=N),
            "n": rng.poisson(3, N) + np.arange(N) % 2,
            "yes": np.arange(N) % 2 == 0,
            "grade": pd.Categorical(np.arange(N) % 3 + 1, ordered=True),
            "sex": np.where(np.arange(N) % 2 == 0, "f", "m"),
            "t": day + pd.to_timedelta(np.arange(N) % 24, "h"),
            "zoned": day.tz_localize("Europe/Amsterdam") + pd.to_timedelta(np.arange(N) % 24, "h"),
            "took": pd.to_timedelta(np.arange(N) + 1, "min"),
            "written": day.strftime("%d.%m.%Y"),
        }
    )


def schema_of(library: str):
    rows = frame()
    if library == "pandas":
        return infer(rows), rows
    table = pa.Table.from_pandas(rows.astype({"grade": int}), preserve_index=False)
    return infer(table if library == "pyarrow" else pl.from_arrow(table)), rows


ALIKE = {
    "numbers": ("x", [0.5, "0.5", np.float32(0.5), "5e-1"]),
    "whole numbers": ("n", [3, "3", 3.0, np.int8(3), "3.0"]),
    "truth": ("yes", [True, "true", "Yes", "1", np.True_]),
    "grades": ("grade", [2, "2"]),
    "times": ("t", [NOON, "2024-01-15 12:00", "2024-01-15T12:00:00", np.datetime64(NOON), pd.Timestamp(NOON)]),
    "days": ("t", [dt.date(2024, 1, 15), "2024-01-15", np.datetime64("2024-01-15"), pd.Timestamp("2024-01-15")]),
    "of a zone": (
        "zoned",
        [NOON, "2024-01-15 12:00", "2024-01-15T11:00+00:00", "2024-01-15T11:00Z", pd.Timestamp(NOON, tz="Europe/Rome")],
    ),
    "durations": ("took", [np.timedelta64(90, "s"), "90", dt.timedelta(seconds=90)]),
    "written dates": ("written", ["15.01.2024", "2024-01-15", dt.date(2024, 1, 15), pd.Timestamp("2024-01-15")]),
}


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("name", ALIKE)
def test_a_value_is_the_same_however_it_is_given(name, library):
    schema, _ = schema_of(library)
    column, values = ALIKE[name]
    assert len({schema.code(column, value) for value in values}) == 1


@pytest.mark.parametrize("column", ["t", "zoned", "written", "n", "sex", "took"])
def test_a_cell_s_code_is_that_of_its_row(column):
    schema, rows = schema_of("pandas")
    j = [each.name for each in schema.modelled].index(column)
    assert schema.code(column, rows[column].iloc[7]) == schema.encode(rows).values[7, j]


REFUSED = {
    "text for a number": ("x", "tall", ("'x' is given 'tall', which is not a number", "as 37.5")),
    "text for a time": ("t", "soon", ("'soon', which is not a date or time", "2001-12-31")),
    "a number for a time": ("t", 5, ("'t' is given 5", "it holds times")),
    "a time for a number": ("x", NOON, ("'x' is given", "it holds numbers")),
    "a zone that the column has not": ("t", "2024-01-15T11:00Z", ("'t' is given 2024-01-15 11:00", "time zone")),
    "neither": ("yes", "maybe", ("'maybe', which is not a truth value",)),
    "a half": ("n", "2.5", ("'n' is given '2.5'", "a whole number of 0 or more")),
    "below 0": ("n", -1, ("'n' is given -1", "a whole number of 0 or more")),
    "infinite": ("x", "inf", ("'x' is given inf", "finite")),
    "a level": ("sex", "other", ("'other', which does not occur in the data", "'f', 'm'")),
    "a date of another form": ("written", "15/01/2024", ("'written' is given '15/01/2024'", "%d.%m.%Y")),
    "nothing": ("x", None, ("'x' is given no value",)),
    "no time": ("t", pd.NaT, ("'t' is given no value",)),
    "a list": ("x", [1], ("'x'",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_given_is_refused_by_column_and_value(name):
    column, value, words = REFUSED[name]
    with pytest.raises(DataError) as refused:
        schema_of("pandas")[0].code(column, value)
    assert_one_sentence(str(refused.value), words)
    assert "row 0" not in str(refused.value)
