"""Text that a spreadsheet program would run: passed through by default, plain text by --safe-csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner

from lowerbound.cli import commands
from lowerbound.data import Csv, safe_csv, write, write_frame

FORMULAS = ["=1+1", "+1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"]
PLAIN = ["a", "", " =1", "'=1", "1-2", "ß", "a=b"]


def cells(path: Path, separator: str = ",") -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter=separator))


FRAMES: dict[str, Any] = {
    "pandas": lambda texts: pd.DataFrame({"=name": texts, "n": -1.5}),
    "categories of pandas": lambda texts: pd.DataFrame({"=name": pd.Categorical(texts), "n": -1.5}),
    "polars": lambda texts: pl.DataFrame({"=name": texts, "n": [-1.5] * len(texts)}),
    "pyarrow": lambda texts: pa.table({"=name": pa.array(texts, pa.large_string()), "n": [-1.5] * len(texts)}),
    "a dictionary": lambda texts: pa.table({"=name": pa.array(texts).dictionary_encode(), "n": [-1.5] * len(texts)}),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("separator", [",", ";"])
def test_text_cells_and_names_are_plain_and_numbers_stay(kind: str, separator: str, tmp_path: Path) -> None:
    frame, form = FRAMES[kind](FORMULAS + PLAIN), Csv(separator)
    write_frame(tmp_path / "as_is.csv", frame, form)
    with safe_csv():
        write_frame(tmp_path / "safe.csv", frame, form)
        write_frame(tmp_path / "safe.parquet", frame)
    write_frame(tmp_path / "again.csv", frame, form)
    head, *rows = cells(tmp_path / "safe.csv", separator)
    assert head == ["'=name", "n"]
    assert [row[0] for row in rows] == ["'" + text for text in FORMULAS] + PLAIN
    assert {row[1] for row in rows} == {"-1.5"}
    assert [row[0] for row in cells(tmp_path / "as_is.csv", separator)] == ["=name", *FORMULAS, *PLAIN]
    assert (tmp_path / "as_is.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    assert pd.read_parquet(tmp_path / "safe.parquet")["=name"].tolist() == FORMULAS + PLAIN


def test_what_is_written_to_the_letter(tmp_path: Path) -> None:
    """Cells of a column of numbers come back as they were written: numbers as they are, other text plain."""
    texts = ["-1,5", "- 1", "-1e3", "+7 %", "=1", "-x", "-1+cmd", None]
    frame = pa.table({"n": pa.array(np.arange(8.0))})
    with safe_csv():
        write_frame(tmp_path / "safe.csv", frame, Csv(";", ","), {"n": texts})
    found = [row[0] for row in cells(tmp_path / "safe.csv", ";")[1:]]
    assert found == ["-1,5", "- 1", "-1e3", "+7 %", "'=1", "'-x", "'-1+cmd", "7"]


def test_names_of_arrays(tmp_path: Path) -> None:
    with safe_csv():
        write(tmp_path / "safe.csv", np.array([[-1.0, 2.0]]), ["=a", "b"])
    assert cells(tmp_path / "safe.csv") == [["'=a", "b"], ["-1", "2"]]


def test_every_command_that_writes_csv_offers_it(tmp_path: Path) -> None:
    for name, command in commands.commands.items():
        options = {option for each in command.params for option in each.opts}
        writes = any("csv" in (getattr(each, "help", None) or "") for each in command.params if "--out" in each.opts)
        assert ("--safe-csv" in options) == writes, name


def test_at_the_command_line(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    levels = draw.choice(["=1+1", "@x", "a"], 60)
    write_frame(tmp_path / "x.csv", pa.table({"-n": draw.normal(size=60).round(2), "level": levels}))
    run = ["fit", str(tmp_path / "x.csv"), "--out", str(tmp_path / "run"), "--hidden", "4", "--epochs", "1"]
    for arguments in (
        [*run, "--latent-dim", "1", "--seed", "0"],
        ["sample", str(tmp_path / "run"), "-n", "40", "--out", str(tmp_path / "as_is.csv")],
        ["sample", str(tmp_path / "run"), "-n", "40", "--safe-csv", "--out", str(tmp_path / "safe.csv")],
    ):
        result = CliRunner().invoke(commands, arguments)
        assert result.exit_code == 0, result.output
    head, *rows = cells(tmp_path / "as_is.csv")
    safe_head, *safe = cells(tmp_path / "safe.csv")
    assert (head, safe_head) == (["-n", "level"], ["'-n", "level"])
    assert [row[0] for row in rows] == [row[0] for row in safe]
    assert {row[1] for row in rows} >= {"=1+1", "@x"}
    assert [row[1] for row in safe] == [f"'{row[1]}" if row[1] != "a" else "a" for row in rows]
