"""Step sizes of Hamiltonian chains, one per row, adapted to an acceptance rate and then frozen.

Chains whose draws count must run with frozen step sizes: a sampler that adapts while it draws leaves its target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.distributions.streams import Randomness
from lowerbound.mcmc.hamiltonian import Path, Point, transition

_FIRST = 0.1
_FAST, _SLOW = 1.0, 0.3  # rates of the first and of the second half of a warm-up


@dataclass(frozen=True)
class StepSize:
    """One step size per row: ``log_step [B]``, adapted towards the ``acceptance`` rate."""

    log_step: Tensor
    acceptance: float

    @classmethod
    def of(cls, rows: int, like: Tensor, acceptance: float) -> StepSize:
        """Return the step size to start from, for chains with latents like ``like``."""
        return cls(torch.full((rows,), math.log(_FIRST), dtype=like.dtype, device=like.device), acceptance)

    @property
    def value(self) -> Tensor:
        """The step sizes ``[B]``."""
        return self.log_step.exp()

    def adapted(self, probability: Tensor, rate: float) -> StepSize:
        """Move by ``rate`` times how much more often than wanted the chains accepted, ``probability [C, B]``.

        Robbins & Monro 1951; Andrieu & Thoms 2008, algorithm 4.
        """
        excess = probability.mean(0).to(self.log_step.dtype) - self.acceptance
        return replace(self, log_step=self.log_step + rate * excess)


def warm_up(
    path: Path,
    point: Point,
    transitions: int,
    leapfrogs: int,
    acceptance: float,
    rng: Randomness,
    step: StepSize | None = None,
) -> tuple[Point, StepSize]:
    """Run ``transitions`` at β = 1 and adapt the step sizes; return where the chains stand, and the step sizes.

    ``step``: the step sizes to start from (default: 0.1 for each row).
    """
    step = StepSize.of(point.z.shape[1], point.z, acceptance) if step is None else step
    for number in range(transitions):
        point, probability = transition(path, point, 1.0, step.value, leapfrogs, rng)
        step = step.adapted(probability, _FAST if number < transitions / 2 else _SLOW)
    return point, step
