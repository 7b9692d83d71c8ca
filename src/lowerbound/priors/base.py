"""The interface of priors p(z)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from lowerbound.distributions import Distribution
from lowerbound.modes import in_eval_mode

Encode = Callable[[Tensor], Distribution]
"""Rows ``[N, *X]`` → the posteriors of their latents."""


class Prior(nn.Module, ABC):
    """p(z), or p(z|context), over the latent of a row, z of shape ``event``.

    To write one: its ``event``, ``forward`` and, if it is one, the class of its ``family``.
    """

    family: ClassVar[type[Distribution] | None] = None
    conditional: ClassVar[bool] = False
    """Whether ``forward`` reads its context, so that the latent can have parents in ``Latents``."""
    default: ClassVar[bool] = False
    """Whether it is the prior of latents of its family's domain if none is named."""
    needs_context: ClassVar[bool] = False
    """Whether it is p(z|context) only, so that a fit must be given a context."""
    needs_posterior: ClassVar[bool] = False
    """Whether ``forward`` takes the posterior as its second argument, for a prior that is made of it."""
    needs_rows: ClassVar[bool] = False
    """Whether ``forward`` takes ``rows``, (x, mask), because z_t depends on the steps of x before it."""

    @classmethod
    def from_data(cls, event: tuple[int, ...], shape: tuple[int, ...], context: int) -> Self:
        """Make one for latents of shape ``event``, rows of ``shape`` and a context of so many numbers."""
        return cls(*event)

    @property
    @abstractmethod
    def event(self) -> tuple[int, ...]:
        """The shape of z."""

    @abstractmethod
    def forward(self, context: Tensor | None = None) -> Distribution:
        """The distribution p(z): with parameters of no batch, or ``[B, …]`` where it reads ``context [B, C]``."""

    @in_eval_mode
    def sample(self, n: int, generator: torch.Generator, context: Tensor | None = None) -> Tensor:
        """``n`` draws, ``[n, *E]``, one for each row of ``context`` if there is one."""
        return self.draws(self(context), n, generator)

    def draws(self, p: Distribution, n: int, generator: torch.Generator) -> Tensor:
        """``n`` draws from p, a distribution that this prior gave, ``[n, *E]``."""
        like = next(iter((*self.parameters(), *self.buffers())))
        return p.sample(p.noise((1, n), self.event, generator, like.dtype)).squeeze(0)

    def initialise(self, x: Tensor) -> None:
        """Set the start of training from data ``x [N, *X]``."""
