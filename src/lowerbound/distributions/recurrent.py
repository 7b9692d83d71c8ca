"""Chains whose steps read a recurrent memory of the rows and latents before them, as in a variational RNN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowerbound.distributions.densities import normal_log_prob
from lowerbound.distributions.markov import Steps, else_prior, normal_of
from lowerbound.nn import apply


@dataclass(frozen=True)
class Recurrent(Steps):
    """p(z|x) = Π_t p(z_t|h_t), h_t = cell((x_{t−1}, z_{t−1}), h_{t−1}), h_1 = 0. Chung et al. 2015.

    A draw is (z_t, h_t) ``[T, d + H]``; h_t is a function of what is before it, and has no density. ``read``: features
    of the rows' steps, ``[B, T, F]``; None before any step is known. ``cell``: features and z_{t−1} ``[N, F + d]`` and
    h_{t−1} ``[N, H]`` → ``[N, H]``. ``network``: h_t ``[N, H]`` → μ and the raw σ of z_t, ``[N, 2d]``.
    """

    unconstrained = False
    has_states = True
    read: Tensor | None
    cell: nn.Module
    network: nn.Module
    latent_dim: int
    batch_dims: int = 1

    @property
    def rows(self) -> int | None:
        return None if self.read is None else len(self.read)

    @property
    def steps(self) -> int | None:
        return None if self.read is None else self.read.shape[1]

    def memory(self, previous: Tensor, t: int) -> Tensor:
        """h_t ``[K, B, H]``, given the step before, ``[K, B, d + H]``."""
        z, h = previous[..., : self.latent_dim], previous[..., self.latent_dim :]
        if t == 0:
            return torch.zeros_like(h)
        if self.read is None or self.read.shape[1] < t:
            raise ValueError("p(z_t|h_t) of a priors.Recurrent reads the rows before step t, and these are not given.")
        read = self.read[:, t - 1].expand(*z.shape[:2], -1)
        found = self.cell(torch.cat([read, z], 2).flatten(0, 1), h.flatten(0, 1))
        units: Tensor = found.unflatten(0, z.shape[:2])
        return units

    def moments(self, memory: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """μ and σ ``[K, B, S, d]`` of the steps from ``start`` on, given h ``[K, B, S, H]``."""
        out: Tensor = apply(self.network, memory.flatten(0, 2))
        return normal_of(out.unflatten(0, memory.shape[:3]))

    def step(self, previous: Tensor, noise: Tensor, t: int) -> Tensor:
        memory = self.memory(previous, t)
        loc, scale = self.moments(memory.unsqueeze(2), t)
        return torch.cat([loc.squeeze(2) + scale.squeeze(2) * noise[..., : self.latent_dim], memory], 2)

    def log_prob_per_step(self, z: Tensor, previous: Tensor, start: int = 0) -> Tensor:
        own, memory = z[..., : self.latent_dim], z[..., self.latent_dim :]
        found: Tensor = normal_log_prob(own, *self.moments(memory, start)).sum(3)
        return found


@dataclass(frozen=True)
class GuidedRecurrent(Recurrent):
    """q(z|x) = Π_t q(z_t|h_t, f_t): the memory of ``prior``, and features f ``[B, T, F]`` of the rows at each step.

    ``network``: h_t ``[N, H]`` and the context f_t ``[N, F]`` → μ and the raw σ. Where ``live [B, T]`` is False, q is
    p(z_t|h_t); ``whole``: a number of first steps at which all rows are live, if known.
    """

    features: Tensor | None = None
    live: Tensor | None = None
    prior: Recurrent | None = None
    whole: int = 0

    @property
    def rows(self) -> int | None:
        return None if self.features is None else len(self.features)

    @property
    def steps(self) -> int | None:
        return None if self.features is None else self.features.shape[1]

    def moments(self, memory: Tensor, start: int) -> tuple[Tensor, Tensor]:
        if self.prior is None or self.features is None or self.live is None:
            raise ValueError("this q(z|x) is made with its prior, a priors.Recurrent; use model.distributions_of.")
        at = slice(start, start + memory.shape[2])
        given = self.features[:, at].expand(len(memory), *self.features[:, at].shape)
        out: Tensor = apply(self.network, memory.flatten(0, 2), given.flatten(0, 2))
        own = normal_of(out.unflatten(0, memory.shape[:3]))
        return else_prior(own, self.live[:, at].unsqueeze(2), self.prior, memory, start, self.whole)
