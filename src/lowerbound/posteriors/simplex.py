"""Posteriors of proportions."""

from __future__ import annotations

from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.posteriors.base import Posterior
from lowerbound.posteriors.positive import MIN_CONCENTRATION, MIN_SCALE


class Beta(Posterior):
    """q(z|x) = Π Beta(z_i; a_i(x), b_i(x)); the encoder gives the raw a and then the raw b."""

    family = distributions.Beta

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim

    def distribution(self, out: Tensor) -> distributions.Beta:
        a, b = (positive(out) + MIN_CONCENTRATION).chunk(2, -1)
        return distributions.Beta(a, b)


class Dirichlet(Posterior):
    """q(z|x) = Dirichlet(z; α(x)), ``latent_dim`` proportions that sum to 1; the encoder gives the raw α."""

    family = distributions.Dirichlet

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        _refuse_one(latent_dim)

    @property
    def n_outputs(self) -> int:
        return self.latent_dim

    def distribution(self, out: Tensor) -> distributions.Dirichlet:
        return distributions.Dirichlet(positive(out) + MIN_CONCENTRATION)


class LogisticNormal(Posterior):
    """q(z|x): ``latent_dim`` proportions that sum to 1, z = softmax(y, 0), y ~ N(μ(x), diag σ²(x)).

    The encoder gives μ and then the raw σ, of one value fewer than z has.
    """

    family = distributions.LogisticNormal

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        _refuse_one(latent_dim)

    @property
    def n_outputs(self) -> int:
        return 2 * (self.latent_dim - 1)

    def distribution(self, out: Tensor) -> distributions.LogisticNormal:
        loc, raw_scale = out.chunk(2, -1)
        return distributions.LogisticNormal(loc, positive(raw_scale) + MIN_SCALE)


def _refuse_one(latent_dim: int) -> None:
    if latent_dim < 2:
        raise ValueError(f"proportions that sum to 1 need latent_dim of at least 2, got {latent_dim}.")
