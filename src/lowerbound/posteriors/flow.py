"""Flows as posteriors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.distributions.flow import Kind
from lowerbound.posteriors.base import Posterior
from lowerbound.posteriors.normal import MIN_SCALE


class Flow(Posterior):
    """z = μ(x) + σ(x) · T(ε; h(x)), ε ~ N(0, I), T a chain of ``transforms`` maps by networks of ``hidden`` layers.

    ``kind``: "iaf", "realnvp" or "nsf", see ``distributions.Transforms``. The encoder gives μ, the raw σ, and the
    ``features`` h. It starts as ``DiagonalNormal``. Kingma et al. 2016; Dinh et al. 2017; Durkan et al. 2019.
    """

    family = distributions.Flow

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        kind: Kind = "iaf",
        transforms: int = 2,
        hidden: Sequence[int] = (64,),
        features: int = 16,
    ) -> None:
        super().__init__(latent_dim, encoder)
        if features < 0:
            raise ValueError(f"features must be at least 0, got {features}.")
        self.kind: Kind = kind
        self.transforms, self.hidden, self.features = transforms, tuple(hidden), features
        self.chain = distributions.Transforms(latent_dim, kind, transforms, self.hidden, features)

    @property
    def n_outputs(self) -> int:
        return 2 * self.latent_dim + self.features

    def distribution(self, out: Tensor) -> distributions.Flow:
        loc, raw_scale, context = out.tensor_split((self.latent_dim, 2 * self.latent_dim), -1)
        return distributions.Flow(loc, positive(raw_scale) + MIN_SCALE, context, self.chain)
