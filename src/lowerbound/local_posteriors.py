"""The best q(z|x) of one row: optimise the ELBO in the outputs an encoder would give, without the encoder.

Local (per-row) variational inference. Everything here sees a log-density, a family and tensors, and no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions import Distribution
from lowerbound.distributions.streams import Randomness, by_row
from lowerbound.mcmc import slope_of
from lowerbound.posteriors import Posterior

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
        return self.family.family_name


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
        with torch.no_grad():
            start = family.outputs_of(loc, covariance, rng).to(dtype)
            units = family.output_units(covariance.diagonal(dim1=1, dim2=2).sqrt()).to(dtype)
        return self.run(gradient, family, start, rng, units, shared)

    def _noise(self, family: Posterior, rows: int, rng: Randomness, dtype: torch.dtype) -> Tensor:
        return by_row(rng, rows, lambda own, some: family.noise(self.draws, len(some), own, dtype))


@torch.no_grad()
def moments(q: Distribution, event: tuple[int, ...], like: Tensor, rng: Randomness) -> tuple[Tensor, Tensor]:
    """Return the mean ``[B, d]`` and covariance ``[B, d, d]`` of q for the B rows of ``like``, in double precision."""
    mean, covariance = q.mean(), q.covariance()
    if mean is not None and covariance is not None:
        return mean.double(), covariance
    noise = by_row(rng, len(like), lambda own, some: q.noise((_MOMENTS, len(some)), event, own, like.dtype))
    z = torch.cat([q.sample(some) for some in noise.split(_AT_ONCE)]).double().transpose(0, 1)  # [B, S, d]
    away = z - z.mean(1, keepdim=True)
    return z.mean(1), away.mT @ away / (_MOMENTS - 1)
