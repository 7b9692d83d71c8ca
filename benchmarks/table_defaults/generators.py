"""Generators by their own defaults: complete rows → as many drawn rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from table_peers.data import Table

MOST_DECIMALS = 12


def draw(table: Table, method: str, seed: int) -> np.ndarray:
    """As many rows as the table has, ``[N, D]``; numbers are rounded as those of the table are.

    Most peers leave that to the user; not done, a classifier would need nothing else to tell their rows.
    """
    drawn = METHODS[method](table, seed)
    if np.isnan(drawn).any():
        raise ValueError(f"{int(np.isnan(drawn).any(1).sum())} drawn rows have missing cells")
    return np.column_stack([np.round(new, decimals(old)) for new, old in zip(drawn.T, table.values.T, strict=True)])


def decimals(column: np.ndarray) -> int:
    """With how many decimals all values of a column are written, ``MOST_DECIMALS`` at most."""
    return next((k for k in range(MOST_DECIMALS) if np.allclose(np.round(column, k), column, 1e-12, 0)), MOST_DECIMALS)


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
    from table_defaults.forest import decoded, fitted

    return decoded(table, fitted(table, seed).generate(batch_size=len(table.values)))


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
