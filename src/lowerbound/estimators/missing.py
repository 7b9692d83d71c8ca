"""Convert arrays and frames to tables with missing cells for the imputer, and back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.schema import Storage
from lowerbound.schema.cells import Backend, Cells, Frame, Source, plain, read, write
from lowerbound.schema.column import Name

Array = NDArray[Any]
Mask = NDArray[np.bool_]
_OUTPUTS: dict[str, Backend] = {"pandas": "pandas", "polars": "polars"}  # of ``set_output``
_COUNTED = ("float", "int", "bool", "decimal")


def is_nothing(marker: Any) -> bool:
    """Whether a marker is NaN, None or pandas.NA, which are missing in any column."""
    return marker is None or type(marker).__name__ == "NAType" or (isinstance(marker, Real) and float(marker) != marker)


def of_array(x: Array, names: Sequence[Name]) -> Frame:
    """The columns of ``x [N, D]`` with ``names``; NaN is a missing cell."""
    storages = (Storage("float", "float" if x.dtype == np.float32 else "double"),) * len(names)
    cells = tuple(Cells(column.astype(np.float64), ~np.isnan(column)) for column in x.T)
    return Frame(Source("pyarrow", tuple(names), storages), cells, len(x))


def of_frame(X: Any, names: Sequence[Name] | None) -> Frame:
    """Read a frame. If ``names`` are given, its columns are put in that order, and others left out with a warning."""
    frame = read(X, "X")
    if names is None:
        return frame
    pairs = frame.ordered(names, "X", others=True)
    if others := frame.others(names):
        warnings.warn(
            f"X has columns that the imputer was not fitted to; they are left out: {', '.join(map(repr, others))}",
            stacklevel=4,
        )
    storages, cells = (tuple(each) for each in zip(*pairs, strict=True))
    return Frame(replace(frame.source, names=tuple(names), storages=storages), cells, frame.rows)


def marked(frame: Frame, marker: Any) -> Frame:
    """Mark cells equal to ``marker`` as missing; text is compared with text, and numbers with numbers."""
    if is_nothing(marker):
        return frame
    families = ("text", "category") if isinstance(marker, str) else _COUNTED
    cells = []
    for storage, found in zip(frame.source.storages, frame.cells, strict=True):
        hit = np.asarray(found.values == marker, bool) if storage.family in families else np.zeros(frame.rows, bool)
        cells.append(Cells(found.values, found.mask & ~hit))
    return replace(frame, cells=tuple(cells))


def framed(frame: Frame, library: str = "default") -> Any:
    """Convert to a frame of its own library, or of "pandas" or "polars" with their basic types."""
    source = frame.source
    backend = _OUTPUTS.get(library, source.backend)
    if backend != source.backend:
        source = Source(backend, source.names, tuple(plain(backend, storage) for storage in source.storages))
    return write(source, source.storages, frame.cells, frame.rows)


def flagged(frame: Frame) -> Array:
    """``[N, D]``: NaN for a missing cell, 0 for any other."""
    return np.column_stack([np.where(found.mask, 0.0, np.nan) for found in frame.cells])


def zeroed(frame: Frame, empty: Mask) -> Frame:
    """Fill columns that are ``empty`` with 0, unless they are text."""
    storages, cells = list(frame.source.storages), list(frame.cells)
    for j in np.flatnonzero(empty):
        if storages[j].family == "null":
            storages[j] = plain(frame.source.backend, Storage("float"))
            cells[j] = Cells(np.zeros(frame.rows), np.ones(frame.rows, bool))
        elif storages[j].family in ("float", "int"):
            cells[j] = cells[j].over(Cells(np.zeros_like(cells[j].values), np.ones(frame.rows, bool)))
    return replace(frame, source=replace(frame.source, storages=tuple(storages)), cells=tuple(cells))


def joined(frame: Frame, keep: Mask, flags: Array | None, names: Sequence[Name]) -> Frame:
    """The columns to ``keep``, followed by the indicator columns ``flags [N, F]`` (0 and 1), all named by ``names``."""
    places, source = np.flatnonzero(keep), frame.source
    storages, cells = [source.storages[j] for j in places], [frame.cells[j] for j in places]
    for flag in () if flags is None else flags.T:
        storages.append(plain(source.backend, Storage("float")))
        cells.append(Cells(flag.astype(np.float64), np.ones(frame.rows, bool)))
    return Frame(replace(source, names=tuple(names), storages=tuple(storages)), tuple(cells), frame.rows)
