"""Sample z ~ p(z|x_observed) for completions, conditional samples, anomaly scores and denoising.

Three methods are tried in turn: importance sampling from the posterior, from a proposal fitted to the row, and MCMC
chains; each is used for rows for which the one before gave too few effective draws. All batches have a fixed size and
each row has its own random numbers, so that a row's draws do not depend on other rows.
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

from lowerbound.distributions import Distribution, Randomness, by_row
from lowerbound.draw import Batch
from lowerbound.evidence import pareto, proposals
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import WeightTotal, narrow_chunks
from lowerbound.evidence.targets import Target, Targets, of_model, settled
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries import refining
from lowerbound.queries.refining import Refine
from lowerbound.queries.row_streams import RowStreams
from lowerbound.row_source import RowSource, observed
from lowerbound.training import in_order

Places = NDArray[np.int64]
ENOUGH = 50
"""Effective sample size below which importance sampling of a row counts as failed.

Measured on best values of 80 rows of PPCA with 40 % missing cells, with 500 draws from a posterior that ignores missing
cells: the error is 0.24 posterior standard deviations with thresholds of 10, 20 or 30, and 0.08 with 50.
"""
_ROWS = 64  # rows per batch
_ROW_DRAWS = 2**18  # draws × rows per batch
_LATENT_VALUES = 2**24  # latent values in memory at once
_FIRST = 0.4  # k̂ above which draws from q alone are not accepted, because q may be too narrow
_FITTED = 1000  # least number of draws of the second try
_MORE = 10  # factor by which the number of draws is increased for failed rows
_CHAINS, _CHAIN_ROWS, _REFINED = 50, 2**12, 16  # least chains per row; chains × rows at once; rows per batch
_CHAIN_VALUES = 2**22  # values of all chains in memory at once, with their gradients


@dataclass(frozen=True)
class Sampling:
    """Settings for sampling p(z|x_observed): ``samples`` weighted draws per row, of which ``draws`` are resampled.

    Rows with an effective sample size (ESS) below ``least_ess`` are sampled again: first with at least 1,000 draws,
    half of them from a proposal fitted to p(z|x_observed) (``fit``, if q is normal), then with ten times ``samples``
    and a proposal fitted with more care, then by MCMC chains (``refine``: "hmc", "gibbs" or None).

    ``least_ess`` defaults to ``draws``, but at least 50 and at most half of ``samples``. With an ESS of e, the squared
    error of a point estimate is 1/e above its minimum.

    Rows are also sampled again if k̂ (``evidence.pareto_k``) shows that their weights are unreliable, because the ESS is
    misleadingly high if q is too narrow. With ``tails=False``, k̂ is not used for the last try, because a mean over few
    draws is still useful.
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
            raise ValueError(f'refine must be "hmc", "gibbs" or None; got {self.refine!r}.')

    @property
    def enough(self) -> float:
        """The effective sample size below which a row is refined."""
        least = max(ENOUGH, self.draws) if self.least_ess is None else self.least_ess
        return min(least, self.samples / 2)

    @property
    def tries(self) -> tuple[int, ...]:
        """Numbers of draws per row to try in turn; more draws are cheaper than chains."""
        if self.least_ess == 0:
            return (self.samples,)
        most = _MORE * self.samples
        return (self.samples, *[min(max(_FITTED, self.samples), most)] * self.fit, most)


@dataclass(frozen=True)
class Part:
    """Draws from p(z|x_observed) for some rows, computed in a batch of fixed size in which only some rows count.

    - ``places [n]``: the rows that count, as positions in all rows; ``rows [n]``: their positions in the batch.
    - ``batch``: B rows, with 0 for missing values; ``streams``: their random numbers.
    - ``z [S, B, *E]`` and ``shares [S, B]``: weighted draws; shares sum to 1 over draws, in double precision.
    - ``drawn [M, B, *E]``: unweighted draws.
    - ``totals [4, B]``: log p(x_observed), its standard error, the effective sample size and k̂ of importance sampling.
    - ``width``: numbers per draw in memory.
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
        """Select the rows that count from values of the whole batch."""
        return values.index_select(dim, self.rows.to(values.device))

    def mean(self, model: LatentVariableModel, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        """Return Σ_k share_k f(params_k) ``[B, …]``, in double precision, for f: ``[K, B, P, *X]`` → ``[K, B, …]``."""
        total, first = torch.zeros((), dtype=torch.float64, device=self.z.device), 0
        for count in narrow_chunks(len(self.z), len(self.batch.x), self.width):
            some = slice(first, first + count)
            values = statistic(model.decode(self.z[some], self.batch.context)).double()
            shares = self.shares[some].view(*values.shape[:2], *[1] * (values.dim() - 2))
            total = total + torch.where(shares > 0, shares * values, 0).sum(0)  # 0 · ∞ is NaN
            first += count
        return total

    def of(self, rows: Tensor) -> Part:
        """Return this part with only ``rows`` (positions in the batch) counting."""
        place = {int(row): place for row, place in zip(self.rows, self.places, strict=True)}
        return replace(self, rows=rows, places=np.array([place[int(row)] for row in rows], np.int64))


@dataclass(frozen=True)
class PosteriorDraws:
    """``z [M, N, *E]``: M draws from p(z|x_observed) per row.

    ``ess [N]``: effective sample size of importance sampling. ``refined [N]``: rows for which it was too small, and
    whose draws are the last states of chains.
    """

    z: Array
    ess: Array
    refined: NDArray[np.bool_]


@read_only
def posterior_draws(
    model: LatentVariableModel,
    posterior: Posterior,
    rows: RowSource,
    rng: torch.Generator,
    *,
    draws: int,
    samples: int = 1000,
    refine: Refine | None = "hmc",
    least_ess: float | None = None,
    fit: bool = True,
) -> PosteriorDraws:
    """Draw z ~ p(z|x_observed), ``draws`` times per row; the other arguments are those of ``Sampling``.

    Sampling importance resampling: of z_k ~ q(z|x_observed), k = 1 … ``samples``, draws are chosen in proportion to
    p(x_observed, z_k)/q(z_k|x_observed). They are nearly independent if the ESS is large compared with ``draws``. For a
    row without observed cells they are draws from the prior, with an ESS of ``samples``. Rubin 1987; Rezende et al.
    2014; Mattei & Frellsen 2019.
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
    rows: RowSource,
    rng: torch.Generator,
    how: Sampling,
    warn: bool = True,
    together: int = _ROWS,
    targets: Targets | None = None,
) -> Iterator[Part]:
    """Draw for all ``rows``; each row is in exactly one part. Iterate without gradients.

    ``warn``: whether to warn of rows that still have too few effective draws. ``together``: the most rows per batch.
    ``targets``: a function that gives log p(y, z) for rows y that are not the model's own, such as noisy rows.
    """
    nothing = np.zeros(len(rows), bool)
    if targets is None:
        rows, targets = settled(rows, model, rng), of_model(model, posterior)
        nothing = _nothing_observed(rows, model)
    streams = RowStreams.of(rows, rng, apart=how.draws > 0)
    size = batch_size(together, how.samples + how.draws, model)
    for places, batch, own in batches(rows, np.flatnonzero(nothing), size, streams):
        yield _of_prior(places, batch, own, targets(batch), how)
    left = np.flatnonzero(~nothing)
    failed = _Failed()
    for number, samples in enumerate(how.tries, 1):
        last, fit, failed = number == len(how.tries), how.fit and number > 1, _Failed()
        most = min(together, _REFINED) if fit and last else together  # few rows are left
        for places, batch, own in batches(rows, left, batch_size(most, samples, model), streams):
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
    """Return which rows of the batch ``[B]`` have weights that are too uneven or unreliable.

    ``first``: whether the draws are from q alone; the threshold is then stricter, because another try is cheap.
    """
    few, shape = part.totals[2] < how.enough, part.totals[3]
    if first:
        return few | (shape > _FIRST)
    return few | (shape > float(pareto.threshold(len(part.z)))) if how.tails else few


class _Failed:
    """Rows for which a stage gave too few effective draws, and the starting points of their chains."""

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


def _nothing_observed(rows: RowSource, model: LatentVariableModel) -> NDArray[np.bool_]:
    """Return which rows have no observed values, so that their posterior is the prior."""
    if not rows.has_missing or refining.is_informative(model):
        return np.zeros(len(rows), bool)
    found: NDArray[np.bool_] = (observed(rows) == 0).cpu().numpy()
    return found


def batch_size(most: int, draws: int, model: LatentVariableModel) -> int:
    """Return the number of rows per batch. It is fixed, because rounding in matrix products depends on their size.

    It is a power of 2, for vectorised loops, and depends on the model and the settings, not on the rows.
    In products of eight outputs or fewer whose inputs are not a multiple of 4, MKL rounds rows differently by their
    place in memory: there answers agree to rounding, and not to the byte.
    """
    values = draws * torch.Size(model.prior.event).numel()
    size = max(1, min(most, _ROW_DRAWS // draws, _LATENT_VALUES // values))
    return 1 << (size.bit_length() - 1)


def batches(
    rows: RowSource, places: Places, size: int, streams: RowStreams
) -> Iterator[tuple[Places, Batch, RowStreams]]:
    """The rows at ``places`` in batches of exactly ``size``; the last one is padded with copies of its first row.

    Missing values are 0. With each batch, the places of its rows that are not padding (they come first), and the
    streams of all its rows.
    """
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
    """Draws for rows without observed values: z ~ p(z) and log p = 0, exactly."""
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
        z, log_w = proposals.mixed(target, batch.x, samples, rng, quick=number == 2)
    else:
        z, log_w = _weighted(target, batch, samples, rng)
    total = WeightTotal(pareto.tail_size(len(z)) + 1)
    total.add(log_w)
    shape = torch.full_like(log_w[0], -torch.inf)
    if _continuous(target):
        shape = torch.from_numpy(pareto.pareto_k(total.largest().cpu().numpy())).to(shape)
    possible = (log_w > -torch.inf).any(0)
    shares = torch.where(possible, log_w, 0).softmax(0)  # if no draw is possible, all shares are equal and the ESS is 0
    totals = torch.cat([total.result()[:3], shape.unsqueeze(0)])
    part = Part(places, torch.arange(len(places)), batch, streams, z, shares, z[:0], totals, target.width)
    return replace(part, drawn=_chosen(part, draws, "drawn")) if draws else part


def _weighted(target: Target, batch: Batch, samples: int, rng: Randomness) -> tuple[Tensor, Tensor]:
    """z ~ q(z|x_observed) ``[S, B, *E]`` and log p(x_observed, z) − log q(z) ``[S, B]``."""
    q, found, first = target.posterior, [], 0
    all_noise = noise_of(q, samples, target.event, rng, batch.x)
    for count in narrow_chunks(samples, len(batch.x), target.width):
        noise = all_noise[first : first + count]
        z = q.sample(noise)
        found.append((z, target.log_joint(z).double() - q.log_prob_of_sample(z, noise).double()))
        first += count
    largest = torch.finfo(torch.float64).max
    log_w = torch.cat([each for _, each in found])
    return torch.cat([z for z, _ in found]), torch.nan_to_num(log_w, nan=-torch.inf, posinf=largest, neginf=-torch.inf)


def _continuous(target: Target) -> bool:
    """Whether a tail can be fitted to the weights; for latents with few states they have only few different values."""
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
    rows: RowSource,
    failed: _Failed,
    how: Sampling,
    streams: RowStreams,
) -> Iterator[Part]:
    """Run chains for the rows that failed. Draws are the chains' last states; means are over all kept states."""
    starts, totals, first = failed.starts, failed.totals, 0
    chains = len(starts)
    most = min(_REFINED, _CHAIN_ROWS // chains, _CHAIN_VALUES // (chains * failed.width))
    size = batch_size(most, refining.KEPT * chains, model)
    for places, batch, own in batches(rows, failed.places, size, streams):
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
        f"{samples}; the results for these rows are inexact. Use more samples, or refine them by "
        'refine="hmc" (real latents) or refine="gibbs".',
        stacklevel=4,
    )
