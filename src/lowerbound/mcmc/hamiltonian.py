"""Hamiltonian Monte Carlo along a path of densities, for many chains of many rows at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.distributions import Distribution
from lowerbound.distributions.streams import Randomness, by_row


def slope_of(log_density: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return ∂ log_density/∂z at ``z [C, B, *E]``, for a log-density ``[C, B]`` of chains that do not interact."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        if not value.requires_grad:  # a uniform density
            return torch.zeros_like(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
    return slope


@dataclass(frozen=True)
class Point:
    """The state of C chains for B rows: ``z [C, B, *E]``, both log-densities there ``[C, B]``, their gradients in z."""

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    slope_start: Tensor
    slope_joint: Tensor

    @property
    def ratio(self) -> Tensor:
        """log p(x, z) − log start(z), ``[C, B]``, in double precision."""
        return self.log_joint.double() - self.log_start.double()

    def where(self, accept: Tensor, other: Point) -> Point:
        """Return this point where ``accept [C, B]`` is True, and the other elsewhere."""
        wide = accept.view(*accept.shape, *[1] * (self.z.dim() - 2))
        pairs = {name: (value, getattr(other, name)) for name, value in vars(self).items()}
        chosen = {name: torch.where(accept if a.dim() == 2 else wide, a, b) for name, (a, b) in pairs.items()}
        return replace(self, **chosen)


@dataclass(frozen=True)
class Path:
    """The densities π_β(z) ∝ start(z)^(1−β) p(x, z)^β of a batch of rows, β from 0 to 1.

    ``log_joint``: z ``[C, B, *E]`` → log p(x, z) ``[C, B]``. ``slope_joint``: its gradient in z ``[C, B, *E]``, where
    that costs less than differentiating ``log_joint``.
    """

    log_joint: Callable[[Tensor], Tensor]
    start: Distribution
    slope_joint: Callable[[Tensor], Tensor] | None = None

    def at(self, z: Tensor) -> Point:
        """Evaluate both log-densities and their gradients at ``z``."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start, log_joint = self.start.log_prob(z), self.log_joint(z)
            (slope_start,) = torch.autograd.grad(log_start.sum(), z)
            (slope_joint,) = torch.autograd.grad(log_joint.sum(), z)
        return Point(z.detach(), log_start.detach(), log_joint.detach(), slope_start, slope_joint)

    def slope(self, z: Tensor, beta: float) -> Tensor:
        """Return ∂ log π_β / ∂z."""
        if self.slope_joint is None:
            return slope_of(lambda z: (1 - beta) * self.start.log_prob(z) + beta * self.log_joint(z), z)
        slope = self.slope_joint(z)
        return slope if beta == 1 else torch.lerp(slope_of(self.start.log_prob, z), slope, beta)


def transition(
    path: Path, point: Point, beta: float, step: Tensor, leapfrogs: int, rng: Randomness
) -> tuple[Point, Tensor]:
    """Move every chain once by a transition that leaves π_β invariant: ``leapfrogs`` steps, then Metropolis.

    Each chain draws its step size between half and all of ``step [B]``: trajectories of one fixed length return to
    their start in every direction whose period they hit. Returns the new point and the acceptance probabilities
    ``[C, B]``. Neal 2011, §5.4.2.
    """
    (chains, rows), event = point.log_joint.shape, point.z.shape[2:]
    like, device = point.z.dtype, point.z.device

    def share(own: torch.Generator, some: range) -> Tensor:
        return torch.rand((chains, len(some)), generator=own, dtype=like, device=device)

    def normal(own: torch.Generator, some: range) -> Tensor:
        return torch.randn((chains, len(some), *event), generator=own, dtype=like, device=device)

    def level(own: torch.Generator, some: range) -> Tensor:
        return torch.rand((chains, len(some)), generator=own, dtype=torch.float64, device=device)

    step = step * (0.5 + 0.5 * by_row(rng, rows, share))
    momentum, threshold = by_row(rng, rows, normal), by_row(rng, rows, level)
    proposal, end = trajectory(path, point, momentum, beta, step, leapfrogs)
    change = log_density(proposal, beta) - log_density(point, beta) + kinetic(momentum) - kinetic(end)
    probability = torch.nan_to_num(change, nan=-torch.inf).clamp(max=0).exp()
    return proposal.where(threshold < probability, point), probability


def trajectory(
    path: Path, point: Point, momentum: Tensor, beta: float, step: Tensor, leapfrogs: int
) -> tuple[Point, Tensor]:
    """Return the end of a leapfrog trajectory of steps ``[C, B]``, and the momentum there; −momentum reverses it."""
    step = step.view(*step.shape, *[1] * (point.z.dim() - 2))
    z, slope = point.z, (1 - beta) * point.slope_start + beta * point.slope_joint
    momentum = momentum + 0.5 * step * slope
    for _ in range(leapfrogs - 1):
        z = z + step * momentum
        momentum = momentum + step * path.slope(z, beta)
    end = path.at(z + step * momentum)
    slope = (1 - beta) * end.slope_start + beta * end.slope_joint
    return end, momentum + 0.5 * step * slope


def log_density(point: Point, beta: float) -> Tensor:
    """Return log π_β up to its constant, ``[C, B]``, in double precision."""
    return point.log_start.double() + beta * point.ratio


def kinetic(momentum: Tensor) -> Tensor:
    """Return the kinetic energy ½|p|², ``[C, B]``, in double precision."""
    return 0.5 * momentum.double().square().flatten(2).sum(2)
