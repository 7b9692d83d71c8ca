"""Approximate posteriors q(z|x): a network that maps rows to a distribution of their latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.nn import apply

_MIN_SCALE = 1e-6  # keeps log σ and the density finite where a raw scale underflows


class DiagonalNormal(nn.Module):
    """q(z|x) = N(μ(x), diag σ²(x)), amortised by ``encoder``: ``[B, *X] → [B, 2d]``, μ and then the raw σ.

    σ = softplus(raw + c), equal to 1 at raw = 0. Any ``nn.Module`` of that shape can be the encoder. Unobserved
    values reach it as 0. Kingma & Welling 2013, eq. 9.
    """

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder

    def forward(self, x: Tensor, mask: Tensor | None = None) -> distributions.Normal:
        """The distributions of a batch's latents, with parameters ``[B, d]``."""
        if mask is not None:
            x = torch.where(mask, x, 0)
        out = apply(self.encoder, x)
        if out.shape[1:] != (2 * self.latent_dim,):
            raise ValueError(
                f"the encoder gave a row {tuple(out.shape[1:])} numbers, but a diagonal normal over "
                f"{self.latent_dim} latents needs ({2 * self.latent_dim},): a mean and a raw scale each."
            )
        loc, raw_scale = out.chunk(2, -1)
        return distributions.Normal(loc, positive(raw_scale) + _MIN_SCALE)

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Standard normal noise ``[K, B, d]`` for ``distributions.Normal.sample``."""
        return torch.randn(draws, rows, self.latent_dim, generator=generator, device=generator.device, dtype=dtype)
