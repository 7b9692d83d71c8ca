"""Priors of latents with finitely many values; their probabilities are learned, from uniform ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.priors.base import Prior


class Bernoulli(Prior):
    """p(z) = Π Bernoulli(z_i; σ(logit_i)), z ∈ {0, 1}^d."""

    family = distributions.Bernoulli
    default = True

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> distributions.Bernoulli:
        return distributions.Bernoulli(self.logits, batch_dims=0)


class Categorical(Prior):
    """d variables of ``n_classes`` each, one-hot: z ``[d, C]``."""

    family = distributions.Categorical
    default = True

    def __init__(self, latent_dim: int, n_classes: int) -> None:
        super().__init__()
        self.latent_dim, self.n_classes = latent_dim, n_classes
        self.logits = nn.Parameter(torch.zeros(latent_dim, n_classes))

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim, self.n_classes)

    def forward(self, context: Tensor | None = None) -> distributions.Categorical:
        return distributions.Categorical(self.logits, batch_dims=0)
