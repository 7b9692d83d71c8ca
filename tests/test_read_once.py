"""A frame that is fitted is read once: inference encodes its rows too, as ``Schema.encode`` would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import lowerbound as lb
from lowerbound.schema import Column, cells, coding, infer_and_encode

ROWS = 240
GRADES = ["low", "middle", "high"]


def mixed() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, ROWS), "D")
    money = rng.lognormal(8, 1, ROWS)
    frame = pd.DataFrame(
        {
            "age": rng.integers(17, 90, ROWS),
            "income": money,
            "height": rng.normal(170, 10, ROWS).round(1),
            "share": rng.random(ROWS).round(3),
            "sex": rng.choice(["F", "M"], ROWS),
            "many": rng.choice([f"level {j:03}" for j in range(140)], ROWS),
            "grade": pd.Categorical(
                rng.choice(["low", "middle", "high"], ROWS), ["low", "middle", "high"], ordered=True
            ),
            "day": days,
            "far": rng.integers(2**60, 2**61, ROWS),
            "written money": [f"{value:,.2f}" for value in money],
            "written day": [f"{day:%d.%m.%Y}" for day in days],
            "id": np.arange(ROWS) + 100,
            "constant": 1.5,
        }
    )
    for name in ("income", "sex", "grade", "day", "written money", "written day"):
        frame.loc[rng.random(ROWS) < 0.1, name] = None
    frame.loc[3, "written money"] = "unknown"
    return frame


def loose() -> pd.DataFrame:
    values = mixed()["height"].astype(object)
    values[5] = "?"
    return pd.DataFrame({"objects": values, "other": np.arange(ROWS) % 7 * 1.5})


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "pandas": (mixed(), {}),
    "polars": (pl.from_pandas(mixed()), {}),
    "pyarrow": (pa.Table.from_pandas(mixed()), {}),
    "objects of several types": (loose(), {}),
    "declared kinds": (mixed(), {"age": "real", "sex": "identifier", "share": "positive"}),
    "declared columns": (
        mixed(),
        {
            "height": Column("real", low=0.0, high=300.0),
            "sex": Column("categorical", levels=("M", "F")),
            "written money": Column("positive", form="#,##0.00", markers=("unknown",)),
            "day": Column("datetime", low="2019-01-01"),
        },
    ),
    "missing everywhere": (pd.DataFrame({"x": [1.5, None, 2.5, None], "nothing": [None] * 4}), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_inference_encodes_as_the_schema_does(name: str) -> None:
    frame, declared = CASES[name]
    schema, values = infer_and_encode(frame, declared)
    due = schema.encode(frame, strict=True)
    assert values.tobytes() == due.values.tobytes()
    assert schema == lb.schema.infer(frame, declared)


def counting(calls: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*given: Any, **more: Any) -> Any:
        calls[name] += 1
        return function(*given, **more)

    return counted


@pytest.mark.parametrize("schema", [None, {"age": "real"}, "fitted"])
def test_a_fit_reads_a_frame_once_and_never_decodes_it(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, calls = mixed()[["age", "income", "sex", "id"]], Counter[str]()
    schema = lb.schema.infer(frame) if schema == "fitted" else schema
    for module, name in ((cells, "read"), (coding, "cells")):
        monkeypatch.setattr(module, name, counting(calls, name, getattr(module, name)))
    lb.VAE(2, hidden=(4,), epochs=1, schema=schema, random_state=0).fit(frame)
    assert calls == {"read": 1}


@pytest.mark.filterwarnings("ignore")
def test_a_fit_is_that_of_the_schema_it_infers() -> None:
    """A schema that is given is encoded by ``Schema.encode``: the two ways give the same weights, bit for bit."""
    frame = mixed()
    fits = [
        lb.VAE(2, hidden=(4,), epochs=2, schema=schema, random_state=0).fit(frame)
        for schema in (None, lb.schema.infer(frame))
    ]
    weights = [{name: value.numpy().tobytes() for name, value in fit.model_.state_dict().items()} for fit in fits]
    assert weights[0] == weights[1]
