"""Read the cells of a pandas, polars or pyarrow frame, and write them back, without any loss."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import numpy as np
from narwhals import to_native
from narwhals.dependencies import is_pandas_dataframe, is_polars_dataframe, is_pyarrow_table
from numpy.typing import NDArray

from lowerbound.data.frames import index_columns, table_of
from lowerbound.errors import DataError
from lowerbound.schema import in_arrow, in_pandas, in_polars
from lowerbound.schema.column import Name, Storage

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Backend = Literal["pandas", "polars", "pyarrow"]
_IN: dict[Backend, ModuleType] = {"pandas": in_pandas, "polars": in_polars, "pyarrow": in_arrow}


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one column: ``values [N]``, meaningful where ``mask [N]`` is True.

    ``values`` are float64 for floats, int64 or uint64 for whole numbers, int64 for times and durations (in their own
    unit), bool, or Python objects (text, categories, decimals).
    """

    values: Array
    mask: Mask

    def same(self, other: Cells) -> bool:
        """Whether both hold the same cells; floats are compared bit by bit."""
        if len(self.mask) != len(other.mask) or (self.mask != other.mask).any():
            return False
        mine, theirs = self.values[self.mask], other.values[self.mask]
        if len(mine) and (mine.dtype == object) != (theirs.dtype == object):
            return False  # the objects 1 and 1.0 are different cells
        if mine.dtype.kind == "f" and theirs.dtype == mine.dtype:
            return mine.tobytes() == theirs.tobytes()
        return bool((mine == theirs).all())

    def over(self, other: Cells) -> Cells:
        """These cells, with missing ones taken from ``other``."""
        if self.mask.all() or not other.mask.any():
            return self
        if not self.mask.any():
            return other
        return Cells(np.where(self.mask, self.values, other.values), self.mask | other.mask)


@dataclass(frozen=True, eq=False)
class Source:
    """Properties of a frame other than its cells: library, column names and types, and pandas' index."""

    backend: Backend
    names: tuple[Name, ...]
    storages: tuple[Storage, ...]
    index: Any = None  # for pyarrow: a table of the columns in which pandas stores its index

    @cached_property
    def storage_of(self) -> dict[Name, Storage]:
        """The storage of each column, by name."""
        return dict(zip(self.names, self.storages, strict=True))


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame that was read. Its cells are copies: later changes of the user's frame have no effect on them."""

    source: Source
    cells: tuple[Cells, ...]
    rows: int

    def ordered(
        self, names: Sequence[Name], what: str = "the frame", others: bool = False
    ) -> list[tuple[Storage, Cells]]:
        """The columns ``names``, in that order.

        Raises ``DataError`` if a column is missing, or if the frame has more columns and ``others`` is False.
        """
        mine, added = set(self.source.names), [] if others else self.others(names)
        lacking = [name for name in names if name not in mine]
        if lacking or added:
            wrong = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"holds the extra {_listed(added)}"] * bool(added)
            raise DataError(
                f"{what} {' and '.join(wrong)}; give the columns of the schema, in any order: {_listed(names)}."
            )
        place = {name: j for j, name in enumerate(self.source.names)}
        return [(self.source.storages[place[name]], self.cells[place[name]]) for name in names]

    def of(self, names: Sequence[Name]) -> dict[Name, Cells]:
        """The cells of the columns ``names``."""
        cells = dict(zip(self.source.names, self.cells, strict=True))
        return {name: cells[name] for name in names}

    def others(self, names: Sequence[Name]) -> list[Name]:
        """The names of its columns that are not among ``names``."""
        known = set(names)
        return [name for name in self.source.names if name not in known]


def read(frame: Any, what: str = "the frame", due: Sequence[Name] = ()) -> Frame:
    """Read a frame of pandas, polars, pyarrow, or narwhals. Raises ``DataError`` if it cannot be used.

    In a pyarrow table, columns that store pandas' index are not read as columns, except those named in ``due``.
    """
    if hasattr(frame, "collect"):
        raise DataError(f"{what} is lazy; give {what}.collect().")
    frame = table_of(to_native(frame, pass_through=True), what)
    backend = _backend(frame)
    if backend is None:
        raise DataError(f"{what} is a {type(frame).__name__}, not a table; give a frame of pandas, polars or pyarrow.")
    labels = None
    if backend == "pyarrow" and (aside := [name for name in index_columns(frame) if name not in due]):
        labels, frame = frame.select(aside), frame.drop_columns(aside)
    names = _names(frame, what)
    columns = [_IN[backend].read(column, name) for column, name in zip(_columns(frame, backend), names, strict=True)]
    found = tuple(Cells(values, mask) for _, values, mask in columns)
    index = frame.index if backend == "pandas" else labels
    source = Source(backend, names, tuple(storage for storage, *_ in columns), index)
    return Frame(source, found, len(frame))


def read_value(backend: Backend, name: Name, value: Any) -> tuple[Storage, Cells]:
    """Read ``value`` as a column of the library ``backend`` with this one cell."""
    make = {"pandas": "Series", "polars": "Series", "pyarrow": "array"}[backend]
    try:
        column = getattr(importlib.import_module(backend), make)([value])
    except (TypeError, ValueError) as error:
        raise DataError(f"{value!r} cannot be a cell of column {name!r}; give a number, text or a time.") from error
    storage, values, mask = _IN[backend].read(column, name)
    return storage, Cells(values, mask)


def write(source: Source, storages: Sequence[Storage], cells: Sequence[Cells], rows: int) -> Any:
    """Write a frame of ``source``'s library with its column names; ``storages`` are the types of the columns."""
    module = _IN[source.backend]
    try:
        columns = [module.build(storage, each.values, each.mask) for storage, each in zip(storages, cells, strict=True)]
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this table is a {source.backend} frame, but {source.backend} is not installed: pip install "
            f"{source.backend}."
        ) from error
    index = source.index if source.index is not None and len(source.index) == rows else None
    return module.frame(source.names, columns, rows, index)


def as_objects(backend: Backend, storage: Storage, cells: Cells) -> Cells:
    """Numbers or times as Python objects, as in a column of dtype object."""
    return Cells(in_arrow.objects(list(_IN[backend].build(storage, cells.values, cells.mask))), cells.mask)


def plain(backend: Backend, storage: Storage) -> Storage:
    """The basic type of the library ``backend`` for cells that are stored in another library's type."""
    text = storage.family == "category" and all(isinstance(level, str) for level in storage.categories or ())
    family = "text" if text else "float" if storage.family in ("category", "decimal") else storage.family
    unit = "us" if family in ("time", "duration") else None
    dtype: str = _IN[backend].PLAIN[family]
    if backend == "pandas" and storage.zone is not None:
        dtype = dtype.replace("]", f", {storage.zone}]")
    return Storage(family, dtype, unit, storage.zone)


def _backend(frame: Any) -> Backend | None:
    if is_pandas_dataframe(frame):
        return "pandas"
    if is_polars_dataframe(frame):
        return "polars"
    return "pyarrow" if is_pyarrow_table(frame) else None


def _columns(frame: Any, backend: Backend) -> list[Any]:
    if backend == "pandas":
        return [frame.iloc[:, j] for j in range(frame.shape[1])]  # by position: names may repeat or be numbers
    return frame.get_columns() if backend == "polars" else list(frame.columns)


def _names(frame: Any, what: str) -> tuple[Name, ...]:
    """The names of a frame's columns. Raises ``DataError`` unless each is text or a whole number, and unique."""
    names: list[Name] = []
    for name in getattr(frame, "column_names", frame.columns):
        if isinstance(name, str):
            names.append(str(name))
        elif isinstance(name, int | np.integer) and not isinstance(name, bool | np.bool_):
            names.append(int(name))
        else:
            raise DataError(f"{what} has a column called {name!r}, which is not text; rename it.")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{what} has two columns called {twice!r}; rename one of them.")
    return tuple(names)


def _listed(names: Sequence[Name]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
