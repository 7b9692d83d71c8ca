"""Posteriors of positive numbers."""

from __future__ import annotations

from torch import Tensor

from lowerbound import distributions
from lowerbound.distributions import Distribution, positive
from lowerbound.posteriors.base import Posterior

MIN_CONCENTRATION = 1e-2  # gammas of less are mostly below the smallest number
MIN_WEIBULL = 0.1  # the mean of one of less is beyond Γ(11)
MIN_SCALE = 1e-6


class Gamma(Posterior):
    """q(z|x) = Π Gamma(z_i; α_i(x), β_i(x)); the encoder gives the raw α and then the raw β."""

    family = distributions.Gamma

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim

    def distribution(self, out: Tensor) -> distributions.Gamma:
        concentration, rate = positive(out).chunk(2, -1)
        return distributions.Gamma(concentration + MIN_CONCENTRATION, rate + MIN_SCALE)


class Weibull(Posterior):
    """q(z|x) = Π Weibull(z_i; k_i(x), λ_i(x)); the encoder gives the raw k and then the raw λ. Zhang et al. 2018."""

    family = distributions.Weibull

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim

    def distribution(self, out: Tensor) -> distributions.Weibull:
        concentration, scale = positive(out).chunk(2, -1)
        return distributions.Weibull(concentration + MIN_WEIBULL, scale + MIN_SCALE)


class MergedWeibull(Weibull):
    """q(z|x, parents) = Π Weibull(z_i; k_i(x) + α_i, λ_i(x)), α the concentrations of the prior given the parents.

    The encoder gives the raw k and then the raw λ; the prior is a gamma. Zhang et al. 2018.
    """

    def merge(self, q: Distribution, p: Distribution) -> distributions.Weibull:
        if not isinstance(q, distributions.Weibull) or not isinstance(p, distributions.Gamma):
            raise ValueError(f"MergedWeibull needs a prior of gammas, not {type(p).__name__}.")
        concentration = q.concentration + p.concentration
        return distributions.Weibull(concentration, q.scale, max(q.batch_dims, p.batch_dims))
