"""Collapsed Gibbs sampling of LDA."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import psi
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.row_source import RowSource
from lowerbound.topics.csr import Csr
from lowerbound.topics.kernels import KERNELS, kernel
from lowerbound.topics.lda import LDAModel
from lowerbound.topics.steps import check_words, on_cpu, seeds
from lowerbound.training import OF_ROWS, Metrics, Procedure, Scalars, State

Array = NDArray[Any]
_LEAST = 1e-6  # of α_k and η
_AT_ONCE = 10_000


@dataclass(frozen=True)
class CollapsedGibbs:
    """Draw the topic of each token given all others: p(z_i = k) ∝ (n_dk + α_k)(n_kw + η)/(n_k + Vη).

    Griffiths & Steyvers 2004. An epoch is a sweep; the model then has λ = n_kw + η of this one sample, q(β) given z.
    Counts must be whole. ``learn_alpha``, ``learn_eta``: whether α (one number per topic) and η are raised towards
    those under which z is most likely, by one step of Minka's fixed point per epoch. batch_size changes nothing but
    memory and the order. Needs numba.

    The objective of training rows is log p of each word given all other words and their topics, which is no bound; that
    of held-out rows a lower bound on log p(x) given q(β).
    """

    learn_alpha: bool = False
    learn_eta: bool = False

    posterior = None
    is_bound = False

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return asdict(self)

    def start(self, model: LDAModel, rows: RowSource) -> CollapsedGibbsProcedure:
        """Begin a fit of ``model`` to the documents ``rows``; what the model has learnt before is replaced."""
        if KERNELS != "numba":
            raise ImportError(
                'CollapsedGibbs needs numba, which is not installed: pip install "lowerbound[topics]", or use OnlineVB.'
            )
        check_words(model, rows)
        return CollapsedGibbsProcedure(self, model, rows)


class CollapsedGibbsProcedure(Procedure):
    """The steps of ``CollapsedGibbs``."""

    def __init__(self, settings: CollapsedGibbs, model: LDAModel, rows: RowSource) -> None:
        self.settings, self.model = settings, model
        self.starts, tokens = _starts(rows)
        self.sample = _Sample(model, tokens)
        self.state = State({"model": model, "sample": self.sample}, draws=False)

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return seeds(rng)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        csr, alpha = Csr.from_batch(batch), on_cpu(self.model.alpha)
        starts = self.starts[batch.index[batch.weight > 0].numpy()]
        documents = np.empty((csr.rows, self.model.n_topics), np.int32)
        z, words, totals = (on_cpu(each) for each in (self.sample.z, self.sample.words, self.sample.totals))
        random = noise.numpy().view(np.uint64).copy()
        found = kernel("collapsed").sweep(
            csr.indptr,
            csr.indices,
            csr.counts.astype(np.float32, copy=False),
            starts,
            z,
            words,
            totals,
            alpha.astype(np.float32, copy=False),
            float(self.model.eta),
            random,
            documents,
        )
        if self.settings.learn_alpha:
            gains, total = self.sample.gains.numpy(), float(alpha.sum(dtype=np.float64))
            gains[:-1] += (psi(documents + alpha.astype(np.float64)) - psi(alpha, dtype=np.float64)).sum(0)
            gains[-1] += (psi(documents.sum(1) + total) - psi(total)).sum()
        return state, {"objective": torch.as_tensor(found.mean(), dtype=batch.weight.dtype)}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        each = torch.zeros_like(batch.weight)
        bound = self.model.bound(Csr.from_batch(batch))
        each[batch.weight > 0] = torch.from_numpy(bound).to(each)
        return {"objective": batch.weight @ each, OF_ROWS: each}

    def epoch_end(self, state: State) -> None:
        """Update α and η, if they are learnt, and give the model this sweep's sample."""
        model, sample = self.model, self.sample
        if self.settings.learn_alpha:
            model.alpha.mul_(sample.gains[:-1] / sample.gains[-1]).clamp_(min=_LEAST)
            sample.gains.zero_()
        if self.settings.learn_eta:
            model.eta.mul_(_rise(sample.words.numpy(), sample.totals.numpy(), float(model.eta))).clamp_(min=_LEAST)
        model.word_weights.copy_(sample.words.T + model.eta)
        model.keep_sample()


def _rise(words: Array, totals: Array, eta: float) -> float:
    """What Minka's fixed point multiplies η by."""
    size = len(words)
    gain = (psi(words + eta) - psi(eta)).sum()
    return float(gain / (size * (psi(totals + size * eta) - psi(size * eta)).sum()))


def _starts(rows: RowSource) -> tuple[NDArray[np.int64], int]:
    """Where the topics of each document's tokens begin, by its number ``[total]``, and how many tokens there are."""
    lengths = np.zeros(rows.total, np.int64)
    for index in torch.arange(len(rows), device=rows.device).split(_AT_ONCE):
        batch = rows.batch(index, torch.ones(len(index), device=rows.device))
        csr = Csr.from_batch(batch)
        ends = np.concatenate([[0], np.cumsum(csr.counts, dtype=np.int64)])
        lengths[batch.index.cpu().numpy()] = np.diff(ends[csr.indptr])
    return np.cumsum(lengths) - lengths, int(lengths.sum())


class _Sample(nn.Module):
    """The topic of each token, n_kw ``words [V, K]``, n_k ``totals [K]``; and the sums from which α is updated."""

    z: Tensor
    words: Tensor
    totals: Tensor
    gains: Tensor

    def __init__(self, model: LDAModel, tokens: int) -> None:
        super().__init__()
        self.register_buffer("z", torch.full((tokens,), -1, dtype=torch.int32))
        self.register_buffer("words", torch.zeros(model.n_words, model.n_topics, dtype=torch.int32))
        self.register_buffer("totals", torch.zeros(model.n_topics, dtype=torch.int64))
        self.register_buffer("gains", torch.zeros(model.n_topics + 1, dtype=torch.float64))
