"""Priors p(z) over the latent of a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions


class Normal(nn.Module):
    """p(z) = N(0, scale² I) in ``latent_dim`` dimensions."""

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

    def forward(self) -> distributions.Normal:
        """The distribution p(z), with parameters ``[d]``."""
        return distributions.Normal(self.zero, self.scales, batch_dims=0)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` draws, ``[n, d]``."""
        noise = torch.randn(n, self.latent_dim, generator=generator, device=self.zero.device, dtype=self.zero.dtype)
        prior: distributions.Normal = self()
        return prior.sample(noise)
