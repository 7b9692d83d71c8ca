"""Normal posteriors."""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound import distributions
from lowerbound.distributions import Distribution, Randomness, by_row, inverse_positive, positive
from lowerbound.posteriors.base import Posterior

MIN_SCALE = 1e-6  # keeps log σ and the density finite where a raw scale underflows
APART = 0.3  # standard deviations between components at a start: from equal values symmetry would keep them equal


def raw(scale: Tensor) -> Tensor:
    """The outputs that become these scales."""
    return inverse_positive((scale - MIN_SCALE).clamp(min=MIN_SCALE))


def normal_rows(rng: Randomness, rows: int, event: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal values ``[rows, *event]``."""

    def draw(own: torch.Generator, some: range) -> Tensor:
        return torch.randn((1, len(some), *event), generator=own, dtype=like.dtype, device=like.device)

    return by_row(rng, rows, draw).squeeze(0)


class IndependentNormal(Posterior):
    """A normal with independent dimensions; the encoder gives μ and then the raw σ, ``[B, 2d]``.

    σ = softplus(raw + c), equal to 1 at raw = 0.
    """

    family = distributions.Normal

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim

    def distribution(self, out: Tensor) -> distributions.Normal:
        loc, raw_scale = out.chunk(2, -1)
        return distributions.Normal(loc, positive(raw_scale) + MIN_SCALE)

    def output_units(self, scale: Tensor) -> Tensor:
        return torch.cat([scale, torch.ones_like(scale)], 1)


class DiagonalNormal(IndependentNormal):
    """q(z|x) = N(μ(x), diag σ²(x)); the encoder gives μ and then the raw σ, ``[B, 2d]``.

    σ = softplus(raw + c), equal to 1 at raw = 0. Kingma & Welling 2013, eq. 9.
    """


class PrecisionWeighted(IndependentNormal):
    """q(z|x, parents) ∝ N(z; μ̂, diag σ̂²) p(z|parents): the encoder gives μ̂ and then the raw σ̂; p is normal.

    The precisions add, 1/σ² = 1/σ̂² + 1/σ_p², and μ = σ² (μ̂/σ̂² + μ_p/σ_p²), as in a ladder. Sønderby et al. 2016.
    """

    def merge(self, q: Distribution, p: Distribution) -> distributions.Normal:
        if not isinstance(q, distributions.Normal) or not isinstance(p, distributions.Normal):
            raise ValueError(
                f"PrecisionWeighted needs a normal prior of independent dimensions, not {type(p).__name__}."
            )
        own, above = q.scale.square().reciprocal(), p.scale.square().reciprocal()
        precision = own + above
        loc = (q.loc * own + p.loc * above) / precision
        return distributions.Normal(loc, precision.rsqrt(), max(q.batch_dims, p.batch_dims))
