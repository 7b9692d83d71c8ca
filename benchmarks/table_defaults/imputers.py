"""Imputers by their own defaults: a table with missing cells → the best completion, and draws where there are any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from table_peers.data import Table

DRAWS, PEERS_DRAWS = 20, 5  # the peers' default is 5, and each draw of theirs costs a fit or a search
MICE_ROUNDS = 5  # miceforest has no default


@dataclass(frozen=True)
class Completed:
    """``best [N, D]``; ``draws [M, N, D]``, M = 0 of methods that draw none. NaN where the method left a cell."""

    best: np.ndarray
    draws: np.ndarray
    said: str = ""


def complete(table: Table, method: str, seed: int) -> Completed:
    """The completion of ``method``; observed cells are kept, cells that it left get the mean or the commonest class."""
    found = METHODS[method](table, seed)
    missing = np.isnan(table.values)
    fill = centres(table)
    best, draws = (np.where(missing, each, table.values) for each in (found.best, found.draws))
    left = int(np.isnan(best).sum())
    said = "; ".join(part for part in (found.said, f"{left:,} cells left missing" if left else "") if part)
    return Completed(np.where(np.isnan(best), fill, best), np.where(np.isnan(draws), fill, draws), said)


def centres(table: Table) -> np.ndarray:
    """Of each column, the mean or the commonest class."""
    columns = [column[~np.isnan(column)] for column in table.values.T]
    return np.array([_centre(column[:, None], table.classes[j] > 0)[0] for j, column in enumerate(columns)])


def of_draws(table: Table, draws: np.ndarray, said: str = "") -> Completed:
    """The best completion of draws ``[M, N, D]``: their mean, of classes the commonest."""
    best = [_centre(draws[:, :, j], table.classes[j] > 0) for j in range(len(table.columns))]
    return Completed(np.column_stack(best), draws, said)


def _centre(values: np.ndarray, classes: bool) -> np.ndarray:
    """Mean, or commonest class, over the first axis of ``values [M, n]``."""
    if not classes:
        return np.asarray(values.mean(0))
    codes = np.unique(values[~np.isnan(values)])
    return np.asarray(codes[np.stack([(values == code).sum(0) for code in codes]).argmax(0)])


def lowerbound(table: Table, seed: int) -> Completed:
    import lowerbound as lb

    frame = table.frame()
    model = lb.VAE(random_state=seed).fit(frame)
    best = table.numbers(model.impute(frame))
    return Completed(best, np.stack([table.numbers(each) for each in model.impute(frame, draws=DRAWS)]))


def _old(method: str) -> Callable[[Table, int], Completed]:
    """A method of ``table_peers.imputers``, which has no draws."""

    def run(table: Table, seed: int) -> Completed:
        from table_peers import imputers

        best, said = imputers.complete(table, np.isnan(table.values), method, seed)
        return Completed(best, np.empty((0, *best.shape)), said)

    return run


def miceforest(table: Table, seed: int) -> Completed:
    """With its defaults; where these fail, as they do on rare classes, classes are drawn by its strategy "fast"."""
    frame = table.frame()
    classes = [name for name, count in zip(table.columns, table.classes, strict=True) if count]
    for name in classes:
        frame[name] = frame[name].cat.remove_unused_categories()
    said = f"{PEERS_DRAWS} data sets, {MICE_ROUNDS} iterations"
    try:
        return of_draws(table, _mice(table, frame, seed), said)
    except ValueError as error:
        fast = _mice(table, frame, seed, mean_match_strategy=dict.fromkeys(classes, "fast"))
        return of_draws(table, fast, f"{said}; classes by the strategy fast, since: {error}")


def _mice(table: Table, frame: pd.DataFrame, seed: int, **options: object) -> np.ndarray:
    import miceforest as mf

    kernel = mf.ImputationKernel(frame, num_datasets=PEERS_DRAWS, random_state=seed, **options)
    kernel.mice(MICE_ROUNDS)
    return np.stack([table.numbers(kernel.complete_data(dataset=i)) for i in range(PEERS_DRAWS)])


def hyperimpute(table: Table, seed: int) -> Completed:
    from hyperimpute.plugins.imputers import Imputers

    plugin = Imputers().get("hyperimpute", random_state=seed)
    best = np.asarray(plugin.fit_transform(pd.DataFrame(table.values, columns=list(table.columns))), float)
    classes = table.where("cat", "ordinal")
    best[:, classes] = np.clip(np.round(best[:, classes]), 0, np.array(table.classes)[classes] - 1)
    return Completed(best, np.empty((0, *best.shape)))


def unmasking_trees(table: Table, seed: int) -> Completed:
    from utrees import UnmaskingTrees

    kinds = ["categorical" if classes else "continuous" for classes in table.classes]
    model = UnmaskingTrees(random_state=seed).fit(table.values, quantize_cols=kinds)
    return of_draws(table, np.asarray(model.impute(n_impute=PEERS_DRAWS)), f"{PEERS_DRAWS} draws")


def forest_diffusion(table: Table, seed: int) -> Completed:
    from table_defaults.forest import decoded, fitted

    model = fitted(table, seed, diffusion_type="vp")
    found = np.full((PEERS_DRAWS, *table.values.shape), np.nan)
    kept = ~np.isnan(table.values).all(1)  # it drops rows without an observed cell
    found[:, kept] = [decoded(table, rows) for rows in model.impute(k=PEERS_DRAWS)]
    return of_draws(table, found, f"{PEERS_DRAWS} draws")


METHODS: dict[str, Callable[[Table, int], Completed]] = {
    "lowerbound": lowerbound,
    "mean or mode": _old("mean or mode"),
    "iterative ridge": _old("iterative ridge"),
    "extra-trees": _old("extra-trees"),
    "miceforest": miceforest,
    "HyperImpute": hyperimpute,
    "UnmaskingTrees": unmasking_trees,
    "ForestDiffusion": forest_diffusion,
}
