"""ForestDiffusion (Jolicoeur-Martineau et al. 2024), which imputes and generates with the same class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from table_peers.data import Table


def columns_for(table: Table) -> tuple[np.ndarray, dict[str, list[int]]]:
    """An order of the columns, and in it the places of each kind as the class asks for them.

    Columns of three or more classes come last and side by side: it looks indicators up by the end of a number, so that
    classes at places 1 and 11 would be mixed.
    """
    many = np.array([classes > 2 for classes in table.classes])
    order = np.argsort(many, kind="stable")
    whole = [j for j in table.numeric if (np.nan_to_num(table.values[:, j]) % 1 == 0).all()]
    members: dict[str, Iterable[int]] = {
        "cat_indexes": np.flatnonzero(many),
        "bin_indexes": [j for j, classes in enumerate(table.classes) if 0 < classes <= 2],
        "int_indexes": whole,
    }
    place = np.argsort(order)
    return order, {name: sorted(int(place[j]) for j in each) for name, each in members.items()}


def fitted(table: Table, seed: int, **options: Any) -> Any:
    """The fitted model, whose columns are in the order of ``columns_for``."""
    from ForestDiffusion import ForestDiffusionModel

    order, kinds = columns_for(table)
    return ForestDiffusionModel(table.values[:, order], seed=seed, **kinds, **options)
