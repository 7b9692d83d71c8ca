"""A schema from a stranger: each field by each kind of wrong value is refused by name, at once, and runs nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import itertools
import json
import resource
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from forgeries import forged, put
from messages import assert_one_sentence

from lowerbound.errors import DataError, FormatError, LowerboundError
from lowerbound.schema import Column, Schema, Storage, in_arrow, in_pandas, in_polars, infer, times, validation

N = 60
DRAW = np.random.default_rng(0)
DAYS = np.datetime64("2020-01-01") + DRAW.integers(0, 900, N).astype("m8[D]")
MOMENTS = pd.Series(DAYS.astype("M8[us]"))
MONEY = [Decimal(int(cents)).scaleb(-2) for cents in DRAW.integers(100, 10_000, N)]
CITIES = DRAW.choice(["Bonn", "Ulm", "Köln"], N)

TABLES: dict[str, Any] = {
    "pyarrow": pa.table(
        {
            "number": DRAW.normal(size=N).round(1),
            "count": pa.array(DRAW.integers(0, 90, N), pa.uint8()),
            "city": CITIES,
            "level": pa.array(CITIES).dictionary_encode(),
            "day": pa.array(DAYS),
            "moment": pa.array(DAYS.astype("M8[us]")).cast(pa.timestamp("us", "Europe/Berlin")),
            "money": pa.array(MONEY),
            "k": [1.5] * N,
            "price of all": pa.array([Decimal("1.50")] * N),
            "nothing": pa.nulls(N),
        }
    ),
    "pandas": pd.DataFrame(
        {
            "number": DRAW.normal(size=N).astype("f4"),
            "city": pd.array(CITIES, "string"),
            "written": [str(day) for day in DAYS],
            "grade": pd.Categorical(DRAW.choice(["a", "b", "c"], N), ["c", "b", "a"], ordered=True),
            "code": pd.Categorical(DRAW.choice([1, 2], N)),
            "moment": MOMENTS.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
            "day": pd.Series([datetime.date(2020, 1, 1 + day) for day in DRAW.integers(0, 28, N)], dtype=object),
            "wait": pd.to_timedelta(DRAW.integers(0, 500, N), "s"),
            "money": pd.Series(MONEY, dtype=object),
            "arrow": pd.array(DRAW.integers(0, 90, N), pd.ArrowDtype(pa.int32())),
        }
    ),
    "polars": pl.DataFrame(
        {
            "number": pl.Series(DRAW.normal(size=N), dtype=pl.Float32),
            "city": pl.Series(CITIES, dtype=pl.Categorical),
            "town": pl.Series(CITIES, dtype=pl.Enum(["Bonn", "Köln", "Ulm"])),
            "day": pl.Series(DAYS).cast(pl.Date),
            "moment": pl.Series(DAYS.astype("M8[ms]")).dt.replace_time_zone("UTC"),
            "wait": pl.Series(DRAW.integers(0, 500, N)).cast(pl.Duration("us")),
            "money": pl.Series(MONEY, dtype=pl.Decimal(10, 2)),
        }
    ),
}


def given(library: str) -> dict[str, Any]:
    """The schema of a table as its file has it."""
    found: dict[str, Any] = json.loads(infer(TABLES[library]).to_json())
    return found


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("library", TABLES)
def test_each_field_by_each_wrong_value_is_refused_by_name_or_does_no_harm(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every column by itself: refused in one sentence that names the file, or it decodes and encodes rows."""
    monkeypatch.chdir(tmp_path)
    good, table = given(library), TABLES[library]
    held, slowest, refused, loaded = memory(), 0.0, 0, 0
    for j, column in enumerate(good["columns"]):
        for done, found in forged(column):
            start, said = time.process_time(), ""
            try:
                schema = Schema.from_dict(good | {"columns": [found]}, "config.json")
                _use(schema, table[[table.columns[j]]] if library != "pyarrow" else table.select([j]))
            except FormatError as error:
                said = str(error)
            except Exception as error:
                raise AssertionError(f"{column['name']}: {done}: {type(error).__name__}: {error}") from error
            slowest = max(slowest, time.process_time() - start)
            refused, loaded = refused + bool(said), loaded + (not said)
            if said:
                assert said.startswith("config.json"), (column["name"], done)
                assert len(said) < 500, done
                assert_one_sentence(said, ("restore",))
    assert slowest < 2
    assert memory() - held < 100 << 20
    assert refused > 10 * loaded > 0
    assert not any(tmp_path.iterdir())


def _use(schema: Schema, table: Any) -> None:
    """Draw rows, and take the table's own where it still is one of the schema's."""
    drawn = np.linspace(-1e9, 1e9, 7)[:, None].repeat(len(schema.modelled), 1)
    schema.decode(drawn, generator=np.random.default_rng(0))
    str(schema)
    with np.errstate(over="ignore"):  # a scale of 5e-324
        schema.unstandardise(schema.standardise(drawn))
    with contextlib.suppress(LowerboundError):  # values that the kind, as forged, cannot take
        schema.decode(schema.encode(table))


@pytest.mark.parametrize(("field", "part"), [(each, "column") for each in dataclasses.fields(Column)]
                         + [(each, "storage") for each in dataclasses.fields(Storage)])  # fmt: skip
def test_every_field_has_a_check(field: Any, part: str) -> None:
    """A field that comes later needs a line in ``validation``, as what a file says of it is taken on no trust."""
    table = validation.COLUMN if part == "column" else validation.STORAGE
    assert field.name in table
    assert not table[field.name].holds([[[]]])
    assert not table[field.name].holds({"os.system": "true"}) or field.name == "storage"


@pytest.mark.parametrize("library", TABLES)
def test_what_is_of_the_schema_as_a_whole(library: str) -> None:
    good = given(library)
    for done, found in forged({key: good[key] for key in ("format", "backend", "rows")}):
        refused = found | {"columns": good["columns"]}
        if done not in ("format is true", "rows is 10¹²", "rows is 2⁶³") and "beside" not in done:
            with pytest.raises(FormatError, match=r"^config\.json"):
                Schema.from_dict(refused, "config.json")
    for columns in ([], {}, None, [1], [[]], good["columns"] * 2, [good["columns"][0] | {"name": 1.5}]):
        with pytest.raises(FormatError, match=r"^config\.json"):
            Schema.from_dict(good | {"columns": columns}, "config.json")


CONTRADICTIONS: dict[str, tuple[str, str, dict[tuple[str, ...], Any]]] = {
    "a range from above to below": ("pyarrow", "number", {("low",): 2.0, ("high",): 1.0}),
    "a binary column of three": ("pyarrow", "city", {("kind",): "binary"}),
    "classes of no levels": ("pyarrow", "number", {("kind",): "categorical"}),
    "numbers with levels": ("pyarrow", "number", {("levels",): [1, 2]}),
    "text that is real": ("pyarrow", "city", {("kind",): "real", ("levels",): []}),
    "levels of another type": ("pyarrow", "city", {("levels",): [1, 2, 3]}),
    "levels that are the same number": ("pandas", "code", {("levels",): [1, True]}),
    "a level that is pooled too": ("pyarrow", "city", {("pooled",): ["Bonn"], ("weights",): [1]}),
    "pooled levels with no weights": ("pyarrow", "city", {("pooled",): ["x"]}),
    "steps of two days": ("pyarrow", "day", {("step",): 2}),
    "steps of numbers": ("pyarrow", "count", {("step",): 2}),
    "an offset beyond the type": ("pyarrow", "day", {("offset",): 2**40}),
    "an offset of floats": ("pyarrow", "number", {("offset",): 5}),
    "a form of no text": ("pyarrow", "day", {("form",): "date"}),
    "text that is times of no form": ("pandas", "written", {("form",): None}),
    "a value of no constant": ("pyarrow", "number", {("value",): 1}),
    "a constant of another type": ("pyarrow", "k", {("value",): "x"}),
    "a constant that no decimal is": ("pyarrow", "price of all", {("value",): "1e999999999"}),
    "a unit of no time": ("pyarrow", "number", {("storage", "unit"): "s"}),
    "a unit of another type": ("pyarrow", "day", {("storage", "unit"): "us"}),
    "a zone of days": ("pyarrow", "day", {("storage", "zone"): "UTC"}),
    "a zone of no place": ("pyarrow", "moment", {("storage", "zone"): "Mars/Base"}),
    "a zone that is not that of the type": ("pandas", "moment", {("storage", "zone"): "UTC"}),
    "digits beyond the type": ("pyarrow", "money", {("storage", "digits"): [38, 10**3]}),
    "digits of another type": ("pyarrow", "money", {("storage", "digits"): [20, 1]}),
    "a type of another library": ("pyarrow", "number", {("storage", "dtype"): "Float64"}),
    "a type of another family": ("pyarrow", "number", {("storage", "dtype"): "int64"}),
    "a type that is called": ("pyarrow", "k", {("storage", "family"): "decimal", ("storage", "dtype"): "OSFile",
                                               ("storage", "digits"): [1, 2], ("value",): "1"}),
    "categories of another type": ("pandas", "code", {("storage", "categories"): ["a", "b"]}),
    "more categories than codes": ("pyarrow", "level", {("storage", "detail"): ["int8", "string"],
                                                        ("storage", "categories"): [str(j) for j in range(300)]}),
    "an index of text": ("pyarrow", "level", {("storage", "detail"): ["string", "string"]}),
    "names of a type that is called": ("polars", "city", {("storage", "detail"): ["a", "b", "DataFrame"]}),
    "an arrow type outside pandas": ("polars", "number", {("storage", "arrow"): True}),
}  # fmt: skip
"""Fields each of which could be, but not together."""


@pytest.mark.parametrize("done", CONTRADICTIONS)
def test_fields_that_contradict_each_other_are_refused(done: str) -> None:
    library, name, changes = CONTRADICTIONS[done]
    good = given(library)
    at = next(j for j, column in enumerate(good["columns"]) if column["name"] == name)
    found = good["columns"][at]
    assert Schema.from_dict(good | {"columns": [found]}).names == (name,)
    for path, wrong in changes.items():
        found = put(found, path, wrong)
    with pytest.raises(FormatError, match=rf"^config\.json: .*column '{name}'"):
        Schema.from_dict(good | {"columns": [found]}, "config.json")


def _known() -> list[tuple[Any, Storage]]:
    """Every type that is let through, in each library."""
    found: list[tuple[Any, Storage]] = []
    names = {in_arrow: in_arrow.TYPES, in_pandas: in_pandas.TYPES, in_polars: in_polars.TYPES}
    for module, types in names.items():
        for family, dtypes in types.items():
            if family not in ("time", "duration", "decimal", "category"):
                found += [(module, Storage(family, dtype)) for dtype in dtypes]
    for unit, zone in itertools.product(("s", "ms", "us", "ns"), (None, "UTC", "Asia/Tokyo", "UTC+05:30")):
        beside = "" if zone is None else f", {zone}"
        found += [(in_arrow, Storage("time", "timestamp", unit, zone))]
        found += [(in_pandas, Storage("time", f"datetime64[{unit}{beside}]", unit, zone))]
        found += [(in_polars, Storage("time", "Datetime", unit, zone))] * (unit != "s" and zone != "UTC+05:30")
    found += [(in_arrow, Storage("decimal", f"decimal{bits}(5, 2)", digits=(5, 2))) for bits in (32, 64, 128, 256)]
    return found


@pytest.mark.parametrize(("module", "storage"), _known())
def test_every_type_that_is_let_through_can_be_built(module: Any, storage: Storage) -> None:
    assert module.known(storage)
    if module is in_polars:
        importlib.import_module("polars")
    built = module.build(storage, np.full(2, None, object), np.zeros(2, bool))
    assert len(built) == 2


NO_ZONES = ["", "Mars/Base", "../../etc/passwd", "/etc/passwd", "Europe", "dateutil/UTC", "+25:00", "UTC+1:00"]
NO_ZONES += ["tzfile('/etc/passwd')", "x" * 10**6, "UTC\0"]
ZONES = ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "+05:30", "UTC-03:00"]


@pytest.mark.parametrize("zone", NO_ZONES)
def test_zones_that_are_none(zone: str) -> None:
    assert not times.is_zone(zone)


@pytest.mark.parametrize("zone", ZONES)
def test_zones_that_are(zone: str) -> None:
    assert times.is_zone(zone)


def test_what_no_file_may_hold_is_not_inferred_either() -> None:
    """So that a schema which was inferred can always be read again."""
    grade = pd.DataFrame({"grade": pd.Categorical(["a", "b"] * 9)})
    with pytest.raises(ValueError, match="'grade' the level 'z', which is not a category"):
        infer(grade, {"grade": Column("categorical", levels=("a", "b", "z"))})
    with pytest.raises(DataError, match="column 't' has the time zone 'Mars/Base'"):
        infer(pa.table({"t": pa.array([0, 1], pa.timestamp("s", "Mars/Base"))}))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_library_that_is_not_installed_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Schema.from_dict(given(library))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"a {library} frame, but {library} is not installed: pip install {library}"):
        schema.decode(np.zeros((2, len(schema.modelled))), generator=np.random.default_rng(0))
