"""ForestDiffusion (Jolicoeur-Martineau et al. 2024), which imputes and generates with the same class.

The indicators of classes are made here: of a missing class its own coding makes the first class, and of columns 1 and
11 it mixes the indicators. They are decoded as it does it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from table_peers.data import Table


def coded(table: Table) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The columns as the class takes them, ``[N, E]``, and the places of binary and of whole ones.

    A column of C > 2 classes gives C − 1 indicators, of all but the first; missing cells stay missing.
    """
    columns: list[np.ndarray] = []
    places: dict[str, list[int]] = {"bin_indexes": [], "int_indexes": []}
    for j, classes in enumerate(table.classes):
        values = table.values[:, j]
        if classes > 2:
            columns += [np.where(np.isnan(values), np.nan, values == code) for code in range(1, classes)]
            continue
        if classes:
            places["bin_indexes"].append(len(columns))
        elif (np.nan_to_num(values) % 1 == 0).all():
            places["int_indexes"].append(len(columns))
        columns.append(values)
    return np.column_stack(columns), places


def decoded(table: Table, rows: np.ndarray) -> np.ndarray:
    """``[N, D]`` of rows ``[N, E]``: the class of the largest indicator, the first class if none reaches ½."""
    columns, start = [], 0
    for classes in table.classes:
        width = classes - 1 if classes > 2 else 1
        part = rows[:, start : start + width]
        first = np.full((len(rows), 1), 0.5)
        columns.append(np.hstack([first, part]).argmax(1) if classes > 2 else part[:, 0])
        start += width
    return np.column_stack(columns)


def fitted(table: Table, seed: int, **options: Any) -> Any:
    """The fitted model of the coded columns."""
    from ForestDiffusion import ForestDiffusionModel

    values, places = coded(table)
    return ForestDiffusionModel(values, seed=seed, **places, **options)
