"""Hamiltonian chains of p(z|x_observed), started from q, with moments, quantiles, and checks of convergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.diagnostics import effective_sample_size, rhat
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.targets import Target, of_model, settled
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries import refining
from lowerbound.queries.posterior_sampling import batch_size, batches, noise_of
from lowerbound.queries.row_streams import RowStreams
from lowerbound.row_source import RowSource

_ROWS = 64  # rows per batch
_MOST_RHAT, _LEAST_ESS = 1.01, 400.0  # Vehtari et al. 2021


@dataclass(frozen=True)
class PosteriorChains:
    """``z [T, C, N, *E]``: T draws of C chains of p(z|x_observed) for each of N rows."""

    z: Array

    @property
    def draws(self) -> Array:
        """All draws, ``[T·C, N, *E]``."""
        return self.z.reshape(-1, *self.z.shape[2:])

    @property
    def mean(self) -> Array:
        """E[z|x], ``[N, *E]``."""
        return np.asarray(self.z.mean((0, 1)))

    @property
    def deviation(self) -> Array:
        """The standard deviation of z given x, ``[N, *E]``."""
        return np.asarray(self.draws.std(0, ddof=1))

    @property
    def covariance(self) -> Array:
        """Cov[z|x] of vectors z, ``[N, d, d]``."""
        away = self.draws - self.mean
        return np.asarray(np.einsum("sni,snj->nij", away, away) / (len(away) - 1))

    def quantile(self, shares: float | Sequence[float]) -> Array:
        """Quantiles of each latent given x, ``[N, *E]``, or ``[Q, N, *E]`` for Q ``shares``."""
        return np.asarray(np.quantile(self.draws, shares, axis=0))

    @cached_property
    def rhat(self) -> Array:
        """R̂ of each latent, ``[N, *E]``."""
        return rhat(self.z)

    @cached_property
    def ess(self) -> Array:
        """The effective sample size of each latent, ``[N, *E]``."""
        return effective_sample_size(self.z)

    @property
    def standard_error(self) -> Array:
        """The Monte Carlo error of ``mean``, ``[N, *E]``."""
        return self.deviation / np.sqrt(self.ess)

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Rows all of whose latents have R̂ of at most 1.01 and an effective sample size of at least 400, ``[N]``."""
        good = (self.rhat <= _MOST_RHAT) & (self.ess >= _LEAST_ESS)
        return np.asarray(good.reshape(len(good), -1).all(1))


@read_only
def posterior_chains(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: RowSource,
    rng: torch.Generator,
    *,
    chains: int = 4,
    draws: int = 1000,
) -> PosteriorChains:
    """Sample z ~ p(z|x_observed) by ``chains`` Hamiltonian chains per row, of which ``draws`` states are kept each.

    Chains start from q(z|x_observed). Each row's step size and the scale of each latent are adapted in a warm-up and
    then fixed; later states are exact draws in the limit of long chains, whatever q is. ``posterior_draws`` is cheaper
    where q is close to p(z|x). Chains cannot find a mode that lies far from all draws of q, and R̂ does not show it.
    Neal 2011.
    """
    if chains < 4 or draws < 12:
        raise ValueError(f"chains must be at least 4 and draws at least 12, got {chains} and {draws}.")
    rows, targets = settled(rows, model, rng), of_model(model, posterior)
    streams, event = RowStreams.of(rows, rng, apart=True), model.prior.event
    found = np.empty((draws, chains, len(rows), *event))
    size = batch_size(_ROWS, draws * chains, model)
    for places, batch, own in batches(rows, np.arange(len(rows)), size, streams):
        target = targets(batch)
        _check(target)
        noise = noise_of(target.posterior, chains, event, own.generators("starts"), batch.x)
        start = target.posterior.sample(noise)
        states = refining.hmc(target, start, own.generators("chains"), draws)[:, :, : len(places)]
        found[:, :, places] = states.cpu().double().numpy()
    return PosteriorChains(found)


def _check(target: Target) -> None:
    """Raise ValueError for latents that Hamiltonian chains cannot draw."""
    prior = target.source("prior")
    for name, part in [*target.posterior.families().items(), *prior.families().items()]:
        if not part.unconstrained:
            raise ValueError(
                f"posterior_chains needs real-valued latents, but latent {name!r} is a {part.name}; use "
                "posterior_draws, which draws by importance sampling."
            )
