"""Mixtures of any family."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions.family import Distribution, uniform


@dataclass(frozen=True)
class Mixture(Distribution):
    """Σ_c π_c p_c(z), a prior: ``components`` is a distribution with C rows, ``logits [C]`` are those of π.

    The noise is a uniform value, which selects the component, and the noise of the component.
    """

    components: Distribution
    logits: Tensor
    batch_dims: int = 0

    @property
    def unconstrained(self) -> bool:  # type: ignore[override]  # depends on the components
        return self.components.unconstrained

    def noise(  # type: ignore[override]  # depends on the components
        self, lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        own = self.components.noise(lead, event, generator, dtype).flatten(len(lead))
        return torch.cat([uniform((*lead, 1), generator, dtype), own], -1)

    def sample(self, noise: Tensor) -> Tensor:
        mean = self.components.mean()
        if mean is None:
            raise ValueError(
                f"sampling a mixture of {type(self.components).__name__} is not supported; use components of another "
                "family."
            )
        lead, event = noise.shape[:2], tuple(mean.shape[1:])
        shape = self.components.noise((0, 0), event, torch.Generator(noise.device), noise.dtype).shape[2:]
        shares = self.logits.softmax(0).cumsum(0)
        chosen = torch.searchsorted(shares, noise[..., 0].contiguous()).clamp(max=len(shares) - 1)
        z = self.components.take(chosen.flatten()).sample(noise[..., 1:].reshape(1, -1, *shape))
        return z.view(*lead, *event)

    def log_prob(self, z: Tensor) -> Tensor:
        draws, rows = z.shape[:2]
        each = self.components.log_prob_of_each(z.flatten(0, 1))  # [K·B, C]
        return (each + self.logits.log_softmax(0)).logsumexp(1).view(draws, rows)

    def mean(self) -> Tensor | None:
        mean = self.components.mean()
        return None if mean is None else torch.tensordot(self.logits.softmax(0), mean, 1)
