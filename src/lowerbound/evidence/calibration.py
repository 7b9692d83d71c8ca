"""Simulation-based calibration: if q(z|x) = p(z|x), ranks of simulated latents among draws from q are uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.distributions import Distribution, Latents, generator
from lowerbound.evidence.decision import Decision, of_mean, together
from lowerbound.evidence.formatting import size
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.sandwich import simulator
from lowerbound.evidence.targets import Target, like_of, of_model
from lowerbound.evidence.typicality import bonferroni
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.training import in_order

Array = NDArray[np.float64]
_ROWS = 100  # rows simulated at once
_BINS, _LEAST = 20, 5  # bins of a χ² test, and the least expected count of each
_POINTS, _RUNS = 100, 10_000  # points of a band, and simulated sets of uniform ranks from which it is computed
_REJECTED = 0.01
_OFFSET = 0.1  # tolerated offset of mean ranks and of their spread, relative to the range


@dataclass(frozen=True)
class Coverage:
    """Coverage of central intervals: the ``share [n, m]`` of simulations in which they contain the true value.

    n ``levels``, m statistics. ``standard_error [n, m]`` is binomial, with two successes and two failures added, so
    that it is never 0 (Agresti & Coull 1998).
    """

    levels: tuple[float, ...]
    share: Array
    standard_error: Array


@dataclass(frozen=True)
class Bands:
    """Empirical distribution functions of the ranks, and a simultaneous band for uniform ranks.

    With probability ``level``, the function of uniform ranks is within the band at all points. ``points [k]``: relative
    ranks in (0, 1). ``lower``, ``upper [k]``: the band. ``ecdf [k, m]``: the functions of m statistics.
    """

    level: float
    points: Array
    lower: Array
    upper: Array
    ecdf: Array

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which statistics are within the band at every point, ``[m]``, each considered separately."""
        lower, upper = self.lower[:, None], self.upper[:, None]
        found: NDArray[np.bool_] = np.all((self.ecdf >= lower) & (self.ecdf <= upper), axis=0)
        return found


@dataclass(frozen=True)
class Calibration:
    """Ranks of simulated values among L = ``draws`` draws from q(z|x); uniform if q is the posterior.

    ``ranks [S, m]`` in 0 … L, for S simulations and m statistics ``names``: each dimension of z and, last, log p(x, z).
    """

    ranks: NDArray[np.int64]
    names: tuple[str, ...]
    draws: int

    @property
    def bins(self) -> NDArray[np.int64]:
        """Edges of the bins of the χ² test: the L + 1 ranks in at most 20 bins of nearly equal size.

        Each bin has an expected count of at least 5.
        """
        ranks, simulations = self.draws + 1, len(self.ranks)
        bins = min(_BINS, ranks, simulations // _LEAST)
        return np.arange(bins + 1) * ranks // bins

    @property
    def p_values(self) -> Array:
        """The p-value of each statistic, ``[m]``: Pearson's χ² test of uniform counts in ``bins``."""
        from scipy.special import chdtrc

        edges = self.bins
        due = len(self.ranks) * np.diff(edges) / (self.draws + 1)
        counts = np.stack([np.histogram(ranks, edges)[0] for ranks in self.ranks.T])
        found: Array = chdtrc(len(due) - 1, (np.square(counts - due) / due).sum(1))
        return found

    @property
    def p_value(self) -> float:
        """Of all statistics together, by Bonferroni's correction."""
        return float(bonferroni(self.p_values))

    @property
    def offsets(self) -> Array:
        """u − ½ for relative ranks u, and |2u − 1| minus its expectation for uniform u: ``[2, S, m]``.

        The mean of the first differs from 0 if q is shifted; the mean of the second is above 0 if q is too narrow.
        """
        ranks = self.draws + 1
        share = (self.ranks + 0.5) / ranks
        return np.stack([share - 0.5, np.abs(2 * share - 1) - (ranks**2 - ranks % 2) / (2 * ranks**2)])

    @property
    def decision(self) -> Decision:
        """Whether the mean ``offsets`` of all statistics are within ± 0.1 (not so for a q 3/4 as wide as p(z|x))."""
        every = np.moveaxis(self.offsets, 1, -1).reshape(-1, len(self.ranks))
        found = [
            of_mean(each, -_OFFSET, _OFFSET, scale=_OFFSET, comparisons=len(every), unit="simulations")
            for each in every
        ]
        return together(found)

    def bands(self, level: float = 0.95) -> Bands:
        """Simultaneous bands of the empirical distribution functions, at up to 99 points.

        At each point the count of lower ranks is binomial. The band contains counts whose two tails have probability γ
        or more, with γ chosen so that a share ``level`` of simulated sets of uniform ranks is within the band.
        Säilynoja et al. 2022.
        """
        _refuse_level(level)
        ranks, points = self.draws + 1, min(self.draws + 1, _POINTS)
        ends = np.arange(1, points) * ranks // points
        lower, upper = _band(len(self.ranks), ends / ranks, level)
        ecdf = np.stack([(self.ranks < end).mean(0) for end in ends])
        return Bands(level, ends / ranks, lower, upper, ecdf)

    def coverage(self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> Coverage:
        """Coverage of the central intervals of the draws, for each level and statistic.

        Rank r stands for the interval [r, r + 1)/(L + 1) and counts by its overlap with the central interval, so that
        the coverage is exact for any L.
        """
        for level in levels:
            _refuse_level(level)
        ranks, asked = self.draws + 1, np.asarray(levels, dtype=np.float64)[:, None]
        starts = np.arange(ranks) / ranks
        low, high = np.maximum(starts, (1 - asked) / 2), np.minimum(starts + 1 / ranks, (1 + asked) / 2)
        held = np.clip(high - low, 0, None) * ranks
        share = held[:, self.ranks].mean(1)
        total = len(self.ranks) + 4
        centred = (share * len(self.ranks) + 2) / total
        return Coverage(tuple(levels), share, np.sqrt(centred * (1 - centred) / total))

    def verdict(self) -> str:
        """Describe the result in a sentence."""
        answer, worst, interval = self.decision.answer, int(self.p_values.argmin()), self.coverage([0.9])
        good = self.p_value >= _REJECTED and answer != "failed"
        share, error = interval.share[0, :-1], interval.standard_error[0, :-1]
        latent = int(np.abs(share - 0.9).argmax())
        if good:
            found, fault = "no evidence that q differs from the posterior", ""
        elif answer == "passed":
            found, fault = "q is not the posterior, but close to it", ""
        elif bonferroni(self.p_values[:-1]) >= _REJECTED:
            found, fault = (
                "q is not the posterior, although each latent alone looks calibrated: q misses information in x",
                "",
            )
        else:
            found = "q is not the posterior"
            fault = ", too wide" if share[latent] > 0.9 + 3 * error[latent] else ""
            fault = ", too narrow" if share[latent] < 0.9 - 3 * error[latent] else fault
        return (
            f"{found}: p = {self.p_value:.2g} over {len(self.names)} statistics and {len(self.ranks):,} simulations, "
            f"smallest for {self.names[worst]}, rejected below {_REJECTED:g}; the worst 90 % intervals, of "
            f"{self.names[latent]}, contain the truth in {100 * share[latent]:.1f} ± "
            f"{size(100 * error[latent])} %{fault}; the mean or spread of ranks deviates by {self._offset} "
            f"(tolerated: {_OFFSET:g})."
        )

    @property
    def _offset(self) -> str:
        """Return the largest mean offset and its standard error, as text."""
        means = np.abs(self.offsets.mean(1))
        place = np.unravel_index(means.argmax(), means.shape)
        errors: Array = self.offsets.std(1, ddof=1) / math.sqrt(len(self.ranks))
        return f"{means[place]:.3f} ± {size(float(errors[place]))} at most"


@read_only
def calibrate(
    model: LatentVariableModel,
    posterior: Posterior,
    *,
    simulations: int = 1000,
    draws: int = 99,
    seed: int = 0,
    context: Tensor | None = None,
) -> Calibration:
    """Simulate (z*, x*) from the model, and rank z* and log p(x*, z*) among those of ``draws`` draws from q(z|x*).

    Ranks of z alone are also uniform for q = p(z); log p(x, z), which depends on the data, detects this. Ties, as with
    discrete latents, are broken at random. The result concerns rows simulated from the model, not real rows.
    ``context [M, C]``: contexts for the simulations of a conditional model, used in turn. Talts et al. 2018; Modrák et
    al. 2023.
    """
    if simulations < 2 * _LEAST or draws < 1:
        raise ValueError(
            f"simulations must be at least {2 * _LEAST} and draws at least 1, got {simulations} and {draws}."
        )
    like = like_of(model)
    rng = generator(seed, "calibration", device=like.device)
    targets, found = of_model(model, posterior), []
    for first in range(0, simulations, _ROWS):
        rows = min(_ROWS, simulations - first)
        given = None if context is None else _in_turn(context, first, rows).to(like)
        z, simulated = simulator(model, posterior, given)(rows, rng)
        target = targets(next(in_order(simulated, rows))[0])
        found.append(_ranks(target, z, draws, rng))
    names = _names(target.posterior, target.event)
    return Calibration(torch.cat(found).cpu().numpy(), names, draws)


def _in_turn(context: Tensor, first: int, rows: int) -> Tensor:
    return context[torch.arange(first, first + rows, device=context.device) % len(context)]


def _ranks(target: Target, z: Tensor, draws: int, rng: torch.Generator) -> Tensor:
    """The number of draws below the true value, in each statistic, ``[B, m]``."""
    truth = _statistics(target, z.unsqueeze(0))
    slack = torch.zeros_like(truth)
    # Equal z at different positions of a batch may differ in the last digit, which must not decide a tie.
    slack[..., -1] = 32 * torch.finfo(z.dtype).eps * truth[..., -1].abs()
    below = tied = torch.zeros_like(truth[0], dtype=torch.int64)
    for some in chunks(draws, len(z), target.width):
        noise = target.posterior.noise((some, len(z)), target.event, rng, z.dtype)
        values = _statistics(target, target.posterior.sample(noise))
        same = (values - truth).abs() <= slack
        below, tied = below + ((values < truth) & ~same).sum(0), tied + same.sum(0)
    choice = torch.rand(tied.shape, generator=rng, dtype=torch.float64, device=tied.device)
    return below + (choice * (tied + 1)).long()


def _statistics(target: Target, z: Tensor) -> Tensor:
    """Each dimension of z ``[K, B, *E]``, and log p(x, z): ``[K, B, m]``."""
    return torch.cat([z.flatten(2), target.log_joint(z).unsqueeze(2)], 2).double()


def _names(q: Distribution, event: tuple[int, ...]) -> tuple[str, ...]:
    parts = q.events.items() if isinstance(q, Latents) else [("z", event)]
    latents = [f"{name}[{', '.join(map(str, place))}]" for name, own in parts for place in np.ndindex(own)]
    return (*latents, "log p(x, z)")


def _band(n: int, points: Array, level: float) -> tuple[Array, Array]:
    """The band for the share of ``n`` uniform values below each of ``points``, by simulation."""
    from scipy.special import bdtr, bdtrc

    counts = np.arange(n + 1.0)[None]
    below = bdtr(counts, n, points[:, None])
    above = np.concatenate([np.ones((len(points), 1)), bdtrc(counts[:, :-1], n, points[:, None])], 1)
    tails = np.minimum(2 * np.minimum(below, above), 1)
    cells = np.diff(points, prepend=0.0, append=1.0)
    drawn = np.random.default_rng(0).multinomial(n, cells, size=_RUNS).cumsum(1)[:, :-1]
    extreme = np.sort(tails[np.arange(len(points)), drawn].min(1))
    held = tails >= extreme[int(_RUNS * (1 - level))]
    return held.argmax(1) / n, (n - held[:, ::-1].argmax(1)) / n  # c/n, as shares of counts are rounded


def _refuse_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level:g}.")
