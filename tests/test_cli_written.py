"""Csv files as people write them, through the commands: read, said, and written back as they were."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from messages import assert_one_sentence

import lowerbound as lb
from lowerbound import cli, data
from lowerbound.errors import DataError, FormatError
from lowerbound.schema import Schema, infer

QUICK = ("--epochs", "2", "--hidden", "4", "--latent-dim", "1", "--threads", "1")
USAGE, BAD_DATA = 2, 65
N = 60
RNG = np.random.default_rng(0)


def run(*arguments: object, code: int = 0) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
    assert left.value.code == code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return tmp_path


def cells() -> dict[str, list[str]]:
    """A table as text: every way of writing that a reader might tidy up."""
    days = pd.date_range("2024-01-01", periods=N, freq="7h")
    held = {
        "key": [f"k{i}" for i in range(N - 1)] + ["?"],
        "amount": [f"{value:,.2f}" for value in 1000 * np.exp(RNG.normal(size=N))],
        "price": [f"{value:.2f}" for value in np.exp(RNG.normal(size=N))],  # 1.50 keeps its 0
        "truth": np.where(RNG.random(N) > 0.5, "TRUE", "FALSE").tolist(),
        "at": days.strftime("%Y-%m-%dT%H:%M").tolist(),
        "day": days.strftime("%d.%m.%Y").tolist(),
        "share": [f"{value} %" for value in RNG.integers(0, 90, N)],
        "zip": [f"0{code}" for code in RNG.integers(100, 103, N)],
        "whole": RNG.choice(["1", "+2", "3e0"], N).tolist(),
        "note": RNG.choice(['say "so"', "a, b", "plain"], N).tolist(),
    }
    for j, name in enumerate(("amount", "truth", "at", "day", "share", "price")):
        held[name][3 + j], held[name][20 + j] = "", "NA"
    held["amount"][40], held["day"][41] = "?", "-"
    return held


def write(path: Path, held: dict[str, list[str]], separator: str = ",") -> None:
    text = io.StringIO()
    out = csv.writer(text, delimiter=separator, lineterminator="\n")
    out.writerow(held)
    out.writerows(zip(*held.values(), strict=True))
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def read(path: Path, separator: str = ",") -> dict[str, list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=separator))
    return {name: [row[j] for row in rows[1:]] for j, name in enumerate(rows[0])}


WAYS = {
    "amount": r"\d{1,3}(,\d{3})*\.\d\d",
    "price": r"\d+(\.\d+)?",
    "truth": "TRUE|FALSE",
    "at": r"\d{4}-\d\d-\d\dT\d\d:\d\d",
    "day": r"\d\d\.\d\d\.\d{4}",
    "share": r"\d+ %",
    "zip": r"0\d{3}",
}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "tsv.gz"])
def test_every_cell_comes_back_as_it_was_and_every_other_as_its_column_is_written(
    suffix: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, name = cells(), f"t.{suffix}"
    write(here / name, held, "\t" if "tsv" in suffix else ",")
    run("fit", name, "--out", "r", *QUICK)
    said = capsys.readouterr().err
    assert "separator" not in said  # nothing unusual, or the suffix says it
    run("impute", "r", name, "--out", "full.csv", "--json")
    told = json.loads(capsys.readouterr().out)
    full = read(here / "full.csv")
    filled = 0
    for column, texts in held.items():
        for row, text in enumerate(texts):
            hole = column in WAYS and text in ("", "NA", "?", "-")
            if hole:
                filled += 1
                assert re.fullmatch(WAYS[column], full[column][row]), (column, full[column][row])
            else:
                assert full[column][row] == text, (column, row)
    assert (told["filled"], told["left"]) == (filled, 0)
    run("impute", "r", name, "--draws", 2, "--out", "draws.csv")
    draws = read(here / "draws.csv")
    assert draws["draw"] == ["0"] * N + ["1"] * N
    assert all(draws[column] == held[column] * 2 for column in ("key", "zip", "whole", "note"))
    run("sample", "r", "-n", 30, "--out", "s.csv")
    drawn = read(here / "s.csv")
    for column, way in WAYS.items():
        assert all(re.fullmatch(way, text) for text in drawn[column]), column
    run("score", "r", name, "--samples", 10, "--anomaly", "--top", 1)
    run("encode", "r", name, "--out", "z.npy")
    run("check", name)


def test_a_file_of_semicolons_and_decimal_commas(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = {
        "a": [f"{value:.2f}".replace(".", ",") for value in RNG.normal(size=N)],
        "b": [f"{value:,.2f}".translate({44: ".", 46: ","}) for value in 1000 * np.exp(RNG.normal(size=N))],
        "c": RNG.choice(["x", "y"], N).tolist(),
    }
    held["a"][5] = held["b"][6] = ""
    write(here / "e.csv", held, ";")
    run("fit", "e.csv", "--out", "r", *QUICK)
    words = "warning: e.csv is read with semicolons between its values and decimal commas; --separator and --decimal"
    assert words in capsys.readouterr().err
    schema = lb.load("r").schema_
    assert isinstance(schema, Schema)
    assert (schema["a"].kind, schema["b"].kind, schema["b"].form) == ("real", "positive", "#.##0,00")
    assert schema.csv == data.Csv(";", ",")
    run("impute", "r", "e.csv", "--out", "f.csv")
    full = read(here / "f.csv", ";")
    assert [full["a"][row] for row in range(N) if row != 5] == [held["a"][row] for row in range(N) if row != 5]
    assert re.fullmatch(r"-?\d+(,\d+)?", full["a"][5])
    assert re.fullmatch(r"\d{1,3}(\.\d{3})*,\d\d", full["b"][6])
    run("sample", "r", "-n", 9, "--out", "s.csv")
    assert all(re.fullmatch(r"-?\d+(,\d+)?", text) for text in read(here / "s.csv", ";")["a"])
    capsys.readouterr()
    run("score", "r", "e.csv", "--samples", 10, "--separator", ";", "--decimal", ",")
    assert "--separator" not in capsys.readouterr().err
    with pytest.warns(UserWarning, match="semicolons"):
        assert lb.check(here / "e.csv").problems == ()
    table = pd.read_csv(here / "e.csv", sep=";", decimal=",", thousands=".")
    with pytest.warns(UserWarning, match="semicolons"):
        found = infer(data.read_frame(here / "e.csv"))
    assert found["b"].high == table["b"].max()
    numbers = here / "n.csv"
    pd.DataFrame(RNG.normal(size=(9, 2)), columns=["u", "v"]).to_csv(numbers, sep=";", decimal=",", index=False)
    with pytest.warns(UserWarning, match="decimal commas"):
        np.testing.assert_allclose(data.read(numbers).x, pd.read_csv(numbers, sep=";", decimal=",").to_numpy())


@pytest.mark.parametrize(
    ("content", "separator", "decimal"),
    [
        ("a;b\n1,5;2\n3,5;4\n", ";", ","),
        ("a;b\n1.5;2\n3.5;4\n", ";", "."),
        ("a\tb\n1,5\t2\n", "\t", ","),
        ("a|b\nx|2\n", "|", "."),
        ("a,b\n1,2\n", ",", "."),
        ("a,b\n1;2,3\n4;5,6\n", ",", "."),
        ('a,b\n"x;y",3\n"z;w",6\n', ",", "."),
        ("a\n1\n2\n", ",", "."),
        ('"a;b";c\n"1;2";3\n', ";", "."),
        ("a;b;c\n1;2;3\n4;5\n", ";", "."),
    ],
)
def test_what_separates_values_is_told_from_the_file(content: str, separator: str, decimal: str, here: Path) -> None:
    (here / "t.csv").write_text(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        told = data.dialect.File(here / "t.csv").told().csv
    assert (told.separator, told.decimal) == (separator, decimal)
    assert len(said) == ((separator, decimal) != (",", "."))


def test_missing_values_that_are_declared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = {
        "a": [f"{value:.1f}" for value in RNG.normal(size=N)],
        "c": RNG.choice(["x", "y", "?"], N).tolist(),
        "k": [f"key {i}" for i in range(N)],
    }
    held["a"][4] = "-999"
    held["k"][5] = "?"
    write(here / "t.csv", held)
    run("fit", "t.csv", "--out", "r", *QUICK, "--missing-values", "?,-999")
    schema = lb.load("r").schema_
    assert isinstance(schema, Schema)
    assert schema["c"].levels == ("x", "y")
    assert schema["a"].low is not None
    assert schema["a"].low > -10
    run("impute", "r", "t.csv", "--out", "f.csv")  # what was declared in the fit holds
    full = read(here / "f.csv")
    assert full["k"] == held["k"]
    assert set(full["c"]) == {"x", "y"}
    assert full["a"][4] != "-999"
    data.write_frame(here / "t.parquet", pa.table({"a": [*map(float, held["a"])], "c": held["c"], "k": held["k"]}))
    run("check", "t.parquet", "--missing-values", "?,-999", "--json")
    columns = {each["name"]: each for each in json.loads(capsys.readouterr().out)["columns"]}
    assert columns["a"]["missing"] == pytest.approx(1 / N)
    assert columns["c"]["missing"] == pytest.approx(held["c"].count("?") / N)


def test_a_form_is_declared_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "t.csv", {"day": ["01/02/2001", "03/04/2001", "05/06/2002"] * 9, "p": ["1.234", "5.678", "9.012"] * 9})
    run("check", "t.csv", "--schema", "day=datetime:%d/%m/%Y", "--schema", "p=categorical", "--json")
    said = json.loads(capsys.readouterr().out)["columns"]
    assert "%d/%m/%Y" in said[0]["why"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("check t.csv --separator ;;", USAGE, ("is neither one character",)),
        ("check t.csv --decimal x", USAGE, ("'x' is not one of",)),
        ("check t.csv --separator , --decimal ,", USAGE, ("decimal is ','",)),
        ("check t.parquet --separator ;", BAD_DATA, ("no csv file", "leave them out")),
        ("check cut.csv.gz", BAD_DATA, ("not a whole csv file",)),
        ("check t.csv --schema a=datetime:%q", BAD_DATA, ("an invalid form", "'%q'")),
    ],
)
def test_options_that_cannot_be(
    arguments: str, code: int, words: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "t.csv", {"a": ["1", "2"], "b": ["x", "y"]})
    data.write_frame(here / "t.parquet", pa.table({"a": [1, 2]}))
    (here / "cut.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:-20])
    run(*arguments.split(), code=code)
    out, err = capsys.readouterr()
    said = (err + out).strip().splitlines()
    assert_one_sentence(next(line for line in said if re.search(words[0], line)).removeprefix("Error: "), words)


@pytest.mark.parametrize("found", [3, {}, {"separator": ";;", "decimal": ".", "missing": []}, [], "x",
                                   {"separator": ";", "decimal": "x", "missing": []},
                                   {"separator": ";", "decimal": ",", "missing": [3]}])  # fmt: skip
def test_a_forged_csv_is_refused(found: Any) -> None:
    given = infer(pd.DataFrame({"x": [1.5, 2.5]})).as_dict()
    with pytest.raises(FormatError, match=r"csv (of the schema )?is"):
        Schema.from_dict(given | {"csv": found})


def test_what_is_no_dialect() -> None:
    for wrong in ({"separator": "ab"}, {"separator": '"'}, {"decimal": ";"}, {"separator": ",", "decimal": ","}):
        with pytest.raises(ValueError, match=r"separator is|decimal is"):
            data.Csv(**wrong)
    with pytest.raises(DataError, match="no csv file"):
        data.load("digits.npy" if False else __file__, csv=data.Csv(";"))


def test_a_path_that_is_not_in_utf_8(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, table = here / os.fsdecode(b"r\xff"), here / os.fsdecode(b"t\xff.csv")
    write(table, {"a": [f"{value:.3f}" for value in RNG.normal(size=N)], "c": ["x", "y"] * (N // 2)})
    run("fit", table, "--out", run_dir, *QUICK)
    few = ("--samples", 5)
    commands = [("check", table), ("info", run_dir), ("impute", run_dir, table, "--out", table)]
    for arguments in (*commands, ("report", run_dir, table, *few), ("score", run_dir, table, *few)):
        run(*arguments, "--json")
        json.loads(capsys.readouterr().out)
    page = (run_dir / "report.html").read_bytes().decode()
    assert "t\ufffd.csv" in page
    data.write_frame(here / os.fsdecode(b"t\xff.parquet"), pa.table({"a": [1.5, 2.5]}))
    assert data.read_frame(here / os.fsdecode(b"t\xff.parquet")).num_rows == 2
