"""Bidirectional Monte Carlo: lower and upper bounds on log p(x) of simulated rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.draw import Batch
from lowerbound.evidence.annealing import Annealed, Settings, annealed
from lowerbound.evidence.estimates import error_of_mean
from lowerbound.evidence.targets import Target, Targets
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource

Array = NDArray[np.float64]
Simulate = Callable[[int, torch.Generator], tuple[Tensor, RowSource]]
"""A function of n and a generator that returns simulated z ``[n, *E]`` and their rows x."""


@dataclass(frozen=True)
class Sandwich:
    """Bounds for rows simulated from the model: ``lower`` ≤ log p(x) ≤ ``upper`` in expectation.

    All chains of a row of ``upper`` start from the same exact draw, so their spread shows only a part of the error. The
    ``standard_error`` of ``upper`` includes the other part, estimated (as one variance for all rows) from the
    variation of the gap over rows that the chains do not explain.
    """

    lower: Annealed
    upper: Annealed

    @property
    def gap(self) -> Array:
        """Upper minus lower bound per row, ``[N]``."""
        return self.upper.estimate - self.lower.estimate

    @property
    def mean_gap(self) -> float:
        return float(self.gap.mean())

    @property
    def mean_gap_error(self) -> float:
        """Standard error of ``mean_gap`` over rows, including Monte Carlo errors."""
        return error_of_mean(self.gap)


@dataclass(frozen=True)
class Steadiness:
    """Annealing of real rows with ``once`` and with ``twice`` as many temperatures, and of ``simulated`` rows.

    Real rows have no upper bound. What can be checked is whether the estimate is stable if the number of temperatures
    is doubled, and whether weights and acceptance rates are like those of simulated rows.
    """

    once: Annealed
    twice: Annealed
    simulated: Annealed | None = None

    @property
    def moved(self) -> tuple[float, float]:
        """Mean increase of the estimate in nats per row, and its standard error over rows."""
        change = self.twice.estimate - self.once.estimate
        return float(change.mean()), error_of_mean(change)

    @property
    def spread(self) -> tuple[float, float]:
        """Standard deviation of log w over chains: means over real and over simulated rows (NaN without them)."""
        deviations = [math.nan if a is None else _deviation(a) for a in (self.once, self.simulated)]
        return deviations[0], deviations[1]

    @property
    def acceptance(self) -> tuple[float, float]:
        """Mean acceptance rate of real and of simulated rows."""
        rates = [math.nan if a is None else float(a.acceptance.mean()) for a in (self.once, self.simulated)]
        return rates[0], rates[1]


def simulator(model: LatentVariableModel, posterior: Posterior, context: Tensor | None = None) -> Simulate:
    """A function that simulates rows from p(x, z); a conditional model gets the first rows of ``context [N, C]``."""

    @read_only
    def simulate(n: int, rng: torch.Generator) -> tuple[Tensor, RowSource]:
        given = None if context is None else context[:n]
        z = model.sample_latents(n, rng, given, posterior)
        x = model.likelihood.sample(model.decode(z.unsqueeze(0), given), rng).squeeze(0)
        return z, Rows(x, dtype=z.dtype, context=given)

    return simulate


@read_only
def sandwich(
    targets: Targets,
    simulate: Simulate,
    rng: torch.Generator,
    rows: int = 100,
    settings: Settings | None = None,
) -> Sandwich:
    """Anneal ``rows`` simulated rows forwards from draws of q or p(z), and backwards from the z that generated them.

    That z is an exact draw from p(z|x), so that E[1/w] = 1/p(x). The gap between the bounds is the sum of their errors.
    It validates the sampler's settings for simulated rows only. Grosse et al. 2015.
    """
    z, drawn = simulate(rows, rng)

    def unchecked(batch: Batch) -> Target:
        """A target without a check of the support, because rounding can move simulated rows out of it."""
        return targets(batch)

    lower, upper = annealed(unchecked, drawn, rng, settings), annealed(unchecked, drawn, rng, settings, exact=z)
    return Sandwich(lower, replace(upper, standard_error=np.hypot(upper.standard_error, _of_starts(lower, upper))))


def _of_starts(lower: Annealed, upper: Annealed) -> float:
    """The standard deviation of upper bounds due to the shared starting draws: that of gaps minus that of chains."""
    gap = upper.estimate - lower.estimate
    if len(gap) < 2 or not np.isfinite(gap).all():
        return 0.0
    explained = np.mean(np.square(lower.standard_error) + np.square(upper.standard_error))
    return math.sqrt(max(0.0, float(gap.var(ddof=1) - explained)))


def steadiness(
    targets: Targets, rows: RowSource, rng: torch.Generator, settings: Settings, simulated: Annealed | None = None
) -> Steadiness:
    """Anneal ``rows`` twice, the second time with twice the temperatures."""
    finer = replace(settings, temperatures=2 * settings.temperatures)
    once = annealed(targets, rows, rng, settings)
    return Steadiness(once, annealed(targets, rows, rng, finer), simulated)


def _deviation(a: Annealed) -> float:
    return float(a.log_weights.std(0, ddof=1).mean())
