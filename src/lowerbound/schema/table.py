"""Schema of a table: the kind of each column; conversion of frames to numbers and back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dialect import Csv
from lowerbound.errors import DataError, FormatError
from lowerbound.schema import cells as reading
from lowerbound.schema import coding, description, given, loose, validation
from lowerbound.schema.cells import Backend, Cells, Source
from lowerbound.schema.column import CLASSES, Column, Name, Storage
from lowerbound.schema.rules import shown
from lowerbound.schema.validation import FORMAT

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows as numbers: ``values [N, D]`` over the modelled columns, NaN where ``mask [N, D]`` is False.

    ``unseen``: how many cells of a column are of a level that the schema does not know, or are values that the kind
    does not hold, and so count as missing; of a constant column, how many are not its value. ``others``: the columns
    that the schema does not have. ``source``: the library and the types that the rows came in.
    ``aside``: what the numbers cannot say: identifiers, levels that share "other", unseen cells, missing cells of
    constant columns, ``others``, and whole numbers or times that span more than 2^53 steps. ``complete``: whether
    missing cells have been filled.
    """

    values: Floats
    mask: NDArray[np.bool_]
    unseen: Mapping[Name, int]
    source: Source
    aside: Mapping[Name, Cells] = field(default_factory=dict)
    complete: bool = False
    others: tuple[Name, ...] = ()

    def filled(self, values: Floats) -> Encoded:
        """Fill missing cells from ``values [N, D]``; observed cells are unchanged."""
        values = np.asarray(values, np.float64)
        if values.shape != self.values.shape:
            raise ValueError(
                f"values are {list(values.shape)} for rows of {list(self.values.shape)}; give one per cell."
            )
        return replace(self, values=np.where(self.mask, self.values, values), complete=True)


@dataclass(frozen=True)
class Schema:
    """The interpretation of each column of a table, as ``infer`` found it in ``rows`` rows of a frame of ``backend``.

    ``csv``: how the file was written that the frame was read from, where that is not with commas and points.
    """

    columns: tuple[Column, ...]
    backend: Backend
    rows: int
    csv: Csv | None = None

    @property
    def names(self) -> tuple[Name, ...]:
        """The columns' names, in the frame's order."""
        return tuple(column.name for column in self.columns)

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns that a model sees, in the order of ``Encoded.values``: all but constants and identifiers."""
        return tuple(column for column in self.columns if column.modelled)

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems of the table as a whole, in words."""
        few = f"fewer rows ({self.rows}) than columns ({len(self.columns)})"
        nothing = "no column is left to learn from"
        return (few,) * (self.rows < len(self.columns)) + (nothing,) * (not self.modelled)

    def __getitem__(self, name: Name) -> Column:
        if name not in self._by_name:
            raise KeyError(f"there is no column {name!r}; the schema's are {list(self.names)}.")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[Name, Column]:
        return {column.name: column for column in self.columns}

    def __str__(self) -> str:
        return description.listing(self.columns, self.rows, self.backend, self.problems)

    def encode(
        self, df: Any, *, strict: bool = False, lenient: bool = False, keep: bool = True, what: str = "the frame"
    ) -> Encoded:
        """The rows of ``df`` as numbers; its columns may come in any order, and of another library.

        Numbers are themselves, in double precision; whole numbers beyond 2^53 and times are (cell − offset) / step; a
        class is its place among ``levels``. A level that the schema does not know counts as missing; ``strict``
        refuses it. Raises ``DataError``, naming column and row, for other columns, other types, infinities, and values
        that a column's kind cannot take; ``lenient``, it keeps other columns aside, and such values count as missing,
        unless ``strict``. Without ``keep``, cells that ``decode`` could not bring back are not kept ``aside``: enough
        for rows that only go into a model.
        """
        frame = reading.read(df, what, self.names)
        pairs = zip(self.columns, frame.ordered(self.names, what, lenient), strict=True)
        others = tuple(frame.others(self.names))
        place = self._places()
        values = np.full((frame.rows, len(place)), np.nan)
        aside, unseen = frame.of(others), {}
        for column, (storage, found) in pairs:
            numbers, unknown = _numbers(column, storage, found, lenient and not strict)
            if unknown.any():
                unseen[column.name] = int(unknown.sum())
                if strict:
                    raise _refusal(column, storage, found, int(np.argmax(unknown)))
            if column.modelled:
                values[:, place[column.name]] = numbers
            if keep and not _restored(column, storage, numbers).same(found):
                aside[column.name] = found
        return Encoded(values, ~np.isnan(values), unseen, frame.source, aside, others=others)

    def code(self, name: Name, value: Any) -> float:
        """The number that ``encode`` gives a cell that holds ``value`` in the column ``name``.

        Raises ``DataError`` for a value that the column cannot hold.
        """
        column = self[name]
        storage, cells = given.read(column, self.backend, value)
        try:
            numbers, unknown = _numbers(column, storage, cells, lenient=True)
        except DataError as error:
            due = coding.group(column.inner.storage)
            raise DataError(f"column {name!r} is given {value!r}, and it holds {due}; give one of these.") from error
        found = float(numbers[0])
        if unknown.any() and column.kind not in CLASSES and not coding.is_written(column, storage):
            _, due = coding.outside(column, numbers, cells)
            raise DataError(f"column {name!r} is given {value!r}, and its kind, {column.kind}, holds what is {due}.")
        if unknown.any():
            levels = ", ".join(shown(level, column.storage) for level in column.levels[:6])
            due = f"give one of {levels}" if column.form is None else f"write it as {column.form}"
            raise DataError(f"column {name!r} is given {value!r}, which was never seen there; {due}.")
        if column.storage.family == "int" and column.kind not in CLASSES and found != np.rint(found):
            raise DataError(f"column {name!r} is given {value!r}, and it holds whole numbers; give one.")
        return found

    def decode(self, values: Encoded | Floats, like: Any = None, *, generator: coding.Uniform | None = None) -> Any:
        """A frame of the columns' own types, categories and order of columns: the inverse of ``encode``.

        Of ``Encoded`` rows every cell that was observed comes back as it was, bit for bit, identifiers too; those that
        ``filled`` filled are rounded to the column's ``precision`` and held to the range of its kind (0 and above for
        counts and positive numbers, ``low`` to ``high`` for an interval). Numbers alone, ``[N, D]`` with NaN for a
        missing cell, are draws: all are rounded and clipped; constant columns have their value; keys of whole numbers
        continue from the largest in the data, and other identifiers, which no model knows, are missing. "other" is one
        of the levels that share it, drawn by how often each was seen; without a ``generator`` it is missing. ``like``:
        a frame whose library, types and order of columns to take, instead of those of the rows, or of the frame
        inferred from; pandas' index too, if it has as many rows.
        """
        coded = values if isinstance(values, Encoded) else None
        numbers = coded.values if coded is not None else np.asarray(values, np.float64)
        if numbers.ndim != 2 or numbers.shape[1] != len(self.modelled):
            raise ValueError(f"values are {list(numbers.shape)}; give [N, {len(self.modelled)}], one number per cell.")
        observed = coded.mask if coded is not None else np.zeros(numbers.shape, bool)
        source, place = self._source(coded, like), self._places()
        storages, found = [], []
        for name, theirs in zip(source.names, source.storages, strict=True):
            kept = None if coded is None else coded.aside.get(name)
            if coded is not None and kept is not None and name in coded.others:
                storages.append(theirs)
                found.append(kept)
                continue
            column = self[name]
            own = column.storage if source.backend == self.backend else reading.plain(source.backend, column.storage)
            j = place.get(name)
            empty = bool(np.isnan(numbers[:, j]).all()) if j is not None else column.value is None
            storage = theirs if empty or coding.holds(theirs, column) else own
            cells = _blank(len(numbers))
            if j is not None and not empty:
                chosen = generator[:, j] if isinstance(generator, np.ndarray) else generator
                cells = _cells(column, storage, numbers[:, j], observed[:, j], chosen)
            elif column.kind == "identifier" and coded is None:
                cells = coding.keys(column, storage, len(numbers))
            elif column.kind == "constant" and not empty:
                cells = coding.constant(column, storage, len(numbers))
            if coded is not None and kept is not None:
                storage, cells = _merged(column, coded, kept, storage, cells)
            storages.append(storage)
            found.append(cells)
        return reading.write(source, storages, found, len(numbers))

    def standardise(self, values: Floats) -> Floats:
        """Values ``[..., D]`` of columns of like size: (x − centre) / scale, in double precision.

        Real numbers and times lose their median and are divided by their interquartile range / 1.349 (by mean and
        standard deviation where that is 0); positive numbers, and counts that go beyond 1,000, are divided by their
        median; an interval goes to [0, 1]; other counts and classes stay what they are. A density p(u) of the
        standardised is p(u) / scale in the column's own units, so that log p(x) = log p(u) + ``log_jacobian``.
        """
        centre, scale = self._centres_and_scales()
        with np.errstate(over="ignore"):  # of a value that its column's scale is nothing to
            return np.asarray(values / scale - centre / scale, np.float64)

    def unstandardise(self, values: Floats) -> Floats:
        """The inverse of ``standardise``, up to rounding."""
        centre, scale = self._centres_and_scales()
        return np.asarray((values + centre / scale) * scale, np.float64)

    def within_seen(self, values: Floats) -> Floats:
        """Encoded values ``[..., D]`` held to the range of the cells that the schema was inferred from.

        A mean of a skewed distribution can lie beyond all that was ever seen.
        """
        low = [-math.inf if column.low is None else column.low for column in self.modelled]
        high = [math.inf if column.high is None else column.high for column in self.modelled]
        return np.clip(values, low, high)

    @property
    def log_jacobian(self) -> Floats:
        """−log scale ``[D]``, in nats: what each observed cell's log-density gains in the column's own units."""
        return -np.log(self._centres_and_scales()[1])

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        columns = [column.as_dict() for column in self.columns]
        found = {"format": FORMAT, "backend": self.backend, "rows": self.rows, "columns": columns}
        return found if self.csv is None else found | {"csv": asdict(self.csv)}

    def to_json(self) -> str:
        """The schema as JSON, the same text for the same schema."""
        return json.dumps(self.as_dict(), allow_nan=False, sort_keys=True)

    @property
    def identity(self) -> str:
        """SHA-256 of ``to_json``, by which a checkpoint knows its table."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @staticmethod
    def from_dict(found: Any, what: str = "the schema") -> Schema:
        """The schema that ``as_dict`` wrote. Raises ``FormatError``, which names the file ``what``, for anything else.

        Nothing in it chooses code or size: each field is checked (``validation``).
        """
        return Schema(*validation.checked(found, what))

    @staticmethod
    def from_json(text: str) -> Schema:
        """The schema that ``to_json`` wrote. Raises ``FormatError`` for anything else."""
        try:
            found = json.loads(text)
        except ValueError as error:
            raise FormatError(f"the schema is no JSON ({error}); restore its file, or infer it again.") from error
        return Schema.from_dict(found)

    def _places(self) -> dict[Name, int]:
        return {column.name: j for j, column in enumerate(self.modelled)}

    def _centres_and_scales(self) -> tuple[Floats, Floats]:
        centres, scales = ([getattr(column, of) for column in self.modelled] for of in ("centre", "scale"))
        return np.array(centres, np.float64), np.array(scales, np.float64)

    def _source(self, coded: Encoded | None, like: Any) -> Source:
        if like is not None:
            frame = reading.read(like, "like", self.names)
            frame.ordered(self.names, "like")
            return frame.source
        own = Source(self.backend, self.names, tuple(column.storage for column in self.columns))
        return own if coded is None else coded.source


def _numbers(column: Column, storage: Storage, found: Cells, lenient: bool = False) -> tuple[Floats, NDArray[np.bool_]]:
    """Encoded values ``[N]`` of one column, NaN for none; and which cells the schema does not know.

    ``lenient``: values that the kind cannot take are such cells too, instead of being refused.
    """
    nothing, known = np.full(len(found.mask), np.nan), np.zeros(len(found.mask), bool)
    if column.kind == "identifier" or not found.mask.any():
        return nothing, known
    if column.kind == "constant":
        if column.value is None or not coding.holds(storage, column):
            return nothing, found.mask
        due = coding.constant(column, storage, len(found.mask))
        return nothing, found.mask & np.asarray(due.values != found.values, bool)
    coding.check_type(column, storage, found)
    storage, found, unread = coding.read_by_form(column, storage, found)
    column = column.inner
    coding.refuse_infinite(column, found)
    if column.kind in CLASSES:
        codes = coding.codes(column, found)
        return np.where(codes < 0, np.nan, codes), (codes < 0) | unread
    values = coding.numbers(column, storage, found)
    if lenient:
        wrong, _ = coding.outside(column, values, found)
        return np.where(wrong, np.nan, values), wrong | unread
    coding.check_range(column, values, found)
    return values, unread


def _restored(column: Column, storage: Storage, numbers: Floats) -> Cells:
    """The cells that the numbers alone bring back."""
    if column.kind == "constant" and column.value is not None and coding.holds(storage, column):
        return coding.constant(column, storage, len(numbers))
    if not column.modelled or np.isnan(numbers).all():
        return _blank(len(numbers))
    return _cells(column, storage, numbers, np.ones(len(numbers), bool))


def _cells(
    column: Column,
    storage: Storage,
    numbers: Floats,
    observed: NDArray[np.bool_],
    generator: coding.Uniform | None = None,
) -> Cells:
    """Encoded values as cells of a type, in their form if they have one."""
    inner = column.inner
    if not coding.is_written(column, storage):
        return coding.cells(inner, storage, numbers, observed, generator)
    return coding.written_cells(column, storage, coding.cells(inner, inner.storage, numbers, observed, generator))


def _merged(column: Column, coded: Encoded, kept: Cells, storage: Storage, cells: Cells) -> tuple[Storage, Cells]:
    """Cells that were kept aside over those that the numbers say."""
    theirs = coded.source.storage_of[column.name]
    if (storage.family, storage.unit) != (theirs.family, theirs.unit):
        return storage, cells  # of another type: the numbers say what can be said
    if column.kind == "constant" and not coded.complete:
        return storage, kept
    if coded.complete and column.kind != "identifier":
        _, read, unknown = coding.read_by_form(column, storage, kept)
        kept = Cells(kept.values, kept.mask & (read.mask | unknown))
    if loose.is_loose(theirs, kept):
        if storage.dtype != theirs.dtype:
            return storage, cells
        cells = reading.as_objects(coded.source.backend, storage, cells)
    return storage, kept.over(cells) if cells.mask.any() else kept


def _blank(rows: int) -> Cells:
    return Cells(np.full(rows, None, object), np.zeros(rows, bool))


def _refusal(column: Column, storage: Storage, found: Cells, row: int) -> DataError:
    if column.form is not None:
        return DataError(
            f"row {row} of column {column.name!r} is {shown(found.values[row])}, which is not written as the others "
            f"are ({column.form}); write it so, put no value there, or leave strict out."
        )
    due: Sequence[Any] = (column.value,) if column.kind == "constant" else column.levels
    known = ", ".join(shown(level, column.storage) for level in due[:4]) + (", …" if len(due) > 4 else "")
    value = shown(found.values[row], storage)
    return DataError(
        f"row {row} of column {column.name!r} is {value}, which was never seen there ({known}); put no value there, or "
        "leave strict out."
    )
