"""Normal distributions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions.densities import HALF_LOG_2PI, normal_log_prob
from lowerbound.distributions.family import Distribution, standard_normal


@dataclass(frozen=True)
class Normal(Distribution):
    """Independent normals: ``loc`` and ``scale`` are ``[B, *E]`` (a posterior) or ``[*E]`` (a prior).

    z = loc + scale · ε, ε ~ N(0, I). Log-densities are summed over the event dimensions.
    """

    domain = "real numbers"
    loc: Tensor
    scale: Tensor
    batch_dims: int = 1
    reparameterisation = "location-scale"
    unconstrained = True

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return standard_normal(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        return self.loc + self.scale * noise

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_per_dim(z).flatten(2).sum(2)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        return normal_log_prob(z, self.loc, self.scale)

    def log_prob_of_sample(self, z: Tensor, noise: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.log_prob(z)
        return (-0.5 * noise.square()).flatten(2).sum(2) - (self.scale.log() + HALF_LOG_2PI).flatten(
            self.batch_dims
        ).sum(-1)

    def log_prob_of_each(self, z: Tensor) -> Tensor:
        """By two matrix products, z²·τ and z·μτ with τ = 1/σ²; in double precision, because large terms cancel."""
        z = z.flatten(1).double()
        loc, scale = (each.reshape(-1, z.shape[1]).double() for each in (self.loc, self.scale))
        precision = scale.square().reciprocal()
        peak = -(0.5 * loc.square() * precision + scale.log() + HALF_LOG_2PI).sum(1)
        each = torch.addmm(peak, z, (loc * precision).mT) - (0.5 * z.square()) @ precision.mT
        return each.to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """½ Σ log(2πe σ²), ``[B]``."""
        return (self.scale.log() + (HALF_LOG_2PI + 0.5)).flatten(self.batch_dims).sum(self.batch_dims)

    def mean(self) -> Tensor:
        return self.loc

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.scale.double().square())


def kl_normal(q: Normal, p: Normal) -> Tensor:
    """KL(q ‖ p) per dimension, ``[B, *E]``: log σ_p/σ_q + (σ_q² + (μ_q − μ_p)²)/2σ_p² − ½."""
    ratio = q.scale / p.scale
    return 0.5 * (ratio.square() + ((q.loc - p.loc) / p.scale).square() - 1) - ratio.log()
