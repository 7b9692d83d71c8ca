"""Normal posteriors."""

from __future__ import annotations

from torch import Tensor

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.posteriors.base import Posterior

MIN_SCALE = 1e-6  # keeps log σ and the density finite where a raw scale underflows


class DiagonalNormal(Posterior):
    """q(z|x) = N(μ(x), diag σ²(x)); the encoder gives μ and then the raw σ, ``[B, 2d]``.

    σ = softplus(raw + c), equal to 1 at raw = 0. Kingma & Welling 2013, eq. 9.
    """

    family = distributions.Normal

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim

    def distribution(self, out: Tensor) -> distributions.Normal:
        loc, raw_scale = out.chunk(2, -1)
        return distributions.Normal(loc, positive(raw_scale) + MIN_SCALE)
