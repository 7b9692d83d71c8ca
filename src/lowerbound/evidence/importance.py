"""log p(x) by importance sampling, with the posterior as proposal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.evidence import pareto
from lowerbound.evidence.estimates import Array, Estimates, error_of_mean
from lowerbound.evidence.parallel import each_batch
from lowerbound.evidence.targets import OfModel, Source, Target, Targets, like_of, of_model, rows_for, settled
from lowerbound.inference import Data
from lowerbound.likelihoods.support import check_batch
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.training import keep_memory

_CHUNK_VALUES = 2**24  # decoder outputs that a thread holds at once: 64 MB in single precision
_CHUNK_ROWS = 2**10  # and rows through the decoder at once: what they are turned into stays in the cache
_ROWS = 100  # of a batch


@dataclass(frozen=True)
class LogLikelihood(Estimates):
    """Estimates of log p(x) in nats, one for each row.

    ``estimate [N]``: log mean_K w, a lower bound on log p(x) in expectation. ``standard_error [N]``: Monte Carlo error
    by the delta method. ``ess [N]``: effective sample size, of ``samples [N]``. ``elbo [N]``: mean_K log w of draws
    from q. ``pareto_k [N]``: the shape of the weights' tail. ``fitted [N]``: rows whose draws are from a normal of
    their own and not from q (``to_precision``). ``work``: draws in all, and what pilots and fits are worth in draws.
    ``values [N]``: how many values of each row log p(x) is of: those observed. None: all that a row has.
    """

    ess: Array
    elbo: Array
    pareto_k: Array
    samples: NDArray[np.int64]
    fitted: NDArray[np.bool_]
    work: int
    values: NDArray[np.int64] | None = None

    def bits_per_dimension(self, shape: tuple[int, ...]) -> float:
        """−log₂ p(x) of all rows, divided by the number of their observed values; ``shape``: of a row."""
        return bits_per_dimension(self.mean, shape if self.values is None else float(self.values.mean()))

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Rows whose k̂ is at most min(1 − 1/log₁₀K, 0.7); the estimates and errors of the others are unreliable.

        k̂ does not show a mode of p(z|x) that the posterior misses.
        """
        return self.pareto_k <= pareto.threshold(self.samples)

    @property
    def errors_hold(self) -> NDArray[np.bool_]:
        """Rows whose k̂ is at most ½; for the others the weights have infinite variance, and so has the estimate."""
        return self.reliable & (self.pareto_k <= 0.5)

    @property
    def mean_elbo(self) -> float:
        return float(self.elbo.mean())

    @property
    def mean_elbo_standard_error(self) -> float:
        return error_of_mean(self.elbo)


def concatenated(parts: Sequence[LogLikelihood]) -> LogLikelihood:
    """Concatenate the estimates of several sets of rows."""
    return _each(lambda arrays: np.concatenate(arrays), parts, sum(part.work for part in parts))


def subset(found: LogLikelihood, index: NDArray[np.int64]) -> LogLikelihood:
    """Select the rows ``index``; ``work`` is their number of draws."""
    return _each(lambda arrays: arrays[0][index], [found], int(found.samples[index].sum()))


def _each(make: Callable[[list[Array]], Array], parts: Sequence[LogLikelihood], work: int) -> LogLikelihood:
    """Every array made of those of ``parts``; ``values`` only where all have them."""
    names = [field.name for field in fields(LogLikelihood) if field.name != "work"]
    arrays = {name: [getattr(part, name) for part in parts] for name in names}
    made: dict[str, Any] = {
        name: make(each) for name, each in arrays.items() if not any(array is None for array in each)
    }
    return LogLikelihood(**made, work=work)


def values_of(targets: Targets, rows: Rows) -> NDArray[np.int64]:
    """Count the values per row ``[N]`` that log p(x) covers: the observed ones, or all if missingness is modelled."""
    informative = isinstance(targets, OfModel) and targets.model.likelihood.informative
    if rows.mask is None or informative:
        return np.full(len(rows), math.prod(rows.shape))
    counts: NDArray[np.int64] = rows.mask.flatten(1).sum(1).cpu().numpy()
    return counts


def log_likelihood(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Data,
    *,
    samples: int = 1000,
    seed: int = 0,
    batch_size: int = _ROWS,
) -> LogLikelihood:
    """Estimate log p(x) of each row by importance sampling: log mean_K p(x, z_k)/q(z_k|x), z_k ~ q(z|x).

    ``x``: rows ``[N, *X]``. ``samples``: K, drawn afresh for every row. Memory does not grow with K or N. A row too far
    out for the model's precision gets −∞. The estimate is low by about Var(w)/(2K p(x)²) in expectation.
    Burda et al. 2016; Kingma & Welling 2013, §3.
    """
    rng = generator(seed, "evidence", device=like_of(model).device)
    return importance_sampling(of_model(model, posterior), settled(x, model, rng), rng, samples, batch_size)


@read_only
def importance_sampling(
    targets: Targets,
    rows: Data,
    rng: torch.Generator,
    samples: int = 1000,
    batch_size: int = _ROWS,
    source: Source = "posterior",
) -> LogLikelihood:
    """``log_likelihood`` of any model: K = ``samples`` draws for each row, from its posterior or from the prior."""
    if samples < 2:
        raise ValueError(f"samples must be at least 2 to give a standard error; got {samples}.")
    rows = rows_for(targets, rows)

    def of_batch(batch: Batch, real: int, own: torch.Generator) -> tuple[Tensor, Tensor]:
        target = targets(batch)
        proposal = target.source(source)
        total = WeightTotal(pareto.tail_size(samples) + 1)
        for draws in chunks(samples, len(batch.x), target.width, 2 * _CHUNK_ROWS):
            noise = proposal.noise((draws, len(batch.x)), target.event, own, batch.x.dtype)
            total.add(target.log_weights(proposal, noise))
        return total.result()[:, :real], total.largest()[:, :real]

    keep_memory()
    results, tails = zip(*each_batch(of_batch, rows, min(batch_size, len(rows)), rng), strict=True)
    estimate, error, ess, bound = torch.cat(results, 1).cpu().numpy()
    shape = pareto.pareto_k(torch.cat(tails, 1).cpu().numpy())
    drawn, fitted = np.full(len(rows), samples), np.zeros(len(rows), np.bool_)
    work, values = samples * len(rows), values_of(targets, rows)
    return LogLikelihood(estimate, error, ess, bound, shape, drawn, fitted, work, values)


@read_only
def score_rows(
    model: LatentVariableModel, posterior: Posterior, batch: Batch, samples: int, rng: torch.Generator
) -> Tensor:
    """Return log mean_K w ``[B]`` with the *same* noise for every row, so that scores do not depend on other rows.

    Rows share their Monte Carlo error: their mean is no more exact than one of them. For a mean, ``log_likelihood``.
    """
    check_batch(model.likelihood, batch)
    return same_noise(of_model(model, posterior)(batch), batch, samples, rng)[0]


def same_noise(target: Target, batch: Batch, samples: int, rng: torch.Generator) -> Tensor:
    """What ``WeightTotal`` gives ``[4, B]`` of draws from q with the same noise for every row."""
    total = WeightTotal()
    for draws in chunks(samples, len(batch.x), target.width):
        noise = target.posterior.noise((draws, 1), target.event, rng, batch.x.dtype)
        total.add(target.log_weights(target.posterior, noise))
    return total.result()


class WeightTotal:
    """Sums over importance weights, taken in chunks of draws, in double precision, on the scale of the largest.

    ``tail``: how many of the largest are kept of each row.
    """

    def __init__(self, tail: int = 0) -> None:
        self.draws, self.tail = 0, tail
        self.seen: list[Tensor] = []
        self.scale: Tensor | None = None

    def add(self, log_w: Tensor) -> None:
        """Add ``log_w [K, B]``."""
        log_w = log_w.double()
        largest = log_w.amax(0).clamp(min=torch.finfo(torch.float64).min)  # −∞ − (−∞) is no number
        if self.scale is None:
            self.scale = largest
            self.sum = self.sum_squares = self.sum_logs = torch.zeros_like(largest)
        else:
            largest = torch.maximum(self.scale, largest)
            shrink = (self.scale - largest).exp()
            self.sum, self.sum_squares, self.scale = self.sum * shrink, self.sum_squares * shrink**2, largest
        weights = (log_w - self.scale).exp()
        self.sum = self.sum + weights.sum(0)
        self.sum_squares = self.sum_squares + weights.square().sum(0)
        self.sum_logs = self.sum_logs + log_w.sum(0)
        self.draws += len(log_w)
        if self.tail:
            self.seen.append(log_w)
            if sum(map(len, self.seen)) > 4 * self.tail:
                self.seen = [self.largest()]

    def largest(self) -> Tensor:
        """The logarithms of the largest weights, ``[tail, B]``."""
        seen = torch.cat(self.seen)
        return seen if len(seen) <= self.tail else seen.topk(self.tail, 0, sorted=False).values

    def result(self) -> Tensor:
        """log mean w, its standard error, the effective sample size, mean log w: ``[4, B]``."""
        assert self.scale is not None
        ess = torch.where(self.sum > 0, self.sum.square() / self.sum_squares, 0)
        relative_variance = (self.draws / ess - 1).clamp(min=0) / max(1, self.draws - 1)
        estimate = self.scale + self.sum.log() - math.log(self.draws)
        return torch.stack([estimate, relative_variance.sqrt(), ess, self.sum_logs / self.draws])


def chunks(draws: int, rows: int, values_per_row: int, together: int | None = None) -> Iterator[int]:
    """Split ``draws`` of each of ``rows`` so that a chunk stays small in memory (but has at least one draw).

    ``together``: rows that go through the decoder at once, at most.
    """
    most = max(1, min(_CHUNK_ROWS if together is None else together, _CHUNK_VALUES // max(1, values_per_row)) // rows)
    while draws > 0:
        yield min(most, draws)
        draws -= most


def bits_per_dimension(nats_per_row: float, shape: tuple[int, ...] | float) -> float:
    """Return −nats/(D ln 2), the average code length per value.

    ``shape``: of a row, whose values D are; or D itself, the mean number of observed values where some are missing.
    """
    values = math.prod(shape) if isinstance(shape, tuple) else shape
    return -nats_per_row / (values * math.log(2)) if values else math.nan
