"""Likelihoods of continuous values with a positive probability of an exact 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.likelihoods.base import Factorised
from lowerbound.likelihoods.continuous import LogitNormal, LogNormal, Scale
from lowerbound.likelihoods.missingness import Line
from lowerbound.likelihoods.moments import exact_mean, n_observed


class ZeroInflatedLogNormal(Factorised):
    """x ≥ 0: 0 with probability π, else log x ~ N(μ, σ²); the parameters are logit π and those of ``LogNormal``.

    p(0) = π, p(x) = (1 − π) N(log x; μ, σ²) / x, with respect to counting measure at 0 plus Lebesgue measure above 0.
    Aitchison 1955. The arguments are those of ``LogNormal`` and concern the values above 0.
    """

    measure = "mixed"
    support = constraints.nonnegative
    masked_by = "log"
    atoms = 1

    def __init__(
        self,
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
        largest: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.above = LogNormal(scale, shape, min_scale, resolution, largest)
        self.scale, self.shape, self.min_scale = self.above.scale, self.above.shape, self.above.min_scale
        self.resolution, self.largest = self.above.resolution, self.above.largest
        self.n_parameters = 1 + self.above.n_parameters

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        logit, above = params[:, :, 0], params[:, :, 1:]
        zero = functional.logsigmoid(logit)
        other = functional.logsigmoid(-logit) + self.above.log_prob_per_value(above, x)
        return torch.where(x == 0, zero, other)

    def mean(self, params: Tensor) -> Tensor:
        return params[:, :, 0].neg().sigmoid() * self.above.mean(params[:, :, 1:])

    def typical(self, params: Tensor) -> Tensor:
        return params[:, :, 0].neg().sigmoid() * self.above.typical(params[:, :, 1:])

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        some = torch.bernoulli(params[:, :, 0].neg().sigmoid(), generator=generator)
        return torch.where(some > 0, self.above.sample(params[:, :, 1:], generator), 0)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        return line.with_zeros(params[:, :, 0], self.above.log_missing(params[:, :, 1:], line))

    def centre_and_unit(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.above.centre_and_unit(x, mask)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Start at the share of zeros, kept away from 0 and 1, and the moments of the logarithms of other values."""
        above = x > 0 if mask is None else mask & (x > 0)
        half = 0.5 / (n_observed(x, mask).double() + 1)
        share = exact_mean((x == 0).to(x.dtype), mask)
        logit = torch.minimum(torch.maximum(share, half), 1 - half).logit().to(x.dtype)
        return torch.cat([logit.unsqueeze(0), self.above.initialise(torch.where(above, x, 1), above)])


class InflatedLogitNormal(Factorised):
    """0 ≤ x ≤ 1: 0 with probability π₀, 1 with π₁, else logit x ~ N(μ, σ²). Ospina & Ferrari 2010 (of the beta).

    p(x) = (1 − π₀ − π₁) N(logit x; μ, σ²) / x(1 − x) for 0 < x < 1, with respect to Lebesgue measure plus counting
    measure at 0 and 1. The parameters are log(π₀/(1 − π₀ − π₁)), log(π₁/(1 − π₀ − π₁)) and those of ``LogitNormal``;
    the arguments are those of ``LogitNormal``. If the data contain no 0 (or no 1), its probability starts at 1e-6.
    """

    measure = "mixed"
    support = constraints.unit_interval
    masked_by = "logit"
    atoms = 2
    _LEAST = 1e-6

    def __init__(
        self,
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        self.inside = LogitNormal(scale, shape, min_scale, resolution)
        self.scale, self.shape, self.min_scale = self.inside.scale, self.inside.shape, self.inside.min_scale
        self.resolution = self.inside.resolution
        self.n_parameters = 2 + self.inside.n_parameters

    def log_shares(self, params: Tensor) -> Tensor:
        """log π₀, log π₁ and log(1 − π₀ − π₁), ``[K, B, 3, *X]``."""
        return torch.cat([params[:, :, :2], torch.zeros_like(params[:, :, :1])], 2).log_softmax(2)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        zero, one, rest = self.log_shares(params).unbind(2)
        within = rest + self.inside.log_prob_per_value(params[:, :, 2:], x)
        other = torch.where((x > 0) & (x < 1), within, -torch.inf)
        return torch.where(x == 0, zero, torch.where(x == 1, one, other))

    def mean(self, params: Tensor) -> Tensor:
        _, one, rest = self.log_shares(params).exp().unbind(2)
        return one + rest * self.inside.mean(params[:, :, 2:])

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        zero, one, _ = self.log_shares(params).exp().unbind(2)
        drawn = self.inside.sample(params[:, :, 2:], generator)
        uniform = torch.rand(drawn.shape, generator=generator, device=drawn.device, dtype=drawn.dtype)
        return torch.where(uniform < zero, 0, torch.where(uniform >= 1 - one, 1, drawn))

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        inside = self.inside.log_missing(params[:, :, 2:], line)
        ends = functional.logsigmoid(line.at(params.new_tensor([0.0, 1.0]))).mT
        gone = torch.cat([ends.expand(*params.shape[:2], 2, *inside.shape[2:]), inside.unsqueeze(2)], 2)
        return (self.log_shares(params) + gone).logsumexp(2)

    def centre_and_unit(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.inside.centre_and_unit(x, mask)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Start at the shares of 0, 1 and other values, and the moments of the logits of the latter."""
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        within = seen & (x > 0) & (x < 1)
        parts = torch.stack([exact_mean(part.to(x.dtype), mask) for part in (x == 0, x == 1, within)])
        half = 0.5 / (n_observed(x, mask).double() + 1)
        shares = torch.where(parts > 0, parts.clamp(min=half), self._LEAST)
        shares[2] = shares[2].maximum(half)
        logits = shares[:2].log() - shares[2].log()
        start = self.inside.initialise(torch.where(within, x, 0.5), within)
        return torch.cat([logits.to(x.dtype), start])
