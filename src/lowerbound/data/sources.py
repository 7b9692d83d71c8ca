"""Data by name or path, tables of mixed columns as the frames they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lowerbound.data.dialect import Csv
from lowerbound.data.files import Table
from lowerbound.data.named import NAMES, Dataset, load
from lowerbound.data.reading import readable
from lowerbound.data.table_files import is_table, read_frame

if TYPE_CHECKING:
    import pyarrow as pa


def source(
    name_or_path: str | Path,
    types: Mapping[str, pa.DataType] | None = None,
    csv: Csv | None = None,
    prefer: str | None = None,
) -> Dataset | Table | pa.Table:
    """As ``load``, but a file of a table is a pyarrow frame: see ``read_frame``, also for the other arguments."""
    path = Path(name_or_path)
    with readable(path):
        framed = name_or_path not in NAMES and is_table(path) and path.exists() and not path.is_dir()
    return read_frame(path, types, csv, prefer) if framed else load(name_or_path, csv=csv)
