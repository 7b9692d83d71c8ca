"""Tables of mixed columns in files: csv, parquet and feather as frames, each column in its own type, with holes."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowerbound.checkpoint import atomic_write
from lowerbound.data.frames import is_number
from lowerbound.data.reading import MALFORMED, check_file, check_names, readable, whole
from lowerbound.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_LARGEST_BLOCK = 2**31 - 1
_SUFFIXES = (".csv", ".parquet", ".feather", ".arrow")
_CODE = rb'(?:^|[,\r\n"])0\d'  # a cell of digits that begins with a 0


def is_table(path: str | Path) -> bool:
    """Whether a path is, by its suffix, that of a file that ``read_frame`` reads."""
    return Path(path).suffix.lower() in _SUFFIXES


def read_frame(path: str | Path, types: Mapping[str, pa.DataType] | None = None) -> pa.Table:
    """The table in a .csv, .parquet, .feather or .arrow file, every column in its own type; holes are null.

    A csv file says no types: they are told from all of its cells. Empty cells, NA, N/A, NaN and null are holes; text
    stays text, and so do digits that begin with a 0, as codes do. A first line of nothing but unquoted numbers is data,
    and its columns are called x0, x1, …. ``types``: of some columns by name, known from elsewhere: where the cells can
    be of them, they are. Raises ``FileNotFoundError``, or ``DataError`` naming the file.
    """
    path = Path(path)
    with readable(path):
        check_file(path)
        if not is_table(path):
            raise DataError(f"{path} is no table by its suffix; what can be read is {', '.join(_SUFFIXES)}.")
        table = read_csv(path, types or {})[0] if path.suffix.lower() == ".csv" else read_typed(path)
    if not table.num_columns:
        raise DataError(f"{path} has no columns; give at least one.")
    if not table.num_rows:
        raise DataError(f"{path} holds no rows; give at least one.")
    return table


def write_frame(path: str | Path, frame: Any) -> None:
    """Write a frame of pandas, polars or pyarrow to a .csv or .parquet file, whole or not at all."""
    import narwhals as nw
    from pyarrow import csv, parquet

    path, table = Path(path), nw.from_native(frame, eager_only=True).to_arrow()
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{path} cannot be written by its suffix; use .csv or .parquet for a table.")
    try:
        with atomic_write(path) as file:
            if path.suffix.lower() == ".csv":
                csv.write_csv(table, file)
            else:
                parquet.write_table(table, file)
    except OSError as error:  # not as FileNotFoundError: nothing that was to be read is missing
        raise OSError(f"{path} cannot be written ({error.strerror or error}); choose another path.") from error


def read_typed(path: Path) -> pa.Table:
    """The table in a file that says the types of its columns."""
    import pyarrow as pa
    from pyarrow import feather, parquet

    kind = "parquet" if path.suffix.lower() == ".parquet" else "feather"
    with whole(path, f"{kind} file", pa.ArrowException, *MALFORMED):
        if kind == "parquet":
            with parquet.ParquetFile(path) as file:
                table = file.read()
        else:
            table = feather.read_table(path, memory_map=False)
        table.validate(full=True)
    check_names(table.column_names, path)
    return table


def read_csv(path: Path, types: Mapping[str, pa.DataType], codes: bool = True) -> tuple[pa.Table, bool]:
    """The table in a csv file, and whether its first line is data. ``codes``: leave such as 007 as text."""
    import pyarrow as pa

    way_out = "save it in UTF-8, with as many values in each row"
    with whole(path, "csv file", pa.ArrowException, UnicodeDecodeError, way_out=way_out):
        table = _parsed(path)
        _check_commas(table.column_names, path)
        headless = _headless(table.column_names, path)
        names = [f"x{j}" for j in range(table.num_columns)] if headless else None
        check_names(table.column_names if names is None else names, path)
        alone = table.num_columns == 1  # an empty line is then a missing value, not a gap in the file
        texts = [name for name, kind in types.items() if pa.types.is_string(kind)]
        if headless or alone or texts:
            table = _parsed(path, names, texts, alone)
        found = _codes(path, table, names, alone) if codes else {}
    for name in found:
        table = table.set_column(table.column_names.index(name), name, found[name])
    _check_text(table, path)
    return _cast(table, types), headless


def _parsed(
    path: Path,
    names: Sequence[str] | None = None,
    texts: Sequence[str] = (),
    alone: bool = False,
    only: Sequence[str] | None = None,
) -> pa.Table:
    """A csv file as pyarrow reads it. ``texts``: columns to be left as they are; ``only``: of no others."""
    import pyarrow as pa
    from pyarrow import csv

    # One block, for a column's type is inferred from the first one only.
    block = max(1 << 20, min(path.stat().st_size + 1, _LARGEST_BLOCK))
    convert = csv.ConvertOptions(
        strings_can_be_null=True, column_types=dict.fromkeys(texts, pa.string()), include_columns=only
    )
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=not alone)
    try:
        return csv.read_csv(path, csv.ReadOptions(block_size=block, column_names=names), parse, convert)
    except pa.ArrowInvalid:
        one = csv.ReadOptions(block_size=block, column_names=names, use_threads=False)
        try:  # again, for one thread knows the row
            return csv.read_csv(path, one, parse, convert)
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(re.sub(r"^.*?Row #(\d+): ", r"line \1: ", str(error))) from error


def _check_commas(names: Sequence[str], path: Path) -> None:
    """Refuse a file whose values are not separated by commas, which would be a table of one column of text."""
    for mark, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and mark in names[0]:
            raise DataError(
                f"{path} has one column, called {names[0][:60]!r}, so that its values seem to be separated by "
                f"{called}; save it with commas."
            )


def _headless(names: Sequence[str], path: Path) -> bool:
    """Whether the first line of a csv file is data: numbers, without quotes."""
    given = [name for name in names if name]
    with path.open("rb") as file:
        quoted = file.read(4).removeprefix(b"\xef\xbb\xbf").startswith(b'"')
    if quoted or not given or not all(is_number(name) for name in given):
        return False
    if given == [str(j) for j in range(len(given))]:
        raise DataError(
            f"{path} starts with the line {','.join(names[:4])}{',...' if len(names) > 4 else ''}, which may be "
            "names or data; give its columns names that are not numbers."
        )
    return True


def _codes(path: Path, table: pa.Table, names: Sequence[str] | None, alone: bool) -> dict[str, Any]:
    """Columns as text that were read as something else and would not be written as they were: 007, 10:30."""
    from pyarrow import compute, types

    times = [field.name for field in table.schema if types.is_time(field.type)]
    whole = [field.name for field in table.schema if types.is_integer(field.type)]
    suspects = [*times, *(whole if _holds_codes(path) else [])]
    if not suspects:
        return {}
    texts = _parsed(path, names, suspects, alone, suspects)
    zeros = (name for name in whole if name in suspects)
    codes = [name for name in zeros if compute.any(compute.match_substring_regex(texts[name], r"^0\d")).as_py()]
    return {name: texts[name] for name in (*times, *codes)}


def _holds_codes(path: Path) -> bool:
    """Whether there may be a cell of digits that begins with a 0."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(_CODE, content) is not None


def _check_text(table: pa.Table, path: Path) -> None:
    """Refuse text that is none in UTF-8."""
    from pyarrow import types

    for name, column in zip(table.column_names, table.columns, strict=True):
        if types.is_binary(column.type):
            row, value = next((row, value) for row, value in enumerate(column.to_pylist()) if not _is_utf8(value))
            shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
            raise DataError(f"{path} is not in UTF-8: row {row} of column {name!r} is {shown}; save it in UTF-8.")


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _cast(table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    """The table with columns of a narrower type than is due in the due one, where that loses nothing."""
    import pyarrow as pa

    for j, name in enumerate(table.column_names):
        due = types.get(name)
        if due is None or not _widens(table[name].type, due):
            continue
        try:
            table = table.set_column(j, name, table[name].cast(due))
        except pa.ArrowInvalid:
            continue
    return table


def _widens(kind: pa.DataType, due: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_null(kind) or (types.is_integer(kind) and types.is_floating(due)):
        return True
    naive = types.is_timestamp(due) and due.tz is None
    return naive and (types.is_date(kind) or (types.is_timestamp(kind) and kind.tz is None))
