"""What is measured of drawn rows, by the measures of ``table_peers.fidelity``."""

from __future__ import annotations

from typing import Any

import numpy as np

from table_peers import fidelity
from table_peers.data import Table


def judge(train: Table, test: Table, drawn: Table, seed: int) -> dict[str, Any]:
    """All figures; ``drawn`` is held against the rows ``test``, which no one learnt from."""
    edges = [fidelity._edges(train, j) for j in range(len(train.columns))]
    binned = [fidelity._binned(each, edges) for each in (test, drawn)]
    return {
        "told_from_real": fidelity.told_apart(test, drawn, seed),
        "column_distance": float(np.mean(list(fidelity.column_distances(test, drawn).values()))),
        "pair_distance": fidelity.pair_distance(*binned),
        "area_drawn": area(train, drawn, test, seed),
        "area_real": area(train, train, test, seed),
        **fidelity.memorised(train, test, drawn, seed),
    }


def area(train: Table, learn: Table, test: Table, seed: int) -> float | None:
    """The area under the curve on ``test`` of a classifier learnt from ``learn``; None if ``test`` has one class.

    It tells whether the last column of classes is the commonest one of the rows ``train``.
    """
    j = target(train)
    commonest = np.bincount(train.values[:, j].astype(int)).argmax()
    labels = [(each.values[:, j] == commonest).astype(float) for each in (learn, test)]
    if len(np.unique(labels[1])) < 2:
        return None
    return fidelity.area(learn, test, labels[0], labels[1], [train.columns[j]], seed)


def target(table: Table) -> int:
    """The place of the last column of classes."""
    return table.where("cat", "ordinal")[-1]
