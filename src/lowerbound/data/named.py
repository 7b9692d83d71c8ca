"""Datasets by name: scikit-learn's digits, MNIST, and any four idx files laid out as MNIST's."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowerbound.data.arrays import Array
from lowerbound.data.dialect import Csv
from lowerbound.data.download import MNIST_MIRRORS, fetch_first
from lowerbound.data.files import Table, read
from lowerbound.data.idx import read_idx
from lowerbound.data.reading import readable
from lowerbound.errors import DataError

# Of each file unpacked: SHA-256 and size in bytes.
_MNIST = {
    "train-images-idx3-ubyte": ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016),
    "train-labels-idx1-ubyte": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008),
    "t10k-images-idx3-ubyte": ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016),
    "t10k-labels-idx1-ubyte": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008),
}
_DIGITS_TEST = 360


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images ``train [N, H, W]`` and ``test [M, H, W]`` of uint8, 0 (black) to ``max_value``, with labels."""

    name: str
    train: Array
    test: Array
    train_labels: Array
    test_labels: Array
    max_value: int


def digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8 × 8, values 0 to 16, shuffled once: 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:-_DIGITS_TEST], order[-_DIGITS_TEST:]
    return Dataset("digits", images[train], images[test], labels[train], labels[test], max_value=16)


def mnist(folder: Path | None = None, *, mirrors: Sequence[str] = MNIST_MIRRORS) -> Dataset:
    """MNIST: 60,000 images to train and 10,000 to test, 28 × 28, values 0 to 255.

    Read from the idx files of ``folder``; without one, from the user's cache, fetching what is missing there.
    Raises ``ConnectionError`` or ``DataError`` if that fails. LeCun, Cortes & Burges 1998.
    """
    if folder is not None:
        return read_mnist_folder(folder, "mnist")
    cache = _cache() / "mnist"
    for name, (sha256, size) in _MNIST.items():
        if _find(cache, name) is None:
            fetch_first(mirrors, cache / name, sha256, limit=size)
    return read_mnist_folder(cache, "mnist")


def read_mnist_folder(folder: Path, name: str | None = None) -> Dataset:
    """Four idx files called as MNIST's are, gzipped or not, of images of any size and number.

    Raises ``FileNotFoundError`` naming a file that is missing, ``DataError`` one that does not fit.
    """
    folder = Path(folder)
    found = {file: _find(folder, file) for file in _MNIST}
    paths = [path for path in found.values() if path is not None]
    if len(paths) < len(found):
        missing = next(file for file, path in found.items() if path is None)
        raise FileNotFoundError(
            f"the folder {folder} holds no {missing} or {missing}.gz; give a file, or put MNIST's four idx files there."
        )
    train, train_labels, test, test_labels = map(_read, paths)
    _check(train, train_labels, paths[0], paths[1])
    _check(test, test_labels, paths[2], paths[3])
    return Dataset(name or folder.resolve().name, train, test, train_labels, test_labels, max_value=255)


def _read(path: Path) -> Array:
    with readable(path):
        return read_idx(path)


def _check(images: Array, labels: Array, images_path: Path, labels_path: Path) -> None:
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise DataError(f"{images_path} holds {images.dtype} {images.shape}, not images of uint8; fetch it again.")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{labels_path} holds labels {labels.shape} for {len(images)} images; fetch it again.")


def _find(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")  # as some mirrors call them
    candidates = (folder / file for file in (name, f"{name}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _cache() -> Path:
    """The folder that the XDG base directory specification gives; a relative one is to be ignored."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "lowerbound"


NAMES: dict[str, Callable[[], Dataset]] = {"digits": digits, "mnist": mnist}


def load(name_or_path: str | Path, csv: Csv | None = None) -> Dataset | Table:
    """A dataset of ``NAMES``, a folder of MNIST's idx files, or a file that ``read`` reads (``csv``: how)."""
    if isinstance(name_or_path, str) and name_or_path in NAMES:
        return NAMES[name_or_path]()
    path = Path(name_or_path)
    with readable(path):
        if path.is_dir():
            return read_mnist_folder(path)
        if path.exists():
            return read(path, csv)
    near = difflib.get_close_matches(str(name_or_path), NAMES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"check the path; the datasets with a name are {', '.join(NAMES)}."
    raise FileNotFoundError(f"no dataset or file is called {str(name_or_path)!r}; {hint}")
