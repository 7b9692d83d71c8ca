"""Markov chains of normal latents, z ``[T, d]``: one step given the one before."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowerbound.distributions.densities import HALF_LOG_2PI, normal_log_prob, positive
from lowerbound.distributions.family import Distribution, standard_normal
from lowerbound.nn import apply

_MIN_SCALE = 1e-6  # keeps log σ and the density finite where a raw scale underflows


class Steps(Distribution):
    """Base class of Π_t p(z_t|z_{t−1}) with z ``[T, d]``: a step is drawn given the one before, from its own noise.

    Draws have as many steps as the noise or, if fewer, as the distribution itself. A density is of the steps of z.
    """

    domain = "real numbers"
    reparameterisation = "composition"
    unconstrained = True

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return standard_normal(lead + event, generator, dtype)

    @property
    def steps(self) -> int | None:
        """T, the number of steps of a draw; None for as many as the noise has."""
        return None

    @property
    def rows(self) -> int | None:
        """B, the number of rows; None for a distribution of all rows."""
        return None

    @abstractmethod
    def step(self, previous: Tensor, noise: Tensor, t: int) -> Tensor:
        """z_t ``[K, B, d]`` from ``previous``, z_{t−1} (0 at the first step), and ``noise``, both ``[K, B, d]``."""

    @abstractmethod
    def log_prob_per_step(self, z: Tensor, previous: Tensor, start: int = 0) -> Tensor:
        """log p(z_t|z_{t−1}) ``[K, B, S]`` of the steps z ``[K, B, S, d]`` from ``start`` on, given ``previous``, the
        step before each of them (0 before the first of all)."""

    def sample(self, noise: Tensor) -> Tensor:
        steps, rows = self.steps or noise.shape[2], self.rows or noise.shape[1]
        if noise.shape[2] < steps:
            raise ValueError(
                f"the rows have {steps} steps, and the prior and the posterior were made for {noise.shape[2]}; make "
                "them with as many steps as the longest row, as steps=rows.shape[0]."
            )
        each = noise.expand(-1, rows, *noise.shape[2:]).unbind(2)[:steps]
        z = [self.step(torch.zeros_like(each[0]), each[0], 0)]
        for t, own in enumerate(each[1:], 1):
            z.append(self.step(z[-1], own, t))
        return torch.stack(z, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_per_step(z, before(z)).sum(2)


def before(z: Tensor) -> Tensor:
    """The step before each step of z ``[K, B, T, d]``: z_{t−1}, and 0 before the first."""
    return functional.pad(z[:, :, :-1], (0, 0, 1, 0))


def normal_of(out: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ from the outputs ``[…, 2d]`` of a network."""
    loc, raw = out.chunk(2, -1)
    return loc, positive(raw) + _MIN_SCALE


class NormalSteps(Steps):
    """Base class of chains whose steps are independent normals given the step before."""

    @abstractmethod
    def moments(self, previous: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """μ and σ, ``[K, B, S, d]``, of the steps from ``start`` on, given the step before each ``[K, B, S, d]``."""

    def step(self, previous: Tensor, noise: Tensor, t: int) -> Tensor:
        loc, scale = self.moments(previous.unsqueeze(2), t)
        return loc.squeeze(2) + scale.squeeze(2) * noise

    def log_prob_per_step(self, z: Tensor, previous: Tensor, start: int = 0) -> Tensor:
        return normal_log_prob(z, *self.moments(previous, start)).sum(3)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        return normal_log_prob(z, *self.moments(before(z)))


@dataclass(frozen=True)
class Markov(NormalSteps):
    """p(z) = N(z_1; loc, diag scale²) Π_t N(z_t; μ(z_{t−1}), diag σ²(z_{t−1})), of any number of steps.

    ``loc``, ``scale`` ``[d]``: of the first step. ``network``: z_{t−1} ``[N, d]`` → μ and the raw σ, ``[N, 2d]``.
    """

    loc: Tensor
    scale: Tensor
    network: nn.Module
    batch_dims: int = 0

    def moments(self, previous: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        first = int(start == 0)
        given = previous[:, :, first:]
        loc, scale = normal_of(apply(self.network, given.flatten(0, 2)).unflatten(0, given.shape[:3]))
        if not first:
            return loc, scale
        lead = (*previous.shape[:2], 1, -1)
        return torch.cat([self.loc.expand(lead), loc], 2), torch.cat([self.scale.expand(lead), scale], 2)


@dataclass(frozen=True)
class Guided(NormalSteps):
    """q(z|x) = Π_t q(z_t|z_{t−1}, h_t): a Markov chain ``prior`` guided by ``features`` h ``[B, T, F]`` of the rows.

    With ``network``, z_{t−1} ``[N, d]`` and h_t ``[N, F]`` → μ and the raw σ, ``[N, 2d]``. Without, F = 2d, h_t is μ̂_t
    and a raw precision, and q(z_t|z_{t−1}, h_t) ∝ p(z_t|z_{t−1}) N(z_t; μ̂_t, 1/τ̂_t): the precisions add. Where
    ``live [B, T]`` is False, and after step T, it is p(z_t|z_{t−1}). ``whole``: a number of first steps at which all
    rows are live, if known; with ``network``, p is not computed there.
    """

    features: Tensor
    live: Tensor
    network: nn.Module | None = None
    prior: Markov | None = None
    batch_dims: int = 1
    whole: int = 0

    @property
    def steps(self) -> int:
        return self.features.shape[1]

    @property
    def rows(self) -> int:
        return len(self.features)

    def moments(self, previous: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        if self.prior is None:
            raise ValueError("this q(z|x) is made with its prior, a priors.Markov; use model.distributions_of.")
        h = self.features[:, start : start + previous.shape[2]]
        live = self.live[:, start : start + previous.shape[2]].unsqueeze(2)
        if (more := previous.shape[2] - h.shape[1]) > 0:
            h, live = functional.pad(h, (0, 0, 0, more)), functional.pad(live, (0, 0, 0, more))
        if self.network is not None:
            flat, given = previous.flatten(0, 2), h.expand(len(previous), *h.shape).flatten(0, 2)
            own = normal_of(apply(self.network, flat, given).unflatten(0, previous.shape[:3]))
            return else_prior(own, live, self.prior, previous, start, self.whole)
        p_loc, p_scale = self.prior.moments(previous, start)
        mean, raw = h.chunk(2, -1)
        weight, above = positive(raw), p_scale.square().reciprocal()
        loc, scale = (mean * weight + p_loc * above) / (weight + above), (weight + above).rsqrt()
        return torch.where(live, loc, p_loc), torch.where(live, scale, p_scale)


class _Moments(Protocol):
    def moments(self, given: Tensor, start: int) -> tuple[Tensor, Tensor]: ...


def else_prior(
    own: tuple[Tensor, Tensor], live: Tensor, prior: _Moments, given: Tensor, start: int, whole: int
) -> tuple[Tensor, Tensor]:
    """μ and σ of q, or of ``prior`` where not ``live [B, S, 1]``; the first ``whole`` steps of all are live.

    ``given [K, B, S, …]``: what the moments of the prior of the steps from ``start`` on depend on.
    """
    first = min(max(0, whole - start), given.shape[2])
    if first == given.shape[2]:
        return own
    other = prior.moments(given[:, :, first:], start + first)
    pairs = zip(own, other, strict=True)
    loc, scale = (torch.cat([q[:, :, :first], torch.where(live[:, first:], q[:, :, first:], p)], 2) for q, p in pairs)
    return loc, scale


@dataclass(frozen=True)
class LinearMarkov(Steps):
    """q(z|x) = Π_t N(z_t; F_t z_{t−1} + f_t, L_t L_tᵀ), as the posterior of a linear normal state space.

    ``gain`` F ``[B, T, d, d]`` (0 at the first step), ``offset`` f ``[B, T, d]``, ``lower`` L ``[B, T, d, d]``, lower
    triangular. After step T, it is the chain ``prior``.
    """

    gain: Tensor
    offset: Tensor
    lower: Tensor
    prior: Markov
    batch_dims: int = 1

    @property
    def steps(self) -> int:
        return self.offset.shape[1]

    @property
    def rows(self) -> int:
        return len(self.offset)

    def step(self, previous: Tensor, noise: Tensor, t: int) -> Tensor:
        if t >= self.steps:
            return self.prior.step(previous, noise, t)
        moved = torch.einsum("bij,kbj->kbi", self.gain[:, t], previous)
        return moved + self.offset[:, t] + torch.einsum("bij,kbj->kbi", self.lower[:, t], noise)

    def log_prob_per_step(self, z: Tensor, previous: Tensor, start: int = 0) -> Tensor:
        own = slice(start, min(start + z.shape[2], self.steps))
        count = max(0, own.stop - own.start)
        moved = torch.einsum("btij,kbtj->kbti", self.gain[:, own], previous[:, :, :count])
        lower = self.lower[:, own]
        away = z[:, :, :count] - moved - self.offset[:, own]
        noise = torch.linalg.solve_triangular(lower, away.unsqueeze(4), upper=False).squeeze(4)
        log_scale = lower.diagonal(dim1=2, dim2=3).log() + HALF_LOG_2PI
        found: Tensor = -(0.5 * noise.square() + log_scale).sum(3)
        if count == z.shape[2]:
            return found
        rest = self.prior.log_prob_per_step(z[:, :, count:], previous[:, :, count:], start + count)
        return torch.cat([found, rest], 2)

    def marginals(self) -> tuple[Tensor, Tensor]:
        """E[z_t|x] ``[B, T, d]`` and Cov[z_t|x] ``[B, T, d, d]`` of each step."""
        mean, covariance = [self.offset[:, 0]], [self.lower[:, 0] @ self.lower[:, 0].mT]
        for t in range(1, self.steps):
            gain, lower = self.gain[:, t], self.lower[:, t]
            mean.append((gain @ mean[-1].unsqueeze(2)).squeeze(2) + self.offset[:, t])
            covariance.append(gain @ covariance[-1] @ gain.mT + lower @ lower.mT)
        return torch.stack(mean, 1), torch.stack(covariance, 1)
