"""Tables of mixed columns with holes at the command line, and ``lb.check``."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import warm
from messages import assert_one_sentence, tree
from pyarrow import feather

import lowerbound as lb
from lowerbound import cli, data
from lowerbound.cli.table_as_numbers import AsNumbers
from lowerbound.cli.table_options import types_of
from lowerbound.errors import DataError

LOWERBOUND = Path(sys.executable).parent / "lowerbound"
QUICK = ("--epochs", "10", "--learning-rate", "0.01", "--hidden", "8", "--latent-dim", "2", "--threads", "1")
USAGE, BAD_DATA = 2, 65
MODELLED = ["height", "sex", "visits", "smokes", "seen", "at", "zip"]
TYPES = pa.schema(
    {
        "key": pa.string(),
        "height": pa.float64(),
        "sex": pa.string(),
        "visits": pa.int64(),
        "smokes": pa.bool_(),
        "seen": pa.date32(),
        "at": pa.timestamp("s"),
        "zip": pa.string(),
        "country": pa.string(),
    }
)


def mixed(n: int = 80) -> pa.Table:
    """A table of every type that a csv file can hold, driven by one latent, a fifth of its cells missing."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    columns = {
        "key": [f"k{i:03d}" for i in range(n)],
        "height": np.round(170.05 + 10 * z + rng.normal(size=n), 1).tolist(),
        "sex": np.where(z + rng.normal(size=n) > 0, "Male", "Female").tolist(),
        "visits": rng.poisson(np.exp(1 + 0.5 * z)).tolist(),
        "smokes": (z + rng.normal(size=n) > 0.3).tolist(),
        "seen": [dt.date(2020, 7, 1) + dt.timedelta(round(50 * value)) for value in z],
        "at": [dt.datetime(2020, 1, 2) + dt.timedelta(minutes=round(500 * value)) for value in z],
        "zip": [f"0010{code}" for code in rng.integers(0, 4, n)],
        "country": ["NL"] * n,
    }
    holes = {name: rng.random(n) < (0.2 if name in MODELLED else 0) for name in columns}
    cells = {
        name: [None if hole else value for value, hole in zip(values, holes[name], strict=True)]
        for name, values in columns.items()
    }
    return pa.table(cells, schema=TYPES)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table in two kinds of file, a model of it, and a model of an array."""
    folder = tmp_path_factory.mktemp("start")
    data.write_frame(folder / "t.csv", mixed())
    data.write_frame(folder / "t.parquet", mixed())
    command("fit", folder / "t.csv", "--out", folder / "run", *QUICK)
    lb.VAE(1, hidden=(4,), epochs=1, random_state=0).fit(np.random.default_rng(0).normal(size=(20, 2))).save(
        folder / "array"
    )
    return folder


@pytest.fixture
def here(start: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(start)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return start


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As a user runs it."""
    done = warm.lowerbound(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def run(*arguments: object, code: int = 0) -> None:
    """The same in this process, which has torch already."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
    assert left.value.code == code


def same(first: pa.Table, second: pa.Table) -> bool:
    return first.schema.equals(second.schema) and first.equals(second)


# --- reading and writing ---


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_every_column_comes_in_its_own_type_with_its_holes(suffix: str, tmp_path: Path) -> None:
    table = mixed().cast(TYPES.set(6, pa.field("at", pa.timestamp("ms")))) if suffix != ".csv" else mixed()
    if suffix == ".feather":
        feather.write_feather(table, tmp_path / "t.feather")
    else:
        data.write_frame(tmp_path / f"t{suffix}", table)
    found = data.read_frame(tmp_path / f"t{suffix}")
    assert same(found, table), (found.schema, table.schema)
    assert pc.sum(pc.is_null(found["height"])).as_py() > 5
    with pytest.raises(DataError, match=r"holds String, not numbers|holds text|holds Date"):
        data.read(tmp_path / f"t{suffix}")  # which is of numbers


CELLS = {
    "holes": (b"a,b\n1,x\nNA,\n,NaN\nnull,y\n", {"a": [1, None, None, None], "b": ["x", None, None, "y"]}),
    "codes": (b"a,b\n007,1\n010,2\n", {"a": ["007", "010"], "b": [1, 2]}),
    "zeros that are numbers": (b"a,b\n0,0.5\n10,00.5\n", {"a": [0, 10], "b": [0.5, 0.5]}),
    "clocks": (b"a,b\n10:30,1\n11:00,2\n", {"a": ["10:30", "11:00"], "b": [1, 2]}),
    "lines within cells": (b'a,b\n"x\ny",1\nz,2\n', {"a": ["x\ny", "z"], "b": [1, 2]}),
    "no names": (b"1,2.5\n3,\n", {"x0": [1, 3], "x1": [2.5, None]}),
    "one column": (b"a\n1\n\n3\n", {"a": [1, None, 3]}),
    "bool": (b"a,b\ntrue,False\n,true\n", {"a": [True, None], "b": [False, True]}),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_csv_file_as_others_write_it(case: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CELLS[case][0])
    assert data.read_frame(tmp_path / "t.csv").to_pydict() == CELLS[case][1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n3,4\n5\n6,7\n", ("not a whole csv file", "line 4: Expected 2 columns, got 1", "as many values")),
        (b"a,b\n1,2\n3,4,5\n", ("line 3: Expected 2 columns, got 3", "as many values in each row")),
        (b"a\nx\n\xe9t\xe9\n", ("row 1 of column 'a' is b'", "save it in UTF-8")),
        (b"a,b\n", ("holds no rows", "give at least one")),
    ],
)
def test_a_row_that_cannot_be_read_is_named(content: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        data.read_frame(tmp_path / "t.csv")
    assert_one_sentence(str(caught.value), (r"t\.csv", *words))


def test_at_use_a_csv_file_is_read_as_what_was_fitted(here: Path, tmp_path: Path) -> None:
    text = b"key,height,sex,visits,smokes,seen,at,zip,country\n7,170,,3,,2020-05-01,2020-05-01,100,NL\n"
    (tmp_path / "u.csv").write_bytes(text)
    types = types_of(lb.load(here / "run").schema_)
    as_it_is, due = (data.read_frame(tmp_path / "u.csv", given) for given in (None, types))
    assert as_it_is.schema.types != TYPES.types
    assert due.schema.equals(TYPES)
    assert due.to_pylist()[0] == {
        **dict.fromkeys(("sex", "smokes")),
        **{"key": "7", "height": 170.0, "visits": 3, "zip": "100", "country": "NL"},
        **{"seen": dt.date(2020, 5, 1), "at": dt.datetime(2020, 5, 1)},
    }


# --- check ---


def test_check_says_what_each_column_is_taken_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("check", "t.csv", "--json")
    out, words = capsys.readouterr()
    said, lines = json.loads(out), words.splitlines()
    kinds = {each["name"]: each["kind"] for each in said["columns"]}
    due = ["identifier", "positive", "binary", "count", "binary", "datetime", "datetime", "categorical", "constant"]
    assert list(kinds.values()) == due
    share = {each["name"]: each["missing"] for each in said["columns"]}
    assert share["visits"] == pytest.approx(mixed()["visits"].null_count / 80)
    assert (said["rows"], said["shape"], said["train_rows"], said["held_out_rows"]) == (80, [9], 60, 20)
    assert {each["name"] for each in said["columns"] if each["likelihood"]} == set(MODELLED)
    assert next(line for line in lines if line.startswith("zip")).split()[1] == "categorical"
    assert "a fit would maximise iwae" in words
    run("check", "t.csv", "--schema", "visits=ordinal", "--json")
    again = json.loads(capsys.readouterr().out)
    assert next(each for each in again["columns"] if each["name"] == "visits")["likelihood"] == "Ordinal"


def test_check_of_frames_of_every_library_and_of_arrays(here: Path) -> None:
    table = mixed()
    found = [lb.check(frame) for frame in (table, table.to_pandas(), pl.from_arrow(table), here / "t.parquet")]
    heads, rest = zip(*(str(each).split("\n", 1) for each in found), strict=True)
    assert heads[1].startswith("80 rows and 9 columns of pandas")
    assert heads[2].startswith("80 rows and 9 columns of polars")
    assert {tuple(column.kind for column in each.schema.columns) for each in found} == {
        tuple(column.kind for column in found[0].schema.columns)
    }
    assert rest[0] == rest[3]
    assert [each.problems for each in found] == [()] * 4
    assert found[0].as_dict() | {"bytes": 0} == found[3].as_dict() | {"bytes": 0}
    x = np.array([[0.5, np.inf], [1.0, 2.0]])
    assert "1 value is infinite, in row 0, column 1" in lb.check(x).problems[0]
    assert str(lb.check(x)) == str(lb.check(x.tolist())) == lb.check(x).words()
    assert lb.check("digits").likelihood == "DiscretizedLogistic"
    assert "give X.collect()" in lb.check(pl.LazyFrame({"a": [1]})).problems[0]
    assert "names 'colour'" in lb.check(table, schema={"colour": "real"}).problems[0]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, 1]}),
        pd.DataFrame({"a": [1.0, np.inf, 2.0]}),
        pd.DataFrame({"a": ["x", 1.5] * 150}),
        pd.DataFrame({"a": [[1], [2]]}),
    ],
)
def test_what_check_refuses_fit_refuses_in_the_same_words(frame: pd.DataFrame) -> None:
    (problem,) = lb.check(frame).problems
    with pytest.raises(DataError) as caught:
        lb.VAE(1, hidden=(4,), epochs=1).fit(frame)
    assert str(caught.value) == problem


# --- fit ---


def test_a_fit_is_the_same_from_either_file_and_says_what_each_column_got(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", "t.parquet", "--out", tmp_path / "other", *QUICK, "--json")
    out, words = capsys.readouterr()
    said = json.loads(out)
    assert (said["objective"], said["draws"], said["objective_is_bound"]) == ("iwae", 20, True)
    checked = {each["name"]: each["likelihood"] for each in lb.check(mixed()).as_dict()["columns"]}
    assert said["likelihoods"] == {name: checked[name] for name in MODELLED}
    assert "7 columns (1 LogNormal, 2 Bernoulli" in words
    weights = [(folder / "model.safetensors").read_bytes() for folder in (here / "run", tmp_path / "other")]
    assert weights[0] == weights[1]
    run("fit", "t.csv", "--out", tmp_path / "declared", *QUICK, "--schema", "visits=real", "--strict", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["likelihoods"]["visits"] != checked["visits"]
    vae = lb.load(tmp_path / "declared")
    assert (vae.schema_["visits"].kind, vae.strict) == ("real", True)


def test_text_has_the_order_that_the_command_line_gives(here: Path, tmp_path: Path) -> None:
    order = ("00103", "00100", "00102", "00101")
    run("fit", "t.csv", "--out", tmp_path / "run", *QUICK, "--schema", f"zip=ordinal:{','.join(order)}")
    vae = lb.load(tmp_path / "run")
    assert (vae.schema_["zip"].kind, vae.schema_["zip"].levels) == ("ordinal", order)
    assert any(isinstance(each, lb.likelihoods.Ordinal) for each in vae.model_.likelihood.likelihoods)


def test_numbers_alone_are_a_table_too_unless_a_likelihood_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2)).round(2)
    data.write(tmp_path / "n.csv", x, "ab")
    for name, options, schema in (("a", (), True), ("b", ("--likelihood", "Normal"), False)):
        run("fit", tmp_path / "n.csv", "--out", tmp_path / name, *QUICK, *options, "--json")
        assert json.loads(capsys.readouterr().out)["objective"] == "elbo"
        assert (lb.load(tmp_path / name).schema_ is not None) == schema
        run("score", tmp_path / name, tmp_path / "n.csv", "--samples", "20", "--json")
        assert json.loads(capsys.readouterr().out)["rows"] == 60
    run("sample", tmp_path / "a", "-n", "3", "--out", tmp_path / "s.npy")
    assert np.load(tmp_path / "s.npy").shape == (3, 2)


# --- impute ---


def test_impute_fills_every_hole_and_changes_nothing_else(here: Path, tmp_path: Path) -> None:
    done = command("impute", "run", "t.csv", "--out", tmp_path / "f.parquet", "--json")
    table, filled = mixed(), data.read_frame(tmp_path / "f.parquet")
    holes = sum(column.null_count for column in table.columns)
    assert json.loads(done.stdout)["filled"] == holes > 100
    assert f"{holes} missing cells filled" in done.stderr
    assert filled.schema.field("at").type == pa.timestamp("ms")  # parquet has no seconds
    filled = filled.cast(TYPES)
    for name in TYPES.names:
        known = table[name].is_valid()
        assert filled[name].null_count == 0
        assert filled[name].filter(known).equals(table[name].filter(known)), name
    vae = lb.load("run")
    for frame in (pl.from_arrow(table), table.to_pandas()):  # whichever library asks
        other = vae.impute(frame, random_state=0)
        back = pa.Table.from_pandas(other) if isinstance(frame, pd.DataFrame) else other.to_arrow()
        assert back.cast(TYPES).to_pydict() == filled.to_pydict()


def test_draws_are_written_one_under_the_other(here: Path, tmp_path: Path) -> None:
    run("impute", "run", "t.parquet", "--out", tmp_path / "d.csv", "--draws", 3, "--seed", 5)
    table, found = mixed(), data.read_frame(tmp_path / "d.csv")
    assert found.column_names == ["draw", *TYPES.names]
    assert found["draw"].to_pylist() == [m for m in range(3) for _ in range(80)]
    each = [found.slice(80 * m, 80).drop_columns("draw").cast(TYPES) for m in range(3)]
    due = lb.load("run").impute(table, 3, random_state=5)
    for draw, other in zip(each, due, strict=True):
        assert draw.to_pydict() == other.to_pydict()
        known = table["seen"].is_valid()
        assert draw["seen"].filter(known).equals(table["seen"].filter(known))
    assert each[0]["seen"] != each[1]["seen"]


# --- sample, encode ---


def test_rows_are_drawn_given_cells_of_every_kind(here: Path, tmp_path: Path) -> None:
    given = {
        "height": ("171.5", 171.5),
        "sex": ("Male", "Male"),
        "visits": ("3", 3),
        "smokes": ("yes", True),
        "seen": ("2020-05-01", dt.date(2020, 5, 1)),
        "at": ("2020-01-02 10:30", dt.datetime(2020, 1, 2, 10, 30)),
        "zip": ("00102", "00102"),
    }
    for name, (text, value) in given.items():
        run("sample", "run", "-n", 20, "--given", f"{name}={text}", "--out", tmp_path / "s.parquet")
        found = data.read_frame(tmp_path / "s.parquet").cast(TYPES)
        assert found[name].to_pylist() == [value] * 20
        assert found["country"].to_pylist() == ["NL"] * 20
        assert found["key"].null_count == 20
        free = [other for other in MODELLED if other != name]
        assert min(len(set(found[other].to_pylist())) for other in free) > 1
    run("sample", "run", "-n", 20, "--seed", 3, "--out", tmp_path / "s.csv")
    drawn = data.read_frame(tmp_path / "s.csv", types_of(lb.load("run").schema_))
    assert drawn.to_pydict() == lb.load("run").sample(20, random_state=3).to_pydict()


def test_encode_and_report(here: Path, tmp_path: Path) -> None:
    run("encode", "run", "t.csv", "--out", tmp_path / "z.npy")
    due = np.hstack(lb.load("run").encode(pl.from_arrow(mixed())))
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), due)
    run("report", "run", "t.csv", "--samples", 20)
    page = (here / "run" / "report.html").read_text()
    assert f"a likelihood for each of {len(MODELLED)} columns" in page
    assert "LogNormal of height" in page
    assert "Grey cells are missing." in page


def test_a_report_knows_classes_by_their_names(here: Path) -> None:
    shown = AsNumbers.of(lb.load("run"), mixed())
    levels = dict(zip(shown.names, shown.levels, strict=True))
    assert levels["sex"] == ("Female", "Male")
    assert levels["height"] == ()
    holes = [found.null_count for found in mixed().select(list(shown.names)).columns]
    assert np.isnan(shown.x).sum(0).tolist() == holes


# --- score ---


def test_the_oddest_rows_and_their_cells(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = mixed()
    row = next(i for i, value in enumerate(table["height"].to_pylist()) if value is not None)
    heights = table["height"].to_pylist()
    heights[row] = 999.0
    odd = table.set_column(1, "height", pa.array(heights))
    data.write_frame(tmp_path / "odd.csv", odd)
    files = ("--samples", 100, "--out", tmp_path / "s.csv")
    run("score", "run", tmp_path / "odd.csv", "--anomaly", "--top", 3, *files, "--json")
    out, words = capsys.readouterr()
    said = json.loads(out)
    assert [said["rows"], len(said["oddest"])] == [80, 3]
    first = said["oddest"][0]
    assert (first["row"], first["column"], first["value"]) == (row, "height", 999.0)
    assert f"row {row}: {first['score']:.2f}" in words
    assert "most from height = 999.0" in words
    rows = data.read_frame(tmp_path / "s.csv")
    names = ["score", "standard_error", "ess", "latent"]
    assert rows.column_names == [*names, *(f"cells.{name}" for name in MODELLED)]
    cells = np.column_stack([rows[f"cells.{name}"] for name in MODELLED])
    score = rows["score"].to_numpy()
    np.testing.assert_allclose(score, rows["latent"].to_numpy() + cells.sum(1), rtol=1e-6)
    np.testing.assert_array_equal(score, lb.load("run").anomaly(odd, samples=100).score)
    order = [each["row"] for each in said["oddest"]]
    assert order == np.argsort(-score, kind="stable")[:3].tolist()
    at = next(i for i in range(80) if table["at"][i].as_py() is None)
    assert cells[at, MODELLED.index("at")] == 0


def test_an_odd_cell_is_found_in_whatever_unit_its_column_is(start: Path) -> None:
    """Seconds have more nats than days: the cell that adds most in them is the same one for every row."""
    from lowerbound.cli.anomaly_scores import per_spread

    vae, table = lb.load(start / "run"), mixed()
    found = vae.anomaly(table, samples=50)
    cells = np.column_stack([column.to_numpy() for column in found.cells.columns])
    fair = per_spread(vae, table, cells)
    there = table["at"].is_valid().to_numpy(zero_copy_only=False)
    assert (cells[there].argmax(1) == MODELLED.index("at")).all()
    assert np.bincount(fair[there].argmax(1), minlength=7).max() < 0.8 * there.sum()
    assert (fair[~there, MODELLED.index("at")] == -np.inf).all()


def test_score_says_of_what(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("score", "run", "t.csv", "--samples", 50, "--json")
    out, words = capsys.readouterr()
    direct = lb.load("run").log_likelihood(mixed(), samples=50)
    assert json.loads(out)["log_likelihood"] == pytest.approx(direct.mean, rel=1e-6)
    assert "nats per row of observed cells, in the columns' own units" in words
    assert json.loads(out)["bits_per_dimension"] is None


# --- bad input ---

CSV = b"key,height,sex,visits,smokes,seen,at,zip,country\n"
BAD: dict[str, tuple[str, int, tuple[str, ...], bytes]] = {
    "a column missing": (
        "score run b.csv",
        BAD_DATA,
        ("lacks 'sex'", "in any order"),
        CSV.replace(b"sex,", b"") + b"k,1,,,,,,\n",
    ),
    "a value that cannot be": (
        "encode run b.csv --strict --out o.csv",
        BAD_DATA,
        ("row 0 of column 'height' is -5",),
        CSV + b"k,-5,,,,,,,NL\n",
    ),
    "half a visit": (
        "score run b.csv --anomaly --strict",
        BAD_DATA,
        ("column 'visits' is 2.5", "whole number"),
        CSV + b"k,,,2.5,,,,,NL\n",
    ),
    "text for numbers": (
        "score run b.csv",
        BAD_DATA,
        ("column 'height' holds text", "row 0 is 'tall'"),
        CSV + b"k,tall,,,,,,,NL\n",
    ),
    "numbers for dates": (
        "score run b.csv",
        BAD_DATA,
        ("column 'seen' holds numbers", "holds times"),
        CSV + b"k,,,,,18000,,,NL\n",
    ),
    "a row cut short": (
        "impute run b.csv --out o.csv",
        BAD_DATA,
        (r"b\.csv", "line 3: Expected 9 columns, got 2"),
        CSV + b"k,,,,,,,,\nk,1\n",
    ),
    "an array's model to impute text": (
        "impute array t.csv --out o.csv",
        BAD_DATA,
        ("column 'key' holds String, not numbers", "leave the column out"),
        b"",
    ),
    "an array's model for anomalies": ("score array t.csv --anomaly", BAD_DATA, ("array was fitted to an array",), b""),
    "an array's model, given": (
        "sample array --given a=1 --out o.csv",
        BAD_DATA,
        ("array was fitted to an array",),
        b"",
    ),
    "a table's model, an array": ("impute run digits --out o.csv", BAD_DATA, ("are an array",), b""),
    "a column of draws": (
        "impute run b.csv --draws 2 --out o.csv",
        BAD_DATA,
        ("a column 'draw'",),
        CSV.replace(b"key", b"draw") + b"k,,,,,,,,\n",
    ),
    "given: no column": (
        "sample run --given colour=red --out o.csv",
        BAD_DATA,
        ("names 'colour'", "its columns are"),
        b"",
    ),
    "given: a key": ("sample run --given key=k001 --out o.csv", BAD_DATA, ("names 'key'", "not modelled"), b""),
    "given: a new level": (
        "sample run --given sex=Other --out o.csv",
        BAD_DATA,
        ("'Other', which does not occur in the data", "'Female', 'Male'"),
        b"",
    ),
    "given: no number": (
        "sample run --given height=tall --out o.csv",
        BAD_DATA,
        ("'tall', which is not a number", "as 37"),
        b"",
    ),
    "given: half a visit": (
        "sample run --given visits=2.5 --out o.csv",
        BAD_DATA,
        ("given: column 'visits' is given '2.5'", "whole number"),
        b"",
    ),
    "given: no date": (
        "sample run --given seen=soon --out o.csv",
        BAD_DATA,
        ("'soon', which is not a date", "2001-12-31"),
        b"",
    ),
    "given: neither": (
        "sample run --given smokes=maybe --out o.csv",
        BAD_DATA,
        ("'maybe', which is not a truth value",),
        b"",
    ),
    "given: impossible": (
        "sample run --given height=-3 --out o.csv",
        BAD_DATA,
        ("column 'height' is given '-3'", "above 0"),
        b"",
    ),
    "given: no pair": ("sample run --given height --out o.csv", USAGE, ("'height' is not NAME=VALUE",), b""),
    "given twice": (
        "sample run --given visits=1 --given visits=2 --out o.csv",
        USAGE,
        ("'visits' is given twice",),
        b"",
    ),
    "rows of text into npy": (
        "sample run --out o.npy",
        USAGE,
        (".npy files hold only numbers", "column 'key'", "use .csv"),
        b"",
    ),
    "schema: no column": ("fit t.csv --out new --schema colour=real", BAD_DATA, ("schema names 'colour'",), b""),
    "schema: no kind": (
        "fit t.csv --out new --schema visits=cuont",
        USAGE,
        ("'cuont' is not a kind", "did you mean 'count'"),
        b"",
    ),
    "schema: text without an order": (
        "fit t.csv --out new --schema zip=ordinal",
        BAD_DATA,
        ("'zip' is ordinal, but text has no order", "--schema zip=ordinal:LOWEST"),
        b"",
    ),
    "schema: a level that no cell may lack": (
        "fit t.csv --out new --schema zip=ordinal:00100,00101",
        BAD_DATA,
        ("'zip'",),
        b"",
    ),
    "schema: no pair": ("fit t.csv --out new --schema visits", USAGE, ("'visits' is not NAME=KIND",), b""),
    "schema: against the cells": (
        "fit t.csv --out new --schema sex=real",
        BAD_DATA,
        ("'sex' is real, but it holds text",),
        b"",
    ),
    "schema of a matrix": (
        "fit t.csv --out new --schema visits=real --likelihood Normal",
        BAD_DATA,
        ("schema needs a data frame",),
        b"",
    ),
    "both of score": ("score run t.csv --anomaly --evidence", USAGE, ("give only one of them",), b""),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, words, content = BAD[name]
    (here / "b.csv").write_bytes(content)
    before = tree(here)
    run(*arguments.split(), code=code)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert code == USAGE or len(err.strip().splitlines()) == 1, err
    assert_one_sentence(last.removeprefix("Error: "), words)
    assert tree(here) == before


def test_levels_that_were_never_seen_are_said_and_refused_where_strict(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "u.csv").write_bytes(CSV + b"k,170,Other,3,true,,,00101,NL\nk,170,,3,true,,,00101,NL\n")
    run("score", "run", tmp_path / "u.csv", "--samples", 20, "--anomaly", "--out", tmp_path / "s.npy")
    assert (
        "warning: X has levels that were not in the fitted data; they count as missing: 1 of 'sex'"
        in capsys.readouterr().err
    )
    scores = np.load(tmp_path / "s.npy")
    assert scores[0, 5] == scores[1, 5] == 0
    run("fit", "t.csv", "--out", tmp_path / "strict", *QUICK, "--strict")
    run("score", tmp_path / "strict", tmp_path / "u.csv", "--samples", 20, code=BAD_DATA)
    assert "row 0 of column 'sex' is 'Other', which is not a level of the column" in capsys.readouterr().err
