"""Distributions of proportions: Beta, Dirichlet, logistic-normal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions.densities import normal_log_prob, stirling_remainder
from lowerbound.distributions.family import Distribution, standard_normal
from lowerbound.distributions.gamma import (
    digamma_remainder,
    gamma_divergence,
    gamma_entropy,
    gamma_noise,
    log_standard_gamma,
    positive_exp,
)
from lowerbound.distributions.normal import Normal, kl_normal


@dataclass(frozen=True)
class Beta(Distribution):
    """Independent betas: ``a`` and ``b``, ``[B, *E]``. log p(z) = (a − 1) log z + (b − 1) log(1 − z) − log B(a, b).

    z = g_a/(g_a + g_b) for two gamma variables, with their implicit gradients.
    """

    domain = "numbers from 0 to 1"
    a: Tensor
    b: Tensor
    batch_dims: int = 1
    reparameterisation = "implicit"

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return gamma_noise((*lead, *event, 2), generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        log_a, log_b = log_standard_gamma(self._both(), noise).unbind(-1)
        precision = torch.finfo(log_a.dtype)
        return (log_a - log_b).sigmoid().clamp(precision.tiny, 1 - precision.eps / 2)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_per_dim(z).flatten(2).sum(2)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        return _log_prob(torch.stack([z.log(), torch.log1p(-z)], -1), self._both())

    def entropy(self) -> Tensor:
        return _entropy(self._both()).flatten(self.batch_dims).sum(self.batch_dims)

    def mean(self) -> Tensor:
        return self.a / (self.a + self.b)

    def _both(self) -> Tensor:
        return torch.stack([self.a, self.b], -1)


@dataclass(frozen=True)
class Dirichlet(Distribution):
    """C proportions that sum to 1: ``concentration`` α ``[B, C]``. log p(z) = Σ (α_c − 1) log z_c − log B(α).

    z = g/Σg for C gamma variables, with their implicit gradients. The density is that of the first C − 1 proportions.
    """

    domain = "proportions that sum to 1"
    concentration: Tensor
    batch_dims: int = 1
    reparameterisation = "implicit"

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return gamma_noise(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        return positive_exp(log_standard_gamma(self.concentration, noise).log_softmax(-1))

    def log_prob(self, z: Tensor) -> Tensor:
        return _log_prob(z.log(), self.concentration)

    def entropy(self) -> Tensor:
        return _entropy(self.concentration)

    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, keepdim=True)


@dataclass(frozen=True)
class LogisticNormal(Distribution):
    """C proportions that sum to 1, from C − 1 normal values: ``loc`` and ``scale``, ``[B, C − 1]``.

    z = softmax(y, 0), y ~ N(loc, diag scale²); log p(z) = log N(log z_c/z_C; loc, scale²) − Σ log z_c, the density of
    the first C − 1 proportions. Aitchison & Shen 1980.
    """

    domain = "proportions that sum to 1"
    loc: Tensor
    scale: Tensor
    batch_dims: int = 1
    reparameterisation = "location-scale"

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return standard_normal((*lead, event[-1] - 1), generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        y = self.loc + self.scale * noise
        return positive_exp(torch.cat([y, torch.zeros_like(y[..., :1])], -1).log_softmax(-1))

    def log_prob(self, z: Tensor) -> Tensor:
        log_z = z.log()
        y = log_z[..., :-1] - log_z[..., -1:]
        return normal_log_prob(y, self.loc, self.scale).sum(-1) - log_z.sum(-1)


def kl_beta(q: Beta, p: Beta) -> Tensor:
    """KL(q ‖ p) per dimension, ``[B, *E]``."""
    return _divergence(q._both(), p._both())


def kl_dirichlet(q: Dirichlet, p: Dirichlet) -> Tensor:
    """KL(q ‖ p), ``[B]``."""
    return _divergence(q.concentration, p.concentration)


def kl_logistic_normal(q: LogisticNormal, p: LogisticNormal) -> Tensor:
    """KL(q ‖ p), ``[B]``: equal to that of the normals, because z is an invertible function of y."""
    return kl_normal(Normal(q.loc, q.scale), Normal(p.loc, p.scale)).sum(-1)


def _log_prob(log_z: Tensor, alpha: Tensor) -> Tensor:
    """log-density of a Dirichlet. With s = Σα and u = log z − log α/s, it is computed as

    −Σ α(eᵘ − 1 − u) − Σ log z + Σ log α − log s − Σ R(α) + R(s). The term Σ α(eᵘ − 1), which is 0 in exact arithmetic,
    compensates the rounding of u.
    """
    total = alpha.sum(-1)
    u = log_z - (alpha.log() - total.log().unsqueeze(-1))
    each = -alpha * (torch.expm1(u) - u) - log_z + alpha.log() - stirling_remainder(alpha)
    return each.sum(-1) - total.log() + stirling_remainder(total)


def _entropy(alpha: Tensor) -> Tensor:
    """H(z) = H(g) − H(r) − (C − 1) E[log r], for gamma variables g = r z with sum r."""
    total, n = alpha.sum(-1), alpha.shape[-1]
    rest = (n - 1) * (total.log() - digamma_remainder(total))
    return gamma_entropy(alpha).sum(-1) - gamma_entropy(total) - rest


def _divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL of proportions: the KL of gamma variables with these concentrations minus the KL of their sums."""
    q_total, p_total = q.sum(-1), p.sum(-1)
    log_means = (q.log() - q_total.log().unsqueeze(-1)) - (p.log() - p_total.log().unsqueeze(-1))
    return gamma_divergence(q, p, log_means).sum(-1) - gamma_divergence(q_total, p_total, torch.zeros_like(q_total))
