"""How like real rows synthetic ones are, what can be learnt from them, and whether they are copies."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from table_peers.data import Table, targets

BINS = 10  # of numbers, for pairs of columns
JUDGED_ROWS = 2_000  # whose neighbours are looked for
QUANTILES = 51  # that a distance is made of


def judge(train: Table, test: Table, drawn: Table, seed: int) -> dict[str, Any]:
    """All figures; ``drawn`` is held against rows that no one learnt from."""
    edges = [_edges(train, j) for j in range(len(train.columns))]
    return {
        "column_distance": float(np.mean(list(column_distances(test, drawn).values()))),
        "by_column": column_distances(test, drawn),
        "pair_distance": pair_distance(_binned(test, edges), _binned(drawn, edges)),
        "rank_correlation_difference": correlation_difference(test, drawn),
        "told_from_real": told_apart(test, drawn, seed),
        "train_on_it": {name: trained_on(drawn, test, name, seed) for name in targets(train)},
        **memorised(train, test, drawn, seed),
    }


def column_distances(real: Table, drawn: Table) -> dict[str, float]:
    """Of each column: Kolmogorov–Smirnov of numbers, total variation of classes; 0 for the same, 1 at most."""
    found = {}
    for j, name in enumerate(real.columns):
        a, b = real.values[:, j], drawn.values[:, j]
        if real.classes[j]:
            found[name] = _total_variation(a.astype(int), b.astype(int), real.classes[j])
        else:
            found[name] = float(stats.ks_2samp(a, b, method="asymp").statistic)
    return found


def pair_distance(real: np.ndarray, drawn: np.ndarray) -> float:
    """The mean over pairs of columns (numbers in bins) of the total variation of their joint table."""
    sizes = np.maximum(real.max(0), drawn.max(0)) + 1
    found = []
    for j, k in combinations(range(real.shape[1]), 2):
        a, b = (rows[:, j] * sizes[k] + rows[:, k] for rows in (real, drawn))
        found.append(_total_variation(a, b, int(sizes[j] * sizes[k])))
    return float(np.mean(found))


def correlation_difference(real: Table, drawn: Table) -> float:
    """The mean over pairs of numeric or ordinal columns of |difference of Spearman's ρ|."""
    places = [j for j, kind in enumerate(real.kinds) if kind != "cat"]
    upper = np.triu_indices(len(places), 1)
    ranks = [np.apply_along_axis(stats.rankdata, 0, rows.values[:, places]) for rows in (real, drawn)]
    first, second = (np.nan_to_num(np.corrcoef(rank, rowvar=False)[upper]) for rank in ranks)
    return float(np.abs(first - second).mean())


def told_apart(real: Table, drawn: Table, seed: int) -> float:
    """The area under the curve of a boosted classifier that tells drawn rows from real ones: 0.5 if it cannot."""
    rng = np.random.default_rng(seed)
    count = min(len(real.values), len(drawn.values))
    rows = np.concatenate([each.values[rng.permutation(len(each.values))[:count]] for each in (real, drawn)])
    label = np.repeat([0, 1], count)
    order = rng.permutation(len(rows))
    learn, judge_by = order[: len(order) // 2], order[len(order) // 2 :]
    model = _booster(real, range(len(real.columns)), seed).fit(rows[learn], label[learn])
    return float(roc_auc_score(label[judge_by], model.predict_proba(rows[judge_by])[:, 1]))


def trained_on(drawn: Table, test: Table, target: str, seed: int) -> float:
    """Trained on drawn rows, tested on real ones: the area under the curve; 0.5 where the rows have one class only."""
    (learn, drop), (judge_by, _) = targets(drawn)[target], targets(test)[target]
    return area(drawn, test, learn, judge_by, drop, seed)


def area(drawn: Table, test: Table, learn: np.ndarray, judge_by: np.ndarray, drop: list[str], seed: int) -> float:
    """The same of any labels, 0 or 1, of drawn and of real rows; ``drop``: columns that would give them away."""
    keep = [j for j, name in enumerate(drawn.columns) if name not in drop]
    if len(np.unique(learn)) < 2:
        return 0.5
    model = _booster(drawn, keep, seed).fit(drawn.values[:, keep], learn)
    return float(roc_auc_score(judge_by, model.predict_proba(test.values[:, keep])[:, 1]))


def memorised(train: Table, test: Table, drawn: Table, seed: int) -> dict[str, float]:
    """Distances to the nearest real rows: are those learnt from nearer than those held out, and are any copies?

    ``nearer_to_train``: the share of drawn rows nearer to the rows learnt from than to as many held out, ties by half:
    50 % where nothing is memorised. ``copies``: the share at distance 0 of any row learnt from; ``copies_of_held_out``:
    the same of held-out rows, which is what chance gives. ``distance_ratio``: medians, drawn to train over held out.
    """
    rng = np.random.default_rng(seed)
    spots = _Spots(train)
    known, held, new = (spots.of(each) for each in (train, test, drawn))
    new = new[rng.permutation(len(new))[:JUDGED_ROWS]]
    some = held[rng.permutation(len(held))[:JUDGED_ROWS]]
    as_many = known[rng.permutation(len(known))[: len(held)]]
    to_as_many, to_held = _nearest(as_many, new), _nearest(held, new)
    to_train, chance = _nearest(known, new), _nearest(known, some)
    nearer = (to_as_many < to_held) + 0.5 * (to_as_many == to_held)
    return {
        "nearer_to_train": float(nearer.mean()),
        "copies": float((to_train == 0).mean()),
        "copies_of_held_out": float((chance == 0).mean()),
        "distance_ratio": float(np.median(to_train) / max(np.median(chance), 1e-12)),
    }


class _Spots:
    """Rows as points: a number is its place among quantiles, a category an indicator; 1 for a mismatch.

    Few quantiles, and straight lines between them: ranks among the rows learnt from would set those rows apart.
    """

    def __init__(self, train: Table) -> None:
        self.levels = np.linspace(0, 1, QUANTILES)
        self.knots = [np.quantile(column, self.levels) for column in train.values.T]

    def of(self, table: Table) -> np.ndarray:
        columns = []
        for j, kind in enumerate(table.kinds):
            values = table.values[:, j]
            if kind == "cat":
                columns += [(values == code) / np.sqrt(2) for code in range(table.classes[j])]
            else:
                knots, first = np.unique(self.knots[j], return_index=True)
                columns.append(np.interp(values, knots, self.levels[first]))
        return np.column_stack(columns)


def _nearest(known: np.ndarray, new: np.ndarray) -> np.ndarray:
    found = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(known)
    return np.asarray(found.kneighbors(new)[0][:, 0])


def _booster(table: Table, keep: Any, seed: int) -> HistGradientBoostingClassifier:
    categories = [table.kinds[j] == "cat" for j in keep]
    return HistGradientBoostingClassifier(categorical_features=categories, random_state=seed)


def _edges(train: Table, j: int) -> np.ndarray | None:
    if train.classes[j]:
        return None
    return np.unique(np.quantile(train.values[:, j], np.linspace(0, 1, BINS + 1)[1:-1]))


def _binned(table: Table, edges: list[np.ndarray | None]) -> np.ndarray:
    pairs = zip(table.values.T, edges, strict=True)
    return np.column_stack([x.astype(int) if edge is None else np.searchsorted(edge, x) for x, edge in pairs])


def _total_variation(a: np.ndarray, b: np.ndarray, size: int) -> float:
    first, second = (np.bincount(codes, minlength=size) / len(codes) for codes in (a, b))
    return float(np.abs(first - second).sum() / 2)
