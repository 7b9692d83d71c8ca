"""Estimate log p(x) to a given standard error: proposal and number of draws per row are chosen in a pilot run."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.draw import Batch
from lowerbound.evidence import proposals
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import LogLikelihood, chunks, concatenated, importance_sampling, values_of
from lowerbound.evidence.parallel import each_batch
from lowerbound.evidence.targets import Target, Targets, rows_for
from lowerbound.inference import Data
from lowerbound.modes import read_only
from lowerbound.training import in_order

_PILOT = 128
_EVEN = 0.4  # k̂ of pilot weights; exceeded by one row in ten if k is 0
_BLOCK = 1000  # rows whose proposals are kept at once
_TOGETHER = 200  # rows that are fitted at once, where memory allows
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
    """Importance sampling with as many draws for each row as it needs for ``standard_error``, at most ``most``.

    K of a row is chosen on a pilot of its own, by Var(w)/(K p²), and the estimate is of fresh draws alone: what the
    pilot happened to see cannot bias it.

    With ``fit``, a row whose weights are too uneven under q (by the pilot's k̂, or for what draws would cost) gets a
    proposal of its own, a Student's t around a normal fitted to p(z|x), where q is a normal too; if most of a thousand
    rows are such, all of them do. Such a row has as many draws as its fit cost, where the budget has them. Where any
    row is fitted, the ``elbo`` of all is of the pilot from q.

    ``budget``: draws per row on average over each thousand rows, those of pilots and fits among them; the error is
    raised, and what fitted rows have at least is lowered, for all of them alike until it is kept.
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
    """Some rows: how the weights of each vary by its proposal, on a pilot; ``work``: draws so far."""

    def __init__(self, targets: Targets, rows: Rows, rng: torch.Generator) -> None:
        self.targets, self.rows, self.rng = targets, rows, rng
        pilot = importance_sampling(targets, rows, rng, _PILOT)
        self.pilot, self.variance, self.work = pilot, _relative_variance(pilot), pilot.work
        self.uneven = pilot.pareto_k > _EVEN
        self.fitted = np.zeros(len(rows), dtype=np.bool_)
        self.outputs = self.place = torch.empty(0)  # of the fitted proposals; which of them is that of a row

    def fit(self, standard_error: float, budget: float) -> None:
        """A proposal of its own for each row that q serves badly, kept where a second pilot finds no harm in it.

        Badly: the pilot's k̂ says that its variance is not to be reliable, or that variance costs more draws than a
        fit. Harm: weights far more uneven than q's, or an estimate so far below q's that part of p(z|x) was missed.
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
        """By fresh draws, as many as each row needs: rows that have as many are taken together."""
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
        """Whether these rows can have proposals of their own; then they do."""
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
        """Of the rows ``index``: all from their own proposals, or all from q."""
        targets = self._own if self.fitted[index[0]] else self.targets
        return importance_sampling(targets, self._some(index), self.rng, draws)

    def _own(self, batch: Batch) -> Target:
        return proposals.proposal(self.targets(batch), self.outputs[self.place[batch.index]])

    def _some(self, index: NDArray[np.int64]) -> Rows:
        return self.rows.subset(torch.from_numpy(index).to(self.rows.device))


def _relative_variance(pilot: LogLikelihood) -> Array:
    """Var(w)/p(x)² of each row, as far as the pilot can tell."""
    share = np.divide(_PILOT, pilot.ess, out=np.full(len(pilot.ess), math.inf), where=pilot.ess > 0)
    found: Array = np.minimum(share, _PILOT) - 1
    return found


def _at_least(needed: Array, most: int) -> NDArray[np.int64]:
    """The next of four steps an octave, for rows with as many draws are taken together."""
    steps: Array = np.ceil(4 * np.log2(np.maximum(needed, _PILOT)))
    return np.minimum(np.ceil(2 ** (steps / 4)).astype(np.int64), most)
