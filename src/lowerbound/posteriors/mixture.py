"""Mixtures of normals."""

from __future__ import annotations

from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.posteriors.base import Posterior
from lowerbound.posteriors.normal import MIN_SCALE


class NormalMixture(Posterior):
    """q(z|x) = Σ_c π_c(x) N(μ_c(x), diag σ_c²(x)); the encoder gives C logits, then μ ``[C, d]``, then the raw σ."""

    family = distributions.NormalMixture

    def __init__(self, latent_dim: int, components: int, encoder: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        if components < 1:
            raise ValueError(f"a mixture needs at least 1 component, got {components}.")
        self.components = components

    @property
    def n_outputs(self) -> int:
        return self.components * (1 + 2 * self.latent_dim)

    def distribution(self, out: Tensor) -> distributions.NormalMixture:
        logits, rest = out.tensor_split((self.components,), -1)
        loc, raw_scale = rest.unflatten(-1, (2, self.components, self.latent_dim)).unbind(-3)
        return distributions.NormalMixture(logits, loc, positive(raw_scale) + MIN_SCALE)
