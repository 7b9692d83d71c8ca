"""Steps of sequences as frames: forecasts with intervals, and sequences drawn from a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError
from lowerbound.estimators.frames import decoded
from lowerbound.schema import Schema
from lowerbound.schema.column import CLASSES

Array = NDArray[Any]
AHEAD = "steps_ahead"


def forecast_frame(draws: Array, level: float, of: Schema, name: str, names: Sequence[Any], seed: int) -> Any:
    """Standardised continuations ``draws [M, N, S, D]`` as a frame of N·S rows: the sequence, how many steps ahead, and
    of each column the median and an interval with a share ``level`` of the draws; of classes, the most frequent."""
    low, best, high = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
    classes = [j for j, column in enumerate(of.modelled) if column.kind in CLASSES]
    for j in classes:
        best[..., j] = _most_frequent(draws[..., j])
    ends = {"": best, "_lower": low, "_upper": high}
    parts = {
        end: nw.from_native(decoded(own.reshape(-1, own.shape[-1]), of, np.random.default_rng(seed)), eager_only=True)
        for end, own in ends.items()
    }
    steps = draws.shape[2]
    found = {name: [each for each in names for _ in range(steps)], AHEAD: [*range(1, steps + 1)] * len(names)}
    of_columns = [
        (f"{column.name}{end}", parts[end][str(column.name)])
        for j, column in enumerate(of.modelled)
        for end in (ends if j not in classes else [""])
    ]
    return _joined(found, of_columns)


def drawn_frame(rows: Array, of: Schema, sequence: tuple[str, str], seed: int) -> Any:
    """Standardised sequences ``rows [N, T, D]`` as a frame in long form, numbered from 0, with times from 0."""
    frame = nw.from_native(decoded(rows.reshape(-1, rows.shape[2]), of, np.random.default_rng(seed)), eager_only=True)
    count, steps = rows.shape[:2]
    found = {sequence[0]: np.repeat(range(count), steps).tolist(), sequence[1]: [*range(steps)] * count}
    return _joined(found, [(name, frame[name]) for name in frame.columns])


def _most_frequent(codes: Array) -> Array:
    """The most frequent class of ``codes [M, …]`` over the first axis."""
    counts = np.stack([(codes == each).sum(0) for each in range(int(codes.max()) + 1)])
    found: Array = counts.argmax(0)
    return found


def _joined(found: dict[str, list[Any]], columns: list[tuple[str, nw.Series[Any]]]) -> Any:
    """A frame of new columns and then of ``columns`` by their names, in the library of these."""
    names = [*found, *(name for name, _ in columns)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"the result would have two columns {sorted(twice)[0]!r}; rename that of the data.")
    backend = columns[0][1].implementation
    made = [nw.new_series(name, values, backend=backend) for name, values in found.items()]
    return nw.concat(
        [series.to_frame() for series in (*made, *(own.rename(name) for name, own in columns))], how="horizontal"
    ).to_native()
