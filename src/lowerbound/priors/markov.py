"""Latents unrolled over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import positive
from lowerbound.priors.base import Prior
from lowerbound.priors.normal import MIN_SCALE


class Markov(Prior):
    """p(z) = N(z_1; μ, diag σ²) Π_t p(z_t|z_{t−1}), z ``[T, d]``, with μ and σ learned, from N(0, I).

    ``network``: z_{t−1} ``[N, d]`` → μ and the raw σ of z_t, ``[N, 2d]``, such as ``nn.LinearTransition`` (a
    Kalman filter) or ``nn.GatedTransition`` (a deep one). ``steps``: T, that of the longest row; nothing that is
    learned depends on it. Krishnan, Shalit & Sontag 2017.
    """

    family = distributions.Markov

    def __init__(self, latent_dim: int, steps: int, network: nn.Module) -> None:
        super().__init__()
        if latent_dim < 1 or steps < 1:
            raise ValueError(f"latent_dim and steps must be at least 1, got {latent_dim} and {steps}.")
        self.latent_dim, self.steps, self.network = latent_dim, steps, network
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(latent_dim))

    @property
    def event(self) -> tuple[int, ...]:
        return (self.steps, self.latent_dim)

    def forward(self, context: Tensor | None = None) -> distributions.Markov:
        return distributions.Markov(self.loc, positive(self.raw_scale) + MIN_SCALE, self.network)
