"""Peers that complete tables: mean or mode, nearest neighbours, chained ridge regressions, chained extra-trees."""

from __future__ import annotations

import os
import warnings

import numpy as np
from sklearn import config_context
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import Ridge

from table_peers.data import Table

MOST_ROWS = 10_000  # that the trees of a column are fitted to
MOST_DONORS = 5_000  # that neighbours are looked for among
MOST_ROUNDS = 5  # of chained extra-trees; missForest's own stopping rule ends them sooner
ROUNDS = 10  # of chained regressions, as many as scikit-learn has


def complete(table: Table, hidden: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, str]:
    """``values [N, D]`` with the hidden (and unknown) cells filled, and what is to be said of how."""
    holes = np.where(hidden, np.nan, table.values)
    if table.name == "breast":
        return _plain(method, seed).fit_transform(holes), ""
    if method == "mean or mode":
        return _constants(table, holes), "the median of ordinals"
    if method == "extra-trees":
        return _chained_trees(table, holes, seed)
    if method == "iterative ridge":
        return _chained_ridge(table, holes)
    return _neighbours(table, holes, seed)


def _plain(method: str, seed: int) -> SimpleImputer | KNNImputer | IterativeImputer:
    """scikit-learn's imputers as the notebook of MIWAE has them."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    return {
        "mean or mode": SimpleImputer(),
        "5-NN": KNNImputer(n_neighbors=5),
        "iterative ridge": IterativeImputer(random_state=seed),
        "extra-trees": IterativeImputer(ExtraTreesRegressor(n_estimators=100, random_state=seed), random_state=seed),
    }[method]


def _constants(table: Table, holes: np.ndarray) -> np.ndarray:
    fill = np.empty(holes.shape[1])
    for j, kind in enumerate(table.kinds):
        seen = holes[~np.isnan(holes[:, j]), j]
        if kind == "cat":
            fill[j] = np.bincount(seen.astype(int)).argmax()
        else:
            fill[j] = np.floor(np.median(seen)) if kind == "ordinal" else seen.mean()
    return np.where(np.isnan(holes), fill, holes)


def _neighbours(table: Table, holes: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """scikit-learn's nearest neighbours, of standardised numbers and of indicators of categories."""
    coded, places = _indicators(table, holes)
    donors = coded[_some(len(coded), MOST_DONORS, seed)]
    with config_context(working_memory=128):
        filled = KNNImputer(n_neighbors=5, keep_empty_features=True).fit(donors).transform(coded)
    said = f"among {len(donors):,} of {len(coded):,} rows" if len(donors) < len(coded) else ""
    return _decoded(table, holes, filled, places), said


def _chained_ridge(table: Table, holes: np.ndarray) -> tuple[np.ndarray, str]:
    """As scikit-learn's IterativeImputer, but that a category's indicators are told together, from the other columns.

    One at a time each would be told by the others of its own category, and stay at its mean.
    """
    coded, places = _indicators(table, holes)
    missing, current = np.isnan(holes), np.where(np.isnan(coded), np.nanmean(coded, axis=0), coded)
    order = [j for j in np.argsort(missing.sum(0), kind="stable") if missing[:, j].any()]
    for _ in range(ROUNDS):
        for j in order:
            others, gone = np.delete(current, np.r_[places[j]], axis=1), missing[:, j]
            model = Ridge().fit(others[~gone], coded[~gone, places[j]])
            found = model.predict(others[gone]).reshape(int(gone.sum()), -1)
            seen = coded[~gone, places[j]]
            current[gone, places[j]] = np.clip(found, seen.min(0), seen.max(0))
    return _decoded(table, holes, current, places), "a category's indicators are told together"


def _some(count: int, most: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _indicators(table: Table, holes: np.ndarray) -> tuple[np.ndarray, list[slice]]:
    columns: list[np.ndarray] = []
    places = []
    for j, kind in enumerate(table.kinds):
        values, start = holes[:, j], len(columns)
        if kind == "cat" and table.classes[j] > 2:
            columns += [np.where(np.isnan(values), np.nan, values == code) for code in range(table.classes[j])]
        else:
            columns.append((values - np.nanmean(values)) / max(np.nanstd(values), 1e-12))
        places.append(slice(start, len(columns)))
    return np.column_stack(columns), places


def _decoded(table: Table, holes: np.ndarray, filled: np.ndarray, places: list[slice]) -> np.ndarray:
    completed = holes.copy()
    for j, place in enumerate(places):
        missing, seen = np.isnan(holes[:, j]), holes[~np.isnan(holes[:, j]), j]
        found = filled[missing, place]
        if found.shape[1] > 1:
            completed[missing, j] = found.argmax(1)
            continue
        values = np.clip(found[:, 0] * seen.std() + seen.mean(), seen.min(), seen.max())
        completed[missing, j] = np.round(values) if table.classes[j] else values
    return completed


def _chained_trees(table: Table, holes: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """As missForest (Stekhoven & Bühlmann 2012), by extra-trees: columns with few holes first, until it turns worse."""
    missing, current = np.isnan(holes), _constants(table, holes)
    order = [j for j in np.argsort(missing.sum(0), kind="stable") if missing[:, j].any()]
    last, best, rounds = (np.inf, np.inf), current, 0
    for rounds in range(1, MOST_ROUNDS + 1):
        previous = current.copy()
        for j in order:
            current[missing[:, j], j] = _predicted(table, current, missing[:, j], j, seed + rounds)
        change = _changes(table, current, previous, missing)
        if change[0] >= last[0] and change[1] >= last[1]:
            break
        last, best = change, current.copy()
    fewer = f", each tree fitted to {MOST_ROWS:,} rows at most" if len(holes) > MOST_ROWS else ""
    return best, f"100 extra-trees a column, {rounds} rounds{fewer}"


def _predicted(table: Table, current: np.ndarray, missing: np.ndarray, j: int, seed: int) -> np.ndarray:
    others = np.delete(current, j, axis=1)
    seen = np.flatnonzero(~missing)
    seen = seen[_some(len(seen), MOST_ROWS, seed)]
    kind = table.kinds[j]
    options = {
        "n_estimators": 100,
        "n_jobs": int(os.environ.get("OMP_NUM_THREADS", "2")),
        "random_state": seed,
        "max_features": "sqrt",
    }
    leaves = 1 if kind == "cat" else 5
    trees = (ExtraTreesClassifier if kind == "cat" else ExtraTreesRegressor)(min_samples_leaf=leaves, **options)
    found = trees.fit(others[seen], current[seen, j]).predict(others[missing])
    return np.asarray(np.round(found) if kind == "ordinal" else found)


def _changes(table: Table, new: np.ndarray, old: np.ndarray, missing: np.ndarray) -> tuple[float, float]:
    """missForest's two differences: of numbers, relative squares; of classes, the share that changed."""
    numeric, classes = table.numeric, table.where("cat", "ordinal")
    spread = np.maximum(new[:, numeric].std(0), 1e-12)
    scaled = (new[:, numeric] / spread) ** 2
    squares = ((new - old)[:, numeric] / spread) ** 2
    numbers = float(squares.sum() / scaled.sum()) if numeric else np.inf
    changed = (new != old)[:, classes] & missing[:, classes]
    shares = float(changed.sum() / max(missing[:, classes].sum(), 1)) if classes else np.inf
    return numbers, shares
