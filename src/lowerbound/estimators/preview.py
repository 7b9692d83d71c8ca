"""Report what a fit would do with an array, and which of its values are invalid, without fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data import arrays
from lowerbound.errors import DataError
from lowerbound.estimators.defaults import build_likelihood, check_precision, default_likelihood
from lowerbound.estimators.inputs import CHUNK, TOO_LARGE, WAY_OUT, check_array, largest
from lowerbound.estimators.table_networks import family_of
from lowerbound.schema import Column, Schema

_NAMED = 5  # if there are more columns, a sentence gives their number instead of their names


@dataclass(frozen=True)
class Preview:
    """A preview of ``VAE().fit``; print it for a summary.

    ``problems``: why a fit would raise an error. ``notes``: what a fit would accept, but may not be intended.
    ``likelihood`` and ``why`` are None if there are problems. ``bytes``: size of the data in memory. ``schema``: the
    inferred schema of a frame; None for arrays, or if it cannot be inferred.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    likelihood: str | None
    why: str | None
    train_rows: int
    held_out_rows: int
    steps_per_epoch: int
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    schema: Schema | None = None

    def words(self) -> str:
        """The summary, line by line."""
        about = f"{_rows(self.rows)} of shape {self.shape}, {self.dtype}, {_size(self.bytes)}"
        lines = [about if self.schema is None else str(self.schema)]
        if self.problems:
            lines.append("a fit would raise an error for these data")
        else:
            each = "the likelihood" if self.schema is None else "one likelihood per column"
            of = f"{self.likelihood}: {self.why}" if self.schema is None else f"({self.why})"
            lines.append(f"a fit would use {each} {of}")
            lines.append(
                f"it would train on {_rows(self.train_rows)} (steps per epoch: {self.steps_per_epoch:,}) and hold out "
                f"{self.held_out_rows:,}"
            )
        return "\n".join([*lines, *self.notes, *self.problems])

    __str__ = words

    def as_dict(self) -> dict[str, Any]:
        """The preview as a dictionary for JSON, with the ``columns`` of a table."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "schema"}
        return found if self.schema is None else found | {"columns": [_described(each) for each in self.schema.columns]}


def preview(
    x: NDArray[Any],
    names: Sequence[str] | None = None,
    source: str = "X",
    batch_size: int = 100,
    validation: float = 0.1,
) -> Preview:
    """Preview a fit to ``x``. ``names``: its column names; ``source``: the name of ``x`` in messages."""
    problems, notes, likelihood, why = [], [], None, None
    try:
        x = check_array(x, source)
        problems = list(_unusable(x, names))
        if not problems:
            likelihood, why = default_likelihood(x)
            check_precision(build_likelihood(likelihood, x, max_value=255), x, source, names)
    except DataError as error:
        problems.append(str(error))
    rows = len(x) if x.ndim else 0
    held_out, steps = course(rows, batch_size, validation)
    if x.ndim > 1 and x.size:
        notes = list(_notes(x, names, batch_size, validation, held_out))
    return Preview(
        rows=rows,
        shape=tuple(x.shape[1:]),
        dtype=str(x.dtype),
        bytes=x.nbytes,
        likelihood=likelihood,
        why=why,
        train_rows=rows - held_out,
        held_out_rows=held_out,
        steps_per_epoch=steps,
        notes=tuple(notes),
        problems=tuple(problems),
    )


def _unusable(x: NDArray[Any], names: Sequence[str] | None) -> Iterator[str]:
    """For each kind of value that ``check_finite`` rejects: their number, and where the first is."""
    if x.dtype.kind != "f":
        return
    count, first = dict.fromkeys(WAY_OUT, 0), {}
    nans = np.zeros(x.shape[1:], np.int64)
    for start in range(0, len(x), CHUNK):
        chunk = x[start : start + CHUNK]
        found = {"NaN": np.isnan(chunk), "infinite": np.isinf(chunk)}
        found[TOO_LARGE] = ~(np.abs(chunk) <= largest(x.dtype)) & ~found["NaN"] & ~found["infinite"]
        nans += found["NaN"].sum(0)
        for kind, marked in found.items():
            count[kind] += int(marked.sum())
            if kind not in first and marked.any():
                row, *rest = arrays.first(marked)
                first[kind] = arrays.place((start + row, *rest), names)
    for kind, where in first.items():
        many = f"{count[kind]:,} values are {kind}, the first in" if count[kind] > 1 else f"1 value is {kind}, in"
        yield f"{many} {where}; {WAY_OUT[kind]}."
    empty = nans == len(x)
    if empty.any() and len(x) > 1:
        yield f"{_columns(empty, names)} NaN in every row; leave {'it' if empty.sum() == 1 else 'them'} out."


def _notes(
    x: NDArray[Any], names: Sequence[str] | None, batch_size: int, validation: float, held_out: int
) -> Iterator[str]:
    """Notes on data that a fit accepts without a warning, but that may not be intended."""
    constant = np.all([(x[i : i + CHUNK] == x[:1]).all(0) for i in range(0, len(x), CHUNK)], 0)
    if len(x) > 1 and constant.any():
        yield f"{_columns(constant, names)} constant"
    yield from few(len(x), batch_size, validation, held_out)


def few(rows: int, batch_size: int, validation: float, held_out: int) -> Iterator[str]:
    """Notes on the number of rows."""
    if rows == 1:
        yield "there is only one row: the model memorises it, and no row can be held out"
    elif held_out == 0:
        yield f"{validation:g} of {rows} rows is less than one: no row is held out, and the last epoch is kept"
    if rows - held_out < batch_size:
        left = _rows(rows - held_out)
        yield f"{left} to train on, fewer than batch_size={batch_size}: each step uses all"


def course(rows: int, batch_size: int, validation: float) -> tuple[int, int]:
    """The number of held-out rows, and of steps per epoch."""
    held_out = max(0, min(round(validation * rows), rows - 1))
    return held_out, -(-(rows - held_out) // min(batch_size, rows - held_out)) if rows else 0


def _described(column: Column) -> dict[str, Any]:
    """A column of a table as a dictionary for JSON."""
    found: dict[str, Any] = {name: getattr(column, name) for name in ("name", "kind", "why", "missing", "problems")}
    return found | {"likelihood": family_of(column)[0].__name__ if column.modelled else None}


def _columns(marked: NDArray[np.bool_], names: Sequence[str] | None) -> str:
    """The marked columns with their verb: "column 3 ('ash') is", "columns 'ash', 'hue' are", "12 of 64 columns are"."""
    places = [tuple(map(int, place)) for place in np.argwhere(marked)]
    if len(places) == 1:
        return f"{arrays.column(places[0], names)} is"
    if marked.ndim > 1 or len(places) > _NAMED:
        return f"{len(places)} of {marked.size} columns are"
    return f"columns {', '.join(str(j) if names is None else repr(str(names[j])) for (j,) in places)} are"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    """A number of bytes with a unit, as text."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
