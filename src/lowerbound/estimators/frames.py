"""Convert frames to standardised numbers (NaN for missing cells), and results back to frames."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from narwhals.dependencies import is_into_dataframe
from numpy.typing import NDArray

from lowerbound import schema
from lowerbound.data.frames import is_stream
from lowerbound.errors import DataError, ReadingWarning
from lowerbound.schema import Column, Encoded, Schema, Storage, coding, written
from lowerbound.schema.cells import Cells, plain, read, write
from lowerbound.schema.column import CLASSES, Name
from lowerbound.schema.rules import shown

Array = NDArray[np.float64]


def is_frame(X: Any) -> bool:
    """Whether ``X`` is a table of pandas, polars or pyarrow."""
    return bool(is_into_dataframe(X)) or hasattr(X, "collect") or isinstance(X, pa.RecordBatch) or is_stream(X)


def learned(X: Any, given: Schema | Mapping[Name, Any] | None, strict: bool) -> tuple[Schema, Array]:
    """The schema of a frame to fit, and its standardised rows. The frame is read once.

    ``given``: a schema, or the kinds of some columns; the others are inferred. Raises ``DataError`` if no column can be
    modelled.
    """
    if isinstance(given, Schema):
        found, values = given, None
    else:
        found, values = schema.infer_and_encode(X, given, what="X")
        say(found)
    check_modelled(found)
    if values is None:
        values = encoded(X, found, strict, lenient=False, keep=False).values
    return found, standardised(values, found)


def check_modelled(of: Schema) -> None:
    """Raise ``DataError`` if a schema has no column that can be modelled."""
    if not of.modelled:
        raise DataError(
            "X has no column to learn from, because each is constant or an identifier; give a column that varies."
        )


def say(of: Schema) -> None:
    """Warn once of columns whose interpretation is uncertain: parsed text, and columns left out as identifiers."""
    said = []
    for column in of.columns:
        name, notes = repr(column.name), [note for note in column.problems if re.search("is used| taken|read as", note)]
        if column.kind == "identifier" and column.why.startswith("dropped"):
            said.append(f"{name} is left out as an identifier")
        elif column.form is not None and (notes or column.form not in (*written.OLD.values(), *written.BOOLS)):
            of_what = "dates" if column.kind == "datetime" else "numbers"
            said.append(
                f"{name} is read as {of_what} written as {column.form}" + "".join(f" ({each})" for each in notes)
            )
        elif column.markers and column.form is None and notes:
            said.append(f"{name} is read as numbers or times ({'; '.join(notes)})")
    if said:
        more = f"; and {len(said) - 12} more columns" if len(said) > 12 else ""
        warnings.warn(
            f"in X, {'; '.join(said[:12])}{more}: lowerbound.check gives the reasons, and schema= declares another "
            "kind.",
            ReadingWarning,
            stacklevel=5,
        )


def encoded(
    X: Any, of: Schema, strict: bool, lenient: bool = True, kept: Sequence[Name] | None = (), keep: bool = True
) -> Encoded:
    """Encode the rows of ``X``. Levels that are not in the schema count as missing, with a warning.

    ``lenient``: so do values outside the range of their column's kind; and columns that the model was not fitted to are
    ignored with a warning, except those in ``kept`` (None: all). ``strict``: unknown levels and such values are errors.
    """
    coded = of.encode(X if is_frame(X) else _framed(X, of), strict=strict, lenient=lenient, keep=keep, what="X")
    check_names(coded.source.names, kept or ())
    levels = {name: n for name, n in coded.unseen.items() if of[name].kind in (*CLASSES, "constant")}
    if levels:
        cells = ", ".join(f"{count} of {name!r}" for name, count in levels.items())
        warnings.warn(f"X has levels that were not in the fitted data; they count as missing: {cells}", stacklevel=4)
    if values := {name: n for name, n in coded.unseen.items() if name not in levels}:
        cells = ", ".join(f"{count} of {name!r} ({of[name].kind})" for name, count in values.items())
        warnings.warn(
            f"X has values outside the range of their column's kind; they count as missing: {cells}. To allow them, "
            "declare another kind by schema= when fitting; strict=True makes them an error.",
            stacklevel=4,
        )
    if ignored := [name for name in coded.others if kept is not None and name not in kept]:
        warnings.warn(
            f"X has columns that the model was not fitted to; they are ignored: {', '.join(map(repr, ignored))}",
            stacklevel=4,
        )
    return coded


def count_unfilled(coded: Encoded, columns: Sequence[Column]) -> None:
    """Warn of cells that stay missing in completed rows, because their ``columns`` are not modelled."""
    missing = {}
    for column in columns:
        if column.modelled or (column.kind == "constant" and column.value is not None):
            continue
        found = coded.aside.get(column.name)
        count = len(coded.values) if found is None else int((~found.mask).sum())
        if count:
            missing[column.name] = f"{count} of {column.name!r} ({column.kind})"
    if missing:
        warnings.warn(
            f"cells of columns that are not modelled stay missing: {', '.join(missing.values())}", stacklevel=3
        )


def standardised(values: Array, of: Schema) -> Array:
    """Standardise encoded ``values [N, D]``. Raises ``DataError`` if a result is too large for single precision."""
    values = of.standardise(values)
    far = np.abs(values) > 1e38
    if far.any():
        row, j = (int(at) for at in np.argwhere(far)[0])
        name = of.modelled[j].name
        raise DataError(
            f"row {row} of column {name!r} is {values[row, j]:.3g} times the column's spread away from its centre, too "
            "far for single precision; set the cell to missing, or rescale the column."
        )
    return values


def decoded(
    values: NDArray[Any],
    of: Schema,
    rng: np.random.Generator,
    coded: Encoded | None = None,
    exact: tuple[Array, NDArray[np.bool_]] | None = None,
) -> Any:
    """Convert standardised ``values [N, D]`` to a frame, with the identifiers and constants of ``coded`` rows if given.

    ``exact``: cells ``[D]`` that have the same known value in every row, in the columns' own units, and a mask of them.
    """
    cells = of.unstandardise(values.astype(np.float64))
    if exact is not None:
        cells = np.where(exact[1], exact[0], cells)
    if coded is None:
        return of.decode(cells, generator=rng)
    aside = {name: kept for name, kept in coded.aside.items() if name in coded.others or not of[name].modelled}
    drawn = replace(coded, values=cells, mask=np.zeros_like(coded.mask), aside=aside, complete=True)
    return of.decode(drawn, generator=rng)


def completed(
    values: NDArray[Any], of: Schema, coded: Encoded, levels: Array | None = None, *, best: bool = False
) -> Any:
    """The rows of ``coded`` with their missing cells filled from standardised ``values [N, D]``, in their own types.

    ``levels [N, D]``: uniform numbers that select one of the levels that share the class "other". ``best``: the values
    are best completions, not draws; numbers and times are then clipped to the range of the fitted cells.
    """
    cells = of.unstandardise(values.astype(np.float64))
    return of.decode(coded.filled(of.within_seen(cells) if best else cells), generator=levels)


def shares(values: Array, of: Schema, coded: Encoded) -> Any:
    """Numbers ``[N, D]``, one per modelled cell, as a frame with the library and the index of the rows."""
    names = [column.name for column in of.modelled]
    storages = [plain(coded.source.backend, Storage("float"))] * len(names)
    index = coded.source.index if coded.source.backend == "pandas" else None
    source = replace(coded.source, names=tuple(names), storages=tuple(storages), index=index)
    there = np.ones(len(values), bool)
    return write(source, storages, [Cells(values[:, j].copy(), there) for j in range(len(names))], len(values))


def without(coded: Encoded, keep: Sequence[Name]) -> Encoded:
    """Drop the columns that are not in the schema, except those to ``keep``."""
    source = coded.source
    check_names(source.names, keep)
    left = [j for j, name in enumerate(source.names) if name not in coded.others or name in keep]
    names, storages = tuple(source.names[j] for j in left), tuple(source.storages[j] for j in left)
    others = tuple(name for name in coded.others if name in keep)
    return replace(coded, source=replace(source, names=names, storages=storages), others=others)


def beside(X: Any, keep: Sequence[Name], columns: Mapping[str, NDArray[Any]]) -> Any:
    """A frame of the columns of ``X`` to ``keep`` and of new ``columns``: ``[N]``, or ``[N, D]`` as NAME0, NAME1, …"""
    if not is_frame(X):
        raise DataError(f"keep names columns of a frame, but X is a {type(X).__name__}; give a frame.")
    found: dict[Name, Array] = {}
    for name, values in columns.items():
        found |= {name: values} if values.ndim == 1 else {f"{name}{j}": each for j, each in enumerate(values.T)}
    source = read(X, "X").source
    storages = tuple(plain(source.backend, Storage("float")) for _ in found)
    there = np.ones(len(next(iter(found.values()))), bool)
    cells = [Cells(np.asarray(values, np.float64), there) for values in found.values()]
    return joined(X, keep, write(replace(source, names=tuple(found), storages=storages), storages, cells, len(there)))


def joined(X: Any, keep: Sequence[Name], frame: Any) -> Any:
    """The columns of ``X`` to ``keep``, followed by those of ``frame``, which has the same rows and library."""
    left, right = read(X, "X"), read(frame)
    check_names(left.source.names, keep)
    if twice := set(keep) & set(right.source.names):
        raise DataError(f"keep names {min(map(str, twice))!r}, which is also a column of the result; rename it in X.")
    storages, cells = zip(*left.ordered(keep, "X", others=True), strict=True)
    source = replace(left.source, names=(*keep, *right.source.names), storages=(*storages, *right.source.storages))
    return write(source, source.storages, [*cells, *right.cells], left.rows)


def check_names(names: Sequence[Name], keep: Sequence[Name]) -> None:
    if isinstance(keep, str):
        raise ValueError(f"keep is {keep!r}; give a list of column names, such as [{keep!r}].")
    unknown = next((name for name in keep if name not in names), None)
    if unknown is not None:
        raise DataError(f"keep names {unknown!r}, but X has no such column; its columns are {list(names)}.")


def row_given(given: Mapping[Name, Any], of: Schema) -> tuple[Array, NDArray[np.bool_]]:
    """Encode the values ``given`` by column as one row ``[D]``, NaN for other columns; and a mask of given values."""
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"given is {given!r}; give values by column, such as {{{of.modelled[0].name!r}: …}}.")
    place = {column.name: j for j, column in enumerate(of.modelled)}
    values = np.full(len(place), np.nan)
    for name, value in given.items():
        if name not in of.names:
            raise DataError(
                f"given names {name!r}, which is not a column of the model; its columns are {list(of.names)}."
            )
        if name not in place:
            raise DataError(f"given names {name!r}, which is {of[name].kind} and not modelled; leave it out.")
        try:
            values[place[name]] = of.code(name, value)
        except DataError as error:
            raise DataError(f"given: {error}") from error
    return values, ~np.isnan(values)


def warn_of_condition(given: Mapping[Name, Any], of: Schema, extreme: NDArray[np.bool_]) -> None:
    """Warn that the cells ``given`` are very unlikely under the model; ``extreme [D]``: those outside its samples."""
    far = [column for column, there in zip(of.modelled, extreme, strict=True) if there]
    cells = ", ".join(f"{name}={value}" for name, value in given.items() if not far or of[name] in far)
    ranges = ", ".join(f"{column.name!r} from {low} to {high}" for column in far for low, high in _range(column))
    warnings.warn(
        f"given: {cells} {'is far from' if far else 'is a combination far from'} all data that the model was fitted to"
        f"{f' ({ranges})' if ranges else ''}. It is less likely than each of 10,000 samples of the model, so the "
        "conditional samples are an extrapolation.",
        stacklevel=5,
    )


def _range(column: Column) -> list[tuple[str, str]]:
    """The range of the fitted cells, as text, if it is known."""
    inner = column.inner
    if column.kind in CLASSES or column.low is None or column.high is None:
        return []
    ends = coding.cells(inner, inner.storage, np.array([column.low, column.high]), np.ones(2, bool))
    low, high = (shown(value, inner.storage) for value in ends.values.tolist())
    return [(low, high)]


def _framed(X: Any, of: Schema) -> Any:
    """Convert an array to a table with the names of the fitted columns."""
    import pyarrow

    values = np.asarray(X)
    if values.ndim != 2 or values.shape[1] != len(of.names):
        raise DataError(
            f"X has shape {values.shape}, but the model was fitted to a table of {len(of.names)} features "
            f"({', '.join(map(repr, of.names[:6]))}…); give a frame with these columns."
        )
    warnings.warn(
        "X does not have valid feature names; its columns are assumed to be in the order of the fitted frame",
        stacklevel=5,
    )
    columns = {str(name): pyarrow.array(values[:, j].tolist(), from_pandas=True) for j, name in enumerate(of.names)}
    return pyarrow.table(columns)
