"""Read and write tables as CSV, Parquet and Feather files, each column in its own type."""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowerbound.data.dialect import SUFFIXES, Csv, File, check_fields, is_csv, marked, without, write_cells
from lowerbound.data.formulas import made_plain
from lowerbound.data.frames import is_number
from lowerbound.data.reading import MALFORMED, check_file, check_names, readable, whole
from lowerbound.errors import DataError
from lowerbound.storage.files import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa

_LARGEST_BLOCK = 2**31 - 1
_SUFFIXES = (*SUFFIXES, ".parquet", ".feather", ".arrow")
_MISSING: tuple[str, ...] = (
    "",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "-1.#QNAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "N/A",
    "NA",
)
_MISSING += ("NULL", "NaN", "n/a", "nan", "null")  # those of pyarrow
_TRUTH = {"TRUE", "FALSE"}, {"True", "False"}


def is_table(path: str | Path) -> bool:
    """Whether a path is, by its suffix, that of a file that ``read_frame`` reads."""
    return str(path).lower().endswith(_SUFFIXES)


def read_frame(
    path: str | Path,
    types: Mapping[str, pa.DataType] | None = None,
    csv: Csv | None = None,
    prefer: str | None = None,
) -> pa.Table:
    """Read a .csv, .tsv, .parquet, .feather or .arrow file, each column in its own type; missing cells are null.

    A csv file (.csv.gz, .tsv.gz too) has no types: they are inferred from all cells. Empty cells, NA, N/A, NaN and
    null are missing; text stays text, and so do digits that begin with a 0, as codes do, and times and truth that would
    not be written as they were. A first line of nothing but unquoted numbers is data, and its columns are called x0,
    x1, …. ``types``: of some columns by name, known from elsewhere: where the cells can be of them, they are. ``csv``:
    how the file is written, of which the separator and the decimal mark are otherwise detected from its first lines
    (with a warning, where these are not commas and points; ``prefer`` is the separator of a file like it). Raises
    ``FileNotFoundError``, or ``DataError`` naming the file.
    """
    path = Path(path)
    with readable(path):
        check_file(path)
        if not is_table(path):
            raise DataError(f"{path} is no table by its suffix; what can be read is {', '.join(_SUFFIXES)}.")
        csv = csv or Csv()
        if is_csv(path):
            table = read_csv(path, types or {}, csv=csv, prefer=prefer)[0]
        elif csv.separator or csv.decimal:
            raise DataError(f"{path} is no csv file, and a separator and a decimal mark are of these; leave them out.")
        else:
            table = marked(without(read_typed(path), csv.missing), csv)
    if not table.num_columns:
        raise DataError(f"{path} has no columns; give at least one.")
    if not table.num_rows:
        raise DataError(f"{path} holds no rows; give at least one.")
    return table


def write_frame(path: str | Path, frame: Any, form: Csv | None = None, texts: Mapping[str, Any] | None = None) -> None:
    """Write a frame of pandas, polars or pyarrow to a .csv, .tsv or .parquet file, whole or not at all.

    ``form``: how a csv file is written. ``texts``: of some columns, what is written in each row instead of the value,
    where there is something.
    """
    import narwhals as nw
    from pyarrow import csv, parquet

    path, table = Path(path), nw.from_native(frame, eager_only=True).to_arrow()
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{path} cannot be written by its suffix; use .csv, .tsv or .parquet for a table.")
    written = (form or Csv()).written()
    if (path.suffix.lower() == ".tsv") != (written.separator == "\t"):  # the suffix says it
        written = Csv(
            "\t" if path.suffix.lower() == ".tsv" else ";" if written.decimal == "," else ",", written.decimal
        )
    if path.suffix.lower() != ".parquet":
        table, texts = made_plain(table, texts)
    try:
        with atomic_write(path, follow=True) as file:
            if path.suffix.lower() == ".parquet":
                parquet.write_table(table, file)
            elif texts or (written.separator, written.decimal) != (",", "."):
                write_cells(file, table, written, texts or {})
            else:
                csv.write_csv(table, file)
    except OSError as error:  # not as FileNotFoundError: nothing that was to be read is missing
        raise OSError(f"{path} cannot be written ({error.strerror or error}); choose another path.") from error


def read_typed(path: Path) -> pa.Table:
    """The table in a file that says the types of its columns."""
    import pyarrow as pa
    from pyarrow import feather, parquet

    kind = "parquet" if path.suffix.lower() == ".parquet" else "feather"
    with whole(path, f"{kind} file", pa.ArrowException, *MALFORMED):
        if kind == "parquet":
            with parquet.ParquetFile(readable_by_arrow(path)) as file:
                table = file.read()
        else:
            table = feather.read_table(readable_by_arrow(path), memory_map=False)
        table.validate(full=True)
    check_names(table.column_names, path)
    return table


def readable_by_arrow(path: Path) -> Any:
    """The path, or its content where its name is not in UTF-8, which arrow does not take."""
    import pyarrow as pa

    try:
        str(path).encode()
    except UnicodeEncodeError:
        return pa.BufferReader(path.read_bytes())
    return path


def read_csv(
    path: Path,
    types: Mapping[str, pa.DataType],
    codes: bool = True,
    csv: Csv | None = None,
    prefer: str | None = None,
) -> tuple[pa.Table, bool]:
    """The table in a csv file, and whether its first line is data. ``codes``: leave such as 007 as text."""
    import pyarrow as pa

    way_out = "save it in UTF-8, with as many values in each row"
    with whole(path, "csv file", pa.ArrowException, UnicodeDecodeError, EOFError, zlib.error, way_out=way_out):
        file = File(path, csv or Csv()).told(prefer)
        table = _parsed(file)
        check_fields(file, table)
        headless = _headless(table.column_names, file)
        names = [f"x{j}" for j in range(table.num_columns)] if headless else None
        check_names(table.column_names if names is None else names, path)
        alone = table.num_columns == 1  # an empty line is then a missing value, not a gap in the file
        texts = [name for name, kind in types.items() if pa.types.is_string(kind)]
        if headless or alone or texts:
            table = _parsed(file, names, texts, alone)
        found = _codes(file, table, names, alone, types) if codes else {}
    if found:
        columns = {
            name: found.get(name, column) for name, column in zip(table.column_names, table.columns, strict=True)
        }
        table = pa.table(columns)
    _check_text(table, path)
    return marked(_cast(table, types), file.csv), headless


def read_texts(path: Path, csv: Csv, names: Sequence[str]) -> dict[str, list[str]]:
    """The cells of columns of a csv file to the letter, as it was read before."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    file = File(path, csv.written())
    convert = arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=list(names))
    found = _parsed(file).column_names
    headless = [f"x{j}" for j in range(len(found))] if _headless(found, file) else None
    table = _read(file, headless, convert, alone=len(found) == 1)
    return {name: table[name].to_pylist() for name in names}


def _parsed(
    file: File,
    names: Sequence[str] | None = None,
    texts: Sequence[str] = (),
    alone: bool = False,
    only: Sequence[str] | None = None,
) -> pa.Table:
    """A csv file as pyarrow reads it. ``texts``: columns to be left as they are; ``only``: of no others."""
    import pyarrow as pa
    from pyarrow import csv

    convert = csv.ConvertOptions(
        strings_can_be_null=True,
        column_types=dict.fromkeys(texts, pa.string()),
        include_columns=only,
        null_values=[*_MISSING, *file.csv.missing],
        decimal_point=file.csv.decimal,
    )
    return _read(file, names, convert, alone)


def _read(file: File, names: Sequence[str] | None, convert: Any, alone: bool) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    # One block, for a column's type is inferred from the first one only.
    block = max(1 << 20, min(file.size + 1, _LARGEST_BLOCK))
    parse = csv.ParseOptions(delimiter=file.csv.separator, newlines_in_values=True, ignore_empty_lines=not alone)

    def content() -> Any:
        return pa.BufferReader(file.content) if file.is_compressed else readable_by_arrow(file.path)

    try:
        return csv.read_csv(content(), csv.ReadOptions(block_size=block, column_names=names), parse, convert)
    except pa.ArrowInvalid:
        one = csv.ReadOptions(block_size=block, column_names=names, use_threads=False)
        try:  # again, for one thread knows the row
            return csv.read_csv(content(), one, parse, convert)
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(re.sub(r"^.*?Row #(\d+): ", r"line \1: ", str(error))) from error


def _headless(names: Sequence[str], file: File) -> bool:
    """Whether the first line of a csv file is data: numbers, without quotes."""
    given = [name for name in names if name]
    with file.open() as opened:
        quoted = opened.read(4).removeprefix(b"\xef\xbb\xbf").startswith(b'"')
    if quoted or not given or not all(is_number(name.replace(file.csv.decimal or ".", ".")) for name in given):
        return False
    if given == [str(j) for j in range(len(given))]:
        raise DataError(
            f"{file.path} starts with the line {','.join(names[:4])}{',...' if len(names) > 4 else ''}, which may be "
            "names or data; give its columns names that are not numbers."
        )
    return True


def _codes(
    file: File, table: pa.Table, names: Sequence[str] | None, alone: bool, types: Mapping[str, pa.DataType]
) -> dict[str, Any]:
    """Columns as text that were read as something else and would not be written as they were: 007, 10:30, TRUE."""
    from pyarrow import types as kinds

    free = [each for each in table.schema if each.name not in types or kinds.is_string(types[each.name])]
    times = [each.name for each in free if kinds.is_time(each.type)]
    moments = [each.name for each in free if kinds.is_temporal(each.type) and not kinds.is_time(each.type)]
    truths = [each.name for each in free if kinds.is_boolean(each.type)]
    whole = [each.name for each in table.schema if kinds.is_integer(each.type)]
    suspects = [*times, *moments, *truths, *(whole if _holds_codes(file) else [])]
    if not suspects:
        return {}
    texts = _parsed(file, names, suspects, alone, suspects)
    kept = [name for name in whole if name in suspects and _has_codes(texts[name])]
    kept += [name for name in truths if set(texts[name].unique().drop_null().to_pylist()) in _TRUTH]
    kept += [name for name in moments if _otherwise(table[name], texts[name])]
    return {name: texts[name] for name in (*times, *kept)}


def _has_codes(texts: Any) -> bool:
    from pyarrow import compute

    return bool(compute.any(compute.match_substring_regex(texts, r"^0\d")).as_py())


def _otherwise(column: Any, texts: Any) -> bool:
    """Whether times are all written in one way, and not in that in which they would be written again."""
    import pyarrow as pa
    from pyarrow import compute

    if compute.all(compute.equal(column.cast(pa.string()), texts)).as_py():
        return False
    bare = compute.replace_substring_regex(texts, r"[.,]\d+", "")
    shapes = compute.replace_substring_regex(bare, r"\d", "0").drop_null().unique().to_pylist()
    return len(shapes) == 1 and shapes != ["0000-00-00 00:00:00"]  # which may have fractions


def _holds_codes(file: File) -> bool:
    """Whether there may be a cell of digits that begins with a 0."""
    mark = re.escape((file.csv.separator or ",").encode())
    code = rb'(?:^|[\r\n"]|' + mark + rb")0\d"
    if file.is_compressed:
        return re.search(code, file.content) is not None
    with file.open() as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(code, content) is not None


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
