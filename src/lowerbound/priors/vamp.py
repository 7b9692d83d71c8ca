"""The variational mixture of posteriors."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from lowerbound.distributions import Mixture
from lowerbound.priors.base import Encode, Prior


class VampPrior(Prior):
    """p(z) = 1/C Σ q(z|u_c), the posterior at C learned pseudo-inputs u ``[C, *X]``. Tomczak & Welling 2018.

    It owns the pseudo-inputs alone, and is given the posterior. The pseudo-inputs start as rows of data.
    """

    needs_posterior = True

    def __init__(self, event: tuple[int, ...], in_shape: tuple[int, ...], components: int = 500) -> None:
        super().__init__()
        self._event, self.in_shape, self.components = tuple(event), tuple(in_shape), components
        self.pseudo_inputs = nn.Parameter(torch.zeros(components, *self.in_shape))

    @classmethod
    def from_data(cls, event: tuple[int, ...], shape: tuple[int, ...], context: int) -> Self:
        return cls(event, shape)

    @property
    def event(self) -> tuple[int, ...]:
        return self._event

    def forward(self, context: Tensor | None = None, posterior: Encode | None = None) -> Mixture:
        if posterior is None:
            raise ValueError("VampPrior is a mixture of posteriors: it needs the posterior, and was given none.")
        return Mixture(posterior(self.pseudo_inputs), self.pseudo_inputs.new_zeros(self.components))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Start from rows of ``x`` at even steps, repeated where there are too few."""
        index = torch.arange(self.components, device=x.device) * max(1, len(x) // self.components) % len(x)
        self.pseudo_inputs.copy_(x[index])
