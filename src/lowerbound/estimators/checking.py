"""``check``: report what a fit would do with some data, without fitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowerbound import data
from lowerbound.data.frames import table_of
from lowerbound.errors import DataError
from lowerbound.estimators import frames, inputs
from lowerbound.estimators.choices import Auto, lengths
from lowerbound.estimators.preview import Preview, course, few, preview
from lowerbound.estimators.table_networks import likelihood_name
from lowerbound.schema import Column, Schema, infer_and_encode
from lowerbound.schema.column import Name


def check(
    X: Any,
    *,
    schema: Schema | Mapping[Name, str | Column] | None = None,
    batch_size: int | Auto = "auto",
    validation: float | Auto = "auto",
    csv: data.Csv | None = None,
) -> Preview:
    """Report what ``VAE(schema=schema).fit(X)`` would do, and problems of ``X``, without fitting. Print the result.

    ``X``: an array; a pandas, polars or pyarrow frame; a result of ``lowerbound.data.load``; or the name or path of
    data (``csv``: its format, if it cannot be detected). Raises an error only if the data cannot be read.
    """
    name = "X"
    if isinstance(X, str | Path):
        X, name = data.source(X, csv=csv), str(X)
    if frames.is_frame(X):
        return _of_table(X, schema, name, batch_size, validation)
    names: Sequence[str] | None = None
    if isinstance(X, data.Dataset):
        X = X.train
    elif isinstance(X, data.Table):
        X, names = X.x, X.names
    try:
        x = X if isinstance(X, np.ndarray) else inputs.prepare(X)
    except (DataError, TypeError) as error:
        return Preview(0, (), type(X).__name__, 0, None, None, 0, 0, 0, (), (str(error),))
    return preview(x, names, name, batch_size, validation)


def _of_table(X: Any, given: Any, source: str, batch_size: int | Auto, validation: float | Auto) -> Preview:
    """Preview a fit to a frame."""
    problems: list[str] = []
    notes: list[str] = []
    found: Schema | None = None
    why: str | None = None
    rows, columns, size = _extent(X)
    batch_size, validation, *epochs = lengths(rows, True, batch_size, validation)
    held_out, steps = course(rows, batch_size, validation)
    try:
        values = None
        if isinstance(given, Schema):
            found = given
        else:
            found, values = infer_and_encode(X, given, what=source)
        frames.check_modelled(found)
        if values is None:
            values = frames.encoded(X, found, strict=False, keep=False).values
        frames.standardised(values, found)
        why, missing = _families(found), float(np.isnan(values).mean())
        if missing:
            notes.append(f"{100 * missing:.3g} % of the modelled cells are missing; a fit would maximise iwae")
    except (DataError, ValueError) as error:
        problems.append(str(error))
    if rows:
        notes.extend(few(rows, batch_size, validation, held_out))
    return Preview(
        rows=rows,
        shape=(columns,),
        dtype="columns of their own types",
        bytes=size,
        likelihood=None if problems else "Product",
        why=why,
        train_rows=rows - held_out,
        held_out_rows=held_out,
        steps_per_epoch=steps,
        notes=tuple(notes),
        problems=tuple(problems),
        schema=found,
        most_steps=epochs[0] * steps,
        patience_steps=epochs[1] * steps if held_out else 0,
    )


def _families(of: Schema) -> str:
    """The likelihoods of the columns, in words: StudentT for 'a', 'b'; Categorical for 'c'."""
    found: dict[str, list[str]] = {}
    for column in of.modelled:
        found.setdefault(likelihood_name(column), []).append(repr(column.name))
    return "; ".join(f"{family} for {_some(names)}" for family, names in found.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _extent(X: Any) -> tuple[int, int, int]:
    """Rows, columns and bytes of a frame; zeros for a lazy frame."""
    import narwhals as nw

    try:
        frame = nw.from_native(table_of(X), eager_only=True)
    except (TypeError, ValueError):
        return 0, 0, 0
    return (*frame.shape, int(frame.estimated_size()))
