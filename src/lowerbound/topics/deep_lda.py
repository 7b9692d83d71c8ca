"""Deep LDA: the Poisson gamma belief network. Zhou, Cong and Chen 2016."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.errors import DataError
from lowerbound.likelihoods import Poisson
from lowerbound.topics.csr import Csr
from lowerbound.topics.kernels import kernel
from lowerbound.topics.links import LIKELIHOODS, Link, latent_counts
from lowerbound.topics.model import TopicModel
from lowerbound.topics.steps import on_cpu
from lowerbound.topics.sweep import Documents, Hyper

Array = NDArray[Any]
_FIXED = 10  # first sweeps, at most, in which p and c stay


class DeepLDAModel(TopicModel):
    """Topics in T layers: x_j ~ Pois(Φ¹θ¹_j), θˡ_j ~ Gam(Φˡ⁺¹θˡ⁺¹_j, 1/cˡ⁺¹_j), θᵀ_j ~ Gam(r, 1/cᵀ⁺¹_j).

    φˡ_k ~ Dir(η), r_k ~ Gam(γ₀/K_T, 1/c₀); c²_j = (1 − p_j)/p_j with p_j ~ Beta(a₀, b₀), cˡ_j ~ Gam(e₀, 1/f₀) for
    l ≥ 3. ``layers``: K₁ ≥ … ≥ K_T, the topics of each layer. Buffers ``phi_1 [V, K₁]``, ``phi_2 [K₁, K₂]``, … have
    columns that sum to 1, ``r [K_T]``. The learners are ``UpwardDownwardGibbs``, ``TLASGR``, ``TLFSGR``, ``SGRLD`` and
    ``SCIR``.

    ``link``: "counts"; "binary" (1 if the Poisson number is at least 1); "positive" (y ~ Gam(x, 1) of that number).
    ``burn_in``, ``collected``: Gibbs sweeps of ``transform``; θ is averaged over the collected ones. ``samples``: the
    learners keep Φ and r of so many epochs of the second half of a fit, over which ``topics.perplexity`` averages.
    """

    likelihood: Poisson
    r: Tensor

    def __init__(
        self,
        n_words: int,
        layers: Sequence[int],
        eta: float = 0.05,
        gamma0: float = 1.0,
        c0: float = 1.0,
        a0: float = 0.01,
        b0: float = 0.01,
        e0: float = 1.0,
        f0: float = 1.0,
        link: Link = "counts",
        burn_in: int = 100,
        collected: int = 100,
        samples: int = 1,
    ) -> None:
        super().__init__()
        _check_layers(n_words, layers)
        given = {"eta": eta, "gamma0": gamma0, "c0": c0, "a0": a0, "b0": b0, "e0": e0, "f0": f0}
        for name, value in given.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a finite number above 0, got {value}.")
        if link not in LIKELIHOODS:
            raise ValueError(f"link must be one of {', '.join(LIKELIHOODS)}, got {link!r}.")
        if burn_in < 0 or collected < 1:
            raise ValueError(f"burn_in must be at least 0 and collected at least 1, got {burn_in} and {collected}.")
        self.n_words, self.layers, self.link, self.likelihood = n_words, tuple(layers), link, LIKELIHOODS[link]()
        self.eta, self.gamma0, self.c0 = eta, gamma0, c0
        self.a0, self.b0, self.e0, self.f0 = a0, b0, e0, f0
        self.burn_in, self.collected = burn_in, collected
        for layer, (below, topics) in enumerate(zip((n_words, *layers), layers, strict=False)):
            start = 0.05 + 0.95 * torch.rand(below, topics)
            self.register_buffer(f"phi_{layer + 1}", start / start.sum(0))
        self.register_buffer("r", torch.full((layers[-1],), 1 / layers[-1]))
        self._make_room(samples)

    @property
    def phi(self) -> list[Tensor]:
        """Φˡ ``[K_(l-1), K_l]`` of each layer, from the words up."""
        return [self.get_buffer(f"phi_{layer + 1}") for layer in range(len(self.layers))]

    def topics(self, layer: int = 1) -> Tensor:
        """The probability of each word in each topic of a layer, (Φ¹ … Φˡ)ᵀ ``[K_l, V]``; rows sum to 1."""
        phi = self.phi
        found = phi[0]
        for above in phi[1:layer]:
            found = found @ above
        return found.T

    def weights(self, layer: int = 1) -> Tensor:
        """The prior mean of θˡ up to scale, Φˡ⁺¹ … Φᵀr, which sums to 1: how common the topics are, ``[K_l]``."""
        found = self.r
        for phi in reversed(self.phi[layer:]):
            found = phi @ found
        return found / found.sum()

    def transform(self, csr: Csr, seed: int) -> NDArray[np.floating[Any]]:
        """The topics' shares θ in each document, ``[N, K₁]``; rows sum to 1. See ``TopicModel.transform``.

        θ¹ is averaged over Gibbs sweeps, then divided by its sum. A document without words has the prior's mean.
        """
        return self.transform_layers(csr, seed)[0]

    def transform_layers(self, csr: Csr, seed: int) -> list[Array]:
        """The shares θˡ of all layers, ``[N, K_l]`` each; row i depends on document i, the model and ``seed`` alone."""
        self._check(csr)
        kernels, chain = kernel("gamma_poisson"), Globals.of(self)
        words = np.array([seed, 0, 0, 0])
        if kernels.BY_ROW:
            theta = chain.run(csr, kernels.streams(words, csr.rows, same=True), self.burn_in, self.collected).theta
        else:
            rows = [csr.take(np.array([row])) for row in range(csr.rows)]
            found = [chain.run(row, kernels.streams(words, 1), self.burn_in, self.collected).theta for row in rows]
            theta = (
                [np.concatenate(layer) for layer in zip(*found, strict=True)]
                if found
                else [np.zeros((0, k)) for k in self.layers]
            )
        empty = np.diff(csr.indptr) == 0
        for layer, each in enumerate(theta):
            each /= each.sum(-1, keepdims=True)
            each[empty] = self.weights(layer + 1).numpy()
        return [each.astype(chain.phi[0].dtype) for each in theta]

    def _check(self, csr: Csr) -> None:
        """Refuse words and values that the model does not have."""
        if len(csr.indices) and int(csr.indices.max()) >= self.n_words:
            raise DataError(
                f"the documents have the word {int(csr.indices.max())}, and the model has n_words = {self.n_words}; "
                "give counts of the words that it was fitted to."
            )
        wrong = np.flatnonzero(~self.likelihood.support.check(torch.from_numpy(csr.counts)).numpy())
        if len(wrong):
            row = int(np.searchsorted(csr.indptr, wrong[0], "right")) - 1
            raise DataError(
                f'document {row} has the value {csr.counts[wrong[0]]:g}, which link="{self.link}" does not allow; '
                "correct it, or fit a model of another link."
            )


@dataclass(frozen=True)
class Collected:
    """Means over the collected sweeps of J documents.

    ``theta``: θˡ ``[J, K_l]`` of each layer; ``top``: Σ_j xᵀ⁺¹_kj ``[K_T]``; ``q``: Σ_j qᵀ⁺¹_j.
    """

    theta: list[Array]
    top: Array
    q: float


@dataclass(frozen=True)
class Globals:
    """What documents have in common, as arrays: Φ of each layer and r; and the parameters of the other priors."""

    phi: list[Array]
    r: Array
    hyper: Hyper
    likelihood: Poisson

    @classmethod
    def of(cls, model: DeepLDAModel) -> Globals:
        """The model's; Φ shares its memory."""
        hyper = Hyper(model.a0, model.b0, model.e0, model.f0)
        return cls([on_cpu(phi) for phi in model.phi], on_cpu(model.r).astype(np.float64), hyper, model.likelihood)

    def begin(self, rows: int, streams: Any) -> Documents:
        """Documents at the start of their chains."""
        layers = [phi.shape[1] for phi in self.phi]
        return Documents.begin(rows, layers, kernel("gamma_poisson"), streams, self.hyper)

    def up(self, documents: Documents, x: Csr, n: Sequence[Array] | None = None) -> None:
        """The upward pass of a sweep, from the latent counts of the values ``x``."""
        counts = latent_counts(
            self.likelihood, x, self.phi[0], documents.theta[0], documents.kernels, documents.streams
        )
        documents.up(counts, self.phi, self.r, n)

    def run(self, x: Csr, streams: Any, burn_in: int, collected: int, n: Sequence[Array] | None = None) -> Collected:
        """Gibbs sweeps of documents with Φ and r as they are. The mean of Σ_j nˡ_vkj is added to ``n``, if given."""
        x, documents = as_doubles(x), self.begin(x.rows, streams)
        theta, top, q = [np.zeros_like(each) for each in documents.theta], np.zeros(len(self.r)), 0.0
        for sweep in range(burn_in + collected):
            collects = sweep >= burn_in
            self.up(documents, x, n if collects else None)
            if sweep >= min(burn_in / 2, _FIXED):
                documents.scale(self.r)
            documents.down(self.phi, self.r)
            if collects:
                top += documents.top.sum(0)
                q += float(documents.q()[:, -1].sum())
                for total, each in zip(theta, documents.theta, strict=True):
                    total += each
        for total in (*theta, top, *(n or ())):
            total /= collected
        return Collected(theta, top, q / collected)


def as_doubles(x: Csr) -> Csr:
    """The same documents with counts in double precision."""
    return Csr(x.indptr, x.indices, x.counts.astype(np.float64, copy=False))


def _check_layers(n_words: int, layers: Sequence[int]) -> None:
    if n_words < 1 or not layers or min(layers) < 1:
        raise ValueError(f"n_words and each of layers must be at least 1, got {n_words} and {list(layers)}.")
    if any(above > below for below, above in itertools.pairwise(layers)):
        raise ValueError(f"layers is {list(layers)}, which grows upwards; give each layer at most the topics below it.")
