"""Generators by their own defaults: complete rows → as many drawn rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from table_peers.data import Table


def draw(table: Table, method: str, seed: int) -> np.ndarray:
    """As many rows as the table has, ``[N, D]``."""
    drawn = METHODS[method](table, seed)
    if np.isnan(drawn).any():
        raise ValueError(f"{int(np.isnan(drawn).any(1).sum())} drawn rows have missing cells")
    return drawn


def lowerbound(table: Table, seed: int) -> np.ndarray:
    import lowerbound as lb

    return table.numbers(lb.VAE(random_state=seed).fit(table.frame()).sample(len(table.values)))


def bootstrap(table: Table, seed: int) -> np.ndarray:
    """Rows learnt from, drawn with replacement: what a generator that has only memorised them gives."""
    rows = np.random.default_rng(seed).integers(0, len(table.values), len(table.values))
    return np.asarray(table.values[rows])


def _old(method: str) -> Callable[[Table, int], np.ndarray]:
    """A method of ``table_peers.synthesisers``."""

    def run(table: Table, seed: int) -> np.ndarray:
        from table_peers import synthesisers

        return synthesisers.synthesise(table, len(table.values), method, seed, quick=False)[0]

    return run


def unmasking_trees(table: Table, seed: int) -> np.ndarray:
    from utrees import UnmaskingTrees

    kinds = ["categorical" if classes else "continuous" for classes in table.classes]
    model = UnmaskingTrees(random_state=seed).fit(table.values, quantize_cols=kinds)
    return np.asarray(model.generate(n_generate=len(table.values)))


def forest_diffusion(table: Table, seed: int) -> np.ndarray:
    from table_defaults.forest import columns_for, fitted

    order, _ = columns_for(table)
    drawn = fitted(table, seed).generate(batch_size=len(table.values))
    return np.asarray(drawn[:, np.argsort(order)], float)


def arf(table: Table, seed: int) -> np.ndarray:
    from arfpy import arf as package

    np.random.seed(seed)  # noqa: NPY002, the package draws from it
    model = package.arf(x=table.frame(), verbose=False, random_state=seed)
    model.forde()
    return table.numbers(model.forge(n=len(table.values)))


METHODS: dict[str, Callable[[Table, int], np.ndarray]] = {
    "real rows": bootstrap,
    "columns apart": _old("columns apart"),
    "lowerbound": lowerbound,
    "TVAE": _old("TVAE"),
    "ForestDiffusion": forest_diffusion,
    "UnmaskingTrees": unmasking_trees,
    "arfpy": arf,
}
