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
from lowerbound.row_source import RowSource, observed
from lowerbound.training import keep_memory

_CHUNK_VALUES = 2**24  # decoder outputs in memory at once per thread: 64 MB in single precision
_CHUNK_ROWS = 2**10  # rows through the decoder at once, so that intermediate results stay in the cache
_NARROW_ROWS, _NARROW_VALUES = 2**12, 2**18  # rows of decoders with few outputs, and their outputs, at once
_ROWS = 100  # rows per batch


@dataclass(frozen=True)
class LogLikelihood(Estimates):
    """Estimates of log p(x) per row, in nats.

    - ``estimate [N]``: log mean_K w, a lower bound on log p(x) in expectation.
    - ``standard_error [N]``: its Monte Carlo error, by the delta method.
    - ``ess [N]``: effective sample size, of ``samples [N]`` draws.
    - ``elbo [N]``: mean_K log w for draws from q.
    - ``pareto_k [N]``: the tail index of the weights.
    - ``fitted [N]``: rows whose draws are from a proposal fitted to the row, not from q (``to_precision``).
    - ``work``: the total number of draws, including pilots and the cost of fits in draws.
    - ``values [N]``: the number of observed values of each row; None: all values.
    """

    ess: Array
    elbo: Array
    pareto_k: Array
    samples: NDArray[np.int64]
    fitted: NDArray[np.bool_]
    work: int
    values: NDArray[np.int64] | None = None

    def bits_per_dimension(self, shape: tuple[int, ...]) -> float:
        """−log₂ p(x) summed over rows, divided by the number of observed values; ``shape``: that of a row."""
        return bits_per_dimension(self.mean, shape if self.values is None else float(self.values.mean()))

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Rows whose k̂ is at most min(1 − 1/log₁₀K, 0.7); the estimates and errors of the others are unreliable.

        k̂ does not show a mode of p(z|x) that the posterior misses.
        """
        return self.pareto_k <= pareto.threshold(self.samples)

    @property
    def errors_hold(self) -> NDArray[np.bool_]:
        """Rows whose k̂ is at most ½; for the others, the weights and therefore the estimate have infinite variance."""
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
    """Combine the arrays of ``parts`` by ``make``; ``values`` only if all parts have them."""
    names = [field.name for field in fields(LogLikelihood) if field.name != "work"]
    arrays = {name: [getattr(part, name) for part in parts] for name in names}
    made: dict[str, Any] = {
        name: make(each) for name, each in arrays.items() if not any(array is None for array in each)
    }
    return LogLikelihood(**made, work=work)


def values_of(targets: Targets, rows: RowSource) -> NDArray[np.int64]:
    """Count the values per row ``[N]`` that log p(x) covers: the observed ones, or all if missingness is modelled."""
    informative = isinstance(targets, OfModel) and targets.model.likelihood.informative
    if not rows.has_missing or informative:
        return np.full(len(rows), math.prod(rows.shape))
    counts: NDArray[np.int64] = observed(rows).cpu().numpy()
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

    ``x``: rows ``[N, *X]``. ``samples``: K; draws are independent for every row. Memory does not grow with K or N. The
    estimate is −∞ if p(x, z) underflows for all draws. It is too low by about Var(w)/(2K p(x)²) in expectation.
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
    """``log_likelihood`` for any ``targets``, with K = ``samples`` draws per row from the posterior or the prior."""
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

    The rows' Monte Carlo errors are therefore not independent, and their mean is no more exact than a single score. For
    a mean over rows, use ``log_likelihood``.
    """
    check_batch(model.likelihood, batch)
    return same_noise(of_model(model, posterior)(batch), batch, samples, rng)[0]


def same_noise(target: Target, batch: Batch, samples: int, rng: torch.Generator) -> Tensor:
    """The results of ``WeightTotal``, ``[4, B]``, for draws from q with the same noise for every row."""
    total = WeightTotal()
    for draws in chunks(samples, len(batch.x), target.width):
        noise = target.posterior.noise((draws, 1), target.event, rng, batch.x.dtype)
        total.add(target.log_weights(target.posterior, noise))
    return total.result()


class WeightTotal:
    """Sums over importance weights, accumulated in chunks of draws in double precision, relative to the largest weight.

    ``tail``: the number of largest weights to keep per row.
    """

    def __init__(self, tail: int = 0) -> None:
        self.draws, self.tail = 0, tail
        self.seen: list[Tensor] = []
        self.scale: Tensor | None = None

    def add(self, log_w: Tensor) -> None:
        """Add ``log_w [K, B]``."""
        log_w = log_w.double()
        largest = log_w.amax(0).clamp(min=torch.finfo(torch.float64).min)  # −∞ − (−∞) is NaN
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
    """Split ``draws`` draws per row into chunks that need little memory (but have at least one draw).

    ``together``: the most rows through the decoder at once.
    """
    most = max(1, min(_CHUNK_ROWS if together is None else together, _CHUNK_VALUES // max(1, values_per_row)) // rows)
    while draws > 0:
        yield min(most, draws)
        draws -= most


def narrow_chunks(draws: int, rows: int, values_per_row: int) -> Iterator[int]:
    """``chunks`` of more rows if each has few values: an operation on few numbers takes as long as one on more."""
    together = max(_CHUNK_ROWS, min(_NARROW_ROWS, _NARROW_VALUES // max(1, values_per_row)))
    return chunks(draws, rows, values_per_row, together)


def bits_per_dimension(nats_per_row: float, shape: tuple[int, ...] | float) -> float:
    """Return −nats/(D ln 2), the average code length per value.

    ``shape``: the shape of a row, of D values; or D itself, the mean number of observed values if some are missing.
    """
    values = math.prod(shape) if isinstance(shape, tuple) else shape
    return -nats_per_row / (values * math.log(2)) if values else math.nan
