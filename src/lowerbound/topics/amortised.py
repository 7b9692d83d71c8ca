"""Topic models whose documents are inferred by an encoder: LDA and ProdLDA on a logistic normal, and WHAI."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound import posteriors, priors
from lowerbound.data import Counts
from lowerbound.distributions import generator, inverse_positive
from lowerbound.distributions.latents import split
from lowerbound.likelihoods import Multinomial, Poisson
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.modes import in_eval_mode
from lowerbound.nn import MLP, Chain, Standardise, Topics, seeded
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior

_VALUES = 2**22  # that a model starts from, at most


def prod_lda(
    data: Counts, n_topics: int = 50, *, alpha: float = 1.0, hidden: Sequence[int] = (100, 100), seed: int = 0
) -> tuple[LatentVariableModel, Posterior]:
    """ProdLDA of Srivastava & Sutton 2017: p(words|θ) ∝ exp(b + Σ_k θ_k w_k), a product of experts, θ = softmax(z).

    z has the Laplace approximation of Dirichlet(``alpha``) as its prior and a diagonal normal as its posterior. The
    model and posterior for ``fit(model, data, AEVB(posterior))``; the decoder starts at the words' frequencies. Without
    the paper's batch normalisation, so that the bound of a document does not depend on the others of its batch.
    """
    return _on_logistic_normal(data, n_topics, alpha, hidden, seed, product=True)


def amortised_lda(
    data: Counts, n_topics: int = 50, *, alpha: float = 1.0, hidden: Sequence[int] = (100, 100), seed: int = 0
) -> tuple[LatentVariableModel, Posterior]:
    """LDA by an encoder: as ``prod_lda``, with a mixture of topics, p(words|θ) = Σ_k θ_k softmax(w_k)."""
    return _on_logistic_normal(data, n_topics, alpha, hidden, seed, product=False)


def _on_logistic_normal(
    data: Counts, n_topics: int, alpha: float, hidden: Sequence[int], seed: int, product: bool
) -> tuple[LatentVariableModel, Posterior]:
    likelihood = Multinomial("logits" if product else "probabilities")
    prior = priors.LaplaceDirichlet(n_topics, alpha)
    with seeded(seed):
        model = LatentVariableModel(prior, Topics(n_topics, data.n_words, product), likelihood)
        encoder = _encoder(data, 2 * n_topics, hidden)
    rows = _start(data, seed)
    model.initialise(rows)
    _standardise(encoder).fit(rows)
    return model, posteriors.DiagonalNormal(n_topics, encoder)


def whai(
    data: Counts, layers: Sequence[int] = (64, 32), *, hidden: Sequence[int] = (100,), seed: int = 0
) -> tuple[LatentVariableModel, Posterior]:
    """A Poisson gamma belief network with an encoder, the Weibull hybrid of Zhang, Chen, Guo & Zhou 2018.

    x ~ Poisson(Φ¹θ¹), θˡ ~ Gamma(Φˡ⁺¹θˡ⁺¹, cˡ⁺¹), θᵀ ~ Gamma(r, cᵀ⁺¹), with the columns of Φ, r and c learned by the
    gradient of the bound; q(θˡ|x, θˡ⁺¹) = Weibull(kˡ(x) + Φˡ⁺¹θˡ⁺¹, λˡ(x)) and KLs in closed form, neither weighted nor
    clipped. ``layers``: K_1, …, K_T from the words up, latents "theta1", "theta2", …
    """
    if not layers:
        raise ValueError("layers is empty; give the number of topics of each layer, from the words up.")
    rows = _start(data, seed)
    words = float(rows.sum(1).mean().clamp(min=1))  # of a document: Σ θ¹ is to have this mean
    names = [f"theta{level + 1}" for level in range(len(layers))]
    rates = [layers[-1] / words] + [1.0] * (len(layers) - 1)
    with seeded(seed):
        parts: dict[str, Prior] = {
            name: priors.ConditionalGamma(below, Topics(above, below, proportions=False), rate, learned=True)
            for name, (below, above), rate in zip(names, pairwise(layers), rates, strict=False)
        }
        parts[names[-1]] = priors.Gamma(layers[-1], 1.0, rates[-1], learned=True)
        prior = priors.Latents(parts, {below: [above] for below, above in pairwise(names)})
        decoder = Topics(layers[0], data.n_words, proportions=False, log=True)
        model = LatentVariableModel(prior, decoder, Poisson(), parents=names[:1])
        encoder = _encoder(data, 2 * sum(layers), hidden)
    model.initialise(rows)
    _standardise(encoder).fit(rows)
    scales = [words / layers[0]] + [layers[-1] / size for size in layers[1:]]
    starts = [
        torch.cat([torch.zeros(n), inverse_positive(torch.full((n,), s))]) for n, s in zip(layers, scales, strict=True)
    ]
    assert isinstance(encoder.second, MLP)
    encoder.second.init_bias(torch.cat(starts))
    weibulls = {name: posteriors.MergedWeibull(n, nn.Identity()) for name, n in zip(names, layers, strict=True)}
    return model, posteriors.Latents(weibulls, encoder)


@torch.no_grad()
@in_eval_mode
def topic_shares(
    model: LatentVariableModel, posterior: Posterior, data: Counts, *, draws: int = 100, seed: int = 0
) -> NDArray[np.floating[Any]]:
    """The mean shares of the topics in each document under q, ``[N, K]``; rows sum to 1.

    All documents share the noise of the ``draws``, so that a row does not depend on the others.
    """
    decoder, found = model.decoder, []
    if not isinstance(decoder, Topics):
        raise ValueError(f"the decoder is a {type(decoder).__name__}, where nn.Topics is expected.")
    rng = generator(seed, "topic shares")
    noise = posterior.noise(draws, 1, rng, decoder.weights.dtype).to(decoder.weights.device)
    rows = data.of_dtype(decoder.weights.dtype).to(decoder.weights.device)
    for index in torch.arange(len(rows), device=rows.device).split(100):
        x = rows.batch(index, torch.ones(len(index), dtype=rows.dtype, device=rows.device)).x
        q, _ = distributions_of(model, posterior, x)
        z = q.sample(noise.expand(-1, len(index), *noise.shape[2:]))
        if model.parents is not None:
            assert isinstance(model.prior, priors.Latents)
            z = split(z, model.prior.events)[model.parents[0]]
        found.append(decoder.shares(z).mean(0))
    shares: NDArray[np.floating[Any]] = torch.cat(found).cpu().numpy()
    return shares


def _encoder(data: Counts, n_outputs: int, hidden: Sequence[int]) -> Chain:
    """Logarithms of counts, standardised together: rare words would be large if each had its own unit."""
    return Chain(Standardise((), log1p=True), MLP((data.n_words,), (n_outputs,), hidden, nn.SiLU))


def _standardise(encoder: Chain) -> Standardise:
    assert isinstance(encoder.first, Standardise)
    return encoder.first


def _start(data: Counts, seed: int) -> Tensor:
    """Documents to start a model from, ``[M, V]``: all of them, or as many as fit in 2²² values."""
    most = max(1, _VALUES // data.n_words)
    index = torch.randperm(len(data), generator=generator(seed, "start"))[:most]
    return data.batch(index, torch.ones(len(index))).x
