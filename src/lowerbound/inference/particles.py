"""Particle filters for latents unrolled over time, and FIVO, which learns by the bound that one gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lowerbound import priors
from lowerbound.distributions import Distribution, Steps
from lowerbound.distributions.family import uniform
from lowerbound.draw import Batch, Draw
from lowerbound.inference.aevb import AEVB, AEVBProcedure
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.nn import EachStep
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import Schedule

Resampling = Literal["systematic", "stratified", "multinomial"]


@dataclass(frozen=True)
class Particles(Draw):
    """A draw of K particles per row: an ELBO of it is ``log_p [B]``, log p̂(x) of the filter.

    ``mean``, ``deviation`` ``[B, T, d]``: of z_t given x_{1:t}, if the particles are drawn from p. ``share [K, B]``:
    the weights after the last step, which sum to 1. ``z``: the particles of each step as they were drawn, ``[K, B, T,
    d]``, if asked for; from the step after the last observed one of a row, those of one number are a path.
    """

    log_p: Tensor = None  # type: ignore[assignment]  # Draw has defaults before it
    mean: Tensor = None  # type: ignore[assignment]
    deviation: Tensor = None  # type: ignore[assignment]
    share: Tensor = None  # type: ignore[assignment]
    z: Tensor | None = None

    @property
    def kl(self) -> Tensor:
        """E[log p(x|z)] − log p̂(x), ``[B]``."""
        return self.log_lik.mean(0) - self.log_p

    mean_kl = kl


def particle_filter(
    model: LatentVariableModel,
    q: Distribution,
    p: Distribution,
    batch: Batch,
    noise: Tensor,
    resampling: Resampling = "systematic",
    threshold: float = 0.5,
    keep: bool = False,
) -> Particles:
    """Draw K particles step by step, z_t ~ q(z_t|z_{t−1}), each weighted by p(z_t|z_{t−1}) p(x_t|z_t)/q(z_t|z_{t−1}).

    Where the effective sample size of a row's weights is below ``threshold`` K, its particles are resampled in
    proportion to the weights, which are then reset: log p̂(x) = Σ over resamplings and the end of log mean_K w.
    E[p̂(x)] = p(x) for any q, so log p̂(x) is a lower bound on log p(x) on average. ``noise [K, B, T, d + 1]``: standard
    normal, and last a uniform number for the resampling; the choice of particles has no gradient. With q = p it is the
    bootstrap filter. ``keep``: the particles of all steps. Gordon, Salmond & Smith 1993; Maddison et al. 2017.
    """
    if not isinstance(q, Steps) or not isinstance(p, Steps):
        raise ValueError(
            "a particle filter needs latents unrolled over time: take priors.Markov and posteriors.Markov."
        )
    x, mask, (K, rows) = batch.x, batch.mask, noise.shape[:2]
    previous = noise.new_zeros(K, rows, noise.shape[3] - 1)
    log_w, log_lik, log_p = (noise.new_zeros(shape) for shape in ((K, rows), (K, rows), (rows,)))
    means, deviations, drawn = [], [], []
    for t in range(x.shape[1]):
        if t > 0:
            due, chosen = _resampled(log_w.detach(), noise[:, :, t, -1], resampling, threshold)
            log_p = log_p + torch.where(due, log_w.logsumexp(0) - math.log(K), 0)
            log_w = torch.where(due, 0, log_w)
            previous = previous.gather(0, chosen.unsqueeze(2).expand_as(previous))
        z = q.step(previous, noise[:, :, t, :-1], t)
        at, before, now = z.unsqueeze(2), previous.unsqueeze(2), slice(t, t + 1)
        found = model.log_lik(at, x[:, now], None if mask is None else mask[:, now])
        change = p.log_prob_per_step(at, before, t) - q.log_prob_per_step(at, before, t)
        log_w, log_lik, previous = log_w + found + change.squeeze(2), log_lik + found, z
        with torch.no_grad():
            share = log_w.softmax(0).unsqueeze(2)
            means.append((share * z).sum(0))
            deviations.append((share * (z - means[-1]).square()).sum(0).sqrt())
        drawn += [z] * keep
    log_p = log_p + log_w.logsumexp(0) - math.log(K)
    return Particles(
        (),
        log_lik,
        x=x,
        log_p=log_p,
        mean=torch.stack(means, 1),
        deviation=torch.stack(deviations, 1),
        share=log_w.detach().softmax(0),
        z=torch.stack(drawn, 2) if keep else None,
    )


def _resampled(log_w: Tensor, u: Tensor, how: Resampling, threshold: float) -> tuple[Tensor, Tensor]:
    """Which rows are resampled ``[B]``, and the particle that each one becomes a copy of, ``[K, B]``."""
    share, K = log_w.softmax(0), len(log_w)
    due = share.square().sum(0).reciprocal() < threshold * K
    places = torch.arange(K, device=u.device).unsqueeze(1)
    if how != "multinomial":
        u = (places + (u[:1] if how == "systematic" else u)) / K
    chosen = torch.searchsorted(share.cumsum(0).T.contiguous(), u.T.contiguous()).T.clamp(max=K - 1)
    return due, torch.where(due, chosen, places)


def particle_noise(posterior: Posterior, particles: int, rows: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
    """The random numbers of ``particle_filter``, ``[K, B, T, d + 1]``."""
    noise = posterior.noise(particles, rows, rng, dtype)
    return torch.cat([noise, uniform((*noise.shape[:-1], 1), rng, dtype)], -1)


@dataclass(frozen=True)
class FIVO:
    """Maximise log p̂(x) of a particle filter: a tighter bound than IWAE of as many draws. Maddison et al. 2017.

    ``posterior``: q(z_t|z_{t−1}, x), from which ``particles`` per row are drawn. They are resampled where their
    effective sample size is below ``threshold`` times their number; 0: never, which is IWAE. ``resampling``:
    "systematic", "stratified" or "multinomial". The term of the gradient through the choice of particles is left out,
    because its variance is large; the gradient is therefore biased, and the objective still a bound. For the other
    settings see ``AEVB``.
    """

    posterior: Posterior
    particles: int = 16
    resampling: Resampling = "systematic"
    threshold: float = 0.5
    learning_rate: float | Schedule = 1e-3
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.resampling not in get_args(Resampling):
            raise ValueError(
                f'resampling is {self.resampling!r}; it takes "systematic", "stratified" or "multinomial".'
            )
        if self.particles < 1 or not 0 <= self.threshold <= 1:
            raise ValueError(
                f"FIVO needs particles of at least 1 and a threshold from 0 to 1, got {self.particles} and "
                f"{self.threshold}."
            )

    @property
    def is_bound(self) -> bool:
        """True: the mean of log p̂(x) is a lower bound on log p(x)."""
        return True

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        own = {"particles": self.particles, "resampling": self.resampling, "threshold": float(self.threshold)}
        return self._steps().describe() | own | {"objective": "fivo", "biased": "no gradient of the resampling"}

    def start(self, model: LatentVariableModel, rows: RowSource | None = None) -> FIVOProcedure:
        """Make a procedure for the training loop, with a fresh optimiser. ``rows`` are not needed."""
        if not isinstance(model.prior, priors.Markov | priors.Recurrent) or not isinstance(model.decoder, EachStep):
            raise ValueError(
                "FIVO needs latents unrolled over time that are decoded one by one: take priors.Markov or "
                "priors.Recurrent, and nn.EachStep."
            )
        settings = self._steps()
        return FIVOProcedure(settings, model, settings.start(model).state, drawn=partial(self._drawn, model))

    def _steps(self) -> AEVB:
        return AEVB(self.posterior, draws=self.particles, learning_rate=self.learning_rate, clip_norm=self.clip_norm)

    def _drawn(self, model: LatentVariableModel, batch: Batch, noise: Tensor, detached: bool) -> Draw:
        q, p = distributions_of(model, self.posterior, batch.x, batch.mask)
        return particle_filter(model, q, p, batch, noise, self.resampling, self.threshold)


@dataclass
class FIVOProcedure(AEVBProcedure):
    """The steps of ``AEVB`` on the draws of a particle filter."""

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return particle_noise(self.settings.posterior, self.settings.draws, rows, rng, self._dtype)
