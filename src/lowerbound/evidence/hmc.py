"""Hamiltonian Monte Carlo on a path of densities, for many chains of many rows at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.distributions import Distribution
from lowerbound.evidence.targets import slope_of


@dataclass(frozen=True)
class Point:
    """Where chains stand: ``z [C, B, *E]``, both log-densities there ``[C, B]``, and their gradients in z."""

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
        """This point where ``accept [C, B]``, else the other."""
        wide = accept.view(*accept.shape, *[1] * (self.z.dim() - 2))
        pairs = {name: (value, getattr(other, name)) for name, value in vars(self).items()}
        chosen = {name: torch.where(accept if a.dim() == 2 else wide, a, b) for name, (a, b) in pairs.items()}
        return replace(self, **chosen)


@dataclass(frozen=True)
class Path:
    """π_β(z) ∝ start(z)^(1−β) p(x, z)^β for a batch of rows, β from 0 to 1."""

    log_joint: Callable[[Tensor], Tensor]
    start: Distribution
    slope_joint: Callable[[Tensor], Tensor] | None = None  # where it is to be had for less

    def at(self, z: Tensor) -> Point:
        """Both densities and their gradients."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start, log_joint = self.start.log_prob(z), self.log_joint(z)
            (slope_start,) = torch.autograd.grad(log_start.sum(), z)
            (slope_joint,) = torch.autograd.grad(log_joint.sum(), z)
        return Point(z.detach(), log_start.detach(), log_joint.detach(), slope_start, slope_joint)

    def slope(self, z: Tensor, beta: float) -> Tensor:
        """∂ log π_β / ∂z."""
        if self.slope_joint is None:
            return slope_of(lambda z: (1 - beta) * self.start.log_prob(z) + beta * self.log_joint(z), z)
        slope = self.slope_joint(z)
        return slope if beta == 1 else torch.lerp(slope_of(self.start.log_prob, z), slope, beta)


def transition(
    path: Path, point: Point, beta: float, step: Tensor, leapfrogs: int, rng: torch.Generator
) -> tuple[Point, Tensor]:
    """One step that leaves π_β as it is: ``leapfrogs`` of half to all of ``step [B]``, then Metropolis.

    Each chain draws its own size: paths of one length come back to where they began in each direction whose period
    they hit. Returns where the chains stand, and with what probability ``[C, B]`` each accepted. Neal 2011, §5.4.2.
    """
    share = torch.rand(point.log_joint.shape, generator=rng, dtype=point.z.dtype, device=point.z.device)
    step = step * (0.5 + 0.5 * share)
    momentum = torch.randn(point.z.shape, generator=rng, dtype=point.z.dtype, device=point.z.device)
    threshold = torch.rand(point.log_joint.shape, generator=rng, dtype=torch.float64, device=point.z.device)
    proposal, end = trajectory(path, point, momentum, beta, step, leapfrogs)
    change = log_density(proposal, beta) - log_density(point, beta) + kinetic(momentum) - kinetic(end)
    probability = torch.nan_to_num(change, nan=-torch.inf).clamp(max=0).exp()
    return proposal.where(threshold < probability, point), probability


def trajectory(
    path: Path, point: Point, momentum: Tensor, beta: float, step: Tensor, leapfrogs: int
) -> tuple[Point, Tensor]:
    """The end of a leapfrog path of steps ``[C, B]``, and the momentum there; with −momentum it comes back."""
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
    """log π_β but for its constant, ``[C, B]``, in double precision."""
    return point.log_start.double() + beta * point.ratio


def kinetic(momentum: Tensor) -> Tensor:
    """½|p|², ``[C, B]``, in double precision."""
    return 0.5 * momentum.double().square().flatten(2).sum(2)
