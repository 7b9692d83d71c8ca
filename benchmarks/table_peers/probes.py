"""Recognition: a linear probe on the latents, on principal components, and on the columns themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from table_peers import ours
from table_peers.data import Table, targets
from table_peers.job import Job

LABELS = (100, 1_000)  # rows with a label, beside all of them
DRAWS = 10  # of the few rows with a label


def recognise(job: Job, train: Table, test: Table) -> dict[str, Any]:
    """Areas under the curve of held-out rows, by target, by what is probed, by the number of labels."""
    found: dict[str, Any] = {"targets": {}}
    for target, (label, drop) in targets(train).items():
        seen, held = train.without(drop), test.without(drop)
        latent, latent_held, how = ours.latents(seen, held, job.seed, job.quick)
        raw, raw_held = indicators(seen, seen), indicators(seen, held)
        width = min(latent.shape[1], raw.shape[1])
        scale = StandardScaler().fit(raw)
        pca = PCA(width, random_state=job.seed).fit(scale.transform(raw))
        features = {
            "latents": (latent, latent_held),
            "principal components": (pca.transform(scale.transform(raw)), pca.transform(scale.transform(raw_held))),
            "columns": (raw, raw_held),
        }
        truth = targets(test)[target][0]
        found["targets"][target] = areas(features, label, truth, job.seed) | {"widths": _widths(features), "fit": how}
    return found


def indicators(known: Table, table: Table) -> np.ndarray:
    """Numbers, log(1 + x) too where none is below 0, ordinals as numbers, and an indicator of each category."""
    columns = []
    for j, kind in enumerate(known.kinds):
        values = table.values[:, j]
        if kind == "cat":
            columns += [(values == code).astype(float) for code in range(known.classes[j])]
            continue
        columns.append(values)
        if kind in ("pos", "count"):
            columns.append(np.log1p(values))
    return np.column_stack(columns)


def areas(
    features: dict[str, tuple[np.ndarray, np.ndarray]], label: np.ndarray, truth: np.ndarray, seed: int
) -> dict[str, Any]:
    """By the number of labels: each probe's areas, over the same draws of the labelled rows."""
    found: dict[str, Any] = {}
    for count in (*LABELS, len(label)):
        if count > len(label):
            continue
        draws = 1 if count == len(label) else DRAWS
        rows = [_balanced_enough(label, count, seed + number) for number in range(draws)]
        found[str(count)] = {
            name: [probe(x[some], label[some], held, truth) for some in rows] for name, (x, held) in features.items()
        }
    return found


def probe(x: np.ndarray, label: np.ndarray, held: np.ndarray, truth: np.ndarray) -> float:
    """The area under the curve of a logistic regression of standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, label)
    return float(roc_auc_score(truth, model.decision_function(held)))


def _balanced_enough(label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows drawn until both classes are among them."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.permutation(len(label))[:count]
        if len(np.unique(label[rows])) == 2:
            return rows


def _widths(features: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, int]:
    return {name: x.shape[1] for name, (x, _) in features.items()}
