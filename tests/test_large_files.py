"""Files that are wide, long in one field, or never closed: read in time that grows with them, or refused in words."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from messages import assert_one_sentence

import lowerbound as lb
from lowerbound import data
from lowerbound.data import reading
from lowerbound.errors import DataError, is_out_of_memory
from lowerbound.schema import infer


class Name(str):
    """A name that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


@pytest.fixture
def names() -> list[str]:
    Name.compared = 0
    return [Name(f"column {number}") for number in range(2000)]


def test_names_are_compared_as_often_as_there_are_columns(names: list[str]) -> None:
    assert reading.repeated(names) is None
    reading.check_names(names, Path("wide.csv"))
    assert Name.compared <= 2 * len(names)
    assert reading.repeated([*names, names[7]]) == "column 7"


def test_a_wide_table_is_known_by_names_in_linear_time(names: list[str]) -> None:
    x = np.random.default_rng(0).normal(size=(5, 200))
    schema = infer(pd.DataFrame(x, columns=list(map(str, names[:200]))))
    asked = [Name(name) for name in names[:200]]
    Name.compared = 0
    assert [schema[name].name for name in asked] == asked
    assert Name.compared <= 5 * len(asked)
    with pytest.raises(KeyError, match="the schema has no column 'other'"):
        schema["other"]


# --- csv files ---


def refused(path: Path, *words: str) -> None:
    for read in (data.read, data.read_frame):
        with pytest.raises(DataError) as caught:
            read(path)
        assert_one_sentence(str(caught.value), (str(path), *words))


@pytest.mark.parametrize("rows", [1, 20, 20_000])
@pytest.mark.parametrize("last", ["b", "c"])
def test_a_quote_that_is_never_closed(rows: int, last: str, tmp_path: Path) -> None:
    path = tmp_path / "open.csv"
    opened = '3,"x,5\n' if last == "b" else '3,4,"x\n'
    path.write_text("a,b,c\n1,2,3\n" + opened + "".join(f"{row},5,6\n" for row in range(rows)))
    with pytest.raises(DataError) as caught:
        data.read_frame(path)
    assert_one_sentence(str(caught.value), (str(path),))
    if last == "c":
        refused(path, "opens a quote about line [34], in column 'c', that is not closed")


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_field_of_many_megabytes(quote: str, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(f"a,b\n1,u\n3,{quote}{'x' * 12_000_000}{quote}\n")
    refused(path, "has a field of 12000000 bytes in row 1, column 'b'")


@pytest.mark.parametrize(
    "text", ['a,b\n1,"x\ny"\n', 'a,b\n1,5" pipe\n2,6" pipe\n3,7" pipe\n', 'a,b\n1,"he said ""no"""\n']
)
def test_quotes_that_are_closed_or_inches_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "fine.csv"
    path.write_text(text)
    assert data.read_frame(path).num_rows >= 1


# --- links to write to ---


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
def test_what_is_written_to_a_link_is_written_where_it_points(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / f"t.{suffix}", tmp_path / f"link.{suffix}"
    link.symlink_to(target)
    for _ in range(2):  # where nothing is yet, and where the file is
        data.write(link, np.ones((3, 2)), ["a", "b"])
        assert link.is_symlink()
        assert target.is_file()
        assert not target.is_symlink()
    if suffix != "npy":
        data.write_frame(link, pa.table({"a": [1]}))
        assert link.is_symlink()
        assert data.read_frame(target).num_rows == 1


def test_a_model_goes_where_a_link_points_or_says_why_not(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    vae = lb.VAE(2, hidden=(4,), epochs=1, random_state=0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    vae.fit(x, run_dir=tmp_path / "link")
    assert (tmp_path / "folder" / "config.json").is_file()
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(OSError, match="is a link to nowhere, which does not exist; make that"):
        vae.fit(x, run_dir=tmp_path / "dangling")


# --- memory ---


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("libx.so: cannot allocate memory in static TLS block"), True),
        (ImportError("No module named 'matplotlib'"), False),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes differ"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_is_short(error: Exception, short: bool) -> None:
    assert is_out_of_memory(error) is short
    outer = ImportError("importing failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer) is short


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS does not limit the address space")
@pytest.mark.parametrize("megabytes", [60, 200, 500])
def test_imports_without_memory_end_in_a_sentence(megabytes: int, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2)))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    command = [sys.executable, "-m", "lowerbound", "check", str(tmp_path / "x.npy")]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limited, check=False, env=dict(os.environ)
    )
    assert done.returncode == 71, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: not enough memory")
