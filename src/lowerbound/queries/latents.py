"""Draws of z ~ p(z|x_observed): importance sampling from the posterior, then resampling, and chains where it fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.draw import Batch
from lowerbound.evidence import pareto, proposals
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import WeightTotal, chunks
from lowerbound.evidence.targets import Target, of_model, settled
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries import refining
from lowerbound.queries.refining import Refine
from lowerbound.training import in_order

Places = NDArray[np.int64]
_ROWS = 100  # of a batch
_LATENT_VALUES = 2**24  # held at once
_MORE = 10  # times as many draws, for rows of which there were too few
_CHAINS, _CHAIN_ROWS = 50, 2**12  # of a row at least, and chains × rows at once


@dataclass(frozen=True)
class Sampling:
    """How p(z|x_observed) is drawn from: ``samples`` weighted draws for each row, of which ``draws`` are chosen.

    Rows with an effective sample size under ``least_ess`` are drawn again with ten times as many, half of them from a
    proposal fitted to p(z|x_observed) if ``fit`` (where q is a normal), and where that is too few by ``refine``: "hmc",
    "gibbs" or None. If ``least_ess`` is not given it is as many as ``draws``, and at least 10, but half of ``samples``
    at most: with ESS e the squared error of a point estimate is 1/e above the least there is, and the error that M
    draws share is at most their own. So are rows whose k̂ (``evidence.pareto_k``) says that the weights are not
    reliable: a posterior too narrow has an ESS that is high by mistake. (Not so without ``tails``: a mean over few
    draws is worth having.)
    """

    samples: int = 1000
    draws: int = 0
    refine: Refine | None = "hmc"
    least_ess: float | None = None
    tails: bool = True
    fit: bool = True

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, got {self.samples}.")
        if self.draws < 0:
            raise ValueError(f"draws must be 0 or more, got {self.draws}.")
        if self.refine is not None and self.refine not in get_args(Refine):
            raise ValueError(f'refine takes "hmc", "gibbs" or None, and not {self.refine!r}.')

    @property
    def enough(self) -> float:
        """The effective sample size below which a row is refined."""
        least = max(10, self.draws) if self.least_ess is None else self.least_ess
        return min(least, self.samples / 2)

    @property
    def tries(self) -> tuple[int, ...]:
        """Draws per row, and how many if those are too few: cheaper than chains, where it is enough."""
        return (self.samples,) if self.least_ess == 0 else (self.samples, _MORE * self.samples)


@dataclass(frozen=True)
class Part:
    """Draws of p(z|x_observed) for some rows.

    ``places [B]``: which of all the rows. ``batch``: them, with 0 where nothing is observed. ``z [S, B, *E]`` with
    ``shares [S, B]`` that sum to 1, in double precision, and ``drawn [M, B, *E]`` without any. ``totals [4, B]``: log
    p(x_observed), its standard error, the effective sample size and k̂, by importance sampling.
    """

    places: Places
    batch: Batch
    z: Tensor
    shares: Tensor
    drawn: Tensor
    totals: Tensor
    refined: bool = False

    def mean(self, model: LatentVariableModel, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        """Σ_k share_k f(params_k) ``[B, …]`` of f: params ``[K, B, P, *X]`` → ``[K, B, …]``, in double precision."""
        total, first = torch.zeros((), dtype=torch.float64, device=self.z.device), 0
        for count in chunks(len(self.z), len(self.batch.x), width(model, self.batch)):
            some = slice(first, first + count)
            values = statistic(model.decode(self.z[some], self.batch.context)).double()
            shares = self.shares[some].view(*values.shape[:2], *[1] * (values.dim() - 2))
            total = total + torch.where(shares > 0, shares * values, 0).sum(0)  # 0 · ∞ is no number
            first += count
        return total


@dataclass(frozen=True)
class PosteriorDraws:
    """``z [M, N, *E]``: M draws of p(z|x_observed) for each row. ``ess [N]``: effective draws of importance sampling.
    ``refined [N]``: rows of which they were too few, and whose draws are ends of chains."""

    z: Array
    ess: Array
    refined: NDArray[np.bool_]


@read_only
def posterior_draws(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: Rows,
    rng: torch.Generator,
    *,
    draws: int,
    samples: int = 1000,
    refine: Refine | None = "hmc",
    least_ess: float | None = None,
    fit: bool = True,
) -> PosteriorDraws:
    """``draws`` of z ~ p(z|x_observed) for each of ``rows``; the arguments are those of ``Sampling``.

    z_k ~ q(z|x_observed), k = 1 … ``samples``, are chosen in proportion to p(x_observed, z_k)/q(z_k|x_observed): the
    draws of a row are as independent as its ESS is large compared with ``draws``. Of a row with nothing observed they
    are draws of the prior, with an ESS of ``samples``. Rubin 1987; Rezende et al. 2014; Mattei & Frellsen 2019.
    """
    found = np.empty((draws, len(rows), *model.prior.event))
    ess, refined = np.empty(len(rows)), np.zeros(len(rows), bool)
    for part in parts(model, posterior, rows, rng, Sampling(samples, draws, refine, least_ess, fit=fit)):
        found[:, part.places] = part.drawn.cpu().double().numpy()
        ess[part.places] = part.totals[2].cpu().numpy()
        refined[part.places] = part.refined
    return PosteriorDraws(found, ess, refined)


def parts(
    model: LatentVariableModel, posterior: Posterior, rows: Rows, rng: torch.Generator, how: Sampling, warn: bool = True
) -> Iterator[Part]:
    """Draws for all ``rows``, each row in one part. To be read without gradients.

    ``warn``: say it where rows have too few effective draws, and are not refined.
    """
    rows, targets = settled(rows, model, rng), of_model(model, posterior)
    nothing = _nothing_observed(rows, model)
    for places, batch in _batches(rows, np.flatnonzero(nothing), how.samples, model):
        yield _of_prior(places, batch, targets(batch), how, rng)
    left = np.flatnonzero(~nothing)
    for samples in how.tries:
        low, starts, totals = [left[:0]], [], []
        last = samples == how.tries[-1]
        for places, batch in _batches(rows, left, samples, model):
            target = targets(batch)
            refining.check(how.refine, model, target.posterior, target.prior)
            if how.fit and samples > how.samples and proposals.fits(target):
                z, log_w = proposals.mixed(target, batch.x, samples, rng)
            else:
                z, log_w = _weighted(target, batch, samples, rng)
            part = _resampled(places, batch, z, log_w, how.draws, _continuous(target), rng)
            few = too_few(part, how)
            if last and how.refine is None:
                low.append(places[few.cpu().numpy()])
                totals.append(part.totals[:, few])
                yield part
                continue
            if bool(few.any()):
                low.append(places[few.cpu().numpy()])
                totals.append(part.totals[:, few])
                starts.append(_chosen(z[:, few], part.shares[:, few], max(_CHAINS, how.draws), rng) if last else z[:0])
            if not bool(few.all()):
                yield part if not bool(few.any()) else _taken(part, ~few)
        left = np.concatenate(low)
        if not len(left):
            return
    if how.refine is not None:
        yield from _refined(model, posterior, rows, left, torch.cat(starts, 1), torch.cat(totals, 1), how, rng)
    elif warn:
        _warn(torch.cat(totals, 1)[2], len(rows), how.tries[-1])


def too_few(part: Part, how: Sampling) -> Tensor:
    """Rows ``[B]`` of which the weights say too little of p(z|x_observed)."""
    few = part.totals[2] < how.enough
    return few | (part.totals[3] > float(pareto.threshold(len(part.z)))) if how.tails else few


def width(model: LatentVariableModel, batch: Batch) -> int:
    """Numbers that the decoder gives each draw."""
    return batch.x[0].numel() * model.likelihood.n_parameters


def _nothing_observed(rows: Rows, model: LatentVariableModel) -> NDArray[np.bool_]:
    """Rows whose posterior is the prior."""
    if rows.mask is None or refining.is_informative(model):
        return np.zeros(len(rows), bool)
    found: NDArray[np.bool_] = ~rows.mask.flatten(1).any(1).cpu().numpy()
    return found


def _batches(
    rows: Rows, places: Places, draws: int, model: LatentVariableModel, most: int = _ROWS
) -> Iterator[tuple[Places, Batch]]:
    """The rows at ``places`` in batches, no larger than their latents' ``draws`` allow; 0 where nothing is observed."""
    size = min(most, len(places), max(1, _LATENT_VALUES // (draws * torch.Size(model.prior.event).numel())))
    if not size:
        return
    first = 0
    for batch, real in in_order(rows.subset(torch.from_numpy(places).to(rows.device)), size):
        batch = batch[:real]
        if batch.mask is not None:
            batch = replace(batch, x=torch.where(batch.mask, batch.x, 0))
        yield places[first : first + real], batch
        first += real


def _of_prior(places: Places, batch: Batch, target: Target, how: Sampling, rng: torch.Generator) -> Part:
    """With nothing observed, z ~ p(z) and log p = 0, exactly."""
    prior = target.source("prior")
    noise = prior.noise((how.samples + how.draws, len(batch.x)), target.event, rng, batch.x.dtype)
    z, drawn = prior.sample(noise).split([how.samples, how.draws])
    totals = torch.zeros(4, len(batch.x), dtype=torch.float64, device=z.device)
    totals[2], totals[3] = how.samples, -torch.inf
    return Part(places, batch, z, _alike(z), drawn, totals)


def _weighted(target: Target, batch: Batch, samples: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """z ~ q(z|x_observed) ``[S, B, *E]`` and log p(x_observed, z) − log q(z) ``[S, B]``."""
    q, found = target.posterior, []
    for count in chunks(samples, len(batch.x), target.width):
        noise = q.noise((count, len(batch.x)), target.event, rng, batch.x.dtype)
        z = q.sample(noise)
        found.append((z, target.log_joint(z).double() - q.log_prob_of_sample(z, noise).double()))
    largest = torch.finfo(torch.float64).max
    log_w = torch.cat([each for _, each in found])
    return torch.cat([z for z, _ in found]), torch.nan_to_num(log_w, nan=-torch.inf, posinf=largest, neginf=-torch.inf)


def _resampled(
    places: Places, batch: Batch, z: Tensor, log_w: Tensor, draws: int, continuous: bool, rng: torch.Generator
) -> Part:
    total = WeightTotal(pareto.tail_size(len(z)) + 1)
    total.add(log_w)
    shape = torch.full_like(log_w[0], -torch.inf)
    if continuous:
        shape = torch.from_numpy(pareto.pareto_k(total.largest().cpu().numpy())).to(shape)
    possible = (log_w > -torch.inf).any(0)
    shares = torch.where(possible, log_w, 0).softmax(0)  # where no draw is possible, all are alike, with an ESS of 0
    totals = torch.cat([total.result()[:3], shape.unsqueeze(0)])
    return Part(places, batch, z, shares, _chosen(z, shares, draws, rng), totals)


def _continuous(target: Target) -> bool:
    """Whether weights have a tail: those of few states are few values, to which no tail can be fitted."""
    return all(part.differentiable for part in target.posterior.families().values())


def _chosen(z: Tensor, shares: Tensor, draws: int, rng: torch.Generator) -> Tensor:
    """``draws`` of ``z [S, B, *E]`` for each row, each on its own in proportion to ``shares [S, B]``."""
    below = shares.cumsum(0).T.contiguous()
    level = torch.rand((len(below), draws), generator=rng, dtype=below.dtype, device=below.device) * below[:, -1:]
    index = torch.searchsorted(below, level, right=True).clamp(max=len(z) - 1).T
    return z[index, torch.arange(z.shape[1], device=z.device)]


def _taken(part: Part, some: Tensor) -> Part:
    """The rows where ``some [B]`` is True."""
    batch = part.batch
    mask = None if batch.mask is None else batch.mask[some]
    context = None if batch.context is None else batch.context[some]
    taken = Batch(batch.x[some], mask, batch.index[some], batch.weight[some], context)
    return replace(
        part,
        places=part.places[some.cpu().numpy()],
        batch=taken,
        z=part.z[:, some],
        shares=part.shares[:, some],
        drawn=part.drawn[:, some],
        totals=part.totals[:, some],
    )


def _refined(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: Rows,
    places: Places,
    starts: Tensor,
    totals: Tensor,
    how: Sampling,
    rng: torch.Generator,
) -> Iterator[Part]:
    """Chains from ``starts [C, n, *E]``: draws are their ends, each of another, and means are over all they kept."""
    first, chains = 0, len(starts)
    for own, batch in _batches(rows, places, refining.KEPT * chains, model, max(1, _CHAIN_ROWS // chains)):
        some = slice(first, first + len(own))
        ends = []
        for start in starts[:, some].split(_CHAIN_ROWS):
            if how.refine == "hmc":
                ends.append(refining.hmc(of_model(model, posterior)(batch), start, rng))
            else:
                ends.append(refining.gibbs(model, posterior, batch, start, rng))
        states = torch.cat(ends, 1)
        z = states.flatten(0, 1)
        yield Part(own, batch, z, _alike(z), states[-1, : how.draws], totals[:, some], True)
        first += len(own)


def _alike(z: Tensor) -> Tensor:
    return torch.full(z.shape[:2], 1 / len(z), dtype=torch.float64, device=z.device)


def _warn(ess: Tensor, rows: int, samples: int) -> None:
    least = float(ess.min())
    warnings.warn(
        f"importance sampling has too few effective draws for {len(ess)} of {rows} rows, the least {least:.1f} of "
        f"{samples}, and the results for these rows are inexact: ask for more samples, or refine them by "
        'refine="hmc" (real latents) or refine="gibbs".',
        stacklevel=4,
    )
