"""Families of distributions: noise, sample, log-density. Draws take their noise from an explicit generator."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_UNIT_SOFTPLUS = math.log(math.e - 1)  # softplus of this is 1
_STIRLING_FROM = 16.0


def generator(seed: int, *stream: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one stream of draws of a seed: other streams of that seed are independent of it."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return torch.Generator(device=device).manual_seed(int(state[0]))


def positive(raw: Tensor) -> Tensor:
    """A scale from an unconstrained number: softplus(raw + c) with c such that positive(0) = 1.

    It grows linearly, so that a large raw value does not overflow as an exponential would.
    """
    return functional.softplus(raw + _UNIT_SOFTPLUS)


def inverse_positive(value: Tensor) -> Tensor:
    """The raw number whose ``positive`` is ``value``."""
    return value + torch.log(-torch.expm1(-value)) - _UNIT_SOFTPLUS


def normal_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(x; loc, scale²), elementwise."""
    return -0.5 * ((x - loc) / scale).square() - scale.log() - _HALF_LOG_2PI


def poisson_log_prob(x: Tensor, log_rate: Tensor) -> Tensor:
    """x log λ − λ − log x!, elementwise, to the last digits also where x and λ are large.

    With u = log λ − log x it is −x(eᵘ − 1 − u) − R(x): the large terms cancel in symbols, not in digits.
    """
    some = x > 0
    count = torch.where(some, x, 1)
    u = log_rate - count.log()
    return torch.where(some, -count * (torch.expm1(u) - u) - stirling_remainder(count), -log_rate.exp())


def negative_binomial_log_prob(x: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    """log of the probability of x with mean m and variance m + m²/r, elementwise, exact also for large x, m or r.

    log Γ(x+r) − log Γ(r) − log x! − r log(1 + m/r) + x log(m/(r+m))
      = x·d − r·b + R(x+r) − R(r) − R(x) + log r − log(x+r), with b = log((r+m)/(r+x)), d = log(1+r/x) − log(1+r/m)
    """
    some = x > 0
    count = torch.where(some, x, 1)
    r = log_r.exp()
    total = count + r
    u = log_mean - count.log()
    # b and d, each in whichever of two ways has the smaller terms to cancel.
    change = count * torch.expm1(u) / total  # (m − x)/(r + x)
    b = torch.logaddexp(log_r, log_mean) - total.log()
    b = torch.where(change > -0.5, torch.log1p(change.clamp(min=-0.5)), b)
    upper, lower = functional.softplus(log_r - count.log()), functional.softplus(log_r - log_mean)
    d = torch.where(u.abs() < upper, u - b, upper - lower)
    remainders = stirling_remainder(total) - stirling_remainder(r) - stirling_remainder(count)
    value = count * d - r * b + remainders + log_r - total.log()
    return torch.where(some, value, -r * functional.softplus(log_mean - log_r))


def stirling_remainder(y: Tensor) -> Tensor:
    """R(y) = log Γ(y + 1) − y log y + y, elementwise, for y > 0: by Stirling's series where y is large."""
    large = y > _STIRLING_FROM
    near, far = torch.where(large, 1.0, y), torch.where(large, y, _STIRLING_FROM)
    direct = torch.lgamma(near + 1) - torch.xlogy(near, near) + near
    inverse = 1 / far
    series = inverse * (1 / 12 - inverse.square() * (1 / 360 - inverse.square() / 1260))
    return torch.where(large, 0.5 * far.log() + _HALF_LOG_2PI + series, direct)


def logistic_noise(uniform: Tensor) -> Tensor:
    """Standard logistic values by inverse CDF from uniform ones in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).eps / 2
    return torch.logit(uniform.clamp(tiny, 1 - tiny))


@dataclass(frozen=True)
class Normal:
    """Independent normals: ``loc`` and ``scale`` of one shape, ``[B, *E]`` (a posterior) or ``[*E]`` (a prior).

    z = loc + scale · ε, ε ~ N(0, I). Densities sum over the event dimensions, which are those of ``loc`` after
    ``batch_dims``.
    """

    loc: Tensor
    scale: Tensor
    batch_dims: int = 1

    def sample(self, noise: Tensor) -> Tensor:
        """z ``[K, B, *E]`` from standard normal ``noise [K, B, *E]`` (or broadcastable to it)."""
        return self.loc + self.scale * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log-density of ``z [K, B, *E]``, ``[K, B]``."""
        return normal_log_prob(z, self.loc, self.scale).flatten(2).sum(2)

    def entropy(self) -> Tensor:
        """½ Σ log(2πe σ²), ``[B]``."""
        return (self.scale.log() + (_HALF_LOG_2PI + 0.5)).flatten(self.batch_dims).sum(self.batch_dims)


def kl_normal(q: Normal, p: Normal) -> Tensor:
    """KL(q ‖ p) per dimension, ``[B, *E]``: log σ_p/σ_q + (σ_q² + (μ_q − μ_p)²)/2σ_p² − ½."""
    ratio = q.scale / p.scale
    return 0.5 * (ratio.square() + ((q.loc - p.loc) / p.scale).square() - 1) - ratio.log()


KLRule = Callable[[Normal, Normal], Tensor]
_CLOSED_FORM_KL: dict[tuple[type, type], KLRule] = {(Normal, Normal): kl_normal}


def kl_rule(q: Normal, p: Normal) -> KLRule | None:
    """The function that gives KL(q ‖ p) per dimension ``[B, *E]`` in closed form, or None where there is none."""
    return _CLOSED_FORM_KL.get((type(q), type(p)))
