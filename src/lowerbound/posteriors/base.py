"""What an approximate posterior is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lowerbound.distributions import Distribution
from lowerbound.nn import apply


class Posterior(nn.Module, ABC):
    """q(z|x), amortised: ``encoder`` gives each row ``n_outputs`` numbers, ``distribution`` reads them.

    To write one: the class of its ``family``, the ``event`` shape of z, ``n_outputs`` and ``distribution``. Any
    ``nn.Module`` of shape ``[B, *X] → [B, n_outputs]`` can be the encoder. Unobserved values reach it as 0.
    """

    family: type[Distribution]

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of z."""
        return (self.latent_dim,)

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Numbers that the encoder gives each row."""

    @abstractmethod
    def distribution(self, out: Tensor) -> Distribution:
        """The distributions of a batch's latents, from ``out [B, n_outputs]``."""

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        """The distributions of a batch's latents, given what it is conditioned on."""
        if mask is not None:
            x = torch.where(mask, x, 0)
        out = apply(self.encoder, x, context)
        if out.shape[1:] != (self.n_outputs,):
            raise ValueError(
                f"the encoder gave a row {tuple(out.shape[1:])} numbers, but {type(self).__name__} over "
                f"{self.latent_dim} latents needs ({self.n_outputs},)."
            )
        return self.distribution(out)

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """What K draws of each row's latent need at random, ``[K, B, …]``."""
        return self.family.noise((draws, rows), self.event, generator, dtype)
