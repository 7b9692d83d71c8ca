"""The verdict: what it says where all is well and where something is not, and what comes with it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import PPCA, rng

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.evidence import Settings, judge_model, of_model, to_precision, verdict
from lowerbound.evidence.sandwich import Sandwich

QUICK = Settings(temperatures=30, chains=4, leapfrogs=5)


@pytest.fixture(scope="module")
def linear() -> tuple[PPCA, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    weight = random.normal(size=(2, 6))
    rows = [random.normal(size=(n, 2)) @ weight + 0.7 * random.normal(size=(n, 6)) for n in (300, 120)]
    return PPCA.of(rows[0], 2), *map(torch.tensor, rows)


def judged(oracle: PPCA, x: torch.Tensor, widen: float, train: torch.Tensor | None = None) -> lb.evidence.Evidence:
    return judge_model(
        oracle.model(), oracle.posterior(widen), x, settings=QUICK, anneal=20, simulate=30, gaps=20, simulations=300,
        train=train,
    )  # fmt: skip


def test_an_exact_posterior_passes_every_check(linear):
    oracle, train, x = linear
    found = judged(oracle, x, 1.0, train)
    truth = oracle.log_prob(x).numpy()
    np.testing.assert_allclose(found.importance.estimate, truth, atol=1e-9)
    np.testing.assert_allclose(found.annealed.twice.estimate, truth[found.index], atol=0.3)
    assert [check.name for check in found.verdict.checks] == [
        "importance weights",
        "two estimators",
        "a finer path",
        "the sandwich",
        "the ELBO's gap",
        "calibration",
        "use of the latents",
        "simple models",
    ]
    failed = {check.name for check in found.verdict.failed}
    assert failed <= {"simple models"}, "PCA is among the simple models, and as good"
    words = str(found)
    assert words.startswith(f"log p(x) = {truth.mean():.2f}".replace("-", "−"))
    assert "a log density in the data's units (Lebesgue measure)" in words
    assert "In expectation it can only be too low" in words
    assert "validated on simulated rows" in words
    assert found.bits_per_dimension is None


def test_a_posterior_that_is_too_narrow_fails_and_is_told_why(linear):
    oracle, _, x = linear
    found = judged(oracle, x, 0.4)
    failed = {check.name for check in found.verdict.failed}
    assert "calibration" in failed
    assert "importance weights" not in failed, "its rows have proposals of their own"
    np.testing.assert_allclose(found.importance.estimate, oracle.log_prob(x).numpy(), atol=0.5)
    assert "too narrow" in str(found)
    assert any("do not trust intervals of q" in line for line in found.verdict.advice)
    assert "FAILED  calibration" in str(found)


def test_weights_that_are_too_uneven_fail_and_say_in_which_direction(linear):
    """The same posterior, where no row has a proposal of its own."""
    oracle, _, x = linear
    rows = Rows(x, dtype=torch.float64)
    found = to_precision(of_model(oracle.model(), oracle.posterior(0.4)), rows, rng(), 0.1, 2000, fit=False)
    check = verdict.weights(found)
    assert not check.passed
    assert "and so unreliable, in" in check.words
    assert "use more draws for unreliable rows" in check.advice
    assert "by more than the standard error shows" in verdict.direction(found)


def test_each_check_fails_where_it_should(linear):
    oracle, _, x = linear
    found = judged(oracle, x, 1.0)
    lower = replace(found.importance, estimate=found.importance.estimate - 1)
    check = verdict.agreement(lower, found.index, found.annealed)
    assert not check.passed
    assert "use the annealed estimate" in check.advice
    higher = replace(found.importance, estimate=found.importance.estimate + 1)
    assert "annealing is below importance sampling" in verdict.agreement(higher, found.index, found.annealed).advice
    moved = replace(found.annealed, twice=replace(found.annealed.twice, estimate=found.annealed.twice.estimate + 2))
    assert not verdict.steady(moved).passed
    upper = replace(found.simulated.upper, estimate=found.simulated.upper.estimate + 2)
    apart = verdict.validated(Sandwich(found.simulated.lower, upper))
    assert not apart.passed
    assert "not validated" in apart.words
    assert verdict.used(found.collapse).passed
    prior = judge_model(oracle.model(), collapsed(), x, anneal=0, simulate=0, gaps=0, simulations=0)
    assert not verdict.used(prior.collapse).passed


def collapsed() -> lb.posteriors.DiagonalNormal:
    """q(z|x) = p(z)."""
    network = lb.nn.MLP((6,), (4,), hidden=())
    torch.nn.init.zeros_(network.layers[0].weight)
    torch.nn.init.zeros_(network.layers[0].bias)
    return lb.posteriors.DiagonalNormal(2, network).double()


def test_the_summary_is_json_and_holds_what_was_found(linear):
    oracle, train, x = linear
    found = judged(oracle, x, 1.2, train)
    summary = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert summary["log_likelihood"] == pytest.approx(float(oracle.log_prob(x).mean()), abs=0.05)
    assert summary["total"] == pytest.approx(summary["log_likelihood"] * 120)
    assert summary["bound"] == "lower, in expectation"
    assert summary["annealed"]["settings"]["temperatures"] == 60
    assert summary["sandwich"]["upper"] - summary["sandwich"]["lower"] == pytest.approx(summary["sandwich"]["gap"])
    assert any("PCA" in each["name"] for each in summary["baselines"])
    assert summary["verdict"]["checks"][0]["name"] == "importance weights"


def test_it_is_written_for_arviz(linear):
    pytest.importorskip("arviz")
    oracle, _, x = linear
    found = judged(oracle, x, 1.2)
    data = found.to_arviz()
    np.testing.assert_array_equal(data.importance.estimate.values, found.importance.estimate)
    np.testing.assert_array_equal(data.annealed.row.values, found.index)
    assert data.simulated_upper.log_weight.shape == (4, 30)
    assert data.simulated_upper.attrs["bound"] == "upper"
    assert data.attrs["verdict"] == str(found.verdict)


def test_finite_latents_are_judged_without_annealing():
    x = (np.random.default_rng(0).random((60, 5)) < 0.4).astype(np.float32)
    vae = lb.VAE(2, posterior="Bernoulli", draws=2, hidden=(4,), epochs=2, random_state=0).fit(x)
    found = vae.evidence(x, gaps=5, simulations=100)
    assert found.annealed is None
    assert found.simulated is None
    assert np.isfinite(found.bits_per_dimension).all()
    assert "a log probability (counting measure)" in str(found)


def test_missing_cells_and_conditions_are_judged():
    random = np.random.default_rng(0)
    x, mask = random.normal(size=(40, 6)), random.random((40, 6)) < 0.7
    oracle = PPCA.of(x, 2)
    rows = Rows(torch.tensor(x), torch.tensor(mask), dtype=torch.float64)
    found = judge_model(
        oracle.model(), oracle.posterior(1.5), rows, settings=QUICK, anneal=10, simulate=10, gaps=5, simulations=100
    )
    covariance = (oracle.weight @ oracle.weight.T + oracle.variance * torch.eye(6)).numpy()
    for row in range(40):
        seen = mask[row]
        normal = torch.distributions.MultivariateNormal(oracle.mean[seen], torch.tensor(covariance[np.ix_(seen, seen)]))
        truth = float(normal.log_prob(torch.tensor(x[row, seen])))
        assert found.importance.estimate[row] == pytest.approx(
            truth, abs=6 * found.importance.standard_error[row] + 1e-6
        )
    conditional = lb.VAE(2, hidden=(8,), epochs=3, random_state=0, validation=0).fit(x, context=x[:, :2])
    judgement = conditional.evidence(
        x, context=x[:, :2], settings=QUICK, anneal=5, simulate=10, gaps=5, simulations=100
    )
    assert math.isfinite(judgement.importance.mean)
    assert judgement.simulated is not None


def test_models_are_compared_on_the_same_rows():
    x = (np.random.default_rng(0).random((300, 6)) < [0.1, 0.9, 0.2, 0.8, 0.5, 0.5]).astype(np.float32)
    x[:, 5] = x[:, 4]
    fits = {
        "short": lb.VAE(2, hidden=(8,), epochs=1, random_state=0).fit(x[:200]),
        "long": [
            lb.VAE(2, hidden=(8,), epochs=200, learning_rate=2e-2, random_state=seed).fit(x[:200]) for seed in (0, 1)
        ],
    }
    found = lb.compare(fits, x[200:], samples=200)
    (difference,) = found.differences
    assert difference.fits == (1, 2)
    assert difference.mean < -3 * difference.row_error
    assert "counting" in str(found)


def test_fits_that_are_compared_have_draws_of_their_own():
    """The same model five times: were draws shared, their differences would be 0; as it is they have the errors told.

    24 differences from the first model, of which each has a z-score: with shared draws the errors would be told too
    large, and of several fits of one model too small.
    """
    x = (np.random.default_rng(0).random((80, 6)) < [0.1, 0.9, 0.2, 0.8, 0.5, 0.5]).astype(np.float32)
    one = lb.VAE(2, hidden=(4,), epochs=1, random_state=0).fit(x)
    fits = {"first": [one] * 8} | {str(n): [one] * 8 for n in range(24)}
    found = lb.compare(fits, x, samples=20).differences[:24]
    z = np.array([each.mean / each.monte_carlo_error for each in found])
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.7
    assert min(each.seed_error for each in found) > 0
    seeds = np.array([lb.compare({"a": one, "b": one}, x, samples=20, seed=s).differences[0].mean for s in range(30)])
    told = lb.compare({"a": one, "b": one}, x, samples=20).differences[0].monte_carlo_error
    assert np.sqrt(np.mean(seeds**2)) == pytest.approx(told, rel=0.4)


def test_grey_rows_are_binarised_alike_for_all_that_are_compared():
    x = np.random.default_rng(0).integers(0, 256, (60, 6)).astype(np.uint8)
    vaes = [lb.VAE(1, hidden=(4,), epochs=1, binarise="afresh", random_state=seed).fit(x) for seed in (0, 1)]
    rows = [vae.log_likelihood(x, samples=50, seed=3) for vae in (vaes[0], vaes[0])]
    np.testing.assert_array_equal(rows[0].estimate, rows[1].estimate)
    ours, theirs = (vae.log_likelihood(x, samples=2000, seed=3) for vae in vaes)
    assert np.corrcoef(ours.estimate, theirs.estimate)[0, 1] > 0.5, "the same rows of 0 and 1"


def test_simple_models_of_fewer_columns_are_not_compared(linear):
    """A density leaves constant columns out: it is of another measure than the model's."""
    oracle, train, x = linear
    assert judged(oracle, x, 1.0, train).baselines
    flat = torch.cat([train[:, :5], torch.ones(len(train), 1)], 1)
    assert not judged(oracle, x, 1.0, flat).baselines


def test_gaps_are_of_rows_of_their_own(linear):
    oracle, _, x = linear
    found = judge_model(oracle.model(), oracle.posterior(), x, anneal=0, simulate=0, gaps=7, simulations=0)
    assert len(found.gaps.elbo) == 7
    assert found.annealed is None
