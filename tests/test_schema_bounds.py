"""Columns with bounds, whole numbers of few values, and what looks like somebody's own: what they are taken for."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import lowerbound as lb
from lowerbound.cli.table_options import _kinds
from lowerbound.errors import DataError
from lowerbound.estimators.table_networks import family_of, product_of
from lowerbound.schema import Column, Schema, infer

N = 300


def draw() -> np.random.Generator:
    return np.random.default_rng(11)


BETA = draw().beta(4, 1.3, N)
PILED = np.minimum(100, np.rint(draw().normal(85, 15, N))).clip(0)
TAKEN: dict[str, tuple[str, Any, str, float]] = {
    "shares": ("x", BETA, "interval", 1),
    "percentages that come to the top": ("x", np.minimum(100, 110 * BETA).round(2), "interval", 100),
    "percentages by their name": ("urban_pct", (20 + 60 * BETA).round(1), "interval", 100),
    "in camel case": ("pctUrban", 20 + 60 * BETA, "interval", 100),
    "shares by their name": ("turnout rate", 0.2 + 0.5 * BETA, "interval", 1),
    "shares up to 1": ("x", np.minimum(1, 0.4 + 0.8 * BETA), "interval", 1),
    "both ends of 0 to 100": ("x", draw().uniform(0.2, 99.6, N), "interval", 100),
    "whole numbers that pile up at 100": ("x", PILED, "interval", 100),
    "whole percentages": ("percent", np.rint(70 * BETA), "interval", 100),
    "a name alone": ("percent", 300 * BETA, "positive", 300),
    "a rate beyond 1 by its name alone": ("rate", 8 * BETA, "positive", 8),
    "rates far below the top": ("rate", 0.05 * BETA, "positive", 0.05),
    "amounts up to 90": ("x", 90 * BETA, "positive", 90),
    "ages": ("age", np.rint(20 + 60 * BETA), "count", 80),
    "marks": ("x", np.rint(100 * draw().beta(3, 3, N)), "count", 100),
    "below 0": ("percent", 60 * BETA - 30, "real", 30),
}


@pytest.mark.parametrize("case", TAKEN)
def test_shares_and_percentages(case: str) -> None:
    name, cells, kind, top = TAKEN[case]
    column = infer(pd.DataFrame({name: cells}))[name]
    assert column.kind == kind, column
    if kind == "interval":
        assert (column.low, column.high, column.bounded) == (0, top, (True, True))
        assert bool(column.problems) == (case != "shares"), "the other reading is said"
        assert all(f"schema={{{name!r}: 'positive'}}" in said for said in column.problems)
        simple = lb.likelihoods.InflatedLogitNormal
        assert family_of(column)[0] is (lb.likelihoods.Warped if case == "shares up to 1" else simple)


DAYS = pd.Timestamp("2020-01-01") + pd.to_timedelta(draw().integers(0, 900, N), "D")
DECLARED: dict[str, tuple[Any, Column, Any, Any]] = {
    "interval": (draw().uniform(2, 7, N), Column("interval", low=-1, high=8), -1, 8),
    "interval of [0, 1] by itself": (draw().uniform(0.2, 0.7, N), Column("interval"), 0, 1),
    "positive": (draw().lognormal(1, 1, N).clip(0, 60), Column("positive", high=60), 0, 60),
    "positive, low": (5 + draw().lognormal(1, 1, N), Column("positive", low=5), 5, np.inf),
    "real": (draw().normal(size=N).clip(-2, 2), Column("real", low=-2, high=2), -2, 2),
    "real, low": (draw().normal(size=N).clip(-1), Column("real", low=-1), -1, np.inf),
    "real, high": (draw().normal(size=N).clip(None, 1), Column("real", high=1), -np.inf, 1),
    "count": (draw().integers(1, 6, N), Column("count", low=1, high=5), 1, 5),
    "count, high": (draw().poisson(3, N).clip(0, 12), Column("count", high=12), 0, 12),
    "large count": (draw().poisson(3000, N), Column("count", low=0, high=5000), 0, 5000),
    "datetime": (DAYS, Column("datetime", low="2020-01-01", high=dt.date(2022, 7, 1)), "2020-01-01", "2022-07-01"),  # type: ignore[arg-type]
    "datetime, high": (DAYS, Column("datetime", high="2023-01-01"), "0001-01-01", "2023-01-01"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", DECLARED)
def test_declared_bounds_hold_in_draws_and_are_saved(case: str) -> None:
    """Whatever the model's numbers, and of a model as it starts; and none but a cell or two is at a bound."""
    cells, given, low, high = DECLARED[case]
    frame = pd.DataFrame({"x": cells})
    schema = infer(frame, {"x": given})
    assert Schema.from_json(schema.to_json()) == schema
    column = schema["x"]
    if isinstance(low, str):
        low, high = pd.Timestamp(low), pd.Timestamp(high)
    far = np.array([0.0, 1, -1, -50, 50, -1e9, 1e9, -np.inf, np.inf])[:, None] * 1.1
    drawn = schema.decode(far)["x"]
    assert ((drawn >= low) & (drawn <= high)).all()
    values = torch.tensor(schema.standardise(schema.encode(frame).values), dtype=torch.float32)
    likelihood = product_of(schema)
    params = likelihood.initialise(values).expand(1, 4000, -1, -1).detach()
    assert likelihood.log_prob(params[:, :N], values).isfinite().all()
    sample = likelihood.sample(params, torch.Generator().manual_seed(0)).detach().squeeze(0).double().numpy()
    rows = schema.decode(schema.unstandardise(sample))["x"]
    assert ((rows >= low) & (rows <= high)).all()
    counted = column.kind == "count" and not column.large
    for end in (low, high):
        seen, share = (frame["x"] == end).mean(), (rows == end).mean()
        assert counted or share < seen + 0.02, "no spike that the data have not"
        assert counted or not column.is_between or share > seen - 0.03, "and those that they have"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Column("real", low=3, high=3), ("interval from 3 to 3", "low below high")),
        (Column("count", low=4), ("row 0", "from|or more")),
        (Column("real", high=2), ("row", "2 or less")),
        (Column("positive", low="x"), ("low='x'", "a number")),  # type: ignore[arg-type]
    ],
)
def test_bounds_that_cannot_be(given: Column, words: tuple[str, str]) -> None:
    with pytest.raises((ValueError, DataError), match=f"{words[0]}.*({words[1]})"):
        infer(pd.DataFrame({"x": [1, 2, 3] * 9}), {"x": given})


@pytest.mark.parametrize("low", [5, "soon"])
def test_bounds_of_times_are_dates(low: Any) -> None:
    with pytest.raises(ValueError, match="give a date, as '2001-12-31'"):
        infer(pd.DataFrame({"t": DAYS}), {"t": Column("datetime", low=low)})


CODES: dict[str, tuple[str, Any, str]] = {
    "a target of three": ("target", [0] * 59 + [1] * 71 + [2] * 48, "categorical"),
    "the same without a name": ("x", [0] * 59 + [1] * 71 + [2] * 48, "ordinal"),
    "ratings": ("x", draw().choice([1, 2, 3, 4, 5], N, p=[0.05, 0.1, 0.2, 0.4, 0.25]), "ordinal"),
    "regions": ("x", draw().choice([1, 2, 3, 4, 5], N, p=[0.3, 0.05, 0.35, 0.05, 0.25]), "categorical"),
    "cylinders": ("cyl", [4] * 11 + [6] * 7 + [8] * 14, "ordinal"),
    "floats with holes": ("x", [0.0] * 59 + [1.0] * 71 + [2.0] * 48 + [None] * 5, "ordinal"),
    "codes in few rows": ("x", [1, 2, 1, 1, 2, 2, 1], "binary"),
    "codes of which one is rare": ("x", [2] * 15 + [1], "binary"),
    "three in few rows": ("group", [1, 2, 3] * 4, "categorical"),
    "counts of one": ("x", draw().poisson(1.0, 2000), "count"),
    "counts of three": ("x", draw().poisson(3.0, 200), "count"),
    "rare counts": ("x", draw().poisson(0.1, 2000), "count"),
    "overdispersed": ("x", draw().negative_binomial(1, 0.5, 500).clip(0, 9), "count"),
    "rooms": ("rooms", np.rint(draw().normal(5.5, 0.9, 800)).astype(int), "count"),
}


@pytest.mark.parametrize("case", CODES)
def test_codes_levels_and_counts(case: str) -> None:
    """Where no count looks so, draws are among the levels that are there; the line for the other is said."""
    name, cells, kind = CODES[case]
    schema = infer(pd.DataFrame({name: cells}))
    assert schema[name].kind == kind
    if kind != "count":
        drawn = schema.decode(np.linspace(-9, 99, 200)[:, None])[name]
        assert set(drawn) <= set(cells)
    if kind in ("ordinal", "categorical"):
        assert any(f"schema={{{name!r}: 'count'}}" in said for said in schema[name].problems)


NAMES = [f"{first} {last}" for first in ("Ann", "Bo", "Cy", "Di") for last in ("Ek", "Fox", "Gil", "Ho", "Ives", "Jay")]
PERSONAL: dict[str, tuple[str, list[Any], bool]] = {
    "e-mail addresses, twice each": ("x", [f"u{i % 30}@mail.org" for i in range(60)], True),
    "telephone numbers": ("x", [f"+49 151 {i % 40 + 2345678}" for i in range(80)], True),
    "of America": ("x", [f"(212) 555-{1000 + i % 40}" for i in range(80)], True),
    "social security": ("x", [f"{100 + i % 40}-12-{4000 + i % 40}" for i in range(80)], True),
    "IP addresses": ("x", [f"10.0.{i % 40}.7" for i in range(80)], True),
    "streets": ("x", [f"{i % 40 + 1} Oak Street" for i in range(80)], True),
    "Straßen": ("x", [f"Lindenstraße {i % 40 + 1}" for i in range(80)], True),
    "58 kinds in 63 cells": ("x", [f"k{min(i, 57)}" for i in range(63)], True),
    "names": ("name", NAMES, True),
    "names of few rows": ("full_name", NAMES[:6], True),
    "called an address": ("emailAddress", ["a", "b", "c", "a"] * 9, True),
    "numbers of telephones": ("phone", [491512345000 + 7 * i for i in range(80)], True),
    "products": ("product_name", ["tea", "milk", "rye", "oats"] * 20, False),
    "cities": ("city", ["New York", "Los Angeles", "Bonn", "Ulm", "Kiel"] * 20, False),
    "versions": ("x", ["1.2.3", "1.2.4", "2.0.0"] * 20, False),
}


@pytest.mark.parametrize("case", PERSONAL)
@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_what_is_somebodys_own_is_left_out(case: str, library: str) -> None:
    """It is said, and the line that keeps it; whoever declares it gets it."""
    name, cells, personal = PERSONAL[case]
    frame = pd.DataFrame({name: cells}) if library == "pandas" else pa.table({name: cells})
    column = infer(frame)[name]
    assert (column.kind == "identifier") == personal
    assert (
        any(
            "samples would repeat" in said and f"schema={{{name!r}: 'categorical'}}" in said for said in column.problems
        )
        == personal
    )
    kept = infer(frame, {name: "categorical"})[name]
    assert kept.kind == "categorical"
    assert any("samples will repeat" in said for said in kept.problems) == personal


@pytest.mark.parametrize("missing", ["at_random", "self_masking"])
def test_a_model_of_bounded_columns(missing: str) -> None:
    """Shares with many ends, a bounded count and a share without ends, with missing cells, from fit to draws."""
    random = draw()
    u = random.random(200)
    share = np.clip(1.4 * u - 0.2 + 0.1 * random.normal(size=200), 0, 1)
    frame = pd.DataFrame({"share": share, "grade": np.rint(1 + 4 * u), "inside": random.beta(2, 2, 200)})
    frame = frame.mask(random.random(frame.shape) < 0.1)
    given = {"grade": Column("count", low=1, high=5)}
    model = lb.VAE(1, hidden=(16,), epochs=8, draws=2, schema=given, missing=missing, random_state=0, threads=1).fit(
        frame
    )
    found = model.sample(2000)
    assert found.grade.isin(range(1, 6)).all()
    for name in ("share", "inside"):
        assert found[name].between(0, 1).all()
    for end in (0, 1):
        assert abs((found.share == end).mean() - (frame.share.dropna() == end).mean()) < 0.08
        assert (found.inside == end).mean() < 0.005
    full = model.impute(frame)
    assert not full.isna().any().any()
    assert full.share.between(0, 1).all()
    assert np.isfinite(model.score_samples(frame)).all()


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("x=interval:0,100", Column("interval", low=0, high=100)),
        ("x=positive:,60", Column("positive", high=60)),
        ("x=real:-1.5,", Column("real", low=-1.5)),
        ("x=datetime:2001-01-01,", Column("datetime", low="2001-01-01")),  # type: ignore[arg-type]
        ("x=real:#,##0.00", Column("real", form="#,##0.00")),
        ("x=datetime:%d.%m.%Y", Column("datetime", form="%d.%m.%Y")),
    ],
)
def test_bounds_on_the_command_line(text: str, due: Column) -> None:
    found = _kinds(None, None, [text])  # type: ignore[arg-type]
    assert found == {"x": due}
