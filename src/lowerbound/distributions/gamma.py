"""Distributions of positive numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions.densities import stirling_remainder
from lowerbound.distributions.family import Distribution, standard_normal, uniform

EULER = 0.5772156649015329
_PROPOSALS = 8  # each is accepted with probability > 0.95, so all are rejected once in 10¹⁰ draws
_SERIES_FROM = 16.0


@dataclass(frozen=True)
class Gamma(Distribution):
    """Independent gammas: ``concentration`` α and ``rate`` β, ``[B, *E]``. log p(z) = α log βz − βz − log z − log Γ(α).

    Sampled by rejection from noise that does not depend on α. Differentiated implicitly: dz/dα = −∂F(z; α)/∂α / p(z).
    Figurnov et al. 2018.
    """

    domain = "positive numbers"
    concentration: Tensor
    rate: Tensor
    batch_dims: int = 1
    reparameterisation = "implicit"

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return gamma_noise(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        return positive_exp(log_standard_gamma(self.concentration, noise) - self.rate.log())

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_per_dim(z).flatten(2).sum(2)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        """−α(eᵘ − 1 − u) − log z + log α − R(α) with u = log βz/α, which avoids differences of large numbers."""
        alpha = self.concentration
        u = self.rate.log() + z.log() - alpha.log()
        return -alpha * (torch.expm1(u) - u) - z.log() + alpha.log() - stirling_remainder(alpha)

    def entropy(self) -> Tensor:
        each = gamma_entropy(self.concentration) - self.rate.log()
        return each.flatten(self.batch_dims).sum(self.batch_dims)

    def mean(self) -> Tensor:
        return self.concentration / self.rate


@dataclass(frozen=True)
class Weibull(Distribution):
    """Independent Weibulls: ``concentration`` k and ``scale`` λ, ``[B, *E]``. z = λ (−log(1 − u))^(1/k), u uniform.

    log p(z) = log k − log z + k t − e^(kt), t = log z/λ.
    """

    domain = "positive numbers"
    concentration: Tensor
    scale: Tensor
    batch_dims: int = 1
    reparameterisation = "inverse CDF"

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return uniform(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        return positive_exp(self.scale.log() + (-torch.log1p(-noise)).log() / self.concentration)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_per_dim(z).flatten(2).sum(2)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        t = self.concentration * (z.log() - self.scale.log())
        return self.concentration.log() - z.log() + t - t.exp()

    def entropy(self) -> Tensor:
        """γ(1 − 1/k) + log λ/k + 1."""
        k = self.concentration
        each = EULER * (1 - 1 / k) + self.scale.log() - k.log() + 1
        return each.flatten(self.batch_dims).sum(self.batch_dims)

    def mean(self) -> Tensor:
        return (self.scale.log() + torch.lgamma(1 + 1 / self.concentration)).exp()


def kl_gamma(q: Gamma, p: Gamma) -> Tensor:
    """KL(q ‖ p) per dimension, ``[B, *E]``."""
    log_means = (q.concentration.log() - q.rate.log()) - (p.concentration.log() - p.rate.log())
    return gamma_divergence(q.concentration, p.concentration, log_means)


def kl_weibull_gamma(q: Weibull, p: Gamma) -> Tensor:
    """KL(q ‖ p) per dimension, ``[B, *E]``: γα/k − α ln λ + ln k + βλΓ(1 + 1/k) − γ − 1 − α ln β + ln Γ(α)."""
    k, alpha = q.concentration, p.concentration
    scaled = q.scale.log() + p.rate.log()
    mean = (scaled + torch.lgamma(1 + 1 / k)).exp()
    return alpha * (EULER / k - scaled) + k.log() + mean - EULER - 1 + torch.lgamma(alpha)


def gamma_noise(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Draw the noise that ``log_standard_gamma`` needs for values of ``shape``, ``[*shape, …]``."""
    normals = standard_normal((*shape, _PROPOSALS), generator, dtype)
    return torch.cat([normals, uniform((*shape, _PROPOSALS + 1), generator, dtype)], -1)


def log_standard_gamma(concentration: Tensor, noise: Tensor) -> Tensor:
    """log z, z ~ Gamma(α, 1), differentiable in α: z = g u^(1/α) with g ~ Gamma(α + 1, 1) and u uniform.

    Computed in logarithms, because z underflows if α is small. Marsaglia & Tsang 2000.
    """
    normals, uniforms, last = noise.split([_PROPOSALS, _PROPOSALS, 1], -1)
    alpha = concentration + 1
    with torch.no_grad():
        g = _accepted(alpha.unsqueeze(-1), normals, uniforms)
    if torch.is_grad_enabled() and alpha.requires_grad:
        fixed = alpha.detach()
        g = g + (alpha - fixed) * torch._standard_gamma_grad(fixed.expand_as(g), g)
    value: Tensor = g.log() + last.squeeze(-1).log() / concentration
    return value


def positive_exp(x: Tensor) -> Tensor:
    """eˣ, clipped to the positive numbers of its type; the derivative is 0 where it is clipped."""
    precision = torch.finfo(x.dtype)
    return x.clamp(math.ceil(math.log(precision.tiny)), math.floor(math.log(precision.max))).exp()


def gamma_entropy(alpha: Tensor) -> Tensor:
    """The entropy of Gamma(α, 1), elementwise: R(α) + (α − 1) δ(α)."""
    return stirling_remainder(alpha) + (alpha - 1) * digamma_remainder(alpha)


def gamma_divergence(q: Tensor, p: Tensor, log_means: Tensor) -> Tensor:
    """KL of gammas with concentrations q and p, elementwise; v is the logarithm of the ratio of their means.

    p(eᵛ − 1 − v) − (q − p) δ(q) + log q/p + R(p) − R(q): the usual formula after cancelling its large terms.
    """
    remainders = stirling_remainder(p) - stirling_remainder(q)
    return p * (torch.expm1(log_means) - log_means) - (q - p) * digamma_remainder(q) + (q.log() - p.log()) + remainders


def digamma_remainder(y: Tensor) -> Tensor:
    """δ(y) = log y − ψ(y), elementwise, for y > 0; by its asymptotic series for large y."""
    large = y > _SERIES_FROM
    near, far = torch.where(large, 1.0, y), torch.where(large, y, _SERIES_FROM)
    square = far.reciprocal().square()
    series = 0.5 / far + square * (1 / 12 - square * (1 / 120 - square / 252))
    return torch.where(large, series, near.log() - torch.digamma(near))


def _accepted(alpha: Tensor, normals: Tensor, uniforms: Tensor) -> Tensor:
    """The first proposal d(1 + cx)³ that is accepted, for α ≥ 1."""
    d = alpha - 1 / 3
    w = normals / (3 * d.sqrt())
    inside = w > -1
    w = torch.where(inside, w, 0)
    log_ratio = 4.5 * d * w.square() + 3 * d * (torch.log1p(w) - w - w.square() - w**3 / 3)
    accepted = inside & (uniforms.log() < log_ratio)
    refused = (accepted.cumsum(-1) == 0).sum(-1, keepdim=True)  # the number of rejections before the first acceptance
    chosen = w.gather(-1, refused.clamp(max=_PROPOSALS - 1))
    return (d * torch.where(refused < _PROPOSALS, 1 + chosen, 1) ** 3).squeeze(-1)
