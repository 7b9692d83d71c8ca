"""Likelihoods of proportions (beta) and of successes in trials (beta-binomial)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from lowerbound.distributions import beta_binomial_log_prob, beta_log_prob
from lowerbound.likelihoods.base import Factorised
from lowerbound.likelihoods.moments import deviation_of, mean_of, n_observed, open_unit


class Beta(Factorised):
    """x ∈ (0, 1), Beta(mκ, (1 − m)κ): mean m, variance m(1 − m)/(1 + κ). Ferrari & Cribari-Neto 2004.

    The parameters are logit m and log κ.
    """

    measure = "Lebesgue"
    one_scale = True
    n_parameters = 2

    @property
    def support(self) -> constraints.Constraint:
        return open_unit

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        logit_mean, log_concentration = params.unbind(2)
        inside = (x > 0) & (x < 1)
        value = beta_log_prob(torch.where(inside, x, 0.5), logit_mean, log_concentration)
        return torch.where(inside, value, -torch.inf)

    def mean(self, params: Tensor) -> Tensor:
        return params[:, :, 0].sigmoid()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        limits = torch.finfo(params.dtype)  # so that rounding does not give 0 or 1
        return _beta_sample(params, generator).clamp(limits.tiny, 1 - limits.eps / 2)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        limits = torch.finfo(x.dtype)
        mean = mean_of(x, mask).clamp(limits.tiny, 1 - limits.eps / 2)
        concentration = mean * (1 - mean) / deviation_of(x, mask).square() - 1
        return torch.stack([mean.logit(), concentration.clamp(1e-2, 1e6).log()])


class BetaBinomial(Factorised):
    """x ∈ {0, …, n} successes in n = ``trials`` whose probability is Beta(mκ, (1 − m)κ) distributed. Skellam 1948.

    Mean nm, variance nm(1 − m)(n + κ)/(1 + κ); the limit κ → ∞ is the binomial. The parameters are logit m and log κ.
    """

    measure = "counting"
    one_scale = True
    needs = "largest"
    n_parameters = 2

    def __init__(self, trials: int) -> None:
        super().__init__()
        if trials < 1:
            raise ValueError(f"trials must be at least 1; got {trials}.")
        self.trials = trials

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """With as many trials as the largest value, ``given``."""
        return cls(max(1, given))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.trials)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        logit_mean, log_concentration = params.unbind(2)
        inside = (x >= 0) & (x <= self.trials)
        value = beta_binomial_log_prob(torch.where(inside, x, 0), self.trials, logit_mean, log_concentration)
        return torch.where(inside, value, -torch.inf)

    def mean(self, params: Tensor) -> Tensor:
        return self.trials * params[:, :, 0].sigmoid()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        probability = _beta_sample(params, generator)
        return torch.binomial(torch.full_like(probability, self.trials), probability, generator=generator)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        trials = self.trials * n_observed(x, mask)
        mean = (mean_of(x, mask) * n_observed(x, mask) + 0.5) / (trials + 1)
        ratio = deviation_of(x, mask).square() / (self.trials * mean * (1 - mean))  # over the binomial's variance
        concentration = (self.trials - ratio) / (ratio - 1).clamp(min=1e-6)
        return torch.stack([mean.logit(), concentration.clamp(1e-2, 1e4).log()])


def _beta_sample(params: Tensor, generator: torch.Generator) -> Tensor:
    """G_a / (G_a + G_b) for gamma values, computed in logarithms because they underflow if the shape is small."""
    logit, log_concentration = params.unbind(2)
    concentration = log_concentration.exp()
    log_a, log_b = (_log_gamma_sample(concentration * sign.sigmoid(), generator) for sign in (logit, -logit))
    return (log_a - log_b).sigmoid()


def _log_gamma_sample(shape: Tensor, generator: torch.Generator) -> Tensor:
    """log of a gamma value with shape a: a gamma value with shape a + 1, times U^(1/a)."""
    shape = shape.clamp(min=torch.finfo(shape.dtype).tiny)
    uniform = torch.rand(shape.shape, generator=generator, device=shape.device, dtype=shape.dtype)
    return torch._standard_gamma(shape + 1, generator=generator).log() + torch.log1p(-uniform) / shape
