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
    """Rows as numbers: ``values [N, D]`` of the modelled columns, NaN where ``mask [N, D]`` is False.

    - ``unseen``: for each column, the number of cells that count as missing because their level is not in the schema or
      their value is outside the range of the column's kind; for a constant column, of cells that differ from it.
    - ``source``: the library and the types of the rows.
    - ``aside``: cells that cannot be restored from the numbers: identifiers, levels that share the class "other",
      unseen cells, missing cells of constant columns, columns that are not in the schema, and whole numbers or times
      that span more than 2^53 steps.
    - ``complete``: whether missing cells have been filled.
    - ``others``: the columns that are not in the schema.
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
                f"values have shape {list(values.shape)}, but the rows have {list(self.values.shape)}; give one value "
                "per cell."
            )
        return replace(self, values=np.where(self.mask, self.values, values), complete=True)


@dataclass(frozen=True)
class Schema:
    """The interpretation of each column of a table, as ``infer`` found it.

    ``backend`` and ``rows``: the library and the number of rows of the frame. ``csv``: separator, decimal mark and
    missing values of the csv file from which the frame was read, if they are unusual.
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
        """The columns that the model sees, in the order of ``Encoded.values``: all but constants and identifiers."""
        return tuple(column for column in self.columns if column.modelled)

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems of the table as a whole, in words."""
        few = f"fewer rows ({self.rows}) than columns ({len(self.columns)})"
        nothing = "no column can be modelled: all are constant or identifiers"
        return (few,) * (self.rows < len(self.columns)) + (nothing,) * (not self.modelled)

    def __getitem__(self, name: Name) -> Column:
        if name not in self._by_name:
            raise KeyError(f"the schema has no column {name!r}; its columns are {list(self.names)}.")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[Name, Column]:
        return {column.name: column for column in self.columns}

    def __str__(self) -> str:
        return description.listing(self.columns, self.rows, self.backend, self.problems)

    def encode(
        self, df: Any, *, strict: bool = False, lenient: bool = False, keep: bool = True, what: str = "the frame"
    ) -> Encoded:
        """Encode the rows of ``df`` as numbers. Its columns may be in any order, and of another library.

        Numbers are encoded as themselves, in double precision; times, and whole numbers beyond 2^53, as
        (cell − offset) / step; a class as its position in ``levels``.

        ``strict``: raise an error for a level that is not in the schema (by default such a cell counts as missing).
        ``lenient``: keep columns that are not in the schema in ``Encoded.aside``, and count values outside the range of
        a column's kind as missing (by default both are errors; with ``strict`` such values remain errors).
        ``keep``: whether to keep ``aside`` the cells that ``decode`` could not restore from the numbers; not needed if
        the rows are only given to a model.

        Raises ``DataError``, which names column and row, for missing or extra columns, other types, infinite values and
        values outside the range of a column's kind.
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
        """Encode one ``value`` of the column ``name``. Raises ``DataError`` if the column cannot hold it."""
        column = self[name]
        storage, cells = given.read(column, self.backend, value)
        try:
            numbers, unknown = _numbers(column, storage, cells, lenient=True)
        except DataError as error:
            due = coding.group(column.inner.storage)
            raise DataError(f"column {name!r} is given {value!r}, but it holds {due}; give one of these.") from error
        found = float(numbers[0])
        if unknown.any() and column.kind not in CLASSES and not coding.is_written(column, storage):
            _, due = coding.outside(column, numbers, cells)
            raise DataError(
                f"column {name!r} is given {value!r}, but a value of kind {column.kind} is {due}; give such a value."
            )
        if unknown.any():
            levels = ", ".join(shown(level, column.storage) for level in column.levels[:6])
            due = f"give one of {levels}" if column.form is None else f"write it as {column.form}"
            raise DataError(f"column {name!r} is given {value!r}, which does not occur in the data; {due}.")
        if column.storage.family == "int" and column.kind not in CLASSES and found != np.rint(found):
            raise DataError(f"column {name!r} is given {value!r}, but it holds whole numbers; give a whole number.")
        return found

    def decode(self, values: Encoded | Floats, like: Any = None, *, generator: coding.Uniform | None = None) -> Any:
        """Decode numbers to a frame with the original types and order of columns: the inverse of ``encode``.

        In ``Encoded`` rows, every observed cell is restored bit for bit, including identifiers. Cells that
        ``Encoded.filled`` filled are rounded to the column's ``precision`` and brought into the range of its kind (at
        least 0 for counts and positive numbers, ``low`` to ``high`` for an interval).

        An array ``[N, D]`` (NaN for missing cells) is treated as draws: all values are rounded and brought into range,
        constant columns get their value, keys of whole numbers continue from the largest in the data, and other
        identifiers are missing.

        The class "other" is replaced by one of its levels, drawn in proportion to how often each was seen; without a
        ``generator``, such cells are missing. ``like``: a frame that determines the library, types and order of columns
        (and pandas' index, if the number of rows is the same); by default those of the encoded rows or of the frame
        from which the schema was inferred.
        """
        coded = values if isinstance(values, Encoded) else None
        numbers = coded.values if coded is not None else np.asarray(values, np.float64)
        if numbers.ndim != 2 or numbers.shape[1] != len(self.modelled):
            raise ValueError(
                f"values have shape {list(numbers.shape)}; give [N, {len(self.modelled)}], one number per cell."
            )
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
        """Standardise values ``[..., D]``: u = (x − centre) / scale, in double precision.

        The parameters depend on the kind. Real numbers and times: median and interquartile range / 1.349 (mean and
        standard deviation if that range is 0). Positive numbers, and counts with values above 1,000: 0 and the median
        of the values above 0. Intervals: their bounds become 0 and 1. Other counts and classes are unchanged.

        The density of x is p(u) / scale, so that log p(x) = log p(u) + ``log_jacobian``.
        """
        centre, scale = self._centres_and_scales()
        with np.errstate(over="ignore"):  # a value may be enormous compared with its column's scale
            return np.asarray(values / scale - centre / scale, np.float64)

    def unstandardise(self, values: Floats) -> Floats:
        """The inverse of ``standardise``, up to rounding."""
        centre, scale = self._centres_and_scales()
        return np.asarray((values + centre / scale) * scale, np.float64)

    def within_seen(self, values: Floats) -> Floats:
        """Clip encoded values ``[..., D]`` to the range of each column (``low`` to ``high``).

        The estimated mean of a skewed distribution can lie outside the range of the data.
        """
        low = [-math.inf if column.low is None else column.low for column in self.modelled]
        high = [math.inf if column.high is None else column.high for column in self.modelled]
        return np.clip(values, low, high)

    @property
    def log_jacobian(self) -> Floats:
        """−log scale ``[D]``, in nats: added to a standardised cell's log-density, it gives that in original units."""
        return -np.log(self._centres_and_scales()[1])

    def as_dict(self) -> dict[str, Any]:
        """The schema as a dictionary for JSON."""
        columns = [column.as_dict() for column in self.columns]
        found = {"format": FORMAT, "backend": self.backend, "rows": self.rows, "columns": columns}
        return found if self.csv is None else found | {"csv": asdict(self.csv)}

    def to_json(self) -> str:
        """The schema as JSON. Equal schemas give the same text."""
        return json.dumps(self.as_dict(), allow_nan=False, sort_keys=True)

    @property
    def identity(self) -> str:
        """SHA-256 of ``to_json``; a checkpoint uses it to identify its table."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @staticmethod
    def from_dict(found: Any, what: str = "the schema") -> Schema:
        """Restore a schema from ``as_dict``. Raises ``FormatError``, which names the file ``what``, for anything else.

        Each field is checked first (``validation``), so that a file can neither choose code nor the size of memory.
        """
        return Schema(*validation.checked(found, what))

    @staticmethod
    def from_json(text: str) -> Schema:
        """Restore a schema from ``to_json``. Raises ``FormatError`` for anything else."""
        try:
            found = json.loads(text)
        except ValueError as error:
            raise FormatError(f"the schema is not JSON ({error}); restore its file, or infer it again.") from error
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
    """Encode one column: values ``[N]``, NaN for missing cells; and which cells are not in the schema.

    ``lenient``: values outside the range of the column's kind are among these cells, instead of being an error.
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
    """The cells that decoding the numbers would give, to see which must be kept aside."""
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
    """Decode one column to cells of the type ``storage``, written in the column's form if it has one."""
    inner = column.inner
    if not coding.is_written(column, storage):
        return coding.cells(inner, storage, numbers, observed, generator)
    return coding.written_cells(column, storage, coding.cells(inner, inner.storage, numbers, observed, generator))


def _merged(column: Column, coded: Encoded, kept: Cells, storage: Storage, cells: Cells) -> tuple[Storage, Cells]:
    """Replace decoded cells by those that were kept aside."""
    theirs = coded.source.storage_of[column.name]
    if (storage.family, storage.unit) != (theirs.family, theirs.unit):
        return storage, cells  # the kept cells are of another type
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
            f"row {row} of column {column.name!r} is {shown(found.values[row])}, which is not written in the column's "
            f"form, {column.form}; write it in that form, set the cell to missing, or leave strict out."
        )
    due: Sequence[Any] = (column.value,) if column.kind == "constant" else column.levels
    known = ", ".join(shown(level, column.storage) for level in due[:4]) + (", …" if len(due) > 4 else "")
    value = shown(found.values[row], storage)
    return DataError(
        f"row {row} of column {column.name!r} is {value}, which is not a level of the column ({known}); set the cell "
        "to missing, or leave strict out."
    )
