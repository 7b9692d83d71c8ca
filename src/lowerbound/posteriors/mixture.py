"""Mixtures of normals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Randomness, positive
from lowerbound.posteriors.base import Posterior
from lowerbound.posteriors.normal import APART, MIN_SCALE, normal_rows, raw


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

    def outputs_of(self, loc: Tensor, covariance: Tensor, rng: Randomness) -> Tensor:
        scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
        away = normal_rows(rng, len(loc), (self.components, self.latent_dim), loc)
        locs = loc.unsqueeze(1) + APART * scale.unsqueeze(1) * away
        logits = loc.new_zeros(len(loc), self.components)
        return torch.cat([logits, locs.flatten(1), raw(scale).repeat(1, self.components)], 1)

    def output_units(self, scale: Tensor) -> Tensor:
        wide = scale.repeat(1, self.components)
        return torch.cat([scale.new_ones(len(scale), self.components), wide, torch.ones_like(wide)], 1)
