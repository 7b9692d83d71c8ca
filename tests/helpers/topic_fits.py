"""Short fits of topic models to ``Counts`` in memory or in mapped files, by name; some kill their own process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fits import die_at
from numpy.typing import NDArray
from torch import Tensor

import lowerbound as lb
from lowerbound import topics
from lowerbound.data import Counts
from lowerbound.draw import Batch
from lowerbound.likelihoods import Multinomial
from lowerbound.row_source import RowSource
from lowerbound.topics import Csr, TopicModel
from lowerbound.training import Procedure, State

ROWS, BATCH, EPOCHS, EVERY, V = 53, 10, 6, 5, 12  # 48 rows, after 5 are held out: 5 steps an epoch, the last padded


def corpus(folder: Path | None = None) -> Counts:
    """Documents of two topics; from mapped files if a ``folder`` is given."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(2, 0.5), ROWS) @ rng.dirichlet(np.full(V, 0.2), 2)
    data = Counts.from_sparse(rng.multinomial(rng.integers(0, 40, ROWS), p))
    if folder is None:
        return data
    data.save(folder)
    return Counts.open(folder)


class Frequencies(TopicModel):
    """Topics as expected counts, for ``Noisy``."""

    total: Tensor

    def __init__(self, n_words: int, n_topics: int) -> None:
        super().__init__()
        self.n_words, self.n_topics, self.likelihood = n_words, n_topics, Multinomial()
        self.register_buffer("total", torch.ones(n_topics, n_words))

    def topics(self) -> Tensor:
        return self.total / self.total.sum(1, keepdim=True)

    def transform(self, csr: Csr, seed: int) -> NDArray[Any]:
        return np.full((csr.rows, self.n_topics), 1 / self.n_topics)


@dataclass(frozen=True)
class Noisy:
    """Adds each document to a topic at random: a learner whose random numbers come from seeds, as a kernel's do."""

    posterior = None
    is_bound = False

    def describe(self) -> dict[str, Any]:
        return {}

    def start(self, model: Frequencies, rows: RowSource) -> NoisyProcedure:
        return NoisyProcedure(model)


class NoisyProcedure(Procedure):
    """The steps of ``Noisy``. Keeps the batches that it was given."""

    def __init__(self, model: Frequencies) -> None:
        self.state = State({"model": model}, draws=False)
        self.seen: list[Batch] = []

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return torch.randint(2**62, (4,), generator=rng)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Any) -> tuple[State, dict[str, Tensor]]:
        self.seen.append(batch)
        csr, rng = Csr.from_batch(batch), np.random.Generator(np.random.Philox(noise.tolist()))
        total = state.modules["model"].total
        topic = np.repeat(rng.integers(len(total), size=csr.rows), np.diff(csr.indptr))
        total.index_put_(
            (torch.from_numpy(topic), torch.from_numpy(csr.indices).long()),
            torch.from_numpy(csr.counts).to(total),
            accumulate=True,
        )
        return state, {"objective": torch.tensor(float(csr.rows))}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Any) -> dict[str, Tensor]:
        return {"objective": state.modules["model"].total[0, 0] + noise[0] % 7}


def of_frequencies(data: Counts) -> tuple[Any, Any]:
    return Frequencies(V, 2), Noisy()


def of_prod_lda(data: Counts) -> tuple[Any, Any]:
    model, posterior = lb.recipes.prod_lda(data, 3, hidden=(4,))
    return model, lb.AEVB(posterior)


def of_deep_lda(learner: Callable[..., Any], data: Counts) -> tuple[Any, Any]:
    return topics.DeepLDAModel(V, (4, 2), burn_in=3, collected=3), learner(burn_in=2, collected=2)


def of_lda(learner: Callable[..., Any], data: Counts) -> tuple[Any, Any]:
    kept = {"warm": True} if learner is topics.BatchVB else {}
    return topics.LDAModel(V, 3), learner(learn_alpha=True, learn_eta=True, **kept)


LEARNERS: dict[str, Callable[[Counts], tuple[Any, Any]]] = {"noisy": of_frequencies, "prod_lda": of_prod_lda}
LDA = (topics.OnlineVB, topics.BatchVB, topics.CollapsedGibbs)
DEEP = (topics.UpwardDownwardGibbs, topics.TLASGR, topics.TLFSGR, topics.SGRLD, topics.SCIR)
LEARNERS |= {learner.__name__: partial(of_lda, learner) for learner in LDA}
LEARNERS |= {learner.__name__: partial(of_deep_lda, learner) for learner in DEEP}


def fit(name: str, run: Path | None, folder: Path | None, *steps: int) -> lb.Fit[Any]:
    """Fit by name; the process kills itself at each of ``steps`` that it comes to."""
    warnings.simplefilter("error")
    data = corpus(folder)
    with lb.nn.seeded(0):
        model, inference = LEARNERS[name](data)
    options = {"epochs": EPOCHS, "batch_size": BATCH, "validation": 0.1, "threads": 1, "run_dir": run}
    return lb.fit(model, data, inference, **options, checkpoint_every=EVERY, callbacks=[die_at(s) for s in steps])
