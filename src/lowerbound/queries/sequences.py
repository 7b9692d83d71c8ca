"""Queries of models of sequences: filtered and smoothed latents, forecasts with intervals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound import priors
from lowerbound.data import Sequences
from lowerbound.distributions.family import uniform
from lowerbound.draw import Batch
from lowerbound.evidence.estimates import Array
from lowerbound.inference.kalman import is_state_space, state_space
from lowerbound.inference.particles import particle_filter, particle_noise
from lowerbound.model import LatentVariableModel, distributions_of, draw_from
from lowerbound.modes import read_only
from lowerbound.nn import EachStep
from lowerbound.posteriors import Posterior
from lowerbound.queries.completion import complete
from lowerbound.queries.refining import Refine
from lowerbound.training import in_order

M = TypeVar("M", bound=nn.Module)
_ROWS, _FEW = 32, 8  # rows per batch; where the particles of all steps are kept


@dataclass(frozen=True)
class States:
    """Mean and standard deviation of each latent z_t, ``[N, T, d]``; NaN after the end of a row."""

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Forecast:
    """The steps after the end of each row: ``mean``, and an interval from ``lower`` to ``upper``, ``[N, S, *X]``.

    ``draws [M, N, S, *X]``: random continuations, from which the interval is taken.
    """

    mean: Array
    lower: Array
    upper: Array
    draws: Array


@torch.no_grad()
@read_only
def filtered(model: LatentVariableModel, rows: Sequences, rng: torch.Generator, particles: int = 1000) -> States:
    """z_t given the steps until t, p(z_t|x_{1:t}): exact for a linear normal model (``inference.state_space``), or by
    a bootstrap particle filter with ``particles`` per row."""
    found: list[tuple[Tensor, Tensor]] = []
    for batch, real in _batches(rows):
        if is_state_space(model):
            seen = _seen(batch).flatten(2)
            _, mean, covariance = state_space(model).filtered(batch.x.flatten(2), seen)
            deviation = covariance.diagonal(dim1=2, dim2=3).sqrt()
        else:
            p, (steps, width) = model.prior_given(), (batch.x.shape[1], model.prior.event[-1])
            shape = (particles, len(batch.x), steps)
            noise = p.noise(shape, (width,), rng, rows.dtype)
            own = torch.cat([noise, uniform((*shape, 1), rng, rows.dtype)], 3)
            drawn = particle_filter(model, p, p, batch, own)
            mean, deviation = drawn.mean, drawn.deviation
        found.append((mean[:real], deviation[:real]))
    return _joined(found, rows)


@torch.no_grad()
@read_only
def smoothed(
    model: LatentVariableModel, posterior: Posterior, rows: Sequences, rng: torch.Generator, samples: int = 1000
) -> States:
    """z_t given the whole row, p(z_t|x): exact for a linear normal model, or by ``samples`` importance-weighted draws
    from q(z|x) per row."""
    found: list[tuple[Tensor, Tensor]] = []
    for batch, real in _batches(rows):
        if is_state_space(model):
            q = state_space(model).posterior(batch.x.flatten(2), _seen(batch).flatten(2), model.prior_given())  # type: ignore[arg-type]
            mean, covariance = q.marginals()
            deviation = covariance.diagonal(dim1=2, dim2=3).sqrt()
        else:
            q_of, p = distributions_of(model, posterior, batch.x, batch.mask)
            noise = posterior.noise(samples, len(batch.x), rng, rows.dtype)
            drawn = draw_from(q_of, p, model, batch, noise)
            z = drawn.nodes[0].z
            share = drawn.log_w.softmax(0)[..., None, None]
            mean = (share * z).sum(0)
            deviation = (share * (z - mean).square()).sum(0).sqrt()
        found.append((mean[:real], deviation[:real]))
    return _joined(found, rows)


@torch.no_grad()
@read_only
def forecast(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: Sequences,
    steps: int,
    rng: torch.Generator,
    *,
    level: float = 0.9,
    draws: int = 500,
    samples: int = 1000,
    refine: Refine | None = None,
) -> Forecast:
    """The next ``steps`` steps of each row, p(x_{T+1:T+S}|x_{1:T}), where missing values are allowed.

    A latent per step is found by a particle filter with ``samples`` particles from q per row, whose weights do not
    degenerate in long rows; one latent per sequence by ``complete``, for which ``refine`` is. The interval holds a
    share ``level`` of the ``draws``, with equal shares below and above. Rows may be longer than those of the fit.
    """
    if steps < 1 or not 0 < level < 1:
        raise ValueError(f"a forecast needs steps of at least 1 and a level between 0 and 1, got {steps} and {level}.")
    if model.prior.needs_rows:
        raise ValueError(
            "a forecast continues the latents alone, and those of this model read the steps of x before them; use "
            "model.sample for whole rows, or a model with priors.Markov."
        )
    longer = rows.extended(steps).padded()
    model, posterior = of_length(model, longer.shape[0]), of_length(posterior, longer.shape[0])
    if isinstance(model.prior, priors.Markov) and isinstance(model.decoder, EachStep):
        parts = [
            _continued(model, posterior, longer, index, steps, rng, draws, samples)
            for index in torch.arange(len(rows)).split(_FEW)
        ]
        best, drawn = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], 1)
        return _forecast(best.double().cpu().numpy(), drawn.double().cpu().numpy(), level)
    found = complete(model, posterior, longer, rng, draws=draws, samples=samples, refine=refine)
    assert found.draws is not None
    at, every = rows.lengths.cpu().numpy()[:, None] + np.arange(steps), np.arange(len(rows))[:, None]
    return _forecast(found.best[every, at], found.draws[:, every, at], level)


def _forecast(best: Array, draws: Array, level: float) -> Forecast:
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Forecast(best, lower, upper, draws)


def _continued(
    model: LatentVariableModel,
    posterior: Posterior,
    longer: Sequences,
    index: Tensor,
    steps: int,
    rng: torch.Generator,
    draws: int,
    particles: int,
) -> tuple[Tensor, Tensor]:
    """The best values ``[B, S, *X]`` and draws ``[M, B, S, *X]`` of the last ``steps`` steps of rows that were
    ``extended`` by these."""
    batch = longer.batch(index, torch.ones(len(index)))
    q, p = distributions_of(model, posterior, batch.x, batch.mask)
    noise = particle_noise(posterior, particles, len(index), rng, longer.dtype)
    found = particle_filter(model, q, p, batch, noise, keep=True)
    assert found.z is not None
    at = longer.lengths[index].unsqueeze(1) + torch.arange(-steps, 0)
    z = found.z[:, torch.arange(len(index)).unsqueeze(1), at]  # the steps after the last one are paths of one number
    likelihood, params = model.likelihood, model.decode(z)
    typical = likelihood.typical(params)
    share = found.share.view(*found.share.shape, *[1] * (typical.dim() - 2))
    chosen = torch.multinomial(found.share.T, draws, replacement=True, generator=rng).T
    own = params[chosen, torch.arange(len(index))]
    return likelihood.best((share * typical).sum(0)), likelihood.sample(own, rng)


def of_length(part: M, steps: int) -> M:
    """A model or a posterior for rows of so many steps, with the same parameters."""
    part = copy.copy(part)
    part._modules = dict(part._modules)
    if isinstance(getattr(part, "steps", None), int):
        part.steps = steps  # type: ignore[assignment]
    for name in ("prior", "decoder"):
        if isinstance(own := part._modules.get(name), nn.Module):
            part._modules[name] = of_length(own, steps)
    return part


def _batches(rows: Sequences) -> Iterator[tuple[Batch, int]]:
    return in_order(rows, min(_ROWS, len(rows)))


def _seen(batch: Batch) -> Tensor:
    return torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask


def _joined(found: list[tuple[Tensor, Tensor]], rows: Sequences) -> States:
    """The states of all rows, NaN after the end of each."""
    every = np.full((2, len(rows), rows.shape[0], found[0][0].shape[2]), np.nan)
    first = 0
    for mean, deviation in found:
        some = slice(first, first + len(mean))
        every[:, some, : mean.shape[1]] = torch.stack([mean, deviation]).double().cpu().numpy()
        first += len(mean)
    every[:, np.arange(rows.shape[0]) >= rows.lengths.cpu().numpy()[:, None]] = np.nan
    return States(*every)
