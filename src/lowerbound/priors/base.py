"""What a prior is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

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

    @property
    @abstractmethod
    def event(self) -> tuple[int, ...]:
        """The shape of z."""

    @abstractmethod
    def forward(self, context: Tensor | None = None, encode: Encode | None = None) -> Distribution:
        """The distribution p(z): with parameters of no batch, or ``[B, …]`` where it reads ``context [B, C]``.

        ``encode``: the posterior, for a prior that is made of it.
        """

    @in_eval_mode
    def sample(
        self, n: int, generator: torch.Generator, context: Tensor | None = None, encode: Encode | None = None
    ) -> Tensor:
        """``n`` draws, ``[n, *E]``, one for each row of ``context`` if there is one."""
        like = next(iter((*self.parameters(), *self.buffers())))
        p = self(context, encode)
        z: Tensor = p.sample(p.noise((1, n), self.event, generator, like.dtype))
        return z.squeeze(0)

    def initialise(self, x: Tensor) -> None:
        """Take what it starts from out of data ``x [N, *X]``."""
