"""Cells of csv files that a spreadsheet program would take for formulas, and the same as plain text."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

_ON = ContextVar("safe_csv", default=False)
_STARTS = r"^[=+\-@\t\r]"
_NUMBER = re.compile(r"[-+]?[\d.,'\s]*\d[\d.,'\s]*([eE][-+]?\d+)?\s?%?")


@contextlib.contextmanager
def safe_csv() -> Iterator[None]:
    """Write csv files in the block with ' before text cells and names of columns that begin with = + - @ tab or CR.

    A spreadsheet program runs such text as a formula. Numbers, dates and times are written as they are.
    """
    before = _ON.set(True)
    try:
        yield
    finally:
        _ON.reset(before)


def made_plain(table: Any, texts: Mapping[str, Any] | None = None) -> tuple[Any, Mapping[str, Any]]:
    """An arrow table, and texts that are written instead of its cells, as ``safe_csv`` has them; as is without it."""
    texts = texts or {}
    if not _ON.get():
        return table, texts
    own = {_plain(name): [_plain_cell(text) for text in cells] for name, cells in texts.items()}
    columns = [_column(column) for column in table.columns]
    return type(table).from_arrays(columns, names=[_plain(name) for name in table.column_names]), own


def _column(column: Any) -> Any:
    from pyarrow import compute, string, types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view"):
        return column
    text = column.cast(kind).cast(string())
    marked = compute.binary_join_element_wise("'", text, "")
    return compute.if_else(compute.match_substring_regex(text, _STARTS), marked, text)


def _plain(text: str) -> str:
    return f"'{text}" if re.match(_STARTS, text) else text


def _plain_cell(text: str | None) -> str | None:
    """Make cells of a csv file that are written as they were read plain text; numbers stay."""
    return text if text is None or _NUMBER.fullmatch(text) else _plain(text)
