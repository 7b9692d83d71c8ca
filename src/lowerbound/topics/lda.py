"""Latent Dirichlet allocation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from lowerbound.errors import DataError
from lowerbound.likelihoods import Multinomial
from lowerbound.topics.csr import Csr
from lowerbound.topics.kernels import kernel
from lowerbound.topics.model import TopicModel
from lowerbound.topics.steps import on_cpu

Array = NDArray[Any]
TOLERANCE, ITERATIONS = 1e-3, 100  # of the search for q(θ) of a document


class LDAModel(TopicModel):
    """θ_d ~ Dir(α), β_k ~ Dir(η); each word of document d is of topic k ~ θ_d, and drawn from β_k. Blei et al. 2003.

    ``alpha``: α, one number or one for each topic; 1/K by default. ``eta``: η; 1/K by default.

    q(β_k) = Dir(λ_k) with λ = ``word_weights [K, V]``, which start at random numbers near 1. Learn them by
    ``OnlineVB``, ``BatchVB`` or ``CollapsedGibbs``. The buffers are in single precision; ``.double()`` for more.
    ``samples``: ``CollapsedGibbs`` keeps λ of so many sweeps, from the second half of them, and ``topics.perplexity``
    averages over these.
    """

    word_weights: Tensor
    alpha: Tensor
    eta: Tensor

    def __init__(
        self,
        n_words: int,
        n_topics: int,
        alpha: float | Sequence[float] | None = None,
        eta: float | None = None,
        samples: int = 1,
    ) -> None:
        super().__init__()
        if n_words < 1 or n_topics < 1:
            raise ValueError(f"n_words and n_topics must be at least 1, got {n_words} and {n_topics}.")
        self.n_words, self.n_topics = n_words, n_topics
        self.likelihood = Multinomial("probabilities")
        shapes = tuple(alpha) if isinstance(alpha, Sequence) else (1 / n_topics if alpha is None else alpha,) * n_topics
        if len(shapes) != n_topics or not all(each > 0 for each in shapes):
            raise ValueError(f"alpha must be a number above 0, or {n_topics} of them, one per topic; got {alpha}.")
        if eta is not None and not eta > 0:
            raise ValueError(f"eta must be above 0, got {eta}.")
        start = torch.empty(n_topics, n_words).normal_(1, 0.1).clamp_(min=0.1)
        self.register_buffer("word_weights", start)
        self.register_buffer("alpha", torch.tensor(shapes, dtype=start.dtype))
        self.register_buffer("eta", torch.tensor(1 / n_topics if eta is None else eta, dtype=start.dtype))
        self._make_room(samples)

    def topics(self) -> Tensor:
        """E[β] = λ_kw/Σ_v λ_kv, ``[K, V]``."""
        return self.word_weights / self.word_weights.sum(1, keepdim=True)

    def transform(self, csr: Csr, seed: int = 0) -> Array:
        """E_q[θ] of each document, ``[N, K]``; rows sum to 1. No random numbers are needed: ``seed`` has no effect."""
        gamma = infer(self, csr).gamma
        theta: Array = gamma / gamma.sum(1, keepdims=True)
        return theta

    def bound(self, csr: Csr) -> NDArray[np.float64]:
        """E_q[log p(x, θ, z|β) − log q(θ, z)] of each document, in nats, ``[N]``.

        Less KL(q(β) ‖ p(β)), which counts once for all documents that the model was fitted to, the sum is a lower
        bound on log p(x) of the documents as counts given their lengths: the multinomial coefficient is included.
        """
        return infer(self, csr).bound + log_coefficient(csr)


@dataclass(frozen=True)
class Inferred:
    """Of the documents of a batch: q(θ) = Dir(``gamma [B, K]``), and the ``bound [B]`` without the coefficient.

    ``totals [K, U]``: Σ_d n_dw φ_dwk of the words ``used [U]``.
    """

    gamma: Array
    bound: NDArray[np.float64]
    totals: Array
    used: NDArray[np.int64]


def infer(
    model: LDAModel,
    csr: Csr,
    start: Array | None = None,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> Inferred:
    """Find q(θ) of each document by coordinate ascent from γ = ``start [B, K]`` (by default 1, the same for all)."""
    weights, alpha = on_cpu(model.word_weights), on_cpu(model.alpha)
    if len(csr.indices) and int(csr.indices.max()) >= model.n_words:
        raise DataError(
            f"the documents have the word {int(csr.indices.max())}, and the model knows {model.n_words} words, from 0; "
            "give documents of the vocabulary that it was fitted to."
        )
    used = np.flatnonzero(np.bincount(csr.indices, minlength=model.n_words))
    places = np.zeros(model.n_words, np.int32)
    places[used] = np.arange(len(used))
    run = kernel("variational")
    topics = run.exp_log_topics(weights, used, weights.sum(1, dtype=np.float64))
    gamma = np.ones((csr.rows, model.n_topics)) if start is None else start
    gamma = np.array(gamma, weights.dtype)
    totals = np.zeros_like(topics)
    counts = csr.counts.astype(weights.dtype, copy=False)
    bound = run.infer(
        csr.indptr, places[csr.indices], counts, topics, alpha, gamma, totals, float(tolerance), int(iterations)
    )
    return Inferred(gamma, bound, totals * topics, used)


def log_coefficient(csr: Csr) -> NDArray[np.float64]:
    """log (n! / Π_w n_w!) of each document, ``[N]``."""
    log_factorials = np.zeros(len(csr.counts))
    several = csr.counts != 1  # log 1! = 0
    log_factorials[several] = gammaln(csr.counts[several].astype(np.float64) + 1)
    each = np.concatenate([[0.0], np.cumsum(log_factorials)])
    lengths = np.concatenate([[0.0], np.cumsum(csr.counts, dtype=np.float64)])
    found: NDArray[np.float64] = gammaln(np.diff(lengths[csr.indptr]) + 1) - np.diff(each[csr.indptr])
    return found
