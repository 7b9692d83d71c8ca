"""An older estimator of log p(x), from appendix D of Kingma & Welling 2013, for comparison.

For the other one, sampling from the prior, use ``importance_sampling(…, source="prior")``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowerbound.distributions import FullNormal
from lowerbound.draw import Batch
from lowerbound.evidence.annealing import log_mean
from lowerbound.evidence.estimates import Array, Estimates
from lowerbound.evidence.targets import Target, Targets, rows_for
from lowerbound.inference import Data
from lowerbound.mcmc import Path, transition, warm_up
from lowerbound.modes import read_only
from lowerbound.training import in_order

Exact = Callable[[Batch, int, torch.Generator], Tensor]
"""A function of rows and K that returns K draws from p(z|x) per row, ``[K, B, *E]``."""
_MOST_LATENTS = 10  # the paper uses 3; the error grows with the number of latents
_ACCEPT = 0.8
_CHAIN_ROWS = 2**12  # chains × rows at once


@dataclass(frozen=True)
class PosteriorEstimate(Estimates):
    """Estimates of log p(x) from draws of p(z|x), in nats per row.

    ``estimate [N]``: too high in expectation, by about half its variance. ``standard_error [N]``: by the delta method.
    ``acceptance [N]``: acceptance rate of the Hamiltonian trajectories after warm-up; 1 for exact draws.
    """

    acceptance: Array


@dataclass(frozen=True)
class Chains:
    """Hamiltonian Monte Carlo on p(z|x): ``warm_up`` transitions, which adapt each row's step size, then
    ``transitions`` with fixed step sizes, each with ``leapfrogs`` steps."""

    warm_up: int = 100
    transitions: int = 100
    leapfrogs: int = 10

    def __post_init__(self) -> None:
        if min(self.warm_up, self.transitions, self.leapfrogs) < 1:
            raise ValueError(f"warm_up, transitions and leapfrogs must be at least 1; got {self}.")

    def run(self, target: Target, batch: Batch, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The last states ``[K, B, *E]`` of ``count`` independent chains per row, and their acceptance rate ``[B]``."""
        path, dtype = Path(target.log_joint, target.posterior, target.slope), batch.x.dtype
        noise = path.start.noise((count, len(batch.x)), target.event, rng, dtype)
        point = path.at(path.start.sample(noise))
        point, step = warm_up(path, point, self.warm_up, self.leapfrogs, _ACCEPT, rng)
        accepted = torch.zeros_like(step.log_step)
        for _ in range(self.transitions):
            point, probability = transition(path, point, 1.0, step.value, self.leapfrogs, rng)
            accepted = accepted + probability.mean(0).to(dtype) / self.transitions
        return point.z, accepted


@read_only
def appendix_d(
    targets: Targets,
    rows: Data,
    rng: torch.Generator,
    *,
    draws: int = 50,
    chains: Chains | None = None,
    exact: Exact | None = None,
) -> PosteriorEstimate:
    """log p(x) ≈ −log 1/L Σ_l q̂(z_l)/p(x, z_l), z_l ~ p(z|x), for models with few latents.

    q̂ is a normal with full covariance, fitted to L = ``draws`` other draws from p(z|x). Each draw is the last state of
    its own chain, started from q(z|x). With exact draws, E[q̂/p(x, z)] = 1/p(x) for any q̂, so that the estimate is an
    upper bound in expectation. Chains that have not converged bias it in either direction, without any sign of it.
    ``exact``: exact draws from p(z|x) to use instead. Kingma & Welling 2013, appendix D.
    """
    rows, results, chains = rows_for(targets, rows), [], Chains() if chains is None else chains
    size = max(1, _CHAIN_ROWS // (2 * max(1, draws)))
    for batch, real in in_order(rows, min(size, len(rows)), rng):
        target = targets(batch)
        _check(target, draws)
        if exact is None:
            z, acceptance = chains.run(target, batch, 2 * draws, rng)
        else:
            z, acceptance = exact(batch, 2 * draws, rng), torch.ones_like(batch.weight)
        seen, fresh = z.split(draws)
        log_ratio = _fitted(seen).log_prob(fresh.flatten(2).double()) - target.log_joint(fresh).double()
        estimate, error = log_mean(log_ratio.cpu().numpy())
        results.append(np.stack([-estimate, error, acceptance.double().cpu().numpy()])[:, :real])
    return PosteriorEstimate(*np.concatenate(results, 1))


def _check(target: Target, draws: int) -> None:
    latents = math.prod(target.event)
    if latents > _MOST_LATENTS:
        raise ValueError(
            f"appendix_d is for at most {_MOST_LATENTS} latents, but this model has {latents}; "
            "use importance_sampling or annealed."
        )
    if draws < latents + 2:
        raise ValueError(f"draws must be at least {latents + 2}, to fit a normal to {latents} latents; got {draws}.")
    for name, part in target.posterior.families().items():
        if not part.unconstrained:
            raise ValueError(
                f"appendix_d needs real-valued latents, but latent {name!r} is a {part.name}; use importance_sampling."
            )


def _fitted(z: Tensor) -> FullNormal:
    """The normal with the mean and covariance of draws ``[L, B, *E]``, in double precision."""
    z = z.flatten(2).double()
    away = z - z.mean(0)
    covariance = torch.einsum("kbi,kbj->bij", away, away) / (len(z) - 1)
    return FullNormal(z.mean(0), torch.linalg.cholesky(covariance))
