"""Normal priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.nn import MLP, apply
from lowerbound.priors.base import Prior
from lowerbound.shapes import expect

MIN_SCALE = 1e-6  # keeps log σ and the density finite where a raw scale underflows


class Normal(Prior):
    """p(z) = N(0, scale² I) in ``latent_dim`` dimensions."""

    family = distributions.Normal
    zero: Tensor
    scales: Tensor

    def __init__(self, latent_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        if not scale > 0:
            raise ValueError(f"the prior's scale must be positive, got {scale}.")
        self.latent_dim = latent_dim
        self.scale = scale
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scales", torch.full((latent_dim,), float(scale)), persistent=False)

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Normal:
        return distributions.Normal(self.zero, self.scales, batch_dims=0)


class LearnedNormal(Prior):
    """p(z) = N(μ, diag σ²) with both learned, from N(0, I)."""

    family = distributions.Normal

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(latent_dim))

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Normal:
        return distributions.Normal(self.loc, positive(self.raw_scale) + MIN_SCALE, batch_dims=0)


class LaplaceDirichlet(Prior):
    """p(z) = N(μ, diag σ²), the Laplace approximation of softmax(z) ~ Dirichlet(``concentration``).

    With d = ``latent_dim`` and concentrations α: μ_k = log α_k − Σ log α/d, σ²_k = (1 − 2/d)/α_k + Σ (1/α)/d².
    ``concentration``: one number, or d of them. MacKay 1998; Srivastava & Sutton 2017.
    """

    family = distributions.Normal
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, concentration: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"proportions that sum to 1 need latent_dim of at least 2, got {latent_dim}.")
        alpha = np.asarray(concentration, np.float64) * np.ones(latent_dim if np.ndim(concentration) == 0 else 1)
        if len(alpha) != latent_dim or not (alpha > 0).all():
            raise ValueError(f"concentration is one positive number, or {latent_dim} of them; got {concentration}.")
        self.latent_dim, self.concentration = latent_dim, concentration
        deviation = np.sqrt((1 - 2 / latent_dim) / alpha + (1 / alpha).sum() / latent_dim**2)
        loc = np.log(alpha) - np.log(alpha).mean()
        self.register_buffer("loc", torch.tensor(loc.tolist()), persistent=False)
        self.register_buffer("scale", torch.tensor(deviation.tolist()), persistent=False)

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Normal:
        return distributions.Normal(self.loc, self.scale, batch_dims=0)


class ConditionalNormal(Prior):
    """p(z|c) = N(μ(c), diag σ²(c)): ``network`` gives μ and then the raw σ, ``[B, C] → [B, 2d]``. Sohn et al. 2015."""

    family = distributions.Normal
    conditional = needs_context = True

    def __init__(self, latent_dim: int, network: nn.Module) -> None:
        super().__init__()
        self.latent_dim, self.network = latent_dim, network

    @classmethod
    def from_data(cls, event: tuple[int, ...], shape: tuple[int, ...], context: int) -> Self:
        latent_dim, *_ = event
        return cls(latent_dim, MLP((context,), (2 * latent_dim,), (64,), nn.SiLU))

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Normal:
        if context is None:
            raise ValueError("this prior is p(z|context), and no context was given.")
        out = apply(self.network, context)
        expect("the network of ConditionalNormal", out, (len(context), 2 * self.latent_dim), "[B, 2d]")
        loc, raw_scale = out.chunk(2, -1)
        return distributions.Normal(loc, positive(raw_scale) + MIN_SCALE)
