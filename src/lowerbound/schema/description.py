"""Text description of a schema."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from lowerbound.schema.column import Column

_HEAD = ("column", "kind", "why", "missing", "problems")
_LONGEST = 60


def listing(columns: Sequence[Column], rows: int, backend: str, problems: Sequence[str]) -> str:
    """Return one line about the table and an aligned line per column."""
    modelled = sum(column.modelled for column in columns)
    about = f"{rows:,} rows and {len(columns)} columns of {backend}, {modelled} of them to be learned"
    lines = [_HEAD, *(_line(column) for column in columns)]
    widths = [max(_width(line[j]) for line in lines) for j in range(len(_HEAD))]
    aligned = ["  ".join(_padded(text, wide) for text, wide in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([about, *problems, *(line.rstrip() for line in aligned)])


def _line(column: Column) -> tuple[str, ...]:
    missing = f"{100 * column.missing:.3g} %" if column.missing else ""
    return _shortened(str(column.name)), column.kind, _plain(column.why), missing, _plain("; ".join(column.problems))


def _shortened(text: str) -> str:
    text = _plain(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _plain(text: str) -> str:
    """Escape characters that are not printable, such as line breaks."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _width(text: str) -> int:
    """The width in a terminal: 2 for wide letters, 0 for combining marks."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
