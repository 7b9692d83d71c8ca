"""Named datasets and folders of idx files."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lowerbound.data import Dataset, Table, digits, load, mnist, named, read, write
from lowerbound.errors import DataError

SHARED = Path(__file__).parents[2] / "shared/data/mnist"
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
LABELS = np.arange(5, dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


FILES = {name: idx_bytes(IMAGES if "images" in name else LABELS) for name in named._MNIST}


def write_folder(folder: Path, zipped: bool, dotted: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in FILES.items():
        path = folder / (name.replace("-idx", ".idx") if dotted else name)
        if zipped:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
        else:
            path.write_bytes(data)


def test_digits_are_those_of_scikit_learn() -> None:
    data, truth = digits(), load_digits()
    assert data.train.shape == (1437, 8, 8)
    assert data.test.shape == (360, 8, 8)
    assert data.train.dtype == data.test.dtype == np.uint8
    assert data.max_value == max(data.train.max(), data.test.max()) == 16
    assert int(data.train.sum()) + int(data.test.sum()) == int(truth.images.sum())


def test_the_split_of_digits_is_a_partition_and_always_the_same() -> None:
    data, truth = digits(), load_digits()
    images = np.concatenate([data.train, data.test]).reshape(1797, -1)
    labels = np.concatenate([data.train_labels, data.test_labels])
    pairs = sorted(zip(map(bytes, images), labels.tolist(), strict=True))
    assert pairs == sorted(zip(map(bytes, truth.data.astype(np.uint8)), truth.target.tolist(), strict=True))
    np.testing.assert_array_equal(digits().test, data.test)
    assert set(map(bytes, data.train)).isdisjoint(map(bytes, data.test))


@pytest.mark.parametrize(("zipped", "dotted"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_folder_of_idx_files(tmp_path: Path, zipped: bool, dotted: bool) -> None:
    write_folder(tmp_path / "mine", zipped, dotted)
    data = load(tmp_path / "mine")
    assert isinstance(data, Dataset)
    assert (data.name, data.max_value) == ("mine", 255)
    np.testing.assert_array_equal(data.train, IMAGES)
    np.testing.assert_array_equal(data.test_labels, LABELS)
    assert mnist(tmp_path / "mine").name == "mnist"


def test_a_folder_that_does_not_fit(tmp_path: Path) -> None:
    write_folder(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:4]))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte holds labels \(4,\) for 5 images"):
        load(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(LABELS))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte holds uint8 \(5,\)"):
        load(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="holds no t10k-images-idx3-ubyte"):
        mnist(tmp_path)


def test_load_takes_a_name_or_a_path(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", LABELS)
    table = load(str(tmp_path / "a.npy"))
    assert isinstance(table, Table)
    np.testing.assert_array_equal(table.x, LABELS)
    loaded = load("digits")
    assert isinstance(loaded, Dataset)
    assert loaded.name == "digits"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("minst", "did you mean 'mnist'"), ("digit", "did you mean 'digits'"), ("a/b.csv", "are digits, mnist")],
)
def test_an_unknown_name_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"called '{name}'; .*{hint}"):
        load(name)


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert named._cache() == tmp_path / ".cache" / "lowerbound"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the files of MNIST are not here")
def test_mnist_itself() -> None:
    data = mnist(SHARED)
    assert data.train.shape == (60_000, 28, 28)
    assert data.test.shape == (10_000, 28, 28)
    assert hashlib.md5(idx_bytes(data.train)).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert hashlib.md5(idx_bytes(data.test)).hexdigest() == "2646ac647ad5339dbf082846283269ea"
    for name, (sha256, size) in named._MNIST.items():
        array = read(SHARED / f"{name}.gz").x
        assert (hashlib.sha256(idx_bytes(array)).hexdigest(), len(idx_bytes(array))) == (sha256, size)
