"""Each number in each sentence of the verdict, rebuilt from the data that the sentence is about."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import PPCA, rng
from scipy import stats

from lowerbound.cli.score_compare_report import plainly
from lowerbound.evidence import Settings, judge_model, verdict
from lowerbound.evidence.annealing import Annealed
from lowerbound.evidence.baselines import Baseline
from lowerbound.evidence.calibration import Calibration
from lowerbound.evidence.collapse import Collapse, Estimate
from lowerbound.evidence.gaps import Difference, Gaps, gap_report
from lowerbound.evidence.importance import LogLikelihood, WeightTotal
from lowerbound.evidence.judging import Evidence
from lowerbound.evidence.predictive import PredictiveCheck
from lowerbound.evidence.sandwich import Sandwich, Steadiness

N = 37
NUMBER = r"([−+-]?[\d,]+(?:\.\d+)?(?:e[+-]\d+)?)"
Array = np.ndarray


def assert_shows(text: str, pattern: str, *values: float) -> None:
    """``pattern``, in which each # is a number, is in ``text`` with these ``values``, to the digits that are shown."""
    found = re.search(re.escape(pattern).replace(r"\#", NUMBER), text)
    assert found, f"{pattern!r} is not in {text!r}"
    for shown, value in zip(found.groups(), values, strict=True):
        plain = shown.replace("−", "-").replace(",", "")
        mantissa, _, power = plain.partition("e")
        unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
        assert abs(float(plain) - value) <= 0.501 * unit, f"{shown} is shown for {value} in {text!r}"


def over_rows(values: Array) -> tuple[float, float]:
    """The mean and its standard error."""
    return sum(values) / len(values), math.sqrt(sum((values - sum(values) / len(values)) ** 2) / (len(values) - 1)) / (
        math.sqrt(len(values))
    )


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def likelihood(random: np.random.Generator, n: int = N) -> LogLikelihood:
    return LogLikelihood(
        estimate=random.normal(-80, 9, n),
        standard_error=random.uniform(0.1, 0.7, n),
        ess=random.uniform(5, 80, n),
        elbo=random.normal(-83, 10, n),
        pareto_k=random.uniform(-0.2, 0.9, n),
        samples=random.integers(128, 3000, n),
        fitted=random.random(n) < 0.3,
        work=123_456,
    )


def chains(random: np.random.Generator, upper: bool = False, n: int = N, temperatures: int = 77) -> Annealed:
    return Annealed(
        estimate=random.normal(-80, 5, n),
        standard_error=random.uniform(0.1, 0.7, n),
        log_weights=random.normal(-80, random.uniform(1, 4), (6, n)),
        acceptance=random.uniform(0.5, 0.95, n),
        effective_temperatures=random.uniform(5, 70, n),
        settings=Settings(temperatures, 6, 3, "prior"),
        upper=upper,
    )


def test_what_was_measured(random):
    found = likelihood(random)
    mean, error = over_rows(found.estimate)
    text = verdict.measured(found, "counting", (3, 4))
    assert_shows(text, "log p(x) = # ± # nats per row (# bits", mean, error, -mean / math.log(2) / 12)
    assert_shows(text, "over # rows", N)
    assert_shows(
        text, "# to # draws per row from q, in # rows", min(found.samples), max(found.samples), sum(found.fitted)
    )
    monte_carlo = math.sqrt(sum(found.standard_error**2)) / N
    assert_shows(text, "Monte Carlo error #; ELBO #.", monte_carlo, over_rows(found.elbo)[0])
    assert "bits" not in verdict.measured(found, "Lebesgue", (3, 4))


def test_the_bias_told_is_that_of_the_estimate():
    """Log-normal weights of known mean: of 20,000 rows the estimates are low by what the sentence says, within 10 %."""
    draws, deviation = 60, 0.5
    log_w = deviation * torch.randn(draws, 20_000, generator=rng(), dtype=torch.float64) - deviation**2 / 2
    total = WeightTotal()
    total.add(log_w)
    estimate, error, *_ = total.result().numpy()
    low = np.mean(np.expm1(estimate) - estimate)  # log p(x) = 0; E[mean w − 1] = 0 takes most of the noise away
    found = replace(likelihood(np.random.default_rng(0), 20_000), estimate=estimate, standard_error=error)
    text = verdict.direction(replace(found, pareto_k=np.full(20_000, 0.1)))
    told = float(re.search(r"by about (\S+) nats", text)[1])
    assert told == pytest.approx(low, rel=0.1)
    assert told == pytest.approx((math.exp(deviation**2) - 1) / (2 * draws), rel=0.1)
    three = np.where(np.arange(20_000) < 3, 0.9, 0.1)
    assert_shows(
        verdict.direction(replace(found, pareto_k=three)),
        "in # of # rows, which are unreliable, by more than",
        3,
        20_000,
    )


@pytest.mark.parametrize("draws", [10, 90, 1000, 100_000])
def test_which_weights_are_unreliable(random, draws):
    found = replace(likelihood(random), samples=np.full(N, draws))
    k, limit = sorted(found.pareto_k), min(1 - 1 / math.log10(draws), 0.7)
    text = verdict.weights(found).words
    assert_shows(text, "k̂ has median # and maximum # over rows", k[N // 2], k[-1])
    assert_shows(text, "and so unreliable, in # of #;", sum(each > limit for each in k), N)
    assert_shows(text, "above ½, where the standard error is too small, in #.", sum(each > 0.5 for each in k))


def test_what_annealing_finds_beside_importance_sampling(random):
    found, once, twice = likelihood(random), chains(random), chains(random, temperatures=154)
    index = np.sort(random.permutation(N)[:20])
    once, twice = (replace(each, estimate=each.estimate[:20]) for each in (once, twice))
    check = verdict.agreement(found, index, Steadiness(once, twice))
    more = twice.estimate - found.estimate[index]
    assert_shows(check.words, "annealing minus importance sampling is # ± # nats per row", *over_rows(more))
    assert_shows(check.words, "on # rows (# temperatures, # chains)", 20, 154, 6)
    for shift, words in ((30, "importance sampling is too low"), (-30, "annealing is below importance sampling")):
        moved = replace(twice, estimate=found.estimate[index] + shift + random.normal(size=20))
        assert words in verdict.agreement(found, index, Steadiness(once, moved)).advice


def test_what_a_finer_path_moves(random):
    once, twice, simulated = chains(random), chains(random), chains(random)
    text = verdict.steady(Steadiness(once, twice, simulated)).words
    assert_shows(text, "twice the temperatures change it by # ± # nats", *over_rows(twice.estimate - once.estimate))
    spread = [np.sqrt(((a.log_weights - a.log_weights.mean(0)) ** 2).sum(0) / 5).mean() for a in (once, simulated)]
    accepted = [100 * a.acceptance.mean() for a in (once, simulated)]
    assert_shows(text, "log w has a deviation of # over chains and #% of moves", spread[0], accepted[0])
    assert_shows(text, "(simulated rows: # and #%)", spread[1], accepted[1])
    assert "simulated" not in verdict.steady(Steadiness(once, twice)).words


def test_how_far_the_bounds_are_apart(random):
    both = Sandwich(chains(random), chains(random, upper=True))
    text = verdict.validated(both).words
    gap = both.upper.estimate - both.lower.estimate
    assert_shows(text, "two bounds are # ± # nats apart on # rows", *over_rows(gap), N)
    assert_shows(text, "# temperatures from the prior", 77)


def gaps(random: np.random.Generator, amortisation: float = 2.0, approximation: float = 5.0) -> Gaps:
    """log p = elbo + amortisation + approximation on average, each with errors of its own."""
    elbo, names = random.normal(-90, 8, N), ("DiagonalNormal", "FullNormal")
    local = {name: elbo + amortisation + random.normal(i, 0.3, N) for i, name in enumerate(names)}
    log_p = elbo + amortisation + approximation + random.normal(0, 0.3, N)
    errors = {name: random.uniform(0.05, 0.4, N) for name in ("elbo", "log_p", *names)}
    gained = {name: Difference(local[name] - elbo, random.uniform(0.05, 0.4, N)) for name in names}
    late = {name: Difference(random.normal(1e-4, 1e-3, N), random.uniform(1e-4, 1e-3, N)) for name in names}
    return Gaps(elbo, local, log_p, random.random(N) < 0.9, errors, gained, late)


def test_how_the_gap_is_split(random):
    found = gaps(random)
    text, error = found.words(), found.standard_error
    assert_shows(
        text, "Over # rows log p(x) is # nats per row and the ELBO #:", N, found.log_p.mean(), found.elbo.mean()
    )

    def figures(values: Array, *errors: Array) -> tuple[float, float]:
        return sum(values) / N, math.sqrt(sum(sum(each**2) for each in errors)) / N

    total = figures(found.log_p - found.elbo, error["log_p"], error["elbo"])
    assert_shows(text, "a gap of # ± #, with", *total)
    assert_shows(text, "with a standard error of # over rows", over_rows(found.log_p - found.elbo)[1])
    gained = found.gained["DiagonalNormal"]
    assert_shows(text, "# ± # of it is amortisation", *figures(gained.estimate, gained.standard_error))
    assert_shows(text, "fitted to each row separately reaches #.", found.local["DiagonalNormal"].mean())
    for name, words in (
        ("DiagonalNormal", "# ± # of it is approx"),
        ("FullNormal", "best FullNormal found leaves # ± #"),
    ):
        left = figures(found.log_p - found.local[name], error["log_p"], error[name])
        assert_shows(text, words, *left)
    for name, late in found.late.items():
        assert_shows(text, f"# ± # ({name})", *figures(late.estimate, late.standard_error))
    assert_shows(text, "In # of # rows the estimate of log p(x) is unreliable", sum(~found.reliable), N)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((5.0, 2.0), "A larger encoder"),
        ((2.0, 5.0), "A richer posterior"),
        ((3.0, 3.0), "cannot decide"),
        ((0.02, 0.03), "The bound is tight"),
        ((3.0, -2.0), "log p(x) cannot be below the bound of DiagonalNormal"),
    ],
)
def test_what_would_tighten_the_bound_most(random, parts, words):
    found = gaps(random, *parts)
    noise = random.normal(0, 0.01, N)
    noise -= noise.mean()
    elbo = found.elbo
    local = {"DiagonalNormal": elbo + parts[0] + noise}
    log_p = local["DiagonalNormal"] + parts[1] + noise
    gained = {"DiagonalNormal": Difference(local["DiagonalNormal"] - elbo, noise * 0)}
    late = {"DiagonalNormal": found.late["DiagonalNormal"]}
    exact = replace(found, local=local, log_p=log_p, gained=gained, late=late)
    assert words in verdict.split(exact).words
    others = {"A larger encoder", "A richer posterior", "cannot decide", "The bound is tight"} - {words}
    assert sum(each in verdict.split(exact).words for each in others) <= (words not in others and parts[1] < 0)


@pytest.mark.parametrize("slow", ["DiagonalNormal", "FullNormal"])
def test_the_search_of_each_family_has_to_converge(random, slow):
    found = gaps(random)
    late = {**found.late, slow: Difference(np.full(N, 0.1), np.zeros(N))}
    check = verdict.split(replace(found, late=late))
    assert check.decision.answer == "failed"
    assert f"It has not converged for {slow}: use more steps." in check.words
    assert check.advice == "search longer for the best q of each row"


@pytest.mark.parametrize(
    ("information", "upper", "kl", "answer"),
    [
        (0.0, 0.5, 0.01, "failed"),  # the KL holds the information
        (0.0, 0.01, 0.5, "failed"),  # so does the upper bound
        (0.0, 0.5, 0.5, "cannot tell"),
        (0.5, 0.7, 0.9, "passed"),
    ],
)
def test_latents_are_unused_only_where_an_upper_bound_says_so(information, upper, kl, answer):
    low, high, mean = (Estimate(value, 1e-4) for value in (information, upper, kl))
    found = Collapse(mean, low, mean, high, 400, None, np.array([False]))
    assert verdict.used(found).decision.answer == answer


def test_log_p_keeps_its_error_in_a_gap_report():
    random = np.random.default_rng(1)
    x = random.normal(size=(60, 2)) @ random.normal(size=(2, 5)) + random.normal(size=(60, 5))
    oracle, rows = PPCA.of(x, 2), torch.tensor(x[:10])
    known = replace(likelihood(random, 10), estimate=oracle.log_prob(rows).numpy())
    found = gap_report(oracle.model(), oracle.posterior(1.3), rows, known, steps=20, richer=())
    np.testing.assert_array_equal(found.standard_error["log_p"], known.standard_error)
    np.testing.assert_array_equal(found.log_p, known.estimate)
    np.testing.assert_array_equal(found.reliable, known.reliable)
    due = np.hypot(known.standard_error, found.standard_error["elbo"])
    np.testing.assert_allclose(found.total.standard_error, due)
    assert (found.total.standard_error > known.standard_error).all()


def test_calibration_by_counting(random):
    names = ("z[0]", "z[1]", "log p(x, z)")
    shares = random.beta([1.0, 0.6, 1.0], [1.0, 0.7, 1.2], (400, 3))
    found = Calibration(np.floor(100 * shares).astype(np.int64), names, 99)
    p = []
    for column in found.ranks.T:
        counts = [sum((column >= low) & (column < low + 5)) for low in range(0, 100, 5)]
        p.append(stats.chisquare(counts).pvalue)
    text = found.verdict()
    assert_shows(text, "p = # over # statistics and # simulations", min(1, 3 * min(p)), 3, 400)
    assert f"smallest for {names[int(np.argmin(p))]}," in text
    covered = [sum((column >= 5) & (column < 95)) / 400 for column in found.ranks.T[:2]]
    far = int(np.argmax(np.abs(np.array(covered) - 0.9)))
    centred = (400 * covered[far] + 2) / 404
    error = 100 * math.sqrt(centred * (1 - centred) / 404)
    assert_shows(text, f"intervals, of {names[far]}, contain the truth in # ± # %", 100 * covered[far], error)
    u = (found.ranks + 0.5) / 100
    each = [u[:, j] - 0.5 for j in range(3)] + [np.abs(2 * u[:, j] - 1) - 0.5 for j in range(3)]
    worst = max(each, key=lambda values: abs(values.mean()))
    assert_shows(text, "deviates by # ± # at most (tolerated: #)", abs(worst.mean()), over_rows(worst)[1], 0.1)


def test_use_of_the_latents(random):
    rows = {
        name: random.normal(mean, 0.4, N) for name, mean in (("kl", 3.0), ("mi", 2.0), ("marginal", 1.0), ("up", 2.5))
    }
    of = {name: Estimate.of(values) for name, values in rows.items()}
    found = Collapse(of["kl"], of["mi"], of["marginal"], of["up"], N, None, np.array([True, False, True]))
    text = verdict.used(found).words
    assert_shows(text, "the latents hold # ± # nats of information", *over_rows(rows["mi"]))
    assert_shows(text, "KL(q(z) ‖ p(z)) is # ± # nats", *over_rows(rows["marginal"]))
    assert_shows(text, "the mean KL is # ± #.", *over_rows(rows["kl"]))
    assert_shows(text, "# rows can show at most log N = # nats; the estimate is near this limit", N, math.log(N))
    assert_shows(text, "may be up to # nats", rows["up"].mean())
    assert_shows(text, "# of # latents are active", 2, 3)


def baseline(name: str, values: Array, bound: str = "exact") -> Baseline:
    return Baseline(name, values, bound, "counting", "")


def test_the_best_of_the_simple_models_is_the_best(random):
    """In any order; and where one row's figures would say another."""
    found = likelihood(random)
    simple = [
        baseline(name, found.estimate - d + random.normal(0, 0.1, N)) for name, d in (("a", 9), ("b", 4), ("c", 7))
    ]
    simple.append(baseline("few", found.estimate - 6 + np.where(np.arange(N) == 0, 30, 0), "lower bound"))
    for order in (simple, simple[::-1], [simple[1], simple[0], *simple[2:]]):
        check = verdict.beaten(found, order)
        difference = found.estimate - simple[1].log_prob
        assert_shows(check.words, "# ± # nats per row compared with the best simple model, b (", *over_rows(difference))
        for each in simple:
            assert_shows(check.words, f"{each.name} #", each.log_prob.mean())
        assert re.search(r"few \S+ or more[;)]", check.words.replace("; counting", ""))
        assert check.words.count("or more") == 1
        assert check.passed
    worse = baseline("d", found.estimate + 2 + random.normal(0, 0.1, N))
    check = verdict.beaten(found, [*simple, worse])
    assert check.decision.answer == "failed"
    assert_shows(
        check.words,
        "# ± # nats per row compared with the best simple model, d (",
        *over_rows(found.estimate - worse.log_prob),
    )
    assert check.advice.startswith("d does better")


@pytest.mark.parametrize(
    ("errors", "answer"), [(1.8, "cannot tell"), (2.3, "passed"), (-1.8, "cannot tell"), (-2.3, "failed")]
)
def test_a_simple_model_is_beaten_beyond_noise_only(random, errors, answer):
    """By so many standard errors, of 400 rows: Student's quantile is 1.966."""
    noise = random.normal(size=400)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    found = likelihood(random, 400)
    check = verdict.beaten(found, [baseline("a", found.estimate - noise - errors / 20)])
    assert check.decision.answer == answer


@pytest.mark.parametrize("effect", [0.19, 0.21])
def test_tolerances_are_what_they_are_said_to_be(random, effect):
    """0.2 nats per row, of 10,000 rows that vary by 0.2 nats: the limits are 0.004 away."""
    n = 10_000
    zero, rows = np.zeros(n), effect + 0.2 * random.permuted(stats.norm.ppf((np.arange(n) + 0.5) / n))
    base = replace(chains(random, n=n), estimate=zero)
    found = replace(likelihood(random, n), estimate=zero)
    for sign in (1, -1):
        moved = replace(base, estimate=sign * rows)
        checks = [
            verdict.agreement(found, np.arange(n), Steadiness(base, moved)),
            verdict.steady(Steadiness(base, moved)),
            verdict.validated(Sandwich(base, moved)),
        ]
        assert {check.decision.answer for check in checks} == {"passed" if effect < 0.2 else "failed"}


def test_the_summary_holds_the_same_figures(random):
    importance, once, twice = likelihood(random), chains(random), chains(random)
    both = Sandwich(chains(random), chains(random, upper=True))
    simple = (baseline("a", random.normal(-90, 3, N)),)
    found = Evidence(importance, "counting", (3, 4), np.arange(N), Steadiness(once, twice), both, baselines=simple)
    told = found.summary()
    mean, error = over_rows(importance.estimate)
    due = {
        "rows": N,
        "log_likelihood": mean,
        "standard_error": error,
        "monte_carlo_error": math.sqrt(sum(importance.standard_error**2)) / N,
        "total": sum(importance.estimate),
        "elbo": over_rows(importance.elbo)[0],
        "elbo_standard_error": over_rows(importance.elbo)[1],
        "bits_per_dimension": -mean / math.log(2) / 12,
        "rows_with_a_proposal_of_their_own": sum(importance.fitted),
        "rows_unreliable": sum(~importance.reliable),
    }
    assert {name: told[name] for name in due} == pytest.approx(due)
    draws = {"fewest": min(importance.samples), "most": max(importance.samples), "in_all": 123_456}
    assert told["draws"] == draws
    moved = over_rows(twice.estimate - once.estimate)
    annealed = {
        "rows": N,
        "log_likelihood": twice.estimate.mean(),
        "monte_carlo_error": math.sqrt(sum(twice.standard_error**2)) / N,
        "acceptance": twice.acceptance.mean(),
        "effective_temperatures": twice.effective_temperatures.mean(),
        "moved_by_twice_the_temperatures": moved[0],
        "moved_standard_error": moved[1],
    }
    assert {name: told["annealed"][name] for name in annealed} == pytest.approx(annealed)
    gap = over_rows(both.upper.estimate - both.lower.estimate)
    sandwich = {
        "rows": N,
        "lower": both.lower.estimate.mean(),
        "upper": both.upper.estimate.mean(),
        "gap": gap[0],
        "gap_standard_error": gap[1],
    }
    assert {name: told["sandwich"][name] for name in sandwich} == pytest.approx(sandwich)
    (one,) = told["baselines"]
    assert (one["log_likelihood"], one["standard_error"]) == pytest.approx(over_rows(simple[0].log_prob))
    for check, summary in zip(found.verdict.checks, told["verdict"]["checks"], strict=True):
        assert (summary["name"], summary["words"], summary["outcome"]) == (
            check.name,
            check.words,
            check.decision.answer,
        )


def test_each_part_of_the_evidence_is_of_the_rows_it_says():
    """Simulated rows are compared by their forward chains; the gaps' log p(x) is that of the same rows."""
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 2)) @ random.normal(size=(2, 5)) + random.normal(size=(60, 5))
    oracle, rows = PPCA.of(x, 2), torch.tensor(x)
    model, posterior = oracle.model(), oracle.posterior(1.2)
    found = judge_model(
        model, posterior, rows, settings=Settings(20, 3, 3), anneal=8, simulate=9, gaps=12, simulations=0, seed=4
    )
    assert found.annealed.simulated is found.simulated.lower
    assert found.simulated.upper.upper
    assert not found.simulated.lower.upper
    assert (len(found.index), len(found.gaps.elbo), len(found.simulated.gap)) == (8, 12, 9)
    exact = oracle.log_prob(rows).numpy()
    for annealed in (found.annealed.once, found.annealed.twice):
        np.testing.assert_allclose(annealed.estimate, exact[found.index], atol=0.6)
    assert found.annealed.twice.settings.temperatures == 2 * found.annealed.once.settings.temperatures
    places = [int(np.abs(found.importance.estimate - each).argmin()) for each in found.gaps.log_p]
    np.testing.assert_array_equal(found.importance.estimate[places], found.gaps.log_p)
    np.testing.assert_array_equal(found.importance.standard_error[places], found.gaps.standard_error["log_p"])
    np.testing.assert_array_equal(found.importance.reliable[places], found.gaps.reliable)
    gap = oracle.diagonal_gap + 2 * (1.2**2 - 1 - 2 * math.log(1.2)) / 2  # of q, the same in every row
    np.testing.assert_allclose(exact[places] - found.gaps.elbo, gap, atol=0.2)


def test_a_predictive_check_is_rebuilt(random):
    observed, replicated = np.array([1.0, 5.0]), random.normal([0.0, 0.0], [1.0, 2.0], (60, 2))
    found = PredictiveCheck(("mean", "largest"), observed, replicated, "prior")
    column = replicated[:, 1]
    p = min(1, 2 * (1 + min(sum(column >= 5.0), sum(column <= 5.0))) / 61)
    deviation = over_rows(column)[1] * math.sqrt(60)
    text = found.verdict()
    assert_shows(
        text,
        "of # statistics, largest differs most: # in the data, and # ± # in # data sets",
        2,
        5.0,
        column.mean(),
        deviation,
        60,
    )
    assert_shows(text, "p = #, # over all statistics", p, 2 * p)


class Plain:
    """What ``plainly`` needs of an estimator."""

    class model_:
        class likelihood:
            measure = "counting"

    schema_ = None
    shape_ = (3, 4)


def test_the_command_line_tells_the_same_without_a_verdict(random):
    found = likelihood(random)
    result, text = plainly(Plain, found, True)
    mean, error = over_rows(found.estimate)
    assert_shows(
        text,
        "held-out log p(x) = # ± # nats per row (# bits per dimension), # rows",
        mean,
        error,
        -mean / math.log(2) / 12,
        N,
    )
    assert_shows(text, "Monte Carlo error #", math.sqrt(sum(found.standard_error**2)) / N)
    assert_shows(text, "ELBO = # ± # nats", *over_rows(found.elbo))
    assert result["smallest_ess"] == min(found.ess)
    assert result["rows_with_ess_below_10"] == sum(found.ess < 10)
    assert result["rows_unreliable"] == sum(~found.reliable)
