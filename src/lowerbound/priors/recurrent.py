"""Latents unrolled over time that read the rows before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.nn import MLP, StepReader
from lowerbound.priors.base import Prior


class Recurrent(Prior):
    """p(z_t|x_{1:t−1}, z_{1:t−1}) = p(z_t|h_t), h_t the units of a GRU that has read these, of a variational RNN.

    z is (z_t, h_t) of each step, ``[T, latent_dim + hidden]``: decoder and posterior read both. ``in_shape``: X of a
    step; ``steps``: T, that of the longest row, on which nothing that is learned depends. h_1 = 0. Missing values are
    read as 0, with a flag. Chung et al. 2015.
    """

    family = distributions.Recurrent
    needs_rows = True

    def __init__(self, latent_dim: int, steps: int, in_shape: Sequence[int], hidden: int = 64) -> None:
        super().__init__()
        if latent_dim < 1 or steps < 1:
            raise ValueError(f"latent_dim and steps must be at least 1, got {latent_dim} and {steps}.")
        self.latent_dim, self.steps, self.in_shape, self.hidden = latent_dim, steps, tuple(in_shape), hidden
        self.reader = StepReader(in_shape, hidden, hidden)
        self.cell = nn.GRUCell(hidden + latent_dim, hidden)
        self.network = MLP((hidden,), (2 * latent_dim,), (hidden,))

    @property
    def event(self) -> tuple[int, ...]:
        return (self.steps, self.latent_dim + self.hidden)

    def forward(
        self, context: Tensor | None = None, rows: tuple[Tensor, Tensor | None] | None = None
    ) -> distributions.Recurrent:
        """p(z) of the rows ``(x, mask)``; without any, only its first step is known."""
        read = None
        if rows is not None:
            x, mask = rows
            read = self.reader(x if mask is None else torch.where(mask, x, 0), mask)
        return distributions.Recurrent(read, self.cell, self.network, self.latent_dim, int(read is not None))
