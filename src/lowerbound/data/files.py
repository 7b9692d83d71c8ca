"""Arrays in files: npy, npz, idx, and tables of numbers."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowerbound.data.arrays import NUMERIC, Array
from lowerbound.data.dialect import Csv, is_csv
from lowerbound.data.frames import from_frame
from lowerbound.data.idx import read_idx
from lowerbound.data.reading import MALFORMED, check_file, readable, whole
from lowerbound.data.table_files import read_csv, read_typed
from lowerbound.errors import DataError

_BAD_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Table:
    """``x [N, *X]``; ``names`` of the columns where the file has them; ``labels [N]`` likewise."""

    x: Array
    names: tuple[str, ...] | None = None
    labels: Array | None = None


def read(path: Path, csv: Csv | None = None) -> Table:
    """Numbers in a file, by its suffix: .npy, .npz, .csv, .tsv, .parquet, .feather, .arrow, .idx or -ubyte (these
    two, .csv and .tsv also with .gz). Of tables whose columns hold anything else, see ``read_frame``.

    An npz gives its array ``x``, or its only one, with ``y`` or ``labels`` as labels. A csv whose first line
    is nothing but unquoted numbers has no names. A missing value is NaN. Raises ``FileNotFoundError``, or
    ``DataError`` naming the file.
    """
    path = Path(path)
    with readable(path):
        check_file(path)
        if csv not in (None, Csv()) and not is_csv(path):
            raise DataError(f"{path} is no csv file, and separator, decimal and missing values are of these.")
        table = _read_csv(path, csv) if is_csv(path) else _reader(path)(path)
    _check(table, path)
    return table


def _reader(path: Path) -> Callable[[Path], Table]:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".idx", "-ubyte")):
        return lambda path: Table(read_idx(path))
    readers = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_typed}
    readers |= {".feather": _read_typed, ".arrow": _read_typed}
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path} has no known suffix; what can be read is "
            ".npy, .npz, .csv, .parquet, .idx, -ubyte, .tsv, .feather, .arrow, and .gz of .csv, .tsv, .idx, -ubyte."
        )
    return readers[path.suffix.lower()]


def _check(table: Table, path: Path) -> None:
    if table.x.dtype.kind not in NUMERIC:
        raise DataError(f"{path} holds {table.x.dtype}, not numbers; save an array of numbers.")
    if table.x.ndim == 0 or len(table.x) == 0:
        raise DataError(f"{path} holds no rows (its shape is {table.x.shape}); give at least one.")
    if table.labels is not None and (table.labels.ndim == 0 or len(table.labels) != len(table.x)):
        raise DataError(
            f"{path} holds {len(table.x)} rows and labels of shape {table.labels.shape}; give one label per row."
        )


def _read_npy(path: Path) -> Table:
    with whole(path, "npy file of numbers", *MALFORMED):
        # A map compares the header with the file's size. Its values stay in the file; what is written to it does not.
        return Table(np.lib.format.open_memmap(path, mode="c"))


def _read_npz(path: Path) -> Table:
    with (
        whole(path, "npz file of numbers", *MALFORMED, *_BAD_ZIP),
        zipfile.ZipFile(path),
        np.load(path, allow_pickle=False) as archive,
    ):
        keys = [key for key in archive.files if key not in ("y", "labels")]
        key = "x" if "x" in keys else keys[0] if len(keys) == 1 else None
        label = next((key for key in ("y", "labels") if key in archive.files), None)
        labels = None if label is None else np.asarray(archive[label])
        table = None if key is None else Table(np.asarray(archive[key]), labels=labels)
    if table is None:
        raise DataError(f"{path} holds the arrays {keys}; call the one to read x.")
    return table


def _read_csv(path: Path, csv: Csv | None) -> Table:
    table, headless = read_csv(path, {}, codes=False, csv=csv)
    x, names = from_frame(table, str(path))
    return Table(x, None if headless else names)


def _read_typed(path: Path) -> Table:
    return Table(*from_frame(read_typed(path), str(path)))
