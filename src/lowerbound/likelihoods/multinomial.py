"""The likelihood of counts given their sum."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import constraints

from lowerbound.likelihoods.base import Likelihood
from lowerbound.likelihoods.moments import mean_of, n_observed


class Multinomial(Likelihood):
    """x ∈ {0, 1, …}^V given n = Σ x: log p(x|z) = log n! − Σ log x_v! + Σ x_v log p_v.

    ``given``: the decoder gives "logits", p = softmax(logits), or "probabilities", which are 0 or more and are divided
    by their sum. Given some of the values, p and n are those of the observed ones. ``mean`` and ``sample`` need a
    sum: that is ``total``, 1 until ``initialise`` sets it to the mean sum of the data (``sample`` rounds it).
    """

    measure = "counting"
    support = constraints.nonnegative_integer
    counts = True
    total: Tensor

    def __init__(self, given: Literal["logits", "probabilities"] = "logits") -> None:
        super().__init__()
        if given not in ("logits", "probabilities"):
            raise ValueError(f'given must be "logits" or "probabilities"; got {given!r}.')
        self.given = given
        self.inverse_link = "softmax" if given == "logits" else ""
        self.register_buffer("total", torch.ones(()))

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        known, log_p = (x if mask is None else torch.where(mask, x, 0)).flatten(1), self._log_p(params, mask)
        wide = known.double()  # log n! of a large n has few digits in single precision
        ways = torch.lgamma(wide.sum(1) + 1) - torch.lgamma(wide + 1).sum(1)
        return ways.to(x.dtype) + (known * log_p).sum(2)

    def mean(self, params: Tensor) -> Tensor:
        return self.total * self._log_p(params).exp().view(params[:, :, 0].shape)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        p = self._log_p(params).exp().flatten(0, 1)
        n = max(1, round(float(self.total)))
        words = torch.multinomial(p, n, replacement=True, generator=generator)
        return (
            torch.zeros_like(p)
            .scatter_add_(1, words, torch.ones_like(words, dtype=p.dtype))
            .view(params[:, :, 0].shape)
        )

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mean = mean_of(x, mask)
        self.total.copy_(mean.sum().clamp(min=1))
        mean = (mean + 0.5 / n_observed(x, mask)).unsqueeze(0)  # half a count added, so that no logarithm is infinite
        return mean.log() if self.given == "logits" else mean / mean.sum()

    def _log_p(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p of each observed value given that it is one of them, ``[K, B, V]``."""
        given = params[:, :, 0].flatten(2)
        precision = torch.finfo(given.dtype)
        if self.given == "probabilities":
            given = given.clamp(min=precision.tiny).log()
        if mask is not None:
            given = torch.where(mask.flatten(1), given, precision.min / 2)
        return given.log_softmax(2)
