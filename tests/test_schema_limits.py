"""Draws of every type of every library stay within what the type holds, and within what its readers can read."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from lowerbound.data import write_frame
from lowerbound.schema import infer

DAYS = [dt.date(2020, 1, 1) + dt.timedelta(37 * k) for k in range(24)]
TIMES = [dt.datetime(2020, 1, 1, 5) + dt.timedelta(hours=37 * k) for k in range(24)]
ZONED = [each.replace(tzinfo=dt.UTC) for each in TIMES]
SPANS = [dt.timedelta(days=3 * k) for k in range(24)]
WHOLE = [k % 9 * 7 + 1 for k in range(24)]
EXACT = [Decimal(k) / 4 + 1 for k in range(24)]
ENDLESS = [dt.date(9999, 12, 31) if k % 3 else day for k, day in enumerate(DAYS)]

SIGNS = {f"{sign}int{bits}": WHOLE for sign in ("", "u") for bits in (8, 16, 32, 64)}
ARROW: dict[str, tuple[pa.DataType, list[Any]]] = {
    **{name: (pa.type_for_alias(name), cells) for name, cells in SIGNS.items()},
    **{name: (pa.type_for_alias(name), [each + 0.5 for each in WHOLE]) for name in ("float32", "float64")},
    "decimal128(6, 2)": (pa.decimal128(6, 2), EXACT),
    "decimal128(38, 10)": (pa.decimal128(38, 10), EXACT),
    "decimal256(60, 2)": (pa.decimal256(60, 2), EXACT),
    "date32": (pa.date32(), DAYS),
    "date32, open ends": (pa.date32(), ENDLESS),
    "date64": (pa.date64(), DAYS),
    **{f"timestamp {unit}": (pa.timestamp(unit), TIMES) for unit in ("s", "ms", "us", "ns")},
    **{f"timestamp {unit} of a zone": (pa.timestamp(unit, "Asia/Tokyo"), ZONED) for unit in ("s", "us", "ns")},
    **{f"duration {unit}": (pa.duration(unit), SPANS) for unit in ("s", "ms", "us", "ns")},
    "text": (pa.string(), [str(day) for day in ENDLESS]),
}
FAR = np.array([0.0, 1.5, -1e4, 1e4, -1e12, 1e12, -1e38, 1e38, -np.inf, np.inf])


def frames() -> dict[str, Any]:
    found: dict[str, Any] = {f"pyarrow {name}": pa.table({"x": pa.array(c, t)}) for name, (t, c) in ARROW.items()}
    found["pyarrow float16"] = pa.table({"x": pa.array(np.array(WHOLE, np.float16) / np.float16(8))})
    for name in ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"):
        found[f"pandas {name}"] = pd.DataFrame({"x": pd.array(WHOLE, name)})
        found[f"pandas {name.lower()}"] = pd.DataFrame({"x": np.array(WHOLE, name.lower())})
        found[f"polars {name}"] = pl.DataFrame({"x": WHOLE}, {"x": getattr(pl, name)})
    for name in ("float16", "float32", "float64", "Float32", "Float64"):
        found[f"pandas {name}"] = pd.DataFrame({"x": pd.Series([each + 0.5 for each in WHOLE]).astype(name)})
    for unit in ("s", "ms", "us", "ns"):
        stamps = pd.Series(TIMES).astype(f"datetime64[{unit}]")
        found[f"pandas datetime64[{unit}]"] = pd.DataFrame({"x": stamps})
        found[f"pandas datetime64[{unit}] of a zone"] = pd.DataFrame({"x": stamps.dt.tz_localize("America/Lima")})
        found[f"pandas timedelta64[{unit}]"] = pd.DataFrame({"x": pd.Series(SPANS).astype(f"timedelta64[{unit}]")})
    for unit in ("ms", "us", "ns"):
        found[f"polars Datetime {unit}"] = pl.DataFrame({"x": TIMES}, {"x": pl.Datetime(unit)})  # type: ignore[arg-type]
        found[f"polars Duration {unit}"] = pl.DataFrame({"x": SPANS}, {"x": pl.Duration(unit)})  # type: ignore[arg-type]
    found["polars Date, open ends"] = pl.DataFrame({"x": ENDLESS}, {"x": pl.Date})
    found["polars Decimal"] = pl.DataFrame({"x": EXACT}, {"x": pl.Decimal(8, 3)})
    found["pandas dates as objects"] = pd.DataFrame({"x": pd.Series(ENDLESS, dtype=object)})
    found["pandas decimals as objects"] = pd.DataFrame({"x": pd.Series(EXACT, dtype=object)})
    found["pandas whole numbers as objects"] = pd.DataFrame({"x": pd.Series(WHOLE, dtype=object)})
    found["pandas decimals of arrow"] = pd.DataFrame({"x": pd.Series(EXACT, dtype=pd.ArrowDtype(pa.decimal128(6, 2)))})
    found["pandas dates of arrow"] = pd.DataFrame({"x": pd.Series(DAYS, dtype=pd.ArrowDtype(pa.date32()))})
    return found


FRAMES = frames()


@pytest.mark.parametrize("case", FRAMES)
def test_draws_stay_within_the_type_and_can_be_read(case: str, tmp_path: Path) -> None:
    """However far out the model's numbers are: each cell is there, is of the type, and reads as what it is."""
    frame = FRAMES[case]
    schema = infer(frame)
    column = schema["x"]
    assert column.modelled, column.why
    drawn = schema.decode(FAR[:, None])
    if isinstance(frame, pd.DataFrame):
        assert drawn["x"].dtype == frame["x"].dtype
        cells = [None if pd.isna(each) else each for each in drawn["x"]]
    else:
        assert drawn.schema == frame.schema
        cells = drawn["x"].to_pylist() if isinstance(drawn, pa.Table) else drawn["x"].to_list()
    assert None not in cells
    lowest, highest = min(cells), max(cells)
    if isinstance(lowest, int | float | Decimal | np.number):
        assert all(np.isfinite(float(each)) for each in cells)
        assert highest > 1, "and none has gone around the end"
        assert lowest <= 1
    elif isinstance(lowest, dt.date):
        assert all(1 <= each.year <= 9999 for each in cells)
    write_frame(tmp_path / "x.csv", drawn)
    written = (tmp_path / "x.csv").read_text()
    assert "out of range" not in written
    assert not any(line.strip('"').startswith("-") for line in written.split()[1:]) or not isinstance(lowest, dt.date)
    pd.read_csv(tmp_path / "x.csv")


def test_times_beyond_the_years_of_python_keep_their_own_range() -> None:
    far = np.array(["20000-01-01", "20001-05-05", "20003-01-01"], "M8[s]")
    frame = pd.DataFrame({"t": far})
    schema = infer(frame)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame)
    drawn = schema.decode(np.array([[-1e30], [1e30]]))["t"].to_numpy()
    assert (drawn == np.array(["0001-01-01", "20003-01-01"], "M8[s]")).all()
