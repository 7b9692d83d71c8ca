"""What is said of a column: values that stand for something else, spikes, row numbers, times of a zone."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lowerbound.schema import Column, infer

N = 300


def draw() -> np.random.Generator:
    return np.random.default_rng(5)


def some(share: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.random.default_rng(6).random(N) < share


DAYS = pd.to_datetime("2020-01-01") + pd.to_timedelta(draw().integers(0, 1500, N), "D")
AMOUNTS, AGES = draw().lognormal(3, 0.5, N), draw().integers(18, 80, N)
CODES: dict[str, tuple[Any, str]] = {
    "an open end": (pa.array(np.where(some(0.7), dt.date(9999, 12, 31), DAYS.date)), "9999-12-31"),
    "the last of ns": (pd.Series(DAYS).mask(some(0.1), pd.Timestamp("2262-04-11")), "2262-04-11"),
    "1900": (pd.Series(DAYS).mask(some(0.1), pd.Timestamp("1900-01-01")), "1900-01-01"),
    "1970": (pd.Series(DAYS).mask(some(0.1), pd.Timestamp("1970-01-01")), "1970-01-01"),
    "text": (pd.Series(DAYS.strftime("%Y-%m-%d")).mask(some(0.1), "9999-12-31"), "9999-12-31"),
    "-1": (np.where(some(0.1), -1, AGES), "-1"),
    "999": (np.where(some(0.1), 999, AGES), "999"),
    "-999": (np.where(some(0.1), -999.0, AMOUNTS), "-999"),
    "-9999": (np.where(some(0.1), -9999.0, draw().normal(size=N)), "-9999"),
    "99": (np.where(some(0.1), 99, draw().integers(0, 30, N)), "99"),
}


@pytest.mark.parametrize("case", CODES)
def test_codes_for_what_is_not_known_are_said(case: str) -> None:
    cells, value = CODES[case]
    frame = pa.table({"x": cells}) if isinstance(cells, pa.Array) else pd.DataFrame({"x": cells})
    (said,) = [each for each in infer(frame)["x"].problems if "stands for" in each]
    assert f"% of the values are {value}, " in said
    assert "set those cells to missing" in said


MASS = "modelled as a point mass"
SPIKES: dict[str, tuple[Any, str]] = {
    "normal": (draw().normal(size=N), ""),
    "rounded to tenths": (draw().normal(size=N).round(1), ""),
    "rounded to halves": (draw().normal(size=N).round() / 2, ""),
    "zeros of positive numbers": (np.where(some(0.6), 0, AMOUNTS), ""),
    "zeros of counts": (np.where(some(0.3), 0, AGES), ""),
    "ages": (AGES, ""),
    "days": (DAYS, ""),
    "few days": (DAYS[:40].repeat(8)[:N], ""),
    "zeros of real numbers": (np.where(some(0.6), 0, draw().normal(size=N)), f"exactly 0: {MASS}"),
    "zeros of a grid": (np.where(some(0.6), 0, draw().normal(size=N).round(2)), f"exactly 0: {MASS}"),
    "half of positive numbers": (np.where(some(0.5), 7.25, AMOUNTS), f"exactly 7.25: {MASS}"),
    "one age": (np.where(some(0.5), 40, AGES), f"exactly 40: {MASS}"),
    "among few": (np.where(some(0.7), 0.5, draw().choice([-2.3, -1.1, 4.4, 7.9], N)), f"exactly 0.5: {MASS}"),
    "two": (
        np.where(some(0.7), np.where(some(0.3), 7.25, 3.5), AMOUNTS),
        "exactly 3.5 and 29.7 % 7.25: modelled as point masses",
    ),
    "one day": (pd.Series(DAYS).mask(some(0.3), pd.Timestamp("2021-06-15")), "exactly 2021-06-15; a continuous"),
}


@pytest.mark.parametrize("case", SPIKES)
def test_frequent_values_are_said_to_be_point_masses(case: str) -> None:
    cells, due = SPIKES[case]
    said = [each for each in infer(pd.DataFrame({"x": cells}))["x"].problems if "are exactly" in each]
    assert len(said) == bool(due), said
    assert not due or f" % of the values are {due}" in said[0]


def test_a_value_that_is_said_to_be_a_code_is_not_said_to_be_a_point_mass() -> None:
    column = infer(pd.DataFrame({"x": np.where(some(0.1), 999, AGES)}))["x"]
    assert column.heavy == (999.0,)
    assert not any("point mass" in said for said in column.problems)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "identifier") for name in ("x", "V1", "row_id")]
    + [(name, "count") for name in ("year", "time", "Day", "age", "nTokens", "n_visits", "number_of_dogs")],
)
def test_what_counts_the_rows(name: str, kind: str) -> None:
    """A name tells a time axis from a row's number; what was taken is said, and the line for the other."""
    for first in (0, 1):
        column = infer(pd.DataFrame({name: np.arange(first, first + 24), "y": draw().normal(size=24)}))[name]
        assert column.kind == kind
        other = {"identifier": "count", "count": "identifier"}[kind]
        assert any(f"schema={{{name!r}: {other!r}}}" in said for said in column.problems) == (name != "row_id")
        declared = infer(pd.DataFrame({name: np.arange(first, first + 24)}), {name: Column("count")})[name]
        assert declared.kind == "count"
        assert not any("numbers the rows" in said for said in declared.problems)


@pytest.mark.parametrize(
    ("zone", "first"),
    [
        ("Europe/Berlin", "2024-03-30 00:00:00+01:00"),
        ("America/New_York", "2024-03-30 00:00:00-04:00"),
        ("UTC", "2024-03-30 00:00:00+00:00"),
        ("+05:30", "2024-03-30 00:00:00+05:30"),
        (None, "2024-03-30"),
    ],
)
def test_times_of_a_zone_are_shown_in_it(zone: str | None, first: str) -> None:
    times = pd.date_range("2024-03-30", periods=N, freq="37min", tz=zone)
    for frame in (pa.table({"t": pa.Array.from_pandas(times)}), pd.DataFrame({"t": times})):
        if zone == "+05:30" and isinstance(frame, pd.DataFrame):
            continue  # a zone without a name is refused
        assert infer(frame)["t"].why.startswith(f"times from {first} to 2024-04-")
