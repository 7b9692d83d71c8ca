"""The best q(z|x) of one row: optimise the ELBO in the outputs an encoder would give, without the encoder.

Local (per-row) variational inference. Everything here sees a log-density, a family and tensors, and no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.distributions import Distribution, Normal, inverse_positive
from lowerbound.distributions.covariance import CorrelatedNormal
from lowerbound.distributions.streams import Randomness, by_row
from lowerbound.mcmc import slope_of
from lowerbound.posteriors import Posterior
from lowerbound.posteriors.normal import MIN_SCALE

_APART = 0.3  # standard deviations between components at the start: from equal values symmetry would keep them equal
_LAST = 0.1  # of the steps
_POWER = 3  # step t of the path counts as t³ in its mean
_MOMENTS = 2000  # draws for the mean and covariance of a family without a closed form of them
_AT_ONCE = 200  # of these: latents with parents go through a network


@dataclass(frozen=True)
class LocalPosterior:
    """The result of an optimisation: the outputs ``[B, n_outputs]`` of a ``family`` at the ``end`` of its steps, and
    ``before`` the last tenth of them."""

    family: Posterior
    before: Tensor
    end: Tensor

    @property
    def name(self) -> str:
        return self.family.name


Gradient = Callable[[Tensor, Tensor], Tensor]
"""Maps the outputs ``[B, n_outputs]`` of a family and noise ``[S, B, …]`` to the gradient of the ELBO in the outputs,
up to a constant factor."""


def by_path(slope: Callable[[Tensor], Tensor], family: Posterior) -> Gradient:
    """Return the gradient through the draws: ∂/∂z [log p(x, z) − log q(z)], pulled back from z to the outputs.

    ``slope``: z ``[S, B, *E]`` → ∂ log p(x, z)/∂z. The gradient is 0 at every draw where q is p(z|x). Roeder et al.
    2017.
    """

    def gradient(out: Tensor, noise: Tensor) -> Tensor:
        still = family.distribution(out.detach())
        with torch.enable_grad():
            z = family.distribution(out).sample(noise)
        at = z.detach()
        (found,) = torch.autograd.grad(z, out, slope(at) - slope_of(still.log_prob, at))
        return found

    return gradient


@dataclass(frozen=True)
class Optimisation:
    """Maximise the ELBO of each row by ``steps`` of Adam, each with ``draws`` of z; the learning rate falls from
    ``rate`` to 0.

    The result is the mean of the path, in which step t has weight t³: the gradients are noisy, and this mean is far
    closer to the maximum than the last step. Rows do not interact. Shamir & Zhang 2013.
    """

    steps: int
    draws: int
    rate: float

    def run(
        self,
        gradient: Gradient,
        family: Posterior,
        start: Tensor,
        rng: Randomness,
        units: Tensor | float = 1.0,
        shared: bool = False,
    ) -> LocalPosterior:
        """Find the best q of each row from ``start [B, n_outputs]``; ``units`` scales the step of each output.

        ``shared``: all rows share the same noise, so that a row's result does not depend on its place.
        """
        moved = torch.zeros_like(start).requires_grad_()
        optimiser = torch.optim.Adam([moved], betas=(0.9, 0.99))
        before = mean = start
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = self.rate * (1 - step / self.steps)
            noise = self._noise(family, 1 if shared else len(start), rng, start.dtype)
            noise = noise.expand(-1, len(start), *noise.shape[2:])
            slope = units * gradient((start + units * moved).detach().requires_grad_(), noise)
            moved.grad = -slope.nan_to_num(0, 0, 0)  # draws beyond the model's precision are ignored
            optimiser.step()
            if step == self.steps - math.ceil(_LAST * self.steps):
                before = mean
            mean = torch.lerp(mean, start + units * moved.detach(), (1 + _POWER) / (step + 1 + _POWER))
        return LocalPosterior(family, before, mean)

    def of_moments(
        self,
        gradient: Gradient,
        family: Posterior,
        loc: Tensor,
        covariance: Tensor,
        rng: Randomness,
        dtype: torch.dtype,
        shared: bool = False,
    ) -> LocalPosterior:
        """Find the best q of a family, starting from a mean ``[B, d]`` and a covariance ``[B, d, d]``."""
        start, units = started(family, loc, covariance, rng).to(dtype), scales(family, covariance).to(dtype)
        return self.run(gradient, family, start, rng, units, shared)

    def _noise(self, family: Posterior, rows: int, rng: Randomness, dtype: torch.dtype) -> Tensor:
        return by_row(rng, rows, lambda own, some: family.noise(self.draws, len(some), own, dtype))


@torch.no_grad()
def moments(q: Distribution, event: tuple[int, ...], like: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
    """Return the mean ``[B, d]`` and covariance ``[B, d, d]`` of q for the B rows of ``like``, in double precision."""
    if isinstance(q, Normal):
        return q.loc.double(), torch.diag_embed(q.scale.double().square())
    if isinstance(q, CorrelatedNormal):
        root = q.root().double()
        return q.loc.double(), root @ root.mT
    noise = by_row(rng, len(like), lambda own, some: q.noise((_MOMENTS, len(some)), event, own, like.dtype))
    z = torch.cat([q.sample(some) for some in noise.split(_AT_ONCE)]).double().transpose(0, 1)  # [B, S, d]
    away = z - z.mean(1, keepdim=True)
    return z.mean(1), away.mT @ away / (_MOMENTS - 1)


@torch.no_grad()
def started(family: Posterior, loc: Tensor, covariance: Tensor, rng: Randomness) -> Tensor:
    """Return outputs ``[B, n_outputs]`` of this mean and these variances; ``FullNormal`` keeps the full covariance."""
    rows, dim = loc.shape
    scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
    if isinstance(family, posteriors.FullNormal):
        lower = torch.linalg.cholesky_ex(covariance).L
        below = torch.tril_indices(dim, dim, -1, device=loc.device)
        return torch.cat([loc, _raw(lower.diagonal(dim1=1, dim2=2)), lower[:, below[0], below[1]]], 1)
    if isinstance(family, posteriors.LowRankNormal):
        factor = _normal(rng, rows, (dim, family.rank), loc)
        factor = _APART * scale.unsqueeze(2) * nn.functional.normalize(factor, dim=2)
        return torch.cat([loc, _raw(scale * math.sqrt(1 - _APART**2)), factor.flatten(1)], 1)
    if isinstance(family, posteriors.NormalMixture):
        away = _normal(rng, rows, (family.components, dim), loc)
        locs = loc.unsqueeze(1) + _APART * scale.unsqueeze(1) * away
        logits = loc.new_zeros(rows, family.components)
        return torch.cat([logits, locs.flatten(1), _raw(scale).repeat(1, family.components)], 1)
    raise ValueError(f"no {type(family).__name__} can start from a mean and a covariance: leave it out of richer.")


def scales(family: Posterior, covariance: Tensor) -> Tensor:
    """Return the unit of each output's steps ``[B, n_outputs]``: the change that moves q by about one deviation.

    The entries of one row of the Cholesky factor move at once, and share it.
    """
    scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
    rows, dim = scale.shape
    ones = torch.ones_like(scale)
    if isinstance(family, posteriors.FullNormal):
        below = torch.tril_indices(dim, dim, -1, device=scale.device)
        return torch.cat([scale, ones, scale[:, below[0]] / dim**0.5], 1)
    if isinstance(family, posteriors.LowRankNormal):
        return torch.cat([scale, ones, scale.repeat_interleave(family.rank, 1) / family.rank], 1)
    assert isinstance(family, posteriors.NormalMixture)  # ``started`` refuses others
    wide = scale.repeat(1, family.components)
    return torch.cat([scale.new_ones(rows, family.components), wide, torch.ones_like(wide)], 1)


def _normal(rng: Randomness, rows: int, event: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal values ``[rows, *event]``."""

    def draw(own: torch.Generator, some: range) -> Tensor:
        return torch.randn((1, len(some), *event), generator=own, dtype=like.dtype, device=like.device)

    return by_row(rng, rows, draw).squeeze(0)


def _raw(scale: Tensor) -> Tensor:
    """The outputs that a family turns into these scales."""
    return inverse_positive((scale - MIN_SCALE).clamp(min=MIN_SCALE))
