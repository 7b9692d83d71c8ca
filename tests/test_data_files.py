"""Files: round trips of each format, and tables as other programs write them."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lowerbound.data import Rows, read, write
from lowerbound.errors import DataError

DTYPES = ["f4", "f8", "i8", "u1", "?"]
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.astype(IDX_TYPES[kind]).tobytes()


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


def test_a_path_that_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


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
