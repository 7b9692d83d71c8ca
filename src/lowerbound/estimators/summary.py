"""One pass over rows of numbers: their range, their moments, and which values are missing or cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data import arrays
from lowerbound.data.row_arrays import RowArray, chunks
from lowerbound.errors import DataError

TOO_LARGE = "too large for float32"
WAY_OUT = {
    "infinite": "drop the row, or set it to a finite value",
    TOO_LARGE: "rescale the column",
}
Place = tuple[int, ...]
_NAMED = 5  # columns named in a sentence; of more, the number


@dataclass
class Summary:
    """Statistics of the observed values of rows ``x [N, *X]``; NaN marks a missing value.

    Of each column, ``[*X]``: the smallest (``low``) and largest (``high``) value, the number of ``observed`` values,
    their ``mean`` and the sum of squared deviations from it (``squares``). ``top``: the position of the largest value
    of all. ``whole``: whether all values are whole numbers. ``unusable``: for each kind ("infinite", ``TOO_LARGE``),
    the number of such values, and the position and value of the first.
    """

    rows: int
    dtype: np.dtype[Any]
    low: NDArray[Any]
    high: NDArray[Any]
    observed: NDArray[np.int64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    top: Place = ()
    whole: bool = True
    unusable: dict[str, tuple[int, Place, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, x: RowArray) -> Summary:
        """Compute the summary of ``x`` in one pass, chunk by chunk."""
        first, shape = x[:1][0], tuple(x.shape[1:])
        found = cls(len(x), x.dtype, first, first, np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape))
        for start, chunk in chunks(x):
            found._add(start, chunk)
        return found

    @property
    def deviation(self) -> NDArray[np.float64]:
        """The standard deviation of each value, ``[*X]``."""
        found: NDArray[np.float64] = np.sqrt(self.squares / np.maximum(self.observed, 1))
        return found

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Which values differ between rows, ``[*X]``."""
        found: NDArray[np.bool_] = self.high > self.low
        return found

    @property
    def range(self) -> tuple[Any, Any]:
        """The least and the largest of all values."""
        return np.fmin.reduce(self.low, None), np.fmax.reduce(self.high, None)

    @property
    def missing(self) -> float:
        """The share of values that are missing."""
        return 1 - float(self.observed.mean()) / self.rows

    def problems(self, names: Sequence[str] | None = None) -> Iterator[str]:
        """The reasons why the rows cannot be used, one sentence each; ``names``: the column names."""
        for kind, (count, at, _) in sorted(self.unusable.items(), key=lambda each: list(WAY_OUT).index(each[0])):
            many = f"{count:,} values are {kind}, the first in" if count > 1 else f"1 value is {kind}, in"
            yield f"{many} {arrays.place(at, names)}; {WAY_OUT[kind]}."
        empty = self.observed == 0
        if empty.any():
            yield f"{columns(empty, names)} NaN in every row; leave {'it' if empty.sum() == 1 else 'them'} out."

    def check(self, names: Sequence[str] | None = None) -> None:
        """Raise ``DataError`` if the rows cannot be used, naming the first such value."""
        if self.unusable:
            kind, (_, at, value) = min(self.unusable.items(), key=lambda each: each[1][1])
            raise DataError(_refusal(kind, at, value, names))
        if problem := next(self.problems(names), None):
            raise DataError(problem)

    def _add(self, start: int, chunk: NDArray[Any]) -> None:
        """Add a chunk of rows; ``start``: the number of its first row."""
        with np.errstate(all="ignore"):
            total = chunk.sum(0, dtype=np.float64)
        low, high, seen = np.fmin.reduce(chunk, 0), np.fmax.reduce(chunk, 0), None
        if chunk.dtype.kind == "f" and not (np.isfinite(total).all() and max(-low.min(), high.max()) <= most(chunk)):
            seen = self._usable(start, chunk)
            chunk = np.where(seen, chunk, np.asarray(0, chunk.dtype))
            total = chunk.sum(0, dtype=np.float64)
        count = np.asarray(len(chunk) if seen is None else seen.sum(0))
        mean = total / np.maximum(count, 1)
        apart = chunk - mean if seen is None else np.where(seen, chunk - mean, 0)
        self._merge(count, mean, np.square(apart).sum(0))
        largest = np.fmax.reduce(high, None)
        if not self.top or largest > self.range[1]:
            row, *rest = arrays.first(chunk == largest)
            self.top = (start + row, *rest)
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)
        self.whole = self.whole and (chunk.dtype.kind != "f" or bool((chunk == np.floor(chunk)).all()))

    def _merge(self, count: NDArray[Any], mean: NDArray[Any], squares: NDArray[Any]) -> None:
        """Update the moments by those of another chunk. Chan, Golub & LeVeque 1983."""
        both = np.maximum(self.observed + count, 1)
        change = mean - self.mean
        self.squares = self.squares + squares + np.square(change) * self.observed * (count / both)
        self.mean = self.mean + change * (count / both)
        self.observed = self.observed + count

    def _usable(self, start: int, chunk: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the values that are neither missing nor unusable, and count the unusable ones."""
        seen: NDArray[np.bool_] = ~np.isnan(chunk)
        infinite = np.isinf(chunk)
        for kind, marked in (("infinite", infinite), (TOO_LARGE, (np.abs(chunk) > most(chunk)) & ~infinite)):
            if marked.any():
                row, *rest = place = arrays.first(marked)
                count, at, value = self.unusable.get(kind, (0, (start + row, *rest), chunk[place]))
                self.unusable[kind] = (count + int(marked.sum()), at, value)
                seen &= ~marked
        return seen


def check_finite(x: RowArray, names: Sequence[str] | None = None) -> None:
    """Raise ``DataError`` for infinite values and values too large for single precision, naming the first."""
    if x.dtype.kind != "f":
        return
    for start, chunk in chunks(x):
        wrong = np.abs(chunk) > most(chunk)
        if wrong.any():
            row, *rest = at = arrays.first(wrong)
            kind = "infinite" if np.isinf(chunk[at]) else TOO_LARGE
            raise DataError(_refusal(kind, (start + row, *rest), chunk[at], names))


def _refusal(kind: str, at: Place, value: Any, names: Sequence[str] | None) -> str:
    number = f"{value:g}" if value.dtype.itemsize <= 8 else str(value)
    shown = f"{number}, {kind}" if kind == TOO_LARGE else kind
    return f"{arrays.place(at, names)} is {shown}; {WAY_OUT[kind]}."


def refuse_missing(x: NDArray[Any]) -> None:
    """As ``check_finite``, and for NaN too."""
    check_finite(x)
    if (nan := arrays.nan_in(x)) is not None:
        raise DataError(f"{arrays.place(arrays.first(nan))} is NaN; drop the row, or fill the value in.")


def most(x: NDArray[Any]) -> float:
    """The largest value of a floating type that can be used: the difference of two is finite in single precision."""
    return 1e38 if x.dtype.itemsize >= 4 else float(np.finfo(x.dtype).max)


def columns(marked: NDArray[np.bool_], names: Sequence[str] | None) -> str:
    """The marked columns with their verb: "column 3 ('ash') is", "columns 'ash', 'hue' are", "12 of 64 columns are"."""
    places = [tuple(map(int, place)) for place in np.argwhere(marked)]
    if len(places) == 1:
        return f"{arrays.column(places[0], names)} is"
    if marked.ndim > 1 or len(places) > _NAMED:
        return f"{len(places)} of {marked.size} columns are"
    return f"columns {', '.join(str(j) if names is None else repr(str(names[j])) for (j,) in places)} are"
