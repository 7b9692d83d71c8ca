"""Sequences in a frame in long form: a row per step, with the name of its sequence and its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.frames import table_of, without_index
from lowerbound.errors import DataError

if TYPE_CHECKING:
    import narwhals as nw


@dataclass(frozen=True)
class LongForm:
    """The steps of a frame by sequence.

    ``names``: of the sequences, in the order of their first rows. ``order [n]``: the numbers of the frame's rows,
    sequence by sequence, each by time. ``lengths [N]``: the steps of each sequence. ``columns``: the other columns, in
    the order of the frame's rows.
    """

    names: list[Any]
    order: NDArray[np.int64]
    lengths: NDArray[np.int64]
    columns: Any

    def split(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Values ``[n, …]`` of the frame's rows by sequence: ``[T_i, …]`` each."""
        return np.split(values[self.order], np.cumsum(self.lengths)[:-1])


def long_form(frame: Any, name: str, time: str, source: str = "the frame") -> LongForm:
    """Sort the rows of a frame by the columns ``name`` of their sequence and ``time`` of their step.

    The rows may come in any order. Times are numbers, dates or times of day; only their order counts. Raises
    ``DataError`` for a column that is not there, a missing name or time, times of another type, and a time that one
    sequence has twice.
    """
    import narwhals as nw

    table = nw.from_native(without_index(table_of(frame, source)), eager_only=True)
    for column in (name, time):
        if column not in table.columns:
            there = ", ".join(map(repr, table.columns[:8])) + (", …" if len(table.columns) > 8 else "")
            raise DataError(f"{source} has no column {column!r}; its columns are {there}.")
    if len(table) == 0:
        raise DataError(f"{source} has no rows; give at least one step.")
    names, when = table[name].to_list(), _times(table[time], source)
    gone = table[name].is_null().to_numpy() | np.array([each != each for each in names])
    if gone.any():
        raise DataError(f"{source}: row {int(gone.argmax())} has no {name!r}; give each step its sequence.")
    number: dict[Any, int] = {}
    codes = np.array([number.setdefault(each, len(number)) for each in names], np.int64)
    order = np.lexsort((when, codes))
    twice = (np.diff(codes[order]) == 0) & (when[order][1:] == when[order][:-1])
    if twice.any():
        first, second = sorted(int(row) for row in order[int(twice.argmax()) :][:2])
        raise DataError(
            f"{source}: rows {first} and {second} have the same {name!r}, {names[first]!r}, and the same {time!r}, "
            f"{table[time][first]}; give each sequence a time once."
        )
    return LongForm(list(number), order, np.bincount(codes), table.drop(name, time).to_native())


def _times(series: nw.Series[Any], source: str) -> NDArray[Any]:
    """The times as numbers that sort, if there is one in each row."""
    import narwhals as nw

    if not (series.dtype.is_numeric() or series.dtype.is_temporal()):
        given = [value for value in series.to_list() if value is not None]
        shown = f", such as {given[0]!r}" if given else ""
        raise DataError(
            f"{source}: the times in column {series.name!r} are {series.dtype}{shown}; give numbers or dates, which "
            "have an order."
        )
    gone = series.is_null().to_numpy()
    if series.dtype.is_float():
        gone = gone | series.is_nan().fill_null(True).to_numpy()
    if gone.any():
        raise DataError(f"{source}: row {int(gone.argmax())} has no {series.name!r}; give each step its time.")
    if series.dtype == nw.Date:
        series = series.cast(nw.Datetime)
    found: NDArray[Any] = series.to_numpy()
    return found
