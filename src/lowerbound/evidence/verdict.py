"""What was measured, in which direction it can be wrong, which checks failed, and what to do next: in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowerbound.evidence.baselines import Baseline
from lowerbound.evidence.calibration import Calibration
from lowerbound.evidence.collapse import Collapse
from lowerbound.evidence.estimates import error_of_mean
from lowerbound.evidence.gaps import Gaps
from lowerbound.evidence.importance import LogLikelihood
from lowerbound.evidence.sandwich import Sandwich, Steadiness
from lowerbound.evidence.words import signed, size
from lowerbound.likelihoods.base import Measure

TOLERANCE = 0.2  # nats per row: what two sound estimates may differ by, beside twice their standard error
_MANY = 0.05  # a share of rows
_REJECTED = 0.01


@dataclass(frozen=True)
class Check:
    """Something that was looked at: whether it went well, the figures, and what to do where it did not."""

    name: str
    passed: bool
    words: str
    advice: str = ""


@dataclass(frozen=True)
class Verdict:
    """``measured`` and ``direction`` are sentences; ``checks`` the figures behind them."""

    measured: str
    direction: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do next."""
        return tuple(dict.fromkeys(check.advice for check in self.failed if check.advice))

    def __str__(self) -> str:
        lines = [self.measured, self.direction]
        lines += [f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.words}" for check in self.checks]
        lines += [f"next: {line}" for line in self.advice]
        return "\n".join(lines)


def measured(found: LogLikelihood, measure: Measure, shape: tuple[int, ...]) -> str:
    """The estimate, its errors and its units."""
    bits = f" ({found.bits_per_dimension(shape):.4g} bits per dimension)" if measure == "counting" else ""
    error = found.mean_standard_error
    return (
        f"log p(x) = {signed(found.mean, error)} ± {size(error)} nats per row{bits}, over {len(found.estimate):,} rows,"
        f" {measure_words(measure)}: by importance sampling, {draws_words(found)} draws a row "
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
    doubtful = int((~found.believed).sum())
    low = "It can be too low, never too high, in expectation: importance sampling is a lower bound on log p(x)"
    if doubtful == 0:
        return f"{low}, here by about {size(_bias(found))} nats."
    return f"{low}; in {doubtful:,} of {len(found.believed):,} rows by an amount that its standard error does not show."


def weights(found: LogLikelihood) -> Check:
    """Whether k̂ lets the rows' estimates be believed."""
    doubtful = ~found.believed
    share = float(doubtful.mean())
    unknown, middle = int((~found.errors_hold).sum()), np.sort(found.pareto_k)[(len(doubtful) - 1) // 2]
    words = (
        f"k̂ is at most {_shown(middle)} in half of the rows, {_shown(found.pareto_k.max())} in the worst; "
        f"above min(1 − 1/log₁₀K, 0.7) in {int(doubtful.sum()):,} of {len(doubtful):,}: do not believe these rows; "
        f"above ½, where the standard error is too small, in {unknown:,}. "
        "k̂ cannot see a mode of p(z|x) that q misses"
    )
    advice = "draw more for the rows that are not believed (a smaller standard_error, a larger budget), or anneal them"
    return Check("importance weights", share <= _MANY, words, advice)


def agreement(found: LogLikelihood, index: np.ndarray, real: Steadiness) -> Check:
    """Whether annealing finds what importance sampling does, on the rows ``index`` that both were given."""
    annealed = real.twice
    difference = annealed.estimate - found.estimate[index]
    mean = float(difference.mean())
    error = math.hypot(
        float(np.sqrt(np.square(found.standard_error[index]).sum())) / len(index), annealed.mean_monte_carlo_error
    )
    words = (
        f"annealing finds {signed(mean, error)} ± {size(error)} nats per row more than importance sampling on "
        f"{len(index):,} rows ({annealed.settings.temperatures:,} temperatures, {annealed.settings.chains} chains)"
    )
    advice = (
        "believe the higher of the two: importance sampling misses some of log p(x)"
        if mean > 0
        else "anneal with more temperatures: it falls short of importance sampling"
    )
    return Check("two estimators", abs(mean) <= TOLERANCE + 2 * error, words, advice)


def steady(real: Steadiness) -> Check:
    """Whether a finer path changes the estimate, and whether real rows anneal like simulated ones."""
    moved, error = real.moved
    (spread, simulated), (accepted, also) = real.spread, real.acceptance
    beside = "" if math.isnan(simulated) else f" (simulated rows: {simulated:.2f} and {also:.0%})"
    words = (
        f"twice the temperatures move it by {signed(moved, error)} ± {size(error)} nats; over chains log w deviates by "
        f"{spread:.2f} and {accepted:.0%} of the moves are accepted{beside}"
    )
    return Check("a finer path", abs(moved) <= TOLERANCE + 2 * error, words, "anneal with more temperatures")


def validated(both: Sandwich) -> Check:
    """Whether the two bounds meet on rows drawn from the model."""
    gap, error, settings = both.mean_gap, both.mean_gap_error, both.lower.settings
    good = gap <= TOLERANCE + 2 * error
    words = (
        f"{'validated on simulated rows' if good else 'not validated'}: the two bounds are {signed(gap, error)} "
        f"± {size(error)} nats apart on {len(both.gap):,} rows drawn from the model, {settings.temperatures:,} "
        f"temperatures from the {settings.start}"
    )
    return Check("the sandwich", good, words, "anneal with more temperatures, leapfrogs or chains")


def calibrated(found: Calibration) -> Check:
    advice = "do not trust q's intervals: take a richer posterior, or train the encoder longer"
    return Check("calibration", found.p_value >= _REJECTED, found.verdict(), advice)


def used(found: Collapse) -> Check:
    """Whether the latents say anything of x."""
    information = found.mutual_information
    some = information.value > 2 * information.standard_error and (found.active is None or bool(found.active.any()))
    advice = "the latents say nothing of x: lower beta, warm the KL up, or give each latent free bits"
    return Check("use of the latents", some, found.verdict(), advice)


def split(found: Gaps) -> Check:
    """What the ELBO loses, and where."""
    amortisation, approximation = found.amortisation.mean, found.approximation().mean
    if not found.converged():
        return Check("the ELBO's gap", False, found.words(), "search longer for the best q of each row")
    larger = (
        "a larger encoder, or one trained longer"
        if amortisation > approximation
        else "a richer posterior, or more draws in the bound"
    )
    words = f"{found.words()} {larger.capitalize()} would tighten the bound most."
    return Check("the ELBO's gap", True, words)


def beaten(found: LogLikelihood, simple: Sequence[Baseline]) -> Check:
    """Whether the model is better than simple ones, row by row, under one measure."""
    best = max(simple, key=lambda each: each.mean)
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
    return Check("simple models", mean > 2 * error, words, f"{best.name} does as well: nothing is gained by this model")


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
