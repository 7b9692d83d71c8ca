"""A model that is a function, log p(x, z), and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowerbound import likelihoods, priors
from lowerbound.distributions import Distribution
from lowerbound.mcmc import slope_of
from lowerbound.model import LatentVariableModel
from lowerbound.shapes import expect

LogJoint = Callable[[Tensor, Tensor], Tensor]
"""log p(x, z) ``[K, B]`` as a function of z ``[K, B, *E]`` and x ``[B, *X]``, as ``evidence.of_functions`` takes it."""


_NO_DRAWS = "this model is a log_joint, which has no prior to draw from."


class LogJointModel(LatentVariableModel):
    """A model of which log p(x, z) is known and nothing else: it has densities, and no rows can be drawn from it.

    ``log_joint``: see ``LogJoint``. ``event``: E, the shape of z; the latents of this model are flat.
    """

    def __init__(self, log_joint: LogJoint, event: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(_Flat(math.prod(event)), nn.Identity(), likelihoods.Normal(1.0))  # any real x
        self.log_joint_of, self.shape = log_joint, tuple(event)
        self.like = nn.Parameter(torch.zeros((), dtype=dtype), requires_grad=False)  # the type of z, and its device

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        raise ValueError(
            "this model has only log p(x, z), so p(x|z) alone is unknown; use log_lik, which is log p(x, z)."
        )

    def log_lik(self, z: Tensor, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """log p(x, z) ``[K, B]``: the prior of this model is flat."""
        if mask is not None or context is not None:
            raise ValueError("log_joint takes rows without missing values and without a context.")
        found = self.log_joint_of(z.unflatten(-1, self.shape), x)
        expect("log_joint", found, z.shape[:2], "[K, B]")
        return found

    def slope(self, z: Tensor, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        return slope_of(lambda z: self.log_lik(z, x, mask, context), z)


class _Flat(priors.Prior):
    """p(z) = 1, no distribution."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @property
    def event(self) -> tuple[int, ...]:
        return (self.latent_dim,)

    def forward(self, context: Tensor | None = None) -> Distribution:
        return _Constant()

    def draws(self, p: Distribution, n: int, generator: torch.Generator) -> Tensor:
        raise ValueError(_NO_DRAWS)


@dataclass(frozen=True)
class _Constant(Distribution):
    """log-density 0 everywhere."""

    batch_dims: int = 0

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        raise ValueError(_NO_DRAWS)

    def sample(self, noise: Tensor) -> Tensor:
        raise ValueError(_NO_DRAWS)

    def log_prob(self, z: Tensor) -> Tensor:
        return z.new_zeros(z.shape[:2])
