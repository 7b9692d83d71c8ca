"""Malformed files: what is said of each, and that nothing but DataError is raised."""

from __future__ import annotations

import contextlib
import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowerbound.data import read, write
from lowerbound.errors import DataError


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(">u1").tobytes()


def npy_bytes(tmp_path: Path, array: np.ndarray) -> bytes:
    np.save(tmp_path / "whole.npy", array)
    return (tmp_path / "whole.npy").read_bytes()


MALFORMED: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "npy empty": ("t.npy", lambda p: b"", "not a whole npy file"),
    "npy cut": ("t.npy", lambda p: npy_bytes(p, np.zeros(999))[:-8], "not a whole npy file"),
    "npy cut header": ("t.npy", lambda p: npy_bytes(p, np.zeros(9))[:40], "not a whole npy file"),
    "npy magic": ("t.npy", lambda p: b"hello, world", "not a whole npy file"),
    "npy of objects": ("t.npy", lambda p: npy_bytes(p, np.array([{}, None])), "holds pickled objects"),
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
    "csv not utf-8": ("t.csv", lambda p: b"a\n\xff\n", "not in UTF-8: row 0 of column 'a'"),
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
    "objects": ({"x": np.array([{}, None])}, "holds pickled objects"),
    "which": ({"a": np.ones(3), "b": np.ones(3)}, "call the one to read x"),
    "labels": ({"x": np.ones(3), "y": np.ones(4)}, "one label per row"),
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
