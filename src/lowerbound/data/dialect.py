"""How a csv file is written: what separates its values, its decimal mark, what stands for a missing cell."""

from __future__ import annotations

import csv
import functools
import gzip
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lowerbound.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST_FIELD = 10**7  # bytes
SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_CALLED = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", " ": "spaces"}
_HEAD, _LINES = 1 << 16, 50
_METADATA = b"lowerbound.csv"
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Csv:
    """How a csv file is written: ``separator`` and ``decimal`` mark, None if it is to be detected; ``missing``:
    texts that mark a missing cell, in addition to blanks, NA, NaN and null.
    """

    separator: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.separator is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise ValueError(f"separator is {self.separator!r}; give one character, as ';'.")
        if self.decimal not in (None, ".", ",") or (self.decimal == "," and self.separator == ","):
            raise ValueError(f"decimal is {self.decimal!r}; give '.', or ',' where another mark separates values.")

    def written(self) -> Csv:
        """Use commas and points for what is not given."""
        return Csv(self.separator or ",", self.decimal or ".", self.missing)


def check_fields(file: File, table: pa.Table) -> None:
    """Refuse fields as long as no cell of a table is, and a quote that is opened and not closed, naming the line."""
    from pyarrow import compute, types

    columns = zip(table.column_names, table.columns, strict=True)  # by place: a name that comes twice is refused later
    texts = [(name, column) for name, column in columns if types.is_string(column.type) or types.is_binary(column.type)]
    lengths = {name: compute.max(compute.binary_length(column)).as_py() or 0 for name, column in texts}
    last = {name: column[-1].as_py() for name, column in texts if len(table)}
    broken = next((name for name, text in last.items() if text and b"\n" in _bytes(text)), None)
    if broken is not None and file.count(b'"') % 2:
        line = file.count(b"\n") - _bytes(last[broken]).count(b"\n") + 1
        raise DataError(
            f"{file.path} opens a quote about line {line}, in column {broken!r}, that is not closed, so all after it "
            "is one field; close the quote, or write two of them for one that is part of the text."
        )
    longest = max(lengths, key=lambda name: lengths[name], default=None)
    if longest is not None and lengths[longest] > _LONGEST_FIELD:
        row = compute.index(compute.binary_length(table[longest]), lengths[longest]).as_py()
        raise DataError(
            f"{file.path} has a field of {lengths[longest]} bytes in row {row}, column {longest!r}, where a cell has "
            f"at most {_LONGEST_FIELD}; shorten it, or leave the column out."
        )


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def is_csv(path: str | Path) -> bool:
    """Whether a path is, by its suffix, that of a csv file; of one with tabs, or compressed, too."""
    return str(path).lower().endswith(SUFFIXES)


@dataclass(frozen=True, eq=False)
class File:
    """A csv file and how it is written."""

    path: Path
    csv: Csv = field(default_factory=Csv)

    @property
    def is_compressed(self) -> bool:
        return self.path.suffix.lower() == ".gz"

    def open(self) -> IO[bytes]:
        """Its bytes, unpacked."""
        return gzip.open(self.path) if self.is_compressed else self.path.open("rb")  # type: ignore[return-value]

    @functools.cached_property
    def content(self) -> bytes:
        """Read all bytes, unpacked."""
        with self.open() as file:
            return file.read()

    def count(self, part: bytes) -> int:
        """How often a byte comes."""
        with self.open() as file:
            return sum(block.count(part) for block in iter(lambda: file.read(1 << 20), b""))

    @functools.cached_property
    def size(self) -> int:
        return len(self.content) if self.is_compressed else self.path.stat().st_size

    def told(self, prefer: str | None = None) -> File:
        """With what its first lines tell of it; a word says so where that is not commas and points.

        ``prefer``: the separator of a file like it, taken where it is one of this file's.
        """
        lines = list(self._lines())
        tabs = self.path.name.lower().removesuffix(".gz").endswith(".tsv")
        separator = self.csv.separator or ("\t" if tabs else _separator(lines, prefer))
        decimal = self.csv.decimal or (_decimal(lines, separator) if separator != "," else ".")
        new = [f"{_called(separator)} between its values"] * (self.csv.separator is None and separator not in ",\t")
        new += ["decimal commas"] * (self.csv.decimal is None and decimal == ",")
        if new:
            warnings.warn(
                f"{self.path} is read with {' and '.join(new)}; --separator and --decimal say otherwise", stacklevel=2
            )
        return replace(self, csv=Csv(separator, decimal, self.csv.missing))

    def _lines(self) -> Iterator[str]:
        with self.open() as file:
            head = file.read(_HEAD)
        text = _QUOTED.sub("", head.decode("utf-8-sig", errors="replace"))
        lines = text.splitlines()
        yield from [line for line in (lines if len(head) < _HEAD else lines[:-1]) if line][:_LINES]


def _called(mark: str) -> str:
    return _CALLED.get(mark, f"the separator {mark!r}")


def _separator(lines: Sequence[str], prefer: str | None) -> str:
    """The mark that occurs equally often in every line; a comma where none does."""
    for mark in dict.fromkeys([*([prefer] if prefer else []), ",", ";", "\t", "|"]):
        counts = {line.count(mark) for line in lines}
        if len(counts) == 1 and min(counts) > 0:
            return mark
    first = lines[0] if lines else ""
    return next((mark for mark in ";\t|" if mark in first and "," not in first), ",")


def _decimal(lines: Sequence[str], separator: str) -> str:
    """A comma where numbers have one and none has a point."""
    cells = [cell.strip() for line in lines for cell in line.split(separator)]
    commas = any(re.fullmatch(r"[-+]?\d+,\d+", cell) for cell in cells)
    return "," if commas and not any(re.fullmatch(r"[-+]?\d*\.\d+", cell) for cell in cells) else "."


def marked(table: Any, csv: Csv) -> Any:
    """An arrow table that says how its file was written, where that is not with commas and points."""
    if csv in (Csv(), Csv().written()):
        return table
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _METADATA: json.dumps(asdict(csv)).encode()})


def csv_of(table: Any) -> Csv | None:
    """How the file of an arrow table was written, if it says so."""
    try:
        found = json.loads(table.schema.metadata[_METADATA])
        return Csv(found["separator"], found["decimal"], tuple(map(str, found["missing"])))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def write_cells(file: IO[bytes], table: Any, form: Csv, texts: Mapping[str, Any]) -> None:
    """An arrow table as a csv file: of the columns that ``texts`` names, these where they are not None."""
    import pyarrow as pa
    from pyarrow import compute

    columns = []
    for name in table.column_names:
        cells = _as_text(table[name], form.decimal or ".")
        if name in texts:
            own = pa.chunked_array([pa.array(texts[name], pa.string())])
            cells = compute.coalesce(own, cells)
        columns.append(cells.to_pylist())
    out = csv.writer(_Lines(file), delimiter=form.separator or ",", lineterminator="\r\n")
    out.writerow(table.column_names)
    out.writerows(zip(*columns, strict=True))


class _Lines:
    """Rows of a csv writer that ends them by CR LF, and so quotes a lone CR too, as lines that LF ends."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, line: str) -> None:
        self.file.write(line.removesuffix("\r\n").encode() + b"\n")


def _as_text(column: Any, decimal: str) -> Any:
    import pyarrow as pa
    from pyarrow import compute, types

    kind = column.type
    column = column.cast(kind.value_type) if types.is_dictionary(kind) else column
    text = column.cast(pa.string())
    number = types.is_floating(kind) or types.is_decimal(kind)
    return compute.replace_substring(text, ".", decimal) if number and decimal != "." else text


def without(table: Any, missing: Sequence[str]) -> Any:
    """An arrow table with nulls for cells that are one of the texts, or the number that one of them is."""
    import pyarrow as pa
    from pyarrow import compute, types

    for j, name in enumerate(table.column_names):
        column = table[name]
        kind = column.type
        if types.is_string(kind) or types.is_large_string(kind) or types.is_floating(kind) or types.is_integer(kind):
            marks = [pa.scalar(text).cast(kind).as_py() for text in missing if _casts(text, kind)]
            hit = compute.is_in(column, pa.array(marks, kind))
            found = compute.if_else(hit, pa.scalar(None, kind), column)
            table = table.set_column(j, table.schema.field(name), found)
    return table


def _casts(text: str, kind: Any) -> bool:
    import pyarrow as pa

    try:
        pa.scalar(text).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
