"""scikit-learn's online variational Bayes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import LatentDirichletAllocation

from lowerbound import topics
from lowerbound.data import Counts
from topic_study import corpora
from topic_study.jobs import Job
from topic_study.marks import Marks

BATCH = 128


def run(job: Job, folder: Path, data: Path) -> dict[str, Any]:
    train, seen, held = corpora.corpus(job.part, data, job.quick)
    model = LatentDirichletAllocation(job.layers[0], total_samples=train.shape[0], random_state=job.seed)
    order = np.random.default_rng(job.seed)

    def epoch() -> None:
        shuffled = train[order.permutation(train.shape[0])]
        for start in range(0, train.shape[0], BATCH):
            model.partial_fit(shuffled[start : start + BATCH])

    if job.part == "speed":
        epoch()
        start = time.process_time()
        epoch()
        return {"seconds": time.process_time() - start}

    def measure() -> dict[str, float]:
        beta = model.components_ / model.components_.sum(1, keepdims=True)
        return {
            "perplexity": corpora.perplexity(model.transform(seen), beta, held),
            "npmi": float(topics.npmi(beta, Counts.from_sparse(train).csr).mean()),
            "diversity": topics.diversity(beta),
        }

    marks = Marks(folder, job.marks)
    for number in range(1, max(job.marks) + 1):
        epoch()
        marks.epoch(number, measure)
    return {}
