"""The jobs of the library itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from lowerbound import data as lbd
from lowerbound import recipes, topics
from lowerbound.training import Event
from topic_study import corpora
from topic_study.jobs import MINIBATCH, Job
from topic_study.marks import Marks

BATCH = 128  # of variational Bayes
SOME, SWEEPS = 2500, 60  # test documents, and sweeps before and while θ is averaged, on the way
ALL_SWEEPS = 100  # at the end, on all test documents, for each sample of the chain
SAMPLES = 8
ETA = 0.05
Figures = dict[str, Any]


def run(job: Job, folder: Path, data: Path) -> Figures:
    torch.set_num_threads(1)
    train, seen, held = corpora.corpus(job.part, data, job.quick)
    if job.part == "speed":
        return speed(job, train)
    return learnt(job, folder, lbd.Counts.from_sparse(train), seen, held)


def learnt(job: Job, folder: Path, rows: lbd.Counts, seen: Any, held: Any) -> Figures:
    """Fit with a run folder, and measure at the marks."""
    torch.manual_seed(job.seed)
    model, inference = _learner(job, rows)
    marks = Marks(folder, job.marks)
    counts = [lbd.Counts.from_sparse(each) for each in (seen, held)]

    def measure(whole: bool) -> Figures:
        part = [each.csr if whole else each.csr.take(np.arange(min(SOME, len(each)))) for each in counts]
        if isinstance(model, topics.DeepLDAModel):
            model.burn_in = model.collected = ALL_SWEEPS if whole else SWEEPS
        if isinstance(inference, lb.AEVB):
            return _amortised(model, inference.posterior, counts, held, rows)
        kept = list(model.each_sample()) if whole else [model]
        p = [topics.completed(each, part[0], part[1], job.seed) for each in kept]
        found = {"perplexity": _perplexity(part[1].counts, p[-1]), "samples": len(p)}
        if len(p) > 1:
            found["perplexity_of_samples"] = _perplexity(part[1].counts, np.mean(p, 0))
        return found | _coherence(model.topics(), rows)

    def callback(event: Event) -> bool:
        if event.record is not None:
            marks.epoch(len(event.history.records), lambda: measure(job.part == "halves"))
        return False

    batch = MINIBATCH if job.part == "completion" else BATCH
    found = lb.fit(
        model,
        rows,
        inference,
        epochs=max(job.marks),
        batch_size=batch,
        validation=0,
        seed=job.seed,
        callbacks=[callback],
        run_dir=folder / "run",
        checkpoint_every=50,
    )
    assert found.model is model
    return {"final": measure(True), "kernels": topics.kernels.KERNELS}


def _learner(job: Job, rows: lbd.Counts) -> tuple[Any, Any]:
    """The model, and how it is learnt."""
    words, count = rows.n_words, job.layers[0]
    lda = {"online": topics.OnlineVB, "batch": topics.BatchVB}
    if job.method in ("gibbs", "lda-gibbs"):  # α and η are tomotopy's
        return topics.LDAModel(words, count, alpha=0.1, eta=0.01, samples=SAMPLES), topics.CollapsedGibbs()
    if job.method in lda:
        return topics.LDAModel(words, count), lda[job.method]()
    if job.method == "prodlda":
        model, posterior = recipes.prod_lda(rows, count, seed=job.seed)
        return model, lb.AEVB(posterior, learning_rate=2e-3)
    deep = {"scir": topics.SCIR, "deep-gibbs": topics.UpwardDownwardGibbs}
    return topics.DeepLDAModel(words, job.layers, ETA, samples=SAMPLES), deep.get(job.method, topics.TLASGR)()


def _perplexity(counts: Any, p: Any) -> float:
    return float(np.exp(-(counts @ np.log(p)) / counts.sum()))


def _coherence(found: torch.Tensor, rows: lbd.Counts) -> Figures:
    numbers = found.detach().double().numpy()
    return {"npmi": float(topics.npmi(numbers, rows.csr).mean()), "diversity": topics.diversity(numbers)}


def _amortised(model: Any, posterior: Any, counts: list[lbd.Counts], held: Any, rows: lbd.Counts) -> Figures:
    """p(w|d) is that of the decoder at the mean shares."""
    decoder = model.decoder
    shares = torch.from_numpy(topics.topic_shares(model, posterior, counts[0])).float()
    with torch.no_grad():
        p = (shares @ decoder.weights + decoder.bias).softmax(1).double().numpy()
    coo = held.tocoo()
    log_p = np.log(p[coo.row, coo.col])
    return {"perplexity": float(np.exp(-(coo.data @ log_p) / coo.data.sum()))} | _coherence(decoder.topics(), rows)


def speed(job: Job, train: Any) -> Figures:
    """Processor seconds of an epoch, a sweep or a split of the documents."""
    rows, count = lbd.Counts.from_sparse(train), job.layers[0]
    if job.method in ("online", "gibbs"):
        short, long = (1, 3) if job.method == "online" else (2, 12)
        found = {"seconds": _epoch(job, rows, short, long), "nonzeros": len(rows.csr.indices)}
        if job.method == "online" and not job.quick:
            order = np.random.default_rng(0).permutation(len(rows))
            for share in (4, 2):
                some = lbd.Counts.from_sparse(train[order[: len(rows) // share]])
                found[f"ns_per_nonzero_of_1/{share}"] = 1e9 * _epoch(job, some, short, long) / len(some.csr.indices)
        return found
    from lowerbound.topics import kernels
    from lowerbound.topics.deep_lda import Globals, as_doubles

    run = kernels.kernel("gamma_poisson")
    model = topics.DeepLDAModel(rows.n_words, (count,), ETA)
    common, x = Globals.of(model), as_doubles(rows.csr)
    streams = run.streams(np.arange(4), x.rows)
    theta = np.random.default_rng(0).gamma(1.0, size=(x.rows, count))
    if job.method == "split":
        n = np.zeros((rows.n_words, count))
        return {"seconds": _best(lambda: run.split(x, common.phi[0], theta, streams, n))}
    found = {}
    for layers in ((count,), (count, count // 2), (count, count // 2, count // 4)):
        common = Globals.of(topics.DeepLDAModel(rows.n_words, layers, ETA))
        common.run(x, streams, 0, 2)
        found[f"seconds_of_{len(layers)}"] = _best(lambda common=common: common.run(x, streams, 0, 5)) / 5  # type: ignore[misc]
    return found | {"seconds": found["seconds_of_1"]}


def _epoch(job: Job, rows: lbd.Counts, short: int, long: int) -> float:
    """The difference of a long and a short fit, per epoch: reading and compiling are in both."""

    def of(epochs: int) -> float:
        torch.manual_seed(0)
        model, inference = _learner(job, rows)
        start = time.process_time()
        lb.fit(model, rows, inference, epochs=epochs, batch_size=BATCH, validation=0)
        return time.process_time() - start

    of(1)
    return min((of(long) - of(short)) / (long - short) for _ in range(3))


def _best(call: Callable[[], object]) -> float:
    """The least processor time of five calls after a first one."""
    call()
    times = []
    for _ in range(5):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)
