"""Which known cells of a table are hidden: completely at random, at random given a column, or by a published mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import optimize, special

from table_defaults.tables import PUBLISHED, published_rows
from table_peers import data
from table_peers.data import Table

SLOPE = 2.0  # of the logit, per standard deviation of the column that the missing cells depend on
MASKS = ("20_1", "50_1", "mar20_1", "20_2", "50_2", "20_3", "50_3")
PUBLISHED_MASKS = ("20_1", "50_1", "mar20_1", "20_2", "20_3")  # one with half of the cells is published


def masks_of(table: str) -> tuple[str, ...]:
    """The names of a table's masks, the first of each kind first."""
    return PUBLISHED_MASKS if table in PUBLISHED else MASKS


def seed_of(mask: str) -> int:
    """The seed of a mask, and of the methods that are run on it."""
    return int(mask.rpartition("_")[2])


def kind_of(mask: str) -> str:
    """The masks whose results are averaged: "20", "50" or "mar20"."""
    return mask.partition("_")[0]


def hidden_cells(table: Table, mask: str, folder: Path) -> np.ndarray:
    """The cells that ``mask`` hides, ``[N, D]``; ``folder``: of the published masks."""
    kind, rng = kind_of(mask), np.random.default_rng([seed_of(mask), len(table.values)])
    if kind == "mar20":
        hidden = at_random(table.values, 0.2, rng)
    elif table.name in PUBLISHED:
        whole = data.load(PUBLISHED[table.name], folder)
        hidden = data.hidden_cells(whole, mask, folder)[published_rows(len(whole.values))]
    else:
        hidden = completely_at_random(table.values.shape, int(kind) / 100, rng)
    return np.asarray(hidden & ~np.isnan(table.values))


def completely_at_random(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> np.ndarray:
    """Every cell is hidden with the same probability."""
    return np.asarray(rng.random(shape) < share)


def at_random(values: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide ``share`` of all cells in half of the columns, with a probability that depends on an observed column.

    logit P(hidden) = a + ``SLOPE`` · (standardised value of a column that is always observed), with a such that the
    mean probability is right. The column is drawn among those with the fewest unknown cells, the others from the rest.
    """
    rows, columns = values.shape
    unknown = np.isnan(values).sum(0)
    driver = int(rng.choice(np.flatnonzero(unknown == unknown.min())))
    targets = rng.permutation(np.delete(np.arange(columns), driver))[: columns // 2]
    given = values[:, driver] - np.nanmean(values[:, driver])
    given = np.nan_to_num(given / max(np.nanstd(given), 1e-12))
    wanted = share * columns / len(targets)
    shift = optimize.brentq(lambda a: special.expit(a + SLOPE * given).mean() - wanted, -30, 30)
    hidden = np.zeros(values.shape, bool)
    hidden[:, targets] = rng.random((rows, len(targets))) < special.expit(shift + SLOPE * given)[:, None]
    return hidden
