"""Priors of any shape: a mixture of normals, and a flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.distributions.flow import Kind
from lowerbound.priors.base import Prior
from lowerbound.priors.normal import MIN_SCALE


class NormalMixture(Prior):
    """p(z) = Σ_c π_c N(μ_c, diag σ_c²), all learned, from means drawn from N(0, I) and unit σ."""

    family = distributions.NormalMixture

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}.")
        self.latent_dim, self.components = latent_dim, components
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(components, latent_dim))

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.NormalMixture:
        scale = positive(self.raw_scale) + MIN_SCALE
        return distributions.NormalMixture(self.logits, self.loc, scale, batch_dims=0)


class Flow(Prior):
    """z = T(ε), ε ~ N(0, I), T a chain of ``transforms`` invertible maps, see ``distributions.Transforms``.

    It starts as N(0, I). "realnvp" and "nsf" take two passes for the density of any z, "iaf" one for each dimension.
    """

    family = distributions.Flow
    zero: Tensor
    one: Tensor

    def __init__(
        self, latent_dim: int, kind: Kind = "realnvp", transforms: int = 4, hidden: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        self.latent_dim, self.transforms, self.hidden = latent_dim, transforms, tuple(hidden)
        self.kind: Kind = kind
        self.chain = distributions.Transforms(latent_dim, kind, transforms, self.hidden)
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("one", torch.ones(latent_dim), persistent=False)

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Flow:
        return distributions.Flow(self.zero, self.one, None, self.chain, batch_dims=0)
