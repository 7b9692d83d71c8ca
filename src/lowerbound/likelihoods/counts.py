"""Likelihoods of counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.distributions import negative_binomial_log_prob, poisson_log_prob
from lowerbound.distributions.densities import EXTREME
from lowerbound.likelihoods.base import Factorised
from lowerbound.likelihoods.missingness import Line
from lowerbound.likelihoods.moments import deviation_of, exact_mean, log_mean_count


class Poisson(Factorised):
    """x ∈ {0, 1, 2, …}; the parameter is the log of the rate."""

    measure = "counting"
    support = constraints.nonnegative_integer
    counts = True
    masked_by = "value"

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return poisson_log_prob(x, params.squeeze(2))

    def mean(self, params: Tensor) -> Tensor:
        return params.squeeze(2).exp()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return torch.poisson(self.mean(params), generator=generator)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        mean = self.mean(params)
        log_rate = params.movedim(2, -1)
        return line.of_counts(lambda x: poisson_log_prob(x, log_rate), mean, mean.sqrt(), torch.ones_like(mean))

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return log_mean_count(x, mask).unsqueeze(0)


class NegativeBinomial(Factorised):
    """x ∈ {0, 1, 2, …} with mean m and variance m + m²/r; the parameters are log m and log r.

    The limit r → ∞ is the Poisson distribution.
    """

    measure = "counting"
    n_parameters = 2
    support = constraints.nonnegative_integer
    counts = True
    masked_by = "value"

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        log_mean, log_r = params.unbind(2)
        return negative_binomial_log_prob(x, log_mean, log_r)

    def mean(self, params: Tensor) -> Tensor:
        return params[:, :, 0].exp()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        log_mean, log_r = params.unbind(2)
        return _negative_binomial_sample(log_mean, log_r, generator)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        return _negative_binomial_missing(params[:, :, 0], params[:, :, 1], line)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mean = log_mean_count(x, mask).exp()
        excess = (deviation_of(x, mask).square() - mean).clamp(min=0) + 1e-3 * mean
        return torch.stack([mean.log(), (mean.square() / excess).clamp(1e-2, 1e3).log()])


class ZeroInflatedNegativeBinomial(Factorised):
    """x ∈ {0, 1, 2, …}: 0 with probability π, else negative binomial; the parameters are logit π, log m and log r.

    p(0) = π + (1 − π)(1 + m/r)^−r, p(x) = (1 − π) NB(x; m, r). Greene 1994; Lopez et al. 2018 (scVI).
    """

    measure = "counting"
    n_parameters = 3
    support = constraints.nonnegative_integer
    counts = True
    masked_by = "value"
    _LEAST = 0.01  # the least initial π; from 0 it could not be learned

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        logit, log_mean, log_r = params.unbind(2)
        inside = x >= 0
        counted = functional.logsigmoid(-logit) + negative_binomial_log_prob(torch.where(inside, x, 0), log_mean, log_r)
        zero = torch.logaddexp(functional.logsigmoid(logit), counted)
        return torch.where(x == 0, zero, torch.where(inside, counted, -torch.inf))

    def mean(self, params: Tensor) -> Tensor:
        return params[:, :, 0].neg().sigmoid() * params[:, :, 1].exp()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        logit, log_mean, log_r = params.unbind(2)
        counted = torch.bernoulli(logit.neg().sigmoid(), generator=generator)
        return counted * _negative_binomial_sample(log_mean, log_r, generator)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        logit, log_mean, log_r = params.unbind(2)
        return line.with_zeros(logit, _negative_binomial_missing(log_mean, log_r, line))

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Match the mean, the variance and the share of zeros; given the other two, the last increases with π."""
        mean, zeros = log_mean_count(x, mask).double().exp(), exact_mean((x == 0).to(x.dtype), mask)
        ratio = (deviation_of(x, mask).double().square() - mean) / mean.square() + 1
        low, high = torch.full_like(mean, self._LEAST), torch.full_like(mean, 1 - self._LEAST)
        for _ in range(40):
            extra = (low + high) / 2
            inverse_r = ((1 - extra) * ratio - 1).clamp(1e-3, 1e2)
            m = mean / (1 - extra)
            few = extra + (1 - extra) * torch.exp(-torch.log1p(m * inverse_r) / inverse_r) < zeros
            low, high = torch.where(few, extra, low), torch.where(few, high, extra)
        return torch.stack([extra.logit(), m.log(), -inverse_r.log()]).to(x.dtype)


def _negative_binomial_sample(log_mean: Tensor, log_r: Tensor, generator: torch.Generator) -> Tensor:
    log_r = log_r.clamp(-EXTREME, EXTREME)
    gamma = torch._standard_gamma(log_r.exp(), generator=generator)
    return torch.poisson(gamma * (log_mean - log_r).exp(), generator=generator)


def _negative_binomial_missing(log_mean: Tensor, log_r: Tensor, line: Line) -> Tensor:
    mean, r = log_mean.unsqueeze(-1), log_r.unsqueeze(-1)
    tail = 1 + (log_mean - log_r).exp()
    deviation = (0.5 * log_mean).exp() * tail.sqrt()
    return line.of_counts(lambda x: negative_binomial_log_prob(x, mean, r), log_mean.exp(), deviation, tail)
