"""gensim and tomotopy, in an environment of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from topic_study import corpora
from topic_study.jobs import Job
from topic_study.marks import Marks

CHUNK = 2000  # gensim's default
Figures = dict[str, Any]


def run(job: Job, folder: Path, data: Path) -> Figures:
    train, seen, held = corpora.corpus(job.part, data, job.quick)
    epoch, measure = (_gensim if job.method == "gensim" else _tomotopy)(job, train, seen, held)
    if job.part == "speed":
        times = 10 if job.method == "tomotopy" else 1
        epoch()
        start = time.process_time()
        for _ in range(times):
            epoch()
        return {"seconds": (time.process_time() - start) / times}
    marks = Marks(folder, job.marks)
    for number in range(1, max(job.marks) + 1):
        epoch()
        marks.epoch(number, measure)
    return {}


def _gensim(job: Job, train: Any, seen: Any, held: Any) -> tuple[Callable[[], None], Callable[[], Figures]]:
    from gensim.matutils import Sparse2Corpus
    from gensim.models import LdaModel

    corpus, names = Sparse2Corpus(train, documents_columns=False), {i: str(i) for i in range(train.shape[1])}
    count = job.layers[0]
    model = LdaModel(None, count, names, chunksize=CHUNK, eval_every=None, random_state=job.seed, dtype=np.float32)

    def measure() -> Figures:
        theta = np.zeros((seen.shape[0], count))
        for row, found in enumerate(model.get_document_topics(Sparse2Corpus(seen, documents_columns=False), 0.0)):
            theta[row, [topic for topic, _ in found]] = [share for _, share in found]
        theta /= theta.sum(1, keepdims=True)
        return {"perplexity": corpora.perplexity(theta, model.get_topics().astype(np.float64), held)}

    return lambda: model.update(corpus), measure


def _tomotopy(job: Job, train: Any, seen: Any, held: Any) -> tuple[Callable[[], None], Callable[[], Figures]]:
    import tomotopy as tp

    model = tp.LDAModel(k=job.layers[0], alpha=0.1, eta=0.01, seed=job.seed)
    for row in train:
        model.add_doc(np.repeat(row.indices, row.data.astype(int)).astype(str).tolist())
    model.optim_interval = 0

    def measure() -> Figures:
        beta, known = np.full((model.k, train.shape[1]), 1e-12), [int(word) for word in model.used_vocabs]
        beta[:, known] = [model.get_topic_word_dist(topic) for topic in range(model.k)]
        words = [np.repeat(row.indices, row.data.astype(int)).astype(str).tolist() for row in seen]
        found, _ = model.infer([model.make_doc(each) for each in words], iterations=100, workers=1)
        return {"perplexity": corpora.perplexity(np.array(found), beta, held)}

    return lambda: model.train(1, workers=1), measure
