"""log p(x), estimated: importance sampling with the posterior as proposal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.inference import Data, as_rows
from lowerbound.model import LatentVariableModel, draw
from lowerbound.posteriors import Posterior
from lowerbound.training import in_order

_CHUNK_VALUES = 2**24  # decoder outputs held at once: 64 MB in single precision
_CHUNK_ROWS = 2**12  # and rows through the decoder at once, whose hidden layers may be wider than its output


@dataclass(frozen=True)
class LogLikelihood:
    """Estimates of log p(x) in nats, one for each row.

    ``estimate [N]``: log mean_K w, a lower bound on log p(x) in expectation. ``standard_error [N]``: Monte Carlo error
    by the delta method. ``ess [N]``: effective sample size, of ``samples``. ``elbo [N]``: mean_K log w.
    """

    estimate: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    ess: NDArray[np.float64]
    elbo: NDArray[np.float64]
    samples: int

    @property
    def mean(self) -> float:
        """Mean over rows of the estimate, in nats per row."""
        return float(self.estimate.mean())

    @property
    def mean_standard_error(self) -> float:
        """Standard error of ``mean`` as an estimate for new rows: rows vary, and each is estimated."""
        return _standard_error(self.estimate)

    @property
    def mean_monte_carlo_error(self) -> float:
        """The part of it that is Monte Carlo error on these very rows (their draws are independent)."""
        return float(np.sqrt(np.square(self.standard_error).sum()) / len(self.estimate))

    @property
    def mean_elbo(self) -> float:
        return float(self.elbo.mean())

    @property
    def mean_elbo_standard_error(self) -> float:
        return _standard_error(self.elbo)


@torch.no_grad()
def log_likelihood(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Data,
    *,
    samples: int = 1000,
    seed: int = 0,
    batch_size: int = 100,
) -> LogLikelihood:
    """Estimate log p(x) of each row by importance sampling: log mean_K p(x, z_k)/q(z_k|x), z_k ~ q(z|x).

    ``x``: rows ``[N, *X]``. ``samples``: K, drawn afresh for every row. Memory does not grow with K or N. A row too far
    out for the model's precision gets −∞. The estimate is low by about Var(w)/(2K p(x)²) in expectation.
    Burda et al. 2016; Kingma & Welling 2013, §3.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to have a standard error; got {samples}.")
    rows = as_rows(x, next(model.parameters()))
    rng = generator(seed, "evidence", device=rows.device)
    per_batch = []
    for batch, real in in_order(rows, batch_size, rng):
        total = WeightTotal()
        for draws in chunks(samples, len(batch.x), batch.x[0].numel() * model.likelihood.n_parameters):
            noise = posterior.noise(draws, len(batch.x), rng, batch.x.dtype)
            total.add(draw(model, posterior, batch, noise).log_w)
        per_batch.append(total.result()[:, :real])
    estimate, error, ess, bound = torch.cat(per_batch, 1).cpu().numpy()
    return LogLikelihood(estimate, error, ess, bound, samples)


@torch.no_grad()
def score_rows(
    model: LatentVariableModel, posterior: Posterior, batch: Batch, samples: int, rng: torch.Generator
) -> Tensor:
    """log mean_K w ``[B]`` with the *same* noise for every row, so that no row's score depends on its neighbours.

    Rows share their Monte Carlo error: their mean is no more exact than one of them. For a mean, ``log_likelihood``.
    """
    total = WeightTotal()
    for draws in chunks(samples, len(batch.x), batch.x[0].numel() * model.likelihood.n_parameters):
        total.add(draw(model, posterior, batch, posterior.noise(draws, 1, rng, batch.x.dtype)).log_w)
    return total.result()[0]


class WeightTotal:
    """Sums over importance weights, taken in chunks of draws, in double precision, on the scale of the largest."""

    def __init__(self) -> None:
        self.draws = 0
        self.largest: Tensor | None = None

    def add(self, log_w: Tensor) -> None:
        """Take in ``log_w [K, B]``."""
        log_w = log_w.double()
        largest = log_w.amax(0).clamp(min=torch.finfo(torch.float64).min)  # −∞ − (−∞) is no number
        if self.largest is None:
            self.largest = largest
            self.sum = self.sum_squares = self.sum_logs = torch.zeros_like(largest)
        else:
            largest = torch.maximum(self.largest, largest)
            shrink = (self.largest - largest).exp()
            self.sum, self.sum_squares, self.largest = self.sum * shrink, self.sum_squares * shrink**2, largest
        weights = (log_w - self.largest).exp()
        self.sum = self.sum + weights.sum(0)
        self.sum_squares = self.sum_squares + weights.square().sum(0)
        self.sum_logs = self.sum_logs + log_w.sum(0)
        self.draws += len(log_w)

    def result(self) -> Tensor:
        """log mean w, its standard error, the effective sample size, mean log w: ``[4, B]``."""
        assert self.largest is not None
        ess = torch.where(self.sum > 0, self.sum.square() / self.sum_squares, 0)
        relative_variance = (self.draws / ess - 1).clamp(min=0) / max(1, self.draws - 1)
        estimate = self.largest + self.sum.log() - math.log(self.draws)
        return torch.stack([estimate, relative_variance.sqrt(), ess, self.sum_logs / self.draws])


def chunks(draws: int, rows: int, values_per_row: int) -> Iterator[int]:
    """Split ``draws`` of each of ``rows`` so that a chunk stays small in memory (but has at least one draw)."""
    most = max(1, min(_CHUNK_ROWS, _CHUNK_VALUES // max(1, values_per_row)) // rows)
    while draws > 0:
        yield min(most, draws)
        draws -= most


def bits_per_dimension(nats_per_row: float, shape: tuple[int, ...]) -> float:
    """−nats/(D ln 2): what a value costs to store, on average."""
    return -nats_per_row / (math.prod(shape) * math.log(2))


def _standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean; NaN where the spread is unknown: for a single row, or one at −∞."""
    known = len(values) > 1 and bool(np.isfinite(values).all())
    return float(values.std(ddof=1) / math.sqrt(len(values))) if known else math.nan
