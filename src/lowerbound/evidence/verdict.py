"""What was measured, in which direction it can be wrong, which checks failed, and what to do next: in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerbound.evidence.baselines import Baseline
from lowerbound.evidence.calibration import Calibration
from lowerbound.evidence.collapse import Collapse
from lowerbound.evidence.decision import Answer, Decision, of_mean, of_share, together
from lowerbound.evidence.estimates import Array, error_of_mean
from lowerbound.evidence.formatting import signed, size
from lowerbound.evidence.gaps import Gaps
from lowerbound.evidence.importance import LogLikelihood
from lowerbound.evidence.sandwich import Sandwich, Steadiness
from lowerbound.likelihoods.base import Measure

TOLERANCE = 0.2  # nats per row: what two sound estimates may differ by
_MANY = 0.05  # a share of rows


@dataclass(frozen=True)
class Check:
    """Something that was examined: what it came to, the figures, and what to do where it did not pass."""

    name: str
    decision: Decision
    words: str
    advice: str = ""

    @property
    def passed(self) -> bool:
        return self.decision.answer == "passed"

    @property
    def outcome(self) -> str:
        """ "passed", "FAILED", or "cannot tell with 5 rows (needs about 40)"."""
        return "FAILED" if self.decision.answer == "failed" else str(self.decision)

    def summary(self) -> dict[str, Any]:
        """For JSON: ``passed`` is None where the rows are too few to tell."""
        unknown = self.decision.answer == "cannot tell"
        return {
            "name": self.name,
            "passed": None if unknown else self.passed,
            "outcome": self.decision.answer,
            "rows": self.decision.rows,
            "needs": self.decision.needs,
            "words": self.words,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Verdict:
    """``measured`` and ``direction`` are sentences; ``checks`` the figures behind them."""

    measured: str
    direction: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return self._of("failed")

    @property
    def undecided(self) -> tuple[Check, ...]:
        """Checks that had too few rows to tell."""
        return self._of("cannot tell")

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do next."""
        return tuple(dict.fromkeys(check.advice for check in (*self.failed, *self.undecided) if check.advice))

    def __str__(self) -> str:
        lines = [self.measured, self.direction]
        lines += [f"{check.outcome}  {check.name}: {check.words}" for check in self.checks]
        lines += [f"next: {line}" for line in self.advice]
        return "\n".join(lines)

    def _of(self, answer: Answer) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.decision.answer == answer)


def _check(name: str, decision: Decision, words: str, advice: str, more: str) -> Check:
    """``advice`` for a check that failed, ``more`` says how to give it more rows."""
    if decision.answer == "passed":
        return Check(name, decision, words)
    return Check(name, decision, words, advice if decision.answer == "failed" else f"{more}, to decide {name!r}")


def measured(found: LogLikelihood, measure: Measure, shape: tuple[int, ...]) -> str:
    """The estimate, its errors and its units."""
    bits = f" ({found.bits_per_dimension(shape):.4g} bits per dimension)" if measure == "counting" else ""
    error = found.mean_standard_error
    return (
        f"log p(x) = {signed(found.mean, error)} ± {size(error)} nats per row{bits}, over {len(found.estimate):,} rows,"
        f" {measure_words(measure)}: by importance sampling, {draws_words(found)} draws per row "
        f"{proposals_words(found)}; Monte Carlo error {size(found.mean_monte_carlo_error)}; "
        f"ELBO {signed(found.mean_elbo, found.mean_elbo_standard_error)}."
    )


def draws_words(found: LogLikelihood) -> str:
    """How many draws a row had."""
    few, many = int(found.samples.min()), int(found.samples.max())
    return f"{few:,}" if few == many else f"{few:,} to {many:,}"


def proposals_words(found: LogLikelihood) -> str:
    """What the draws were from."""
    own = int(found.fitted.sum())
    if not own:
        return "from q"
    each = "from a Student's t fitted to each"
    return each if own == len(found.fitted) else f"from q, in {own:,} rows {each}"


def measure_words(measure: Measure) -> str:
    """Beside every figure: with respect to what it is a probability or a density."""
    return {
        "counting": "a log probability (counting measure)",
        "Lebesgue": "a log density in the data's units (Lebesgue measure)",
        "mixed": "a log density in some columns and a log probability in others (mixed measure)",
    }[measure]


def direction(found: LogLikelihood) -> str:
    doubtful = int((~found.reliable).sum())
    low = "It can be too low, never too high, in expectation: importance sampling is a lower bound on log p(x)"
    if doubtful == 0:
        return f"{low}, here by about {size(_bias(found))} nats."
    return f"{low}; in {doubtful:,} of {len(found.reliable):,} rows by an amount that its standard error does not show."


def weights(found: LogLikelihood) -> Check:
    """Whether at most 5 % of rows have weights too uneven for their estimates to be reliable."""
    doubtful = ~found.reliable
    rows, few = len(doubtful), int(doubtful.sum())
    unknown, middle = int((found.pareto_k > 0.5).sum()), np.sort(found.pareto_k)[(rows - 1) // 2]
    words = (
        f"k̂ is at most {_shown(middle)} in half of the rows, {_shown(found.pareto_k.max())} in the worst; "
        f"above min(1 − 1/log₁₀K, 0.7), and so unreliable, in {few:,} of {rows:,}; "
        f"above ½, where the standard error is too small, in {unknown:,}. "
        "k̂ cannot see a mode of p(z|x) that q misses"
    )
    advice = "draw more for the rows that are unreliable (a smaller standard_error, a larger budget), or anneal them"
    return _check("importance weights", of_share(few, rows, most=_MANY), words, advice, "score more rows")


def agreement(found: LogLikelihood, index: np.ndarray, real: Steadiness) -> Check:
    """Whether annealing finds what importance sampling does, on the rows ``index`` that both were given."""
    annealed = real.twice
    difference = annealed.estimate - found.estimate[index]
    mean, error = float(difference.mean()), error_of_mean(difference)
    words = (
        f"annealing finds {signed(mean, error)} ± {size(error)} nats per row more than importance sampling on "
        f"{len(index):,} rows ({annealed.settings.temperatures:,} temperatures, {annealed.settings.chains} chains)"
    )
    advice = (
        "take the higher of the two: importance sampling misses some of log p(x)"
        if mean > 0
        else "anneal with more temperatures: it falls short of importance sampling"
    )
    return _check("two estimators", _small(difference), words, advice, "anneal more rows")


def steady(real: Steadiness) -> Check:
    """Whether a finer path changes the estimate, and whether real rows anneal like simulated ones."""
    moved, error = real.moved
    (spread, simulated), (accepted, also) = real.spread, real.acceptance
    beside = "" if math.isnan(simulated) else f" (simulated rows: {simulated:.2f} and {also:.0%})"
    words = (
        f"twice the temperatures move it by {signed(moved, error)} ± {size(error)} nats; over chains log w deviates by "
        f"{spread:.2f} and {accepted:.0%} of the moves are accepted{beside}"
    )
    decision = _small(real.twice.estimate - real.once.estimate)
    return _check("a finer path", decision, words, "anneal with more temperatures", "anneal more rows")


def validated(both: Sandwich) -> Check:
    """Whether the two bounds meet on rows drawn from the model."""
    gap, error, settings, decision = both.mean_gap, both.mean_gap_error, both.lower.settings, _small(both.gap)
    good = {"passed": "validated on simulated rows", "failed": "not validated"}.get(decision.answer, str(decision))
    words = (
        f"{good}: the two bounds are {signed(gap, error)} "
        f"± {size(error)} nats apart on {len(both.gap):,} rows drawn from the model, {settings.temperatures:,} "
        f"temperatures from the {settings.start}"
    )
    advice = "anneal with more temperatures, leapfrogs or chains"
    return _check("the sandwich", decision, words, advice, "simulate more rows")


def calibrated(found: Calibration) -> Check:
    advice = "do not trust q's intervals: take a richer posterior, or train the encoder longer"
    return _check("calibration", found.decision, found.verdict(), advice, "take more simulations")


def used(found: Collapse) -> Check:
    """Whether the latents say anything of x."""
    advice = "the latents say nothing of x: lower beta, warm the KL up, or give each latent free bits"
    return _check("use of the latents", found.decision, found.verdict(), advice, "score more rows")


def split(found: Gaps) -> Check:
    """Whether the search for the best q has converged, and if so what would tighten the bound."""
    decision = together([found.convergence(name) for name in found.local])
    words = found.words()
    if decision.answer == "passed":
        words += {
            "amortisation": " A larger encoder, or one trained longer would tighten the bound most.",
            "approximation": " A richer posterior, or more draws in the bound would tighten the bound most.",
            "neither": " The bound is tight: there is little to gain.",
            "cannot tell": " Which of the two is larger cannot be told with these rows.",
        }[found.larger]
    advice = "search longer for the best q of each row"
    return _check("the ELBO's gap", decision, words, advice, "search the best q of more rows")


def beaten(found: LogLikelihood, simple: Sequence[Baseline]) -> Check:
    """Whether the model is better than each of the simple ones, row by row, under one measure."""
    best = max(simple, key=lambda each: each.mean)
    differences = [found.estimate - each.log_prob for each in simple]
    difference = found.estimate - best.log_prob
    mean, error = float(difference.mean()), error_of_mean(difference)
    all_of_them = "; ".join(
        f"{each.name} {signed(each.mean, each.mean_standard_error)}{'' if each.bound == 'exact' else ' or more'}"
        for each in simple
    )
    words = (
        f"{signed(mean, error)} ± {size(error)} nats per row {'above' if mean > 0 else 'against'} the best of the "
        f"simple models, {best.name} ({all_of_them}; {best.measure})"
    )
    decision = together([of_mean(each, least=0, scale=TOLERANCE, comparisons=len(simple)) for each in differences])
    advice = f"{best.name} does better: nothing is gained by this model"
    return _check("simple models", decision, words, advice, "score more rows")


def _small(difference: Array) -> Decision:
    """Whether the mean of differences between two estimates of each row is within the tolerance."""
    return of_mean(difference, -TOLERANCE, TOLERANCE, scale=TOLERANCE)


def judge(
    found: LogLikelihood,
    measure: Measure,
    shape: tuple[int, ...],
    checks: Sequence[Check],
) -> Verdict:
    return Verdict(measured(found, measure, shape), direction(found), (weights(found), *checks))


def _shown(k: float) -> str:
    return f"{k:.2f}".replace("inf", "∞").replace("-", "−")


def _bias(found: LogLikelihood) -> float:
    """Var(w)/(2K p²), in the mean over rows."""
    return float(np.square(found.standard_error).mean() / 2)
