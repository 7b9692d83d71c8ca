"""Arrays written to npy, csv or parquet files, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowerbound.data.arrays import NUMERIC, Array
from lowerbound.data.formulas import made_plain
from lowerbound.errors import DataError
from lowerbound.storage.files import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa


def write(path: Path, array: Array, names: Sequence[str] | None = None) -> None:
    """Write numbers to ``path`` by its suffix: .npy (any shape), .csv or .parquet (``[N, D]``, D names).

    Columns without names are called x0, x1, ...; NaN is written as a missing value in csv and parquet.
    Raises ``DataError`` for an array or a suffix that cannot be written, ``OSError`` where the disk refuses.
    """
    path, array = Path(path), np.asarray(array)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".csv", ".parquet"):
        raise DataError(f"{path} cannot be written by its suffix; use .npy, .csv or .parquet.")
    if array.dtype.kind not in NUMERIC:
        raise DataError(f"{path} cannot be written: the array holds {array.dtype}, not numbers; convert it first.")
    table = None if suffix == ".npy" else _table(path, array, names)
    try:
        with atomic_write(path, follow=True) as file:
            if table is None:
                np.save(file, array, allow_pickle=False)
            elif suffix == ".csv":
                from pyarrow import csv

                csv.write_csv(made_plain(table)[0], file)
            else:
                from pyarrow import parquet

                parquet.write_table(table, file)
    except OSError as error:  # not as FileNotFoundError: nothing that was to be read is missing
        raise OSError(f"{path} cannot be written ({error.strerror or error}); choose another path.") from error


def _table(path: Path, array: Array, names: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa

    if array.ndim != 2:
        raise DataError(f"{path} takes rows and columns, not shape {array.shape}; flatten each row or use .npy.")
    names = [f"x{j}" for j in range(array.shape[1])] if names is None else list(names)
    if len(names) != array.shape[1] or len(set(names)) != len(names):
        raise DataError(f"{path} takes {array.shape[1]} different names, one a column, not {names}.")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    columns = [pa.array(np.ascontiguousarray(column), from_pandas=True) for column in native.T]
    return pa.table(columns, names=names)
