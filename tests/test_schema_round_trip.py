"""Any table of pandas, polars and pyarrow as numbers and back: the same cells, types, categories and names."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowerbound.errors import DataError
from lowerbound.schema import Schema, infer
from lowerbound.schema.cells import Cells, read

EXAMPLES = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
NAMES = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=4, unique=True)
TIMES = st.integers(-(2**62), 2**62) | st.integers(0, 20_000).map(lambda day: day * 86_400 * 10**6)
BOUNDS = {f"{sign}int{bits}": (-(2 ** (bits - 1)) * (sign == ""), 2 ** (bits - (sign == "")) - 1) for sign in ("", "u")
          for bits in (8, 16, 32, 64)}  # fmt: skip


def whole(name: str) -> st.SearchStrategy[int]:
    low, high = BOUNDS[name.lower()]
    return st.integers(low, high) | st.integers(0, 5) | st.sampled_from([low, high])


def floats(width: int) -> st.SearchStrategy[float]:
    """Of any size, of few digits, and whole."""
    any_size = st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[arg-type]
    tenths = st.integers(-50, 50).map(lambda tenth: float(np.dtype(f"f{width // 8}").type(tenth / 10)))
    return any_size | tenths | st.integers(0, 9).map(float)


def holed(cells: st.SearchStrategy[Any], rows: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(cells, min_size=rows, max_size=rows) | st.lists(st.none() | cells, min_size=rows, max_size=rows)


def polars_column(name: str) -> Callable[[int], st.SearchStrategy[Any]]:
    kinds: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
        "Datetime": (pl.Datetime("us"), TIMES),
        "Datetime ns": (pl.Datetime("ns", "Europe/London"), TIMES),
        "Date": (pl.Date, st.integers(-(2**26), 2**26)),
        "Duration": (pl.Duration("ms"), TIMES),
        "Boolean": (pl.Boolean, st.booleans()),
        "String": (pl.String, TEXT),
        "Categorical": (pl.Categorical, TEXT),
        "Enum": (pl.Enum(["x", "nothing", "", "ß"]), st.sampled_from(["x", "", "ß"])),
        "Decimal": (pl.Decimal(20, 2), st.decimals(-(10**17), 10**17, places=2)),
        "Float32": (pl.Float32, floats(32)),
        "Float64": (pl.Float64, floats(64)),
        "Null": (pl.Null, st.none()),
    }
    dtype, cells = kinds.get(name) or (getattr(pl, name), whole(name))
    physical = pl.Int64 if name.startswith("D") and name != "Decimal" else dtype
    as_is = name in ("Date",)

    def column(rows: int) -> st.SearchStrategy[Any]:
        def made(values: list[Any]) -> Any:
            series = pl.Series(values, dtype=physical)
            return (series.cast(pl.Int32) if as_is else series).cast(dtype)

        return holed(cells, rows).map(made)

    return column


POLARS = ("Datetime", "Datetime ns", "Date", "Duration", "Boolean", "String", "Categorical", "Enum", "Decimal")
POLARS += ("Float32", "Float64", "Null", "Int8", "UInt8", "Int32", "Int64", "UInt64")
ARROW: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    **{name: (getattr(pa, name)(), whole(name)) for name in BOUNDS},
    "float": (pa.float32(), floats(32)),
    "double": (pa.float64(), floats(64)),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), TEXT),
    "large_string": (pa.large_string(), TEXT),
    "date32": (pa.date32(), st.dates()),
    "date64": (pa.date64(), st.dates()),
    "timestamp[s]": (pa.timestamp("s"), st.integers(-(2**40), 2**40)),
    "timestamp[ns]": (pa.timestamp("ns", "UTC"), TIMES),
    "duration": (pa.duration("us"), TIMES),
    "decimal": (pa.decimal128(12, 3), st.decimals(-(10**8), 10**8, places=3)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "é", ""])),
    "null": (pa.null(), st.none()),
}


def arrow_column(name: str) -> Callable[[int], st.SearchStrategy[Any]]:
    dtype, cells = ARROW[name]

    def made(values: list[Any]) -> Any:
        if pa.types.is_dictionary(dtype):
            return pa.array(values, pa.string()).dictionary_encode().cast(dtype)
        return pa.array(values, dtype)

    return lambda rows: holed(cells, rows).map(made)


def stamps(unit: str, zone: str | None = None, code: str = "M8") -> Callable[[list[Any]], Any]:
    def made(values: list[Any]) -> Any:
        least = np.iinfo(np.int64).min
        found = pd.Series(np.array([least if value is None else value for value in values]).view(f"{code}[{unit}]"))
        return found if zone is None else found.dt.tz_localize("UTC").dt.tz_convert(zone)

    return made


def categories(levels: list[Any], ordered: bool) -> Callable[[list[Any]], Any]:
    return lambda values: pd.Series(pd.Categorical(values, levels, ordered=ordered))


def of(dtype: Any) -> Callable[[list[Any]], Any]:
    return lambda values: pd.Series(values, dtype=dtype)


PANDAS: dict[str, tuple[Callable[[list[Any]], Any], st.SearchStrategy[Any]]] = {
    **{name: (of(name), floats(int(name[5:]))) for name in ("float32", "float64", "Float32", "Float64")},
    **{name: (of(name), whole(name)) for name in ("Int8", "Int64", "UInt64", "UInt8")},
    "int64[pyarrow]": (of("int64[pyarrow]"), whole("int64")),
    "boolean": (of("boolean"), st.booleans()),
    "bool objects": (of(object), st.booleans()),
    "str": (of("str"), TEXT),
    "string": (of("string"), TEXT),
    "string python": (of(pd.StringDtype("python")), TEXT),
    "text objects": (of(object), TEXT),
    "date objects": (of(object), st.dates()),
    "decimal objects": (of(object), st.decimals(-(10**20), 10**20, places=4)),
    "datetime64[s]": (stamps("s"), st.integers(-(2**40), 2**40)),
    "datetime64[ns]": (stamps("ns"), TIMES),
    "datetime64[us, zone]": (stamps("us", "America/New_York"), st.integers(-(2**52), 2**52)),
    "datetime64[ns, +2]": (stamps("ns", "UTC+02:00"), TIMES),
    "timedelta64[ns]": (stamps("ns", code="m8"), TIMES),
    "category": (categories(["b", "a", "never", "Ω"], False), st.sampled_from(["b", "a", "Ω"])),
    "ordered": (categories([3, 1, 2, 9], True), st.sampled_from([3, 1, 2])),
    "no categories": (categories([], False), st.none()),
}


@st.composite
def table(draw: st.DrawFn, columns: dict[str, Callable[[int], st.SearchStrategy[Any]]]) -> dict[str, Any]:
    rows = draw(st.integers(1, 30))
    return {name: draw(columns[draw(st.sampled_from(sorted(columns)))](rows)) for name in draw(NAMES)}


def check(schema: Schema, frame: Any, back: Any) -> None:
    """The very same cells and types: floats in every bit."""
    mine, theirs = read(frame), read(back)
    assert mine.source.names == theirs.source.names
    assert mine.source.storages == theirs.source.storages
    assert all(one.same(other) for one, other in zip(mine.cells, theirs.cells, strict=True))
    assert schema.encode(back).values.tobytes() == schema.encode(frame).values.tobytes()


def of_numbers_alone(schema: Schema, frame: Any, back: Any, aside: Any) -> None:
    """What no side channel carries comes back from the numbers, though they are taken for draws."""
    pairs = zip(schema.names, read(frame).cells, read(back).cells, strict=True)
    for name, mine, theirs in pairs:
        if name not in aside:
            assert (mine.mask == theirs.mask).all()
            assert list(mine.values[mine.mask]) == list(theirs.values[theirs.mask])


def round_trip(frame: Any, same: Callable[[Any, Any], None]) -> None:
    schema = Schema.from_json(infer(frame).to_json())
    encoded = schema.encode(frame)
    assert (np.isnan(encoded.values) == ~encoded.mask).all()
    assert not encoded.unseen
    back = schema.decode(encoded)
    same(back, frame)
    check(schema, frame, back)
    of_numbers_alone(schema, frame, schema.decode(encoded.values), encoded.aside)
    drawn = schema.decode(np.random.default_rng(0).normal(size=encoded.values.shape) * 10)
    for name, column in zip(schema.names, read(drawn).source.storages, strict=True):
        if schema[name].kind not in ("constant", "identifier"):
            assert column == schema[name].storage
    schema.encode(drawn, strict=True)  # draws are of the same kinds, ranges and levels
    of_other_rows(frame, same)


def of_other_rows(frame: Any, same: Callable[[Any, Any], None]) -> None:
    """Cells beyond the levels, the grid and the range that a schema was inferred from come back too, or are refused."""
    rows = max(1, len(frame) // 2)
    part = frame.iloc[:rows] if isinstance(frame, pd.DataFrame) else frame.slice(0, rows)
    schema = infer(part)
    said = ""
    try:
        back = schema.decode(schema.encode(frame))
    except DataError as refused:
        said = str(refused)
    if not said:
        same(back, frame)
        return
    assert re.match(
        r"row \d+ of column .*, but a value of kind .* is|column .* holds (cells|times|text)", said, re.DOTALL
    )


@EXAMPLES
@given(table({name: polars_column(name) for name in POLARS}))
def test_polars(columns: dict[str, Any]) -> None:
    round_trip(pl.DataFrame(columns), lambda back, frame: pl.testing.assert_frame_equal(back, frame, check_exact=True))


@EXAMPLES
@given(table({name: arrow_column(name) for name in ARROW}))
def test_pyarrow(columns: dict[str, Any]) -> None:
    def same(back: Any, frame: Any) -> None:
        assert back.equals(frame)

    round_trip(pa.table(columns), same)


@EXAMPLES
@given(table({name: (lambda rows, made=made, cells=cells: holed(cells, rows).map(made))
              for name, (made, cells) in PANDAS.items()}))  # fmt: skip
def test_pandas(columns: dict[str, Any]) -> None:
    frame = pd.DataFrame(columns)
    round_trip(frame, lambda back, frame: pd.testing.assert_frame_equal(back, frame, check_exact=True))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "bool", "float16", ">f8", ">i4"])
def test_numpy_columns_without_holes(dtype: str) -> None:
    frame = pd.DataFrame({"a": np.array([0, 1, 1, 0, 1], dtype), 7: np.array([0, 1, 2, 3, 1]).astype(dtype)})
    schema = infer(frame)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame, check_exact=True)


def test_more_than_two_to_the_53_steps_are_kept_aside() -> None:
    """What double precision cannot hold is kept, and only that; the mutant is the numbers alone."""
    odd = np.array([-(2**63), 2**63 - 1, 5, 6, 7], np.int64)
    near = 2**62 + np.arange(5)
    frame = pd.DataFrame({"wide": odd, "near": near, "when": [2**62 + 2, 1, 5, 6, 7]})
    frame["when"] = frame["when"].to_numpy().view("M8[ns]")
    schema = infer(frame)
    encoded = schema.encode(frame)
    assert set(encoded.aside) == {"wide", "when"}
    np.testing.assert_array_equal(encoded.values[:, 1], np.arange(5))
    pd.testing.assert_frame_equal(schema.decode(encoded), frame, check_exact=True)
    assert (schema.decode(encoded.values)["near"] == near).all()
    assert (schema.decode(encoded.values)["wide"] != odd).any()


def test_bits_of_floats() -> None:
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, None]
    for frame in (pl.DataFrame({"x": values}), pa.table({"x": values}), pd.DataFrame({"x": values})):
        schema = infer(frame)
        encoded = schema.encode(frame)
        assert encoded.values[:5, 0].tobytes() == np.array(values[:5]).tobytes()  # the identity
        check(schema, frame, schema.decode(encoded))
    assert not Cells(np.array([0.0]), np.array([True])).same(Cells(np.array([-0.0]), np.array([True])))


def test_a_nan_of_polars_is_a_hole() -> None:
    frame = pl.DataFrame({"x": [1.5, float("nan"), None, 2.5]})
    schema = infer(frame)
    assert schema.encode(frame).mask[:, 0].tolist() == [True, False, False, True]
    assert schema.decode(schema.encode(frame))["x"].to_list() == [1.5, None, None, 2.5]


def test_dates_as_text_and_decimals() -> None:
    frame = pd.DataFrame(
        {
            "day": ["2001-12-31", None, "1999-01-01"],
            "at": ["2001-12-31 23:59:59", "1999-01-01 00:00:00", None],
            "price": [Decimal("1.50"), Decimal("2.25"), None],
            "born": [datetime.date(1970, 1, 2), None, datetime.date(1960, 2, 29)],
        }
    )
    schema = infer(frame)
    assert [column.kind for column in schema.columns] == ["datetime", "datetime", "positive", "datetime"]
    assert schema["day"].form == "%Y-%m-%d"
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame)
    assert schema.decode(np.array([[0.4, 60.0, 1.234, -1.0]]))["day"].tolist() == ["1999-01-01"]


@pytest.mark.parametrize("unit", ["D", "s", "ms", "us", "ns"])
def test_times_of_another_unit(unit: str) -> None:
    """A schema of times in one unit reads them in any other, also before its offset, with nothing kept aside."""
    days = pd.Series(np.array(["2001-01-01", "2003-05-06", "1999-12-31"], "M8[s]"))
    schema = infer(pl.DataFrame({"t": pl.Series(days[:2].to_list(), dtype=pl.Datetime("ms"))}))
    kind = pa.date32() if unit == "D" else pa.timestamp(unit)
    table = pa.table({"t": pa.array(days.to_list(), pa.timestamp("s")).cast(kind)})
    encoded = schema.encode(table)
    np.testing.assert_array_equal(encoded.values[:, 0], [0, 855, -367])
    assert not encoded.aside
    assert schema.decode(encoded).equals(table)
    assert schema.decode(encoded.values, like=table).equals(table)


def test_no_rows() -> None:
    for frame in (pd.DataFrame({"x": [1.5, 2.5], "c": ["a", "b"]}), pl.DataFrame({"x": [1.5, 2.5], "c": ["a", "b"]})):
        schema, none = infer(frame), frame[:0]
        assert schema.encode(none).values.shape == (0, 2)
        assert read(schema.decode(schema.encode(none))).source.storages == read(frame).source.storages
        assert len(schema.decode(np.zeros((0, 2)))) == 0
