"""Priors of directions."""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound import distributions
from lowerbound.priors.base import Prior


class HypersphericalUniform(Prior):
    """Unit vectors of ``latent_dim`` dimensions, all alike; goes with ``posteriors.VonMisesFisher``."""

    family = distributions.HypersphericalUniform
    default = True
    like: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"directions need latent_dim of at least 2, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.register_buffer("like", torch.zeros(()), persistent=False)  # of the type and device to draw in

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Distribution:
        return distributions.HypersphericalUniform(self.latent_dim)
