"""Likelihoods of positive values among which a single one has a probability of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.likelihoods.base import Factorised
from lowerbound.likelihoods.continuous import LogNormal, Scale
from lowerbound.likelihoods.moments import exact_mean, n_observed


class ZeroInflatedLogNormal(Factorised):
    """x ≥ 0: 0 with probability π, else log x ~ N(μ, σ²); the parameters are logit π and those of ``LogNormal``.

    p(0) = π, p(x) = (1 − π) N(log x; μ, σ²) / x, with respect to a count at 0 and Lebesgue measure above. Aitchison
    1955. Arguments as in ``LogNormal``, of the values above 0.
    """

    measure = "mixed"
    support = constraints.nonnegative

    def __init__(
        self,
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        self.above = LogNormal(scale, shape, min_scale, resolution)
        self.scale, self.shape, self.min_scale = self.above.scale, self.above.shape, self.above.min_scale
        self.resolution = self.above.resolution
        self.n_parameters = 1 + self.above.n_parameters

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        logit, above = params[:, :, 0], params[:, :, 1:]
        zero = functional.logsigmoid(logit)
        other = functional.logsigmoid(-logit) + self.above.log_prob_per_value(above, x)
        return torch.where(x == 0, zero, other)

    def mean(self, params: Tensor) -> Tensor:
        return params[:, :, 0].neg().sigmoid() * self.above.mean(params[:, :, 1:])

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        some = torch.bernoulli(params[:, :, 0].neg().sigmoid(), generator=generator)
        return torch.where(some > 0, self.above.sample(params[:, :, 1:], generator), 0)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The share of zeros, held half a row from none and from all, and the moments of the other values' logs."""
        above = x > 0 if mask is None else mask & (x > 0)
        half = 0.5 / (n_observed(x, mask).double() + 1)
        share = exact_mean((x == 0).to(x.dtype), mask)
        logit = torch.minimum(torch.maximum(share, half), 1 - half).logit().to(x.dtype)
        return torch.cat([logit.unsqueeze(0), self.above.initialise(torch.where(above, x, 1), above)])
