"""Posteriors of latents with finitely many values."""

from __future__ import annotations

from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.posteriors.base import Posterior


class Bernoulli(Posterior):
    """q(z|x) = Π Bernoulli(z_i; σ(logit_i(x))), z ∈ {0, 1}^d."""

    family = distributions.Bernoulli

    @property
    def n_outputs(self) -> int:
        return self.latent_dim

    def distribution(self, out: Tensor) -> distributions.Bernoulli:
        return distributions.Bernoulli(out)


class Categorical(Posterior):
    """d variables of ``n_classes`` each, one-hot: z ``[d, C]``, from d·C logits."""

    family = distributions.Categorical

    def __init__(self, latent_dim: int, n_classes: int, encoder: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        if n_classes < 2:
            raise ValueError(f"a categorical needs at least 2 classes, got {n_classes}.")
        self.n_classes = n_classes

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim, self.n_classes)

    @property
    def n_outputs(self) -> int:
        return self.latent_dim * self.n_classes

    def distribution(self, out: Tensor) -> distributions.Categorical:
        return distributions.Categorical(out.unflatten(1, (self.latent_dim, self.n_classes)))
