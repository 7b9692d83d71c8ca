"""Normal posteriors whose dimensions are not independent."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Randomness, positive
from lowerbound.posteriors.base import Posterior
from lowerbound.posteriors.normal import APART, MIN_SCALE, normal_rows, raw


class FullNormal(Posterior):
    """q(z|x) = N(μ(x), L(x) L(x)ᵀ); the encoder gives μ, the raw diagonal of L, and L below it, row by row."""

    family = distributions.FullNormal

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim + self.latent_dim * (self.latent_dim - 1) // 2

    def distribution(self, out: Tensor) -> distributions.FullNormal:
        loc, raw_scale, below = out.tensor_split((self.latent_dim, 2 * self.latent_dim), -1)
        scale_tril = torch.diag_embed(positive(raw_scale) + MIN_SCALE)
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, -1, device=out.device)
        scale_tril[..., rows, columns] = below
        return distributions.FullNormal(loc, scale_tril)

    def outputs_of(self, loc: Tensor, covariance: Tensor, rng: Randomness) -> Tensor:
        """Keeps the full covariance."""
        lower = torch.linalg.cholesky_ex(covariance).L
        below = torch.tril_indices(self.latent_dim, self.latent_dim, -1, device=loc.device)
        return torch.cat([loc, raw(lower.diagonal(dim1=1, dim2=2)), lower[:, below[0], below[1]]], 1)

    def output_units(self, scale: Tensor) -> Tensor:
        """The entries of one row of the Cholesky factor move at once, and share its deviation."""
        below = torch.tril_indices(self.latent_dim, self.latent_dim, -1, device=scale.device)
        return torch.cat([scale, torch.ones_like(scale), scale[:, below[0]] / self.latent_dim**0.5], 1)


class LowRankNormal(Posterior):
    """q(z|x) = N(μ(x), diag s²(x) + F(x) F(x)ᵀ), F of ``rank`` columns; the encoder gives μ, the raw s, and F."""

    family = distributions.LowRankNormal

    def __init__(self, latent_dim: int, rank: int, encoder: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        if not 1 <= rank <= latent_dim:
            raise ValueError(f"rank must be from 1 to the {latent_dim} latents, got {rank}.")
        self.rank = rank

    @property
    def n_outputs(self) -> int:
        return (2 + self.rank) * self.latent_dim

    def distribution(self, out: Tensor) -> distributions.LowRankNormal:
        loc, raw_scale, factor = out.tensor_split((self.latent_dim, 2 * self.latent_dim), -1)
        factor = factor.unflatten(-1, (self.latent_dim, self.rank))
        return distributions.LowRankNormal(loc, factor, positive(raw_scale) + MIN_SCALE)

    def outputs_of(self, loc: Tensor, covariance: Tensor, rng: Randomness) -> Tensor:
        scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
        factor = nn.functional.normalize(normal_rows(rng, len(loc), (self.latent_dim, self.rank), loc), dim=2)
        factor = APART * scale.unsqueeze(2) * factor
        return torch.cat([loc, raw(scale * math.sqrt(1 - APART**2)), factor.flatten(1)], 1)

    def output_units(self, scale: Tensor) -> Tensor:
        return torch.cat([scale, torch.ones_like(scale), scale.repeat_interleave(self.rank, 1) / self.rank], 1)
