"""Elementwise densities and links, in forms without differences of large numbers, which would lose digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from lowerbound.distributions.closed_gradients import HALF_LOG_2PI as HALF_LOG_2PI
from lowerbound.distributions.closed_gradients import stirling_remainder as stirling_remainder

_UNIT_SOFTPLUS = math.log(math.e - 1)  # softplus of this is 1
EXTREME = 60.0


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
    return -0.5 * ((x - loc) / scale).square() - scale.log() - HALF_LOG_2PI


def poisson_log_prob(x: Tensor, log_rate: Tensor) -> Tensor:
    """x log λ − λ − log x!, elementwise, accurate also for large x and λ.

    Computed as −x(eᵘ − 1 − u) − R(x) with u = log λ − log x and Stirling's remainder R, where the large terms have
    been cancelled analytically.
    """
    some = x > 0
    count = torch.where(some, x, 1)
    u = log_rate - count.log()
    return torch.where(some, -count * (torch.expm1(u) - u) - stirling_remainder(count), -log_rate.exp())


def negative_binomial_log_prob(x: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    """log-probability of x with mean m and variance m + m²/r, elementwise, accurate also for large x, m or r.

    log Γ(x+r) − log Γ(r) − log x! − r log(1 + m/r) + x log(m/(r+m))
      = x·d − r·b + R(x+r) − R(r) − R(x) + log r − log(x+r), with b = log((r+m)/(r+x)), d = log(1+r/x) − log(1+r/m)

    log m and log r are clipped to ±60. Training on counts that vary less than a Poisson's increases r without limit,
    and exp(89) overflows in single precision; at r = e^60 the distribution equals a Poisson in floating point.
    """
    log_mean, log_r = log_mean.clamp(-EXTREME, EXTREME), log_r.clamp(-EXTREME, EXTREME)
    some = x > 0
    count = torch.where(some, x, 1)
    r = log_r.exp()
    total = count + r
    u = log_mean - count.log()
    # b and d, each by the one of two formulas that subtracts the smaller terms
    change = count * torch.expm1(u) / total  # (m − x)/(r + x)
    b = torch.logaddexp(log_r, log_mean) - total.log()
    b = torch.where(change > -0.5, torch.log1p(change.clamp(min=-0.5)), b)
    upper, lower = functional.softplus(log_r - count.log()), functional.softplus(log_r - log_mean)
    d = torch.where(u.abs() < upper, u - b, upper - lower)
    remainders = stirling_remainder(total) - stirling_remainder(r) - stirling_remainder(count)
    value = count * d - r * b + remainders + log_r - total.log()
    return torch.where(some, value, -r * functional.softplus(log_mean - log_r))


def deviance(a: Tensor, change: Tensor, log_ratio: Tensor) -> Tensor:
    """b − a − a log(b/a) ≥ 0, elementwise, with b = a + ``change``, ``log_ratio`` = log(b/a), a ≥ 0 and b > 0.

    If b is near a, log(b/a) is computed as log1p(change/a) instead. If a = 0, ``log_ratio`` may be any finite number.
    """
    near = change.abs() < 0.5 * a
    relative = torch.where(near, change, 0) / torch.where(near, a, 1)
    return change - a * torch.where(near, torch.log1p(relative), log_ratio)


def beta_log_prob(x: Tensor, logit_mean: Tensor, log_concentration: Tensor) -> Tensor:
    """log-density of Beta(α = mκ, β = (1 − m)κ), elementwise for x in (0, 1), accurate also for large κ.

    −D(α, κx) − D(β, κ(1 − x)) + R(κ) − R(α) − R(β) + log(κ m (1 − m)) − log x(1 − x), with D the ``deviance``
    """
    kappa, log_m, log_rest = (
        log_concentration.exp(),
        functional.logsigmoid(logit_mean),
        functional.logsigmoid(-logit_mean),
    )
    alpha, beta = _shapes(logit_mean, kappa)
    log_x, log_y = x.log(), torch.log1p(-x)
    change = kappa * _above_mean(x, 1 - x, logit_mean)
    deviances = deviance(alpha, change, log_x - log_m) + deviance(beta, -change, log_y - log_rest)
    remainders = stirling_remainder(kappa) - stirling_remainder(alpha) - stirling_remainder(beta)
    return remainders - deviances + log_concentration + (log_m - log_x) + (log_rest - log_y)


def beta_binomial_log_prob(x: Tensor, trials: int, logit_mean: Tensor, log_concentration: Tensor) -> Tensor:
    """log-probability of x successes in n trials with probability Beta(α = mκ, β = (1 − m)κ), elementwise.

    Accurate also for large n or κ.

    With y = n − x, q = (x + α)/(n + κ), D the ``deviance`` and R Stirling's remainder:
    −D(x, nq) − D(y, n(1−q)) − D(α, κq) − D(β, κ(1−q)) + log αβ(n+κ)/κ(x+α)(y+β)
    + R(n) − R(x) − R(y) + R(x+α) + R(y+β) − R(n+κ) − R(α) − R(β) + R(κ)
    """
    n, y = torch.full_like(x, trials), trials - x
    kappa, log_m, log_rest = (
        log_concentration.exp(),
        functional.logsigmoid(logit_mean),
        functional.logsigmoid(-logit_mean),
    )
    alpha, beta = _shapes(logit_mean, kappa)
    up, down, total = x + alpha, y + beta, n + kappa
    log_q, log_p = up.log() - total.log(), down.log() - total.log()
    # κq − α = x − nq = nκ/(n + κ) · (x/n − m)
    change = n * torch.sigmoid(log_concentration - n.log()) * _above_mean(x / n, y / n, logit_mean)
    deviances = (
        deviance(x, -change, log_q - (x.clamp(min=1) / n).log())
        + deviance(y, change, log_p - (y.clamp(min=1) / n).log())
        + deviance(alpha, change, log_q - log_m)
        + deviance(beta, -change, log_p - log_rest)
    )
    counts = stirling_remainder(n) - stirling_remainder(x) - stirling_remainder(y)
    after = stirling_remainder(up) + stirling_remainder(down) - stirling_remainder(total)
    before = stirling_remainder(kappa) - stirling_remainder(alpha) - stirling_remainder(beta)
    logs = (log_m - log_q) + (log_rest - log_p) + (log_concentration - total.log())
    return counts + after + before - deviances + logs


def _shapes(logit_mean: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
    """α and β of a beta distribution, kept above 0 where rounding would give 0."""
    tiny = torch.finfo(concentration.dtype).tiny
    alpha, beta = concentration * logit_mean.sigmoid(), concentration * logit_mean.neg().sigmoid()
    return alpha.clamp(min=tiny), beta.clamp(min=tiny)


def _above_mean(x: Tensor, rest: Tensor, logit_mean: Tensor) -> Tensor:
    """x − m, computed from x and m or from ``rest`` = 1 − x and 1 − m, whichever of m and 1 − m is smaller."""
    return torch.where(logit_mean > 0, logit_mean.neg().sigmoid() - rest, x - logit_mean.sigmoid())


def logistic_noise(uniform: Tensor) -> Tensor:
    """Transform uniform values in [0, 1) to standard logistic values by the inverse CDF."""
    tiny = torch.finfo(uniform.dtype).eps / 2
    return torch.logit(uniform.clamp(tiny, 1 - tiny))
