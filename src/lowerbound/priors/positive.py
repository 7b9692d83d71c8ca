"""Priors of positive numbers and of proportions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import inverse_positive, positive
from lowerbound.nn import apply
from lowerbound.priors.base import Prior
from lowerbound.shapes import expect

_LEAST = 1e-6  # a concentration: its gamma function stays finite


class Gamma(Prior):
    """p(z) = Π Gamma(z_i; concentration, rate); ``learned``: each dimension's own, from these values."""

    family = distributions.Gamma
    default = True

    def __init__(self, latent_dim: int, concentration: float = 1.0, rate: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.learned = latent_dim, learned
        self.concentration, self.rate = concentration, rate
        self.concentrations = _Positive(latent_dim, concentration, learned)
        self.rates = _Positive(latent_dim, rate, learned)

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Gamma:
        return distributions.Gamma(self.concentrations(), self.rates(), batch_dims=0)


class ConditionalGamma(Prior):
    """p(z|c) = Π Gamma(z_i; α_i(c), rate): ``network`` gives the concentrations α, ``[B, C] → [B, d]``, above 0.

    ``learned``: the rate, one for all dimensions, is learned from this value. A layer of a gamma belief network, whose
    ``network`` is a mixture of the weights above (``nn.Topics``). Zhou et al. 2016.
    """

    family = distributions.Gamma
    conditional = needs_context = True

    def __init__(self, latent_dim: int, network: nn.Module, rate: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.network, self.rate, self.learned = latent_dim, network, rate, learned
        self.rates = _Positive(1, rate, learned)

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Gamma:
        if context is None:
            raise ValueError("this prior is p(z|context), and no context was given.")
        concentration = apply(self.network, context).clamp(min=_LEAST)
        expect("the network of ConditionalGamma", concentration, (len(context), self.latent_dim), "[B, d]")
        return distributions.Gamma(concentration, self.rates().expand_as(concentration))


class Beta(Prior):
    """p(z) = Π Beta(z_i; a, b); ``learned``: each dimension's own, from these values."""

    family = distributions.Beta
    default = True

    def __init__(self, latent_dim: int, a: float = 1.0, b: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        self.latent_dim, self.learned = latent_dim, learned
        self.a, self.b = a, b
        self.all_a, self.all_b = _Positive(latent_dim, a, learned), _Positive(latent_dim, b, learned)

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Beta:
        return distributions.Beta(self.all_a(), self.all_b(), batch_dims=0)


class Dirichlet(Prior):
    """p(z) = Dirichlet(z; concentration), ``latent_dim`` proportions; ``learned``: each one's own, from this value."""

    family = distributions.Dirichlet
    default = True

    def __init__(self, latent_dim: int, concentration: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"proportions that sum to 1 need latent_dim of at least 2, got {latent_dim}.")
        self.latent_dim, self.concentration, self.learned = latent_dim, concentration, learned
        self.concentrations = _Positive(latent_dim, concentration, learned)

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Dirichlet:
        return distributions.Dirichlet(self.concentrations(), batch_dims=0)


class _Positive(nn.Module):
    """``n`` positive numbers, all ``value`` at first; they stay so, or are learned."""

    values: Tensor

    def __init__(self, n: int, value: float, learned: bool) -> None:
        super().__init__()
        if not value > 0:
            raise ValueError(f"the prior's parameters must be positive, got {value}.")
        values = torch.full((n,), float(value))
        self.raw = nn.Parameter(inverse_positive(values)) if learned else None
        self.register_buffer("values", values, persistent=False)

    def forward(self) -> Tensor:
        return self.values if self.raw is None else positive(self.raw) + 1e-6
