"""Posteriors of directions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.posteriors.base import Posterior

MIN_CONCENTRATION = 1e-6


class VonMisesFisher(Posterior):
    """q(z|x) on the unit vectors of ``latent_dim`` dimensions; the encoder gives a vector and then the raw κ.

    The mean direction is that of the vector plus (1, 0, …, 0), so that there is one at the vector 0.
    Davidson et al. 2018.
    """

    family = distributions.VonMisesFisher

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        if latent_dim < 2:
            raise ValueError(f"directions need latent_dim of at least 2, got {latent_dim}.")

    @property
    def n_outputs(self) -> int:
        return self.latent_dim + 1

    def distribution(self, out: Tensor) -> distributions.VonMisesFisher:
        vector, raw = out.tensor_split((self.latent_dim,), -1)
        north = functional.pad(out.new_ones(1), (0, self.latent_dim - 1))
        loc = functional.normalize(vector + north, dim=-1)
        return distributions.VonMisesFisher(loc, positive(raw.squeeze(-1)) + MIN_CONCENTRATION)
