"""The one sampler of z ~ p(z|x_observed) behind completions, conditional draws, anomaly scores and denoised rows.

Importance sampling from the posterior, then from a proposal fitted to the row, then chains: each for the rows of which
the one before has too few effective draws. Every batch has a fixed size and every row its own random numbers, so that
a row's draws depend on no other row.
"""

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
from lowerbound.distributions import Distribution, Randomness, by_row
from lowerbound.draw import Batch
from lowerbound.evidence import pareto, proposals
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import WeightTotal, chunks
from lowerbound.evidence.targets import Target, Targets, of_model, settled
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries import refining
from lowerbound.queries.refining import Refine
from lowerbound.queries.row_streams import RowStreams
from lowerbound.training import in_order

Places = NDArray[np.int64]
ENOUGH = 50
"""Effective draws below which a row's importance sampling counts as failed.

Best values of 80 rows of PPCA, 40 % of their cells missing, from a posterior that ignores the missing, with 500 draws:
their error is 0.24 posterior deviations with 10, 20 or 30, and 0.08 with 50.
"""
_ROWS = 64  # of a batch
_ROW_DRAWS = 2**18  # draws × rows of a batch
_LATENT_VALUES = 2**24  # held at once
_FIRST = 0.4  # k̂ above which draws from q alone are not enough: q may be too narrow, and its weights miss a part
_MORE = 10  # times as many draws, for rows of which there were too few
_CHAINS, _CHAIN_ROWS, _REFINED = 50, 2**12, 16  # chains per row at least; chains × rows at once; rows of a batch
_CHAIN_VALUES = 2**22  # numbers of all chains at once, whose gradients are held too


@dataclass(frozen=True)
class Sampling:
    """How to draw from p(z|x_observed): ``samples`` weighted draws per row, of which ``draws`` are resampled.

    Rows with an effective sample size under ``least_ess`` are drawn again, half of the draws from a proposal fitted to
    p(z|x_observed) if ``fit`` (where q is a normal); then again with ten times as many; and if that is too few by
    ``refine``: "hmc", "gibbs" or None. ``least_ess`` defaults to ``draws``, at least 50, and at most half of
    ``samples``: with an ESS of e the squared error of a point estimate is 1/e above its minimum, and the error that M
    draws share is at most their own. Rows whose k̂ (``evidence.pareto_k``) says that the weights are unreliable
    are drawn again too: a posterior too narrow has an ESS that is high by mistake. (Without ``tails`` only before the
    last try: a mean over few draws is still useful.)
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
        least = max(ENOUGH, self.draws) if self.least_ess is None else self.least_ess
        return min(least, self.samples / 2)

    @property
    def tries(self) -> tuple[int, ...]:
        """Draws per row, and how many if those are too few: cheaper than chains, where it is enough."""
        if self.least_ess == 0:
            return (self.samples,)
        return (self.samples, *[self.samples] * self.fit, _MORE * self.samples)


@dataclass(frozen=True)
class Part:
    """Draws of p(z|x_observed) for some rows, computed in a ``batch`` of a fixed size of which only some rows count.

    ``places [n]``: which of all the rows are answered; ``rows [n]``: where they stand in the batch. ``batch``: B rows,
    0 where nothing is observed; ``streams``: theirs. ``z [S, B, *E]`` with ``shares [S, B]`` that sum to 1, in double
    precision; ``drawn [M, B, *E]`` without shares. ``totals [4, B]``: log p(x_observed), its standard error, the
    effective sample size and k̂, by importance sampling. ``width``: numbers that each draw takes in memory.
    """

    places: Places
    rows: Tensor
    batch: Batch
    streams: RowStreams
    z: Tensor
    shares: Tensor
    drawn: Tensor
    totals: Tensor
    width: int
    refined: bool = False

    def answered(self, values: Tensor, dim: int = 0) -> Tensor:
        """Return the values of the rows that are answered, of values of the whole batch."""
        return values.index_select(dim, self.rows.to(values.device))

    def mean(self, model: LatentVariableModel, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        """Return Σ_k share_k f(params_k) ``[B, …]`` of f: params ``[K, B, P, *X]`` → ``[K, B, …]``, in double
        precision."""
        total, first = torch.zeros((), dtype=torch.float64, device=self.z.device), 0
        for count in chunks(len(self.z), len(self.batch.x), self.width):
            some = slice(first, first + count)
            values = statistic(model.decode(self.z[some], self.batch.context)).double()
            shares = self.shares[some].view(*values.shape[:2], *[1] * (values.dim() - 2))
            total = total + torch.where(shares > 0, shares * values, 0).sum(0)  # 0 · ∞ is no number
            first += count
        return total

    def of(self, rows: Tensor) -> Part:
        """Return this part with only ``rows`` answered, of those that are (by place in the batch)."""
        place = {int(row): place for row, place in zip(self.rows, self.places, strict=True)}
        return replace(self, rows=rows, places=np.array([place[int(row)] for row in rows], np.int64))


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
        found[:, part.places] = part.answered(part.drawn, 1).cpu().double().numpy()
        ess[part.places] = part.answered(part.totals[2]).cpu().numpy()
        refined[part.places] = part.refined
    return PosteriorDraws(found, ess, refined)


def parts(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: Rows,
    rng: torch.Generator,
    how: Sampling,
    warn: bool = True,
    together: int = _ROWS,
    targets: Targets | None = None,
) -> Iterator[Part]:
    """Draw for all ``rows``, each row in one part. To be read without gradients.

    ``warn``: warn of rows that are left with too few effective draws. ``together``: rows of a batch, at most.
    ``targets``: log p(y, z) of rows y that are not of the model itself, but noisy, say.
    """
    nothing = np.zeros(len(rows), bool)
    if targets is None:
        rows, targets = settled(rows, model, rng), of_model(model, posterior)
        nothing = _nothing_observed(rows, model)
    streams = RowStreams.of(rows, rng, apart=how.draws > 0)
    size = _size(together, how.samples + how.draws, model)
    for places, batch, own in _batches(rows, np.flatnonzero(nothing), size, streams):
        yield _of_prior(places, batch, own, targets(batch), how)
    left = np.flatnonzero(~nothing)
    failed = _Failed()
    for number, samples in enumerate(how.tries, 1):
        last, fit, failed = number == len(how.tries), how.fit and number > 1, _Failed()
        for places, batch, own in _batches(rows, left, _size(together, samples, model), streams):
            target = targets(batch)
            refining.check(how.refine, model, target.posterior, target.prior)
            part = _weighted_part(places, batch, own, target, samples, how.draws, fit, number)
            few = too_few(part, how, first=number == 1 < len(how.tries))
            some = part.answered(few).cpu().numpy()
            if some.any():
                starts = last and how.refine is not None
                failed.add(part, some, _chosen(part, max(_CHAINS, how.draws), "starts") if starts else None)
            keep = np.ones_like(some) if last and how.refine is None else ~some
            if keep.any():
                yield part.of(part.rows[torch.from_numpy(keep)])
        left = failed.places
        if not len(left):
            return
    if how.refine is not None:
        yield from _refined(model, posterior, targets, rows, failed, how, streams)
    elif warn:
        _warn(failed.totals[2], len(rows), how.tries[-1])


def too_few(part: Part, how: Sampling, first: bool = False) -> Tensor:
    """Return for which rows of the batch ``[B]`` the weights say too little of p(z|x_observed).

    ``first``: of draws from q alone, where another try costs little.
    """
    few, shape = part.totals[2] < how.enough, part.totals[3]
    if first:
        return few | (shape > _FIRST)
    return few | (shape > float(pareto.threshold(len(part.z)))) if how.tails else few


class _Failed:
    """Rows of which a stage had too few effective draws, and where their chains start."""

    def __init__(self) -> None:
        self._places: list[Places] = []
        self._totals: list[Tensor] = []
        self._starts: list[Tensor] = []
        self.width = 1

    def add(self, part: Part, some: NDArray[np.bool_], starts: Tensor | None) -> None:
        self.width = part.width
        self._places.append(part.places[some])
        index = torch.from_numpy(np.flatnonzero(some))
        self._totals.append(part.answered(part.totals, 1)[:, index])
        if starts is not None:
            self._starts.append(part.answered(starts, 1)[:, index])

    @property
    def places(self) -> Places:
        return np.concatenate(self._places) if self._places else np.empty(0, np.int64)

    @property
    def totals(self) -> Tensor:
        return torch.cat(self._totals, 1)

    @property
    def starts(self) -> Tensor:
        return torch.cat(self._starts, 1)


def _nothing_observed(rows: Rows, model: LatentVariableModel) -> NDArray[np.bool_]:
    """Return which rows have the prior for a posterior."""
    if rows.mask is None or refining.is_informative(model):
        return np.zeros(len(rows), bool)
    found: NDArray[np.bool_] = ~rows.mask.flatten(1).any(1).cpu().numpy()
    return found


def _size(most: int, draws: int, model: LatentVariableModel) -> int:
    """Return the rows of a batch: always as many, for the last bit of a product depends on its size.

    A power of 2, as vectorised loops like it; it depends on the model and what is asked, never on the rows.
    """
    values = draws * torch.Size(model.prior.event).numel()
    size = max(1, min(most, _ROW_DRAWS // draws, _LATENT_VALUES // values))
    return 1 << (size.bit_length() - 1)


def _batches(rows: Rows, places: Places, size: int, streams: RowStreams) -> Iterator[tuple[Places, Batch, RowStreams]]:
    """The rows at ``places`` in batches of exactly ``size``, the last filled up with its first row; 0 where nothing is
    observed. Of each batch the places of its real rows, which come first, and the streams of all."""
    for start in range(0, len(places), size):
        own = places[start : start + size]
        index = np.concatenate([own, np.repeat(own[:1], size - len(own))])
        batch, _ = next(in_order(rows.subset(torch.from_numpy(index).to(rows.device)), size))
        if batch.mask is not None:
            batch = replace(batch, x=torch.where(batch.mask, batch.x, 0))
        yield own, batch, streams.take(index)


def noise_of(q: Distribution, draws: int, event: tuple[int, ...], rng: Randomness, like: Tensor) -> Tensor:
    """Return the noise of ``draws`` of z for each row of ``like [B, …]``, ``[K, B, …]``."""
    return by_row(rng, len(like), lambda own, some: q.noise((draws, len(some)), event, own, like.dtype))


def _of_prior(places: Places, batch: Batch, streams: RowStreams, target: Target, how: Sampling) -> Part:
    """With nothing observed, z ~ p(z) and log p = 0, exactly."""
    prior = target.source("prior")
    rng = streams.generators("prior")
    noise = noise_of(prior, how.samples + how.draws, target.event, rng, batch.x)
    z, drawn = prior.sample(noise).split([how.samples, how.draws])
    totals = torch.zeros(4, len(batch.x), dtype=torch.float64, device=z.device)
    totals[2], totals[3] = how.samples, -torch.inf
    return Part(places, torch.arange(len(places)), batch, streams, z, _alike(z), drawn, totals, target.width)


def _weighted_part(
    places: Places, batch: Batch, streams: RowStreams, target: Target, samples: int, draws: int, fit: bool, number: int
) -> Part:
    """Weighted draws by importance sampling, from a fitted proposal too if ``fit``, and ``draws`` of them."""
    rng = streams.generators("weights", number)
    if fit and proposals.fits(target):
        z, log_w = proposals.mixed(target, batch.x, samples, rng)
    else:
        z, log_w = _weighted(target, batch, samples, rng)
    total = WeightTotal(pareto.tail_size(len(z)) + 1)
    total.add(log_w)
    shape = torch.full_like(log_w[0], -torch.inf)
    if _continuous(target):
        shape = torch.from_numpy(pareto.pareto_k(total.largest().cpu().numpy())).to(shape)
    possible = (log_w > -torch.inf).any(0)
    shares = torch.where(possible, log_w, 0).softmax(0)  # where no draw is possible, all are alike, with an ESS of 0
    totals = torch.cat([total.result()[:3], shape.unsqueeze(0)])
    part = Part(places, torch.arange(len(places)), batch, streams, z, shares, z[:0], totals, target.width)
    return replace(part, drawn=_chosen(part, draws, "drawn")) if draws else part


def _weighted(target: Target, batch: Batch, samples: int, rng: Randomness) -> tuple[Tensor, Tensor]:
    """z ~ q(z|x_observed) ``[S, B, *E]`` and log p(x_observed, z) − log q(z) ``[S, B]``."""
    q, found, first = target.posterior, [], 0
    all_noise = noise_of(q, samples, target.event, rng, batch.x)
    for count in chunks(samples, len(batch.x), target.width):
        noise = all_noise[first : first + count]
        z = q.sample(noise)
        found.append((z, target.log_joint(z).double() - q.log_prob_of_sample(z, noise).double()))
        first += count
    largest = torch.finfo(torch.float64).max
    log_w = torch.cat([each for _, each in found])
    return torch.cat([z for z, _ in found]), torch.nan_to_num(log_w, nan=-torch.inf, posinf=largest, neginf=-torch.inf)


def _continuous(target: Target) -> bool:
    """Whether weights have a tail: those of few states are few values, to which no tail can be fitted."""
    return all(part.differentiable for part in target.posterior.families().values())


def _chosen(part: Part, draws: int, stream: str) -> Tensor:
    """Resample ``draws`` of z for each row of the batch, each in proportion to the shares, ``[M, B, *E]``."""
    z, below = part.z, part.shares.cumsum(0).T.contiguous()

    def uniform(own: torch.Generator, some: range) -> Tensor:
        return torch.rand((draws, len(some)), generator=own, dtype=below.dtype, device=below.device)

    level = by_row(part.streams.generators(stream), len(below), uniform).T.contiguous() * below[:, -1:]
    index = torch.searchsorted(below, level, right=True).clamp(max=len(z) - 1).T
    return z[index, torch.arange(z.shape[1], device=z.device)]


def _refined(
    model: LatentVariableModel,
    posterior: Posterior,
    targets: Targets,
    rows: Rows,
    failed: _Failed,
    how: Sampling,
    streams: RowStreams,
) -> Iterator[Part]:
    """Run chains for the rows that failed: draws are the chains' ends, and means are over all that they kept."""
    starts, totals, first = failed.starts, failed.totals, 0
    chains = len(starts)
    most = min(_REFINED, _CHAIN_ROWS // chains, _CHAIN_VALUES // (chains * failed.width))
    size = _size(most, refining.KEPT * chains, model)
    for places, batch, own in _batches(rows, failed.places, size, streams):
        index = torch.arange(first, first + len(places))
        index = torch.cat([index, index[:1].expand(size - len(places))])
        ends = []
        for number, start in enumerate(starts[:, index].split(_CHAIN_ROWS)):
            generators = own.generators("chains", number)
            if how.refine == "hmc":
                ends.append(refining.hmc(targets(batch), start, generators))
            else:
                ends.append(refining.gibbs(model, posterior, batch, start, generators))
        states = torch.cat(ends, 1)
        z = states.flatten(0, 1)
        here = torch.arange(len(places))
        drawn = states[-1, : how.draws]
        yield Part(places, here, batch, own, z, _alike(z), drawn, totals[:, index], failed.width, True)
        first += len(places)


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
