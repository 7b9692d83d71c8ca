"""Report what a fit would do with an array, and which of its values are invalid, without fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lowerbound.data.row_arrays import RowArray
from lowerbound.errors import DataError
from lowerbound.estimators.choices import LAST_STEPS, Auto, lengths
from lowerbound.estimators.defaults import build_likelihood, check_precision, default_likelihood
from lowerbound.estimators.inputs import check_array
from lowerbound.estimators.summary import Summary, columns
from lowerbound.estimators.table_networks import likelihood_name
from lowerbound.schema import Column, Schema


@dataclass(frozen=True)
class Preview:
    """A preview of ``VAE().fit``; print it for a summary.

    ``problems``: why a fit would raise an error. ``notes``: what a fit would accept, but may not be intended.
    ``likelihood`` and ``why`` are None if there are problems. ``bytes``: size of the data in memory. ``schema``: the
    inferred schema of a frame; None for arrays, or if it cannot be inferred. ``most_steps``: the most steps of a fit,
    before a last phase if there is one; ``patience_steps``: those without an improvement after which it ends.
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
    most_steps: int = 0
    patience_steps: int = 0

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
            lines.append(self._length())
        return "\n".join([*lines, *self.notes, *self.problems])

    __str__ = words

    def _length(self) -> str:
        """How many steps a fit would take, and what would end it."""
        steps = f"it would take at most {self.most_steps:,} steps"
        if self.patience_steps:
            steps += f", and end after {self.patience_steps:,} without a better objective of the held-out rows"
        if self.schema is None:
            return steps
        return f"{steps}; then half as many (at least {LAST_STEPS:,}) on all rows, at a learning rate that falls"

    def as_dict(self) -> dict[str, Any]:
        """The preview as a dictionary for JSON, with the ``columns`` of a table."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "schema"}
        return found if self.schema is None else found | {"columns": [_described(each) for each in self.schema.columns]}


def preview(
    x: RowArray,
    names: Sequence[str] | None = None,
    source: str = "X",
    batch_size: int | Auto = "auto",
    validation: float | Auto = "auto",
) -> Preview:
    """Preview a fit to ``x``. ``names``: its column names; ``source``: the name of ``x`` in messages."""
    problems, notes, likelihood, why, found = [], [], None, None, None
    try:
        x = check_array(x, source)
        found = Summary.of(x)
        problems = list(found.problems(names))
        if not problems:
            likelihood, why = default_likelihood(found)
            check_precision(build_likelihood(likelihood, found, max_value=255), found, source, names)
    except DataError as error:
        problems.append(str(error))
    rows = len(x) if x.shape else 0
    batch_size, validation, *epochs = lengths(rows, False, batch_size, validation)
    held_out, steps = course(rows, batch_size, validation)
    if found is not None:
        notes = list(_notes(found, names, batch_size, validation, held_out))
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
        most_steps=epochs[0] * steps,
        patience_steps=epochs[1] * steps if held_out else 0,
    )


def _notes(x: Summary, names: Sequence[str] | None, batch_size: int, validation: float, held_out: int) -> Iterator[str]:
    """Notes on data that a fit accepts without a warning, but that may not be intended."""
    constant = ~x.varies & (x.observed > 0)
    if x.rows > 1 and constant.any():
        yield f"{columns(constant, names)} constant"
    if x.missing:
        yield f"{100 * x.missing:.3g} % of the values are missing (NaN); a fit would maximise iwae"
    yield from few(x.rows, batch_size, validation, held_out)


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
    return found | {"likelihood": likelihood_name(column) if column.modelled else None}


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    """A number of bytes with a unit, as text."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
