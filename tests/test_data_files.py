"""Files and frames: round trips through real files, and what is said of a malformed one."""

from __future__ import annotations

import contextlib
import gzip
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from lowerbound.data import Rows, from_frame, read, write
from lowerbound.errors import DataError

DTYPES = ["f4", "f8", "i8", "u1", "?"]
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.astype(IDX_TYPES[kind]).tobytes()


def npy_bytes(tmp_path: Path, array: np.ndarray) -> bytes:
    np.save(tmp_path / "whole.npy", array)
    return (tmp_path / "whole.npy").read_bytes()


def values(dtype: str) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(50, 3)) * 9).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str, dtype: str) -> None:
    path, array = tmp_path / f"table{suffix}", values(dtype)
    write(path, array, ("b", "a", "é, c"))
    table = read(path)
    np.testing.assert_array_equal(table.x.astype(dtype), array)
    if suffix != ".csv":
        assert table.x.dtype == array.dtype
    assert table.names == (None if suffix == ".npy" else ("b", "a", "é, c"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_read_can_be_held(tmp_path: Path) -> None:
    for name, array in (("a.npy", values(">f8")), ("b.parquet", values("u1")), ("c.csv", values(">i4"))):
        write(tmp_path / name, array)
        assert len(Rows.from_array(read(tmp_path / name).x)) == 50
    assert read(tmp_path / "b.parquet").names == ("x0", "x1", "x2")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_nan_is_a_missing_value(tmp_path: Path, suffix: str) -> None:
    array = np.array([[1.5, np.nan], [np.nan, -2.0], [0.1, np.nan]])
    write(tmp_path / f"t{suffix}", array)
    np.testing.assert_array_equal(read(tmp_path / f"t{suffix}").x, array)
    assert b"nan" not in (tmp_path / f"t{suffix}").read_bytes()


def test_npz(tmp_path: Path) -> None:
    x, y = values("f8"), np.arange(50)
    path = tmp_path / "t.npz"
    for given, labelled in (({"x": x, "z": y, "y": y}, True), ({"rows": x, "labels": y}, True), ({"r": x}, False)):
        np.savez_compressed(path, **given)
        table = read(path)
        np.testing.assert_array_equal(table.x, x)
        assert (table.labels is not None) == labelled
        if table.labels is not None:
            np.testing.assert_array_equal(table.labels, y)


@pytest.mark.parametrize("kind", IDX_TYPES)
@pytest.mark.parametrize("name", ["a.idx", "a-idx3-ubyte", "a.idx.gz", "a-idx3-ubyte.gz"])
def test_idx(tmp_path: Path, name: str, kind: int) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    data = idx_bytes(array, kind)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    table = read(tmp_path / name)
    np.testing.assert_array_equal(table.x, array)
    assert table.x.dtype.isnative
    assert table.x.flags.writeable


CSV = {
    "named": ("a,b\n1,2.5\n3,\n", ("a", "b"), [[1, 2.5], [3, np.nan]]),
    "not named": ("1,2.5\n3,4\n", None, [[1, 2.5], [3, 4]]),
    "not named, a gap": ("1.5,,1\n3,4,1\n", None, [[1.5, np.nan, 1], [3, 4, 1]]),
    "quoted years": ('"2019","2020"\n1,2\n', ("2019", "2020"), [[1, 2]]),
    "byte order mark": ("\ufeffa,b\n1,2\n", ("a", "b"), [[1, 2]]),
    "bool": ("a,b\ntrue,1\nfalse,2\n", ("a", "b"), [[1, 1], [0, 2]]),
    "a column of gaps": ("a,b\n1,\n2,\n", ("a", "b"), [[1, np.nan], [2, np.nan]]),
}


@pytest.mark.parametrize("case", CSV)
def test_csv_as_others_write_it(tmp_path: Path, case: str) -> None:
    text, names, x = CSV[case]
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    table = read(tmp_path / "t.csv")
    assert table.names == names
    np.testing.assert_array_equal(table.x, x)


def test_a_csv_column_that_turns_to_fractions_late(tmp_path: Path) -> None:
    lines = "1234567\n" * 200_000  # more than a block of the reader, from which it infers types
    (tmp_path / "t.csv").write_text(f"a\n{lines}0.5\n")
    assert read(tmp_path / "t.csv").x[-1, 0] == 0.5


MALFORMED: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "npy empty": ("t.npy", lambda p: b"", "not a whole npy file"),
    "npy cut": ("t.npy", lambda p: npy_bytes(p, np.zeros(999))[:-8], "not a whole npy file"),
    "npy cut header": ("t.npy", lambda p: npy_bytes(p, np.zeros(9))[:40], "not a whole npy file"),
    "npy magic": ("t.npy", lambda p: b"hello, world", "not a whole npy file"),
    "npy of objects": ("t.npy", lambda p: npy_bytes(p, np.array([{}, None])), "not a whole npy file"),
    "npy of text": ("t.npy", lambda p: npy_bytes(p, np.array(["a"])), "holds <U1, not numbers"),
    "npy of nothing": ("t.npy", lambda p: npy_bytes(p, np.zeros((0, 3))), "holds no rows"),
    "npy too large": (
        "t.npy",
        lambda p: npy_bytes(p, np.zeros(99)).replace(b"(99,), }      ", b"(9999999999,)}"),
        "not a whole npy file",
    ),
    "npz empty": ("t.npz", lambda p: b"", "not a whole npz file"),
    "npz magic": ("t.npz", lambda p: npy_bytes(p, np.zeros(3)), "not a whole npz file"),
    "csv empty": ("t.csv", lambda p: b"", "not a whole csv file .Empty"),
    "csv ragged": ("t.csv", lambda p: b"a,b\n1,2\n3\n", "not a whole csv file .*Expected 2 columns"),
    "csv names only": ("t.csv", lambda p: b"a,b\n", "holds no rows"),
    "csv names twice": ("t.csv", lambda p: b"a,a\n1,2\n", "two columns called 'a'"),
    "csv text": ("t.csv", lambda p: b"a,b\n1,2\n3,four\n", r"column 'b' holds String, .*row 1 is 'four'"),
    "csv date": ("t.csv", lambda p: b"a\n2020-01-01\n", "column 'a' holds Date, not numbers"),
    "csv names or data": ("t.csv", lambda p: b"0,1\n5,6\n", "may be names or data"),
    "csv not utf-8": ("t.csv", lambda p: b"a\n\xff\n", "column 'a' holds Binary"),
    "parquet empty": ("t.parquet", lambda p: b"", "not a whole parquet file"),
    "parquet magic": ("t.parquet", lambda p: b"PAR1 and then nothing", "not a whole parquet file"),
    "idx empty": ("t.idx", lambda p: b"", "not an idx file: it starts with nothing"),
    "idx magic": ("t.idx", lambda p: b"hello", "not an idx file: it starts with 68656c6c"),
    "idx type": ("t.idx", lambda p: b"\0\0\x07\x01\0\0\0\x01a", "not an idx file"),
    "idx cut": ("t-ubyte", lambda p: idx_bytes(np.zeros((3, 3)))[:-1], "cut short.* 9 bytes"),
    "idx cut header": ("t.idx", lambda p: b"\0\0\x08\x03\0\0\0\x01", "cut short within its header"),
    "idx too long": ("t.idx", lambda p: idx_bytes(np.zeros((3, 3))) + b"x", "longer than its header says"),
    "idx too large": ("t.idx", lambda p: b"\0\0\x0e\x03" + b"\xff" * 12, "cut short"),
    "idx of nothing": ("t.idx", lambda p: idx_bytes(np.zeros((0, 3))), "holds no rows"),
    "gz cut": ("t.idx.gz", lambda p: gzip.compress(idx_bytes(np.eye(99)))[:-9], "not a whole gzip file"),
    "gz flipped": ("t.idx.gz", lambda p: gzip.compress(idx_bytes(np.eye(9)))[:-8] + b"abcdefgh", "gzip file .CRC"),
    "gz too large": ("t.idx.gz", lambda p: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "cut short"),
    "gz inside cut": ("t.idx.gz", lambda p: gzip.compress(idx_bytes(np.eye(9))[:-1]), "cut short"),
    "suffix": ("t.mat", lambda p: b"x", r"no known suffix.*\.npy, \.npz, \.csv, \.parquet, \.idx"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named(tmp_path: Path, case: str) -> None:
    name, data, said = MALFORMED[case]
    path = tmp_path / name
    path.write_bytes(data(tmp_path))
    with pytest.raises(DataError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


NPZ: dict[str, tuple[dict[str, Any], str]] = {
    "objects": ({"x": np.array([{}, None])}, "not a whole npz file"),
    "which": ({"a": np.ones(3), "b": np.ones(3)}, "call the one to read x"),
    "labels": ({"x": np.ones(3), "y": np.ones(4)}, "one label a row"),
    "text": ({"x": np.array(["a", "b"])}, "not numbers"),
}


@pytest.mark.parametrize("case", NPZ)
def test_an_npz_file_that_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, **NPZ[case][0])
    with pytest.raises(DataError, match=NPZ[case][1]) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.parquet", "t.idx", "t.idx.gz"])
def test_damage_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    """Cut anywhere, a file is refused; with a byte changed it is read or refused: nothing else is raised."""
    path, x = tmp_path / name, np.arange(12.0).reshape(4, 3)
    if name.endswith(".npz"):
        np.savez_compressed(path, x=x)
    elif ".idx" in name:
        data = idx_bytes(x)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    else:
        write(path, x)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(good), 60):
        path.write_bytes(good[:at])
        with pytest.raises(DataError, match=name):
            read(path)
    for at in rng.integers(0, len(good), 150):
        path.write_bytes(good[:at] + bytes([good[at] ^ int(rng.integers(1, 256))]) + good[at + 1 :])
        with contextlib.suppress(DataError):
            read(path)


def test_a_path_that_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


FRAMES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames(kind: str) -> None:
    make = FRAMES[kind]
    x, names = from_frame(make({"i": [1, 2], "f": [0.5, None], "b": [True, False], "n": [None, 3]}))
    assert names == ("i", "f", "b", "n")
    np.testing.assert_array_equal(x, [[1, 0.5, 1, np.nan], [2, np.nan, 0, 3]])
    assert x.dtype == np.float64
    assert from_frame(make({"i": [1, 2], "j": [3, 4]}))[0].dtype == np.int64
    assert from_frame(make({"b": [True, False]}))[0].dtype == np.bool_
    assert np.isnan(from_frame(make({"i": [1, 2], "e": [None, None]}))[0][:, 1]).all()
    with pytest.raises(DataError, match=r"the frame: column 't' holds \w+, .*row 2 is 'x'"):
        from_frame(make({"i": [1, 2, 3], "t": ["1", None, "x"]}))


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table])
def test_bools_with_nulls(make: Callable[[dict[str, list[Any]]], Any]) -> None:
    np.testing.assert_array_equal(from_frame(make({"b": [True, None]}))[0], [[1], [np.nan]])


def test_bytes_stay_bytes_and_decimals_are_numbers() -> None:
    assert from_frame(pa.table({"u": pa.array([1, 255], pa.uint8())}))[0].dtype == np.uint8
    decimals = pa.table({"d": pa.array([1, None]).cast(pa.decimal128(22, 2))})
    np.testing.assert_array_equal(from_frame(decimals)[0], [[1], [np.nan]])


def test_a_frame_without_columns() -> None:
    with pytest.raises(DataError, match="no columns"):
        from_frame(pd.DataFrame())


def test_a_nested_parquet_column_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"l": [[1.0], [2.0]]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: column 'l' holds List"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "array", "names", "said"),
    [
        ("t.txt", np.ones((2, 2)), None, "use .npy, .csv or .parquet"),
        ("t.csv", np.ones((2, 2, 2)), None, r"not shape \(2, 2, 2\)"),
        ("t.parquet", np.ones(2), None, r"not shape \(2,\)"),
        ("t.csv", np.ones((2, 2)), ("a",), "2 different names"),
        ("t.csv", np.ones((2, 2)), ("a", "a"), "2 different names"),
        ("t.npy", np.array([{}]), None, "object, not numbers"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, name: str, array: np.ndarray, names: tuple[str, ...] | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        write(tmp_path / name, array, names)
    assert list(tmp_path.iterdir()) == []


def test_import_is_light() -> None:
    code = "import sys, lowerbound.data; print([m for m in ('pyarrow', 'sklearn', 'narwhals') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
