"""Estimate log p(x) to a given standard error: proposal and number of draws per row are chosen in a pilot run."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.draw import Batch
from lowerbound.evidence import proposals
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import LogLikelihood, chunks, concatenated, importance_sampling, values_of
from lowerbound.evidence.parallel import each_batch
from lowerbound.evidence.targets import Target, Targets, rows_for
from lowerbound.inference import Data
from lowerbound.modes import read_only
from lowerbound.row_source import RowSource
from lowerbound.training import in_order

_PILOT = 128
_EVEN = 0.4  # k̂ of pilot weights; exceeded by one row in ten if k is 0
_BLOCK = 1000  # rows whose proposals are in memory at once
_TOGETHER = 200  # the most rows whose proposals are fitted at once
_LOWER = 0.3  # nats, beside three standard errors


@read_only
def to_precision(
    targets: Targets,
    rows: Data,
    rng: torch.Generator,
    standard_error: float = 0.05,
    budget: float | None = None,
    most: int = 2**16,
    fit: bool = True,
) -> LogLikelihood:
    """Importance sampling with the number of draws chosen per row to reach ``standard_error``, at most ``most`` draws.

    The number of draws K follows from a pilot run of each row, by the squared error Var(w)/(K p²). The estimate uses
    new draws only, so the pilot cannot bias it.

    ``fit``: whether to fit a proposal to each row whose weights under q are too uneven (by the pilot's k̂, or because
    draws from q would cost more than a fit): a Student's t around a normal fitted to p(z|x), if q is normal. If most of
    a block of a thousand rows are affected, all rows of the block are fitted. A fitted row gets at least as many draws
    as its fit cost, if the budget allows. If any row is fitted, ``elbo`` is computed from the pilot draws from q.

    ``budget``: the largest mean number of draws per row, over each block of a thousand rows, including pilots and fits.
    To stay within it, the target error is raised, and the least number of draws of fitted rows lowered, for all rows
    of the block alike.
    """
    if not standard_error > 0:
        raise ValueError(f"standard_error must be above 0, got {standard_error}.")
    if budget is not None and budget < 2 * _PILOT:
        raise ValueError(f"budget must be at least {2 * _PILOT} draws per row, for pilot and estimate; got {budget:g}.")
    rows, parts = rows_for(targets, rows), []
    for index in torch.arange(len(rows), device=rows.device).split(_BLOCK):
        block = _Block(targets, rows.subset(index), rng)
        if fit:
            block.fit(standard_error, math.inf if budget is None else budget)
        parts.append(block.estimate(standard_error, math.inf if budget is None else budget, most))
    return concatenated(parts)


class _Block:
    """A block of rows with the variance of their weights in a pilot run; ``work``: draws used so far."""

    def __init__(self, targets: Targets, rows: RowSource, rng: torch.Generator) -> None:
        self.targets, self.rows, self.rng = targets, rows, rng
        pilot = importance_sampling(targets, rows, rng, _PILOT)
        self.pilot, self.variance, self.work = pilot, _relative_variance(pilot), pilot.work
        self.uneven = pilot.pareto_k > _EVEN
        self.fitted = np.zeros(len(rows), dtype=np.bool_)
        self.outputs = self.place = torch.empty(0)  # of the fitted proposals; which of them is that of a row

    def fit(self, standard_error: float, budget: float) -> None:
        """Fit a proposal to each row for which q is poor, and keep it unless a second pilot shows that it is worse.

        q is poor if the pilot's k̂ shows that the variance of the weights is unreliable, or if that variance requires
        more draws than a fit costs. The proposal is worse if its weights are far more uneven than those of q, or if its
        estimate is so far below that of q that it must have missed a part of p(z|x).
        """
        cost = proposals.COST + _PILOT
        affordable = len(self.rows) * (budget - 2 * _PILOT) / cost
        hardest = np.argsort(-self.variance, kind="stable")[: int(min(affordable, len(self.rows)))]
        badly = self.uneven | (self.variance > 2 * cost * standard_error**2)
        badly |= badly.mean() > 0.5  # what a pilot may miss in a row it has seen in its like
        weak = np.sort(hardest[badly[hardest]])
        if not len(weak) or not self._fit(weak):
            return
        self.fitted[weak] = True
        second = self._sampled(weak, _PILOT)
        self.work += len(weak) * proposals.COST + second.work
        variance = _relative_variance(second)
        error = np.hypot(second.standard_error, self.pilot.standard_error[weak])
        lower = second.estimate < self.pilot.estimate[weak] - np.maximum(_LOWER, 3 * error)
        self.fitted[weak] = (variance < 2 * self.variance[weak]) & ~lower
        self.variance[weak] = np.where(self.fitted[weak], variance, self.variance[weak])

    def estimate(self, standard_error: float, budget: float, most: int) -> LogLikelihood:
        """Estimate from new draws, as many as each row needs; rows with the same number form a batch."""
        asked, left = standard_error**2, max(_PILOT, budget - self.work / len(self.rows))
        worth = np.where(self.fitted, proposals.COST, 0)  # a pilot can miss the tail of a row's weights
        draws = _at_least(np.maximum(self.variance / asked, worth), most)
        while draws.mean() > left:
            asked, worth = 1.2 * asked, worth / 1.2
            draws = _at_least(np.maximum(self.variance / asked, worth), most)
        found = {name: np.empty(len(self.rows)) for name in ("estimate", "standard_error", "ess", "elbo", "pareto_k")}
        for size, own in sorted({(int(size), bool(own)) for size, own in zip(draws, self.fitted, strict=True)}):
            index = np.flatnonzero((draws == size) & (self.fitted == own))
            some = self._sampled(index, size)
            for name, values in found.items():
                values[index] = getattr(some, name)
            self.work += some.work
        if self.fitted.any():
            found["elbo"] = self.pilot.elbo
        counts = values_of(self.targets, self.rows)
        return LogLikelihood(**found, samples=draws, fitted=self.fitted, work=self.work, values=counts)

    def _fit(self, weak: NDArray[np.int64]) -> bool:
        """Fit proposals to these rows; return whether that was possible."""
        one, _ = next(in_order(self._some(weak[:1]), 1))
        if not proposals.fits(target := self.targets(one)):
            return False
        rows = next(chunks(min(_TOGETHER, len(weak)), proposals.DRAWS, target.width, _TOGETHER * proposals.DRAWS))

        def of_batch(batch: Batch, real: int, own: torch.Generator) -> tuple[Tensor, Tensor]:
            return proposals.fitted(self.targets(batch), batch.x, own)[:real], batch.index[:real]

        parts = each_batch(of_batch, self._some(weak), rows, self.rng)
        self.outputs, identity = (torch.cat(each) for each in zip(*parts, strict=True))
        self.place = identity.new_zeros(int(identity.max()) + 1)
        self.place[identity] = torch.arange(len(identity), device=identity.device)
        return True

    def _sampled(self, index: NDArray[np.int64], draws: int) -> LogLikelihood:
        """Sample the rows ``index``, either all from fitted proposals or all from q."""
        targets = self._own if self.fitted[index[0]] else self.targets
        return importance_sampling(targets, self._some(index), self.rng, draws)

    def _own(self, batch: Batch) -> Target:
        return proposals.proposal(self.targets(batch), self.outputs[self.place[batch.index]])

    def _some(self, index: NDArray[np.int64]) -> RowSource:
        return self.rows.subset(torch.from_numpy(index).to(self.rows.device))


def _relative_variance(pilot: LogLikelihood) -> Array:
    """Var(w)/p(x)² of each row, as estimated by the pilot."""
    share = np.divide(_PILOT, pilot.ess, out=np.full(len(pilot.ess), math.inf), where=pilot.ess > 0)
    found: Array = np.minimum(share, _PILOT) - 1
    return found


def _at_least(needed: Array, most: int) -> NDArray[np.int64]:
    """Round up to one of four steps per octave, so that many rows have the same number of draws."""
    steps: Array = np.ceil(4 * np.log2(np.maximum(needed, _PILOT)))
    return np.minimum(np.ceil(2 ** (steps / 4)).astype(np.int64), most)
