"""The verdict: what was measured, in which direction it can be wrong, which checks failed, and what to do next."""

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

TOLERANCE = 0.2  # nats per row: tolerated difference of two estimates
_MANY = 0.05  # tolerated share of unreliable rows


@dataclass(frozen=True)
class Check:
    """Result of one check: the outcome, its figures, and advice if it did not pass."""

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
        """Return a dict for JSON; ``passed`` is None if there are too few rows to decide."""
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
    """What was ``measured`` and the ``direction`` of its error, in sentences, and the ``checks`` with their figures."""

    measured: str
    direction: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return self._of("failed")

    @property
    def undecided(self) -> tuple[Check, ...]:
        """Checks with too few rows to decide."""
        return self._of("cannot tell")

    @property
    def advice(self) -> tuple[str, ...]:
        """Recommended next steps."""
        return tuple(dict.fromkeys(check.advice for check in (*self.failed, *self.undecided) if check.advice))

    def __str__(self) -> str:
        lines = [self.measured, self.direction]
        lines += [f"{check.outcome}  {check.name}: {check.words}" for check in self.checks]
        lines += [f"next: {line}" for line in self.advice]
        return "\n".join(lines)

    def _of(self, answer: Answer) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.decision.answer == answer)


def _check(name: str, decision: Decision, words: str, advice: str, more: str) -> Check:
    """Make a check; ``advice`` is given if it failed, ``more`` (how to get more rows) if it is undecided."""
    if decision.answer == "passed":
        return Check(name, decision, words)
    return Check(name, decision, words, advice if decision.answer == "failed" else f"{more}, to decide {name!r}")


def measured(found: LogLikelihood, measure: Measure, shape: tuple[int, ...]) -> str:
    """Describe the estimate, its errors and its units."""
    bits = f" ({found.bits_per_dimension(shape):.4g} bits per dimension)" if measure == "counting" else ""
    error = found.mean_standard_error
    return (
        f"log p(x) = {signed(found.mean, error)} ± {size(error)} nats per row{bits}, over {len(found.estimate):,} rows,"
        f" {measure_words(measure)}: by importance sampling, {draws_words(found)} draws per row "
        f"{proposals_words(found)}; Monte Carlo error {size(found.mean_monte_carlo_error)}; "
        f"ELBO {signed(found.mean_elbo, found.mean_elbo_standard_error)}."
    )


def draws_words(found: LogLikelihood) -> str:
    """Describe the number of draws per row."""
    few, many = int(found.samples.min()), int(found.samples.max())
    return f"{few:,}" if few == many else f"{few:,} to {many:,}"


def proposals_words(found: LogLikelihood) -> str:
    """Describe the proposal distributions."""
    own = int(found.fitted.sum())
    if not own:
        return "from q"
    each = "from a Student's t fitted to each"
    return each if own == len(found.fitted) else f"from q, in {own:,} rows {each}"


def measure_words(measure: Measure) -> str:
    """Describe the base measure of log p."""
    return {
        "counting": "a log probability (counting measure)",
        "Lebesgue": "a log density in the data's units (Lebesgue measure)",
        "mixed": "a log density in some columns and a log probability in others (mixed measure)",
    }[measure]


def direction(found: LogLikelihood) -> str:
    doubtful = int((~found.reliable).sum())
    low = "In expectation it can only be too low: importance sampling gives a lower bound on log p(x)"
    if doubtful == 0:
        return f"{low}, here low by about {size(_bias(found))} nats."
    rows = f"{doubtful:,} of {len(found.reliable):,} rows"
    return f"{low}; in {rows}, which are unreliable, by more than the standard error shows."


def weights(found: LogLikelihood) -> Check:
    """Check that at most 5 % of rows are unreliable because of uneven weights."""
    doubtful = ~found.reliable
    rows, few = len(doubtful), int(doubtful.sum())
    unknown, middle = int((found.pareto_k > 0.5).sum()), np.sort(found.pareto_k)[(rows - 1) // 2]
    words = (
        f"k̂ has median {_shown(middle)} and maximum {_shown(found.pareto_k.max())} over rows; "
        f"above min(1 − 1/log₁₀K, 0.7), and so unreliable, in {few:,} of {rows:,}; "
        f"above ½, where the standard error is too small, in {unknown:,}. "
        "k̂ cannot see a mode of p(z|x) that q misses"
    )
    advice = "use more draws for unreliable rows (a smaller standard_error, a larger budget), or anneal them"
    return _check("importance weights", of_share(few, rows, most=_MANY), words, advice, "score more rows")


def agreement(found: LogLikelihood, index: np.ndarray, real: Steadiness) -> Check:
    """Check that annealing and importance sampling agree on the rows ``index``."""
    annealed = real.twice
    difference = annealed.estimate - found.estimate[index]
    mean, error = float(difference.mean()), error_of_mean(difference)
    words = (
        f"annealing minus importance sampling is {signed(mean, error)} ± {size(error)} nats per row on "
        f"{len(index):,} rows ({annealed.settings.temperatures:,} temperatures, {annealed.settings.chains} chains)"
    )
    advice = (
        "use the annealed estimate: importance sampling is too low"
        if mean > 0
        else "anneal with more temperatures: annealing is below importance sampling"
    )
    return _check("two estimators", _small(difference), words, advice, "anneal more rows")


def steady(real: Steadiness) -> Check:
    """Check that twice the temperatures give the same estimate, and compare real with simulated rows."""
    moved, error = real.moved
    (spread, simulated), (accepted, also) = real.spread, real.acceptance
    simulations = "" if math.isnan(simulated) else f" (simulated rows: {simulated:.2f} and {also:.0%})"
    words = (
        f"twice the temperatures change it by {signed(moved, error)} ± {size(error)} nats; log w has a deviation of "
        f"{spread:.2f} over chains and {accepted:.0%} of moves are accepted{simulations}"
    )
    decision = _small(real.twice.estimate - real.once.estimate)
    return _check("a finer path", decision, words, "anneal with more temperatures", "anneal more rows")


def validated(both: Sandwich) -> Check:
    """Check that the lower and upper bound agree on simulated rows."""
    gap, error, settings, decision = both.mean_gap, both.mean_gap_error, both.lower.settings, _small(both.gap)
    good = {"passed": "validated on simulated rows", "failed": "not validated"}.get(decision.answer, str(decision))
    words = (
        f"{good}: the two bounds are {signed(gap, error)} "
        f"± {size(error)} nats apart on {len(both.gap):,} rows simulated from the model, {settings.temperatures:,} "
        f"temperatures from the {settings.start}"
    )
    advice = "anneal with more temperatures, leapfrogs or chains"
    return _check("the sandwich", decision, words, advice, "simulate more rows")


def calibrated(found: Calibration) -> Check:
    advice = "do not trust intervals of q: use a richer posterior, or train the encoder longer"
    return _check("calibration", found.decision, found.verdict(), advice, "use more simulations")


def used(found: Collapse) -> Check:
    """Check that the latents hold information about x."""
    advice = "the latents hold no information about x: lower beta, use warm_up, or use free_bits"
    return _check("use of the latents", found.decision, found.verdict(), advice, "score more rows")


def split(found: Gaps) -> Check:
    """Check that the search for the best q has converged; if so, say what would tighten the bound."""
    decision = together([found.convergence(name) for name in found.local])
    words = found.words()
    if decision.answer == "passed":
        words += {
            "amortisation": " A larger encoder, or longer training, would tighten the bound most.",
            "approximation": " A richer posterior, or more draws in the bound, would tighten it most.",
            "neither": " The bound is tight: there is little to gain.",
            "cannot tell": " These rows cannot decide which of the two parts is larger.",
        }[found.larger]
    advice = "search longer for the best q of each row"
    return _check("the ELBO's gap", decision, words, advice, "search the best q of more rows")


def beaten(found: LogLikelihood, simple: Sequence[Baseline]) -> Check:
    """Check that the model beats each simple model on the same rows under the same measure."""
    best = max(simple, key=lambda each: each.mean)
    differences = [found.estimate - each.log_prob for each in simple]
    difference = found.estimate - best.log_prob
    mean, error = float(difference.mean()), error_of_mean(difference)
    all_of_them = "; ".join(
        f"{each.name} {signed(each.mean, each.mean_standard_error)}{'' if each.bound == 'exact' else ' or more'}"
        for each in simple
    )
    words = (
        f"{signed(mean, error)} ± {size(error)} nats per row compared with the best simple "
        f"model, {best.name} ({all_of_them}; {best.measure})"
    )
    decision = together([of_mean(each, least=0, scale=TOLERANCE, comparisons=len(simple)) for each in differences])
    advice = f"{best.name} does better than this model: use it, or improve the model"
    return _check("simple models", decision, words, advice, "score more rows")


def _small(difference: Array) -> Decision:
    """Decide whether the mean difference of two estimates per row is within the tolerance."""
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
    """Return the mean of Var(w)/(2K p²) over rows."""
    return float(np.square(found.standard_error).mean() / 2)
