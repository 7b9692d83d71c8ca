"""Judge a fitted model: estimates, checks and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.distributions import generator
from lowerbound.evidence import export, verdict
from lowerbound.evidence.adaptive import to_precision
from lowerbound.evidence.annealing import Annealed, Settings
from lowerbound.evidence.baselines import Baseline, baselines, kind_of
from lowerbound.evidence.calibration import Calibration, calibrate
from lowerbound.evidence.collapse import Collapse, collapse
from lowerbound.evidence.gaps import Gaps, gap_report
from lowerbound.evidence.importance import LogLikelihood, bits_per_dimension, subset
from lowerbound.evidence.sandwich import Sandwich, Steadiness, sandwich, simulator, steadiness
from lowerbound.evidence.targets import like_of, of_model, settled
from lowerbound.inference import Data
from lowerbound.likelihoods import Product
from lowerbound.likelihoods.base import Measure
from lowerbound.model import LatentVariableModel
from lowerbound.modes import in_eval_mode
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import in_order

_MOST_PAIRS = 2000


@dataclass(frozen=True)
class Evidence:
    """Estimates of log p(x) of rows, and the results of all checks.

    - ``importance``: importance sampling of all rows.
    - ``annealed``: annealing of the rows ``index``, once with the given number of temperatures and once with twice as
      many.
    - ``simulated``: the sandwich of rows simulated from the model.
    - ``gaps``: the gap report of the rows ``index``.
    - ``collapse``, ``calibration``, ``baselines``: the results of these checks.
    - ``measure`` and ``shape``: base measure of the likelihood, and shape of a row.
    """

    importance: LogLikelihood
    measure: Measure
    shape: tuple[int, ...]
    index: NDArray[np.int64]
    annealed: Steadiness | None = None
    simulated: Sandwich | None = None
    gaps: Gaps | None = None
    collapse: Collapse | None = None
    calibration: Calibration | None = None
    baselines: tuple[Baseline, ...] = ()

    @property
    def verdict(self) -> verdict.Verdict:
        checks = []
        if self.annealed is not None:
            checks += [verdict.agreement(self.importance, self.index, self.annealed), verdict.steady(self.annealed)]
        if self.simulated is not None:
            checks.append(verdict.validated(self.simulated))
        if self.gaps is not None:
            checks.append(verdict.split(self.gaps))
        if self.calibration is not None:
            checks.append(verdict.calibrated(self.calibration))
        if self.collapse is not None:
            checks.append(verdict.used(self.collapse))
        if self.baselines:
            checks.append(verdict.beaten(self.importance, self.baselines))
        return verdict.judge(self.importance, self.measure, self.shape, checks)

    def __str__(self) -> str:
        return str(self.verdict)

    @property
    def bits_per_dimension(self) -> NDArray[np.float64] | None:
        """Bits per dimension of each row; None for densities, which have no code length."""
        if self.measure != "counting":
            return None
        estimate, values = self.importance.estimate, self.importance.values
        counts = np.full(len(estimate), math.prod(self.shape)) if values is None else values
        return np.array([bits_per_dimension(nats, count) for nats, count in zip(estimate, counts, strict=True)])

    @property
    def kl(self) -> dict[str, float]:
        """The mean KL(q ‖ p) of each latent, in nats per row, by ``collapse`` or else by ``gaps``; empty without."""
        found = {} if self.gaps is None else {name: each.mean for name, each in self.gaps.kl.items()}
        return found if self.collapse is None else {n: each.value for n, each in self.collapse.kl_per_latent.items()}

    def to_arviz(self) -> Any:
        """An ``arviz.InferenceData`` (the extra ``diag``)."""
        runs: dict[str, tuple[Annealed, NDArray[np.int64]]] = {}
        if self.annealed is not None:
            runs |= {"annealed": (self.annealed.once, self.index), "annealed_finer": (self.annealed.twice, self.index)}
        if self.simulated is not None:
            rows = np.arange(len(self.simulated.gap))
            runs |= {"simulated_lower": (self.simulated.lower, rows), "simulated_upper": (self.simulated.upper, rows)}
        return export.to_arviz(self.importance, runs, self.measure, str(self.verdict))

    def summary(self) -> dict[str, Any]:
        """Means with their errors, and the verdict, as JSON."""
        found, judged = self.importance, self.verdict
        return {
            "rows": len(found.estimate),
            "log_likelihood": found.mean,
            "standard_error": found.mean_standard_error,
            "monte_carlo_error": found.mean_monte_carlo_error,
            "total": float(found.estimate.sum()),
            "elbo": found.mean_elbo,
            "elbo_standard_error": found.mean_elbo_standard_error,
            "bits_per_dimension": found.bits_per_dimension(self.shape) if self.measure == "counting" else None,
            "kl": self.kl,
            "measure": self.measure,
            "estimator": "importance sampling",
            "bound": "lower, in expectation",
            "draws": {"fewest": int(found.samples.min()), "most": int(found.samples.max()), "in_all": found.work},
            "rows_with_a_proposal_of_their_own": int(found.fitted.sum()),
            "rows_unreliable": int((~found.reliable).sum()),
            "annealed": None if self.annealed is None else _of_annealed(self.annealed),
            "sandwich": None if self.simulated is None else _of_sandwich(self.simulated),
            "baselines": [_of_baseline(each) for each in self.baselines],
            "verdict": {
                "measured": judged.measured,
                "direction": judged.direction,
                "checks": [check.summary() for check in judged.checks],
                "next": list(judged.advice),
            },
        }


@in_eval_mode
def judge_model(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Data,
    *,
    standard_error: float = 0.1,
    budget: float | None = 3000,
    anneal: int = 50,
    simulate: int = 50,
    settings: Settings | None = None,
    gaps: int = 50,
    simulations: int = 500,
    train: Data | None = None,
    seed: int = 0,
) -> Evidence:
    """Estimate log p(x) of rows ``x`` and run every check.

    - ``standard_error``, ``budget``: see ``to_precision``.
    - ``anneal``: the number of rows, chosen at random, that are also annealed (0: none).
    - ``simulate``: the number of rows simulated from the model for the sandwich. Both need real-valued latents and are
      skipped otherwise.
    - ``settings``: of annealing.
    - ``gaps``: the number of rows for which the best q is searched.
    - ``simulations``: the number of simulations for calibration.
    - ``train``: rows to which simple models are fitted; None: no comparison with simple models.
    """
    like = like_of(model)
    rng = generator(seed, "evidence", device=like.device)
    rows, targets = settled(x, model, rng), of_model(model, posterior)
    importance = to_precision(targets, rows, rng, standard_error, budget)
    chosen = np.random.default_rng(seed).permutation(len(rows))
    index = np.sort(chosen[:anneal])
    result = Evidence(importance, model.likelihood.measure, rows.shape, index)
    settings = Settings() if settings is None else settings
    if rows.context is None and len(rows) > 1:  # q(z) needs one prior for all rows
        some = rows.subset(torch.arange(min(len(rows), _MOST_PAIRS), device=rows.device))
        result = replace(result, collapse=collapse(model, posterior, some, samples=1, seed=seed))
    if simulations:
        found = calibrate(model, posterior, simulations=simulations, seed=seed, context=rows.context)
        result = replace(result, calibration=found)
    if gaps:
        first = np.sort(chosen[:gaps])
        some, known = rows.subset(torch.from_numpy(first).to(rows.device)), subset(importance, first)
        result = replace(result, gaps=gap_report(model, posterior, some, known, seed=seed))
    if train is not None:
        result = replace(result, baselines=_simple(model, settled(train, model, rng), rows, seed))
    one, _ = next(in_order(rows, 1, rng))
    if not all(part.unconstrained for part in targets(one).posterior.families().values()):
        return result
    if simulate:
        drawn = simulator(model, posterior, rows.context)
        result = replace(result, simulated=sandwich(targets, drawn, rng, simulate, settings))
    if anneal:
        some = rows.subset(torch.from_numpy(index).to(rows.device))
        lower = None if result.simulated is None else result.simulated.lower
        result = replace(result, annealed=steadiness(targets, some, rng, settings, lower))
    return result


def _simple(model: LatentVariableModel, train: RowSource, rows: RowSource, seed: int) -> tuple[Baseline, ...]:
    """Simple models with the same measure; none if columns differ in kind or are constant, or cells are missing."""
    kind, levels, _ = kind_of(model.likelihood)
    if kind is None or rows.has_missing or train.has_missing or rows.context is not None:
        return ()
    scale = np.array(1.0 if not isinstance(model.likelihood, Product) else model.likelihood.scale or 1.0)
    learnt, scored = (
        np.concatenate([batch.x[:real].double().cpu().numpy() for batch, real in in_order(each, 1000)]) * scale
        for each in (train, rows)
    )  # in their own units
    found = baselines(learnt, scored, kind, levels=max(2, levels), seed=seed)
    return tuple(each for each in found if each.measure == model.likelihood.measure)


def _of_baseline(simple: Baseline) -> dict[str, Any]:
    return {
        "name": simple.name,
        "log_likelihood": simple.mean,
        "standard_error": simple.mean_standard_error,
        "bound": simple.bound,
        "measure": simple.measure,
        "note": simple.note,
    }


def _of_annealed(real: Steadiness) -> dict[str, Any]:
    moved, error = real.moved
    return {
        "rows": len(real.twice.estimate),
        "settings": vars(real.twice.settings),
        "log_likelihood": real.twice.mean,
        "monte_carlo_error": real.twice.mean_monte_carlo_error,
        "bound": "lower, in expectation",
        "acceptance": float(real.twice.acceptance.mean()),
        "effective_temperatures": float(real.twice.effective_temperatures.mean()),
        "moved_by_twice_the_temperatures": moved,
        "moved_standard_error": error,
    }


def _of_sandwich(both: Sandwich) -> dict[str, Any]:
    return {
        "rows": len(both.gap),
        "settings": vars(both.lower.settings),
        "lower": both.lower.mean,
        "upper": both.upper.mean,
        "gap": both.mean_gap,
        "gap_standard_error": both.mean_gap_error,
        "of": "rows simulated from the model",
    }
