"""Annealed importance sampling and its sandwich against exact evidence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import PPCA, rng
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.evidence import Settings, annealed, importance_sampling, of_functions, of_model
from lowerbound.evidence import annealing as module
from lowerbound.evidence.annealing import log_mean, sigmoid_schedule
from lowerbound.evidence.sandwich import sandwich, simulator, steadiness


def linear(seed: int = 1, latents: int = 2, dim: int = 4, rotated: bool = True) -> tuple[PPCA, Tensor]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(400, latents)) @ random.normal(size=(latents, dim)) + random.normal(size=(400, dim))
    turn = np.linalg.qr(random.normal(size=(latents, latents)))[0] if rotated else None
    return PPCA.of(x, latents, turn), torch.tensor(x)


def rows_of(x: Tensor) -> Rows:
    return Rows(x, dtype=torch.float64)


def exact_draws(oracle: PPCA, x: Tensor, seed: int = 0) -> Tensor:
    """z ~ p(z|x), one for each row."""
    covariance = torch.linalg.inv(oracle.precision)
    mean = (x - oracle.mean) @ oracle.weight @ covariance / oracle.variance
    return (
        mean + torch.randn(mean.shape, generator=rng(seed), dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    )


def test_the_schedule_is_logistic_from_0_to_1():
    betas = sigmoid_schedule(10)
    assert betas[0] == 0
    assert betas[-1] == 1
    assert np.all(np.diff(betas) > 0)
    np.testing.assert_allclose(betas + betas[::-1], 1)
    assert np.diff(betas)[0] < 0.2 * np.diff(betas)[5]


COARSE = Settings(temperatures=3, chains=8_000, leapfrogs=2)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_weights_have_the_evidence_as_their_mean_however_coarse_the_path(start):
    """E[w] = p(x), and backwards E[1/w] = 1/p(x): 8,000 chains of three steps, on each of 6 rows."""
    oracle, x = linear()
    x = x[:6]
    targets, truth = of_model(oracle.model(), oracle.posterior(widen=1.2)), oracle.log_prob(x).numpy()
    settings = replace(COARSE, start=start)
    below = annealed(targets, rows_of(x), rng(), settings)
    z = (np.exp(below.estimate - truth) - 1) / below.standard_error
    assert np.abs(z).max() < 4.5
    assert np.square(z).mean() < 3
    assert below.standard_error.max() < 0.03
    of_all, error = np.exp(below.estimate - truth).mean(), np.sqrt(np.square(below.standard_error).sum()) / 6
    assert of_all == pytest.approx(1, abs=4 * error)
    assert error < 0.05 / 6, "a twentieth would show"
    many, settings = 4000, replace(settings, temperatures=10)  # 1/w has a heavier tail than w
    chains = annealed(
        targets,
        rows_of(x[:1].expand(many, -1)),
        rng(1),
        replace(settings, chains=2),
        exact_draws(oracle, x[:1].expand(many, -1)),
    )
    inverse = np.exp(truth[0] - chains.log_weights).mean(0)
    np.testing.assert_allclose(chains.estimate, truth[0] - np.log(inverse))
    assert inverse.mean() == pytest.approx(1, abs=4.5 * inverse.std() / math.sqrt(many))
    assert inverse.std() / math.sqrt(many) < (0.05 if start == "prior" else 0.05 / 8)


def test_a_weight_taken_after_the_move_is_wrong(monkeypatch):
    """The mutant of a popular implementation: the increment at β_t of where the step at β_t has arrived."""
    oracle, x = linear()
    x = x[:6]
    truth = oracle.log_prob(x).numpy()

    def mutant(path, z, betas, steps, leapfrogs, generator):
        point, book = path.at(z), module._Book(len(betas) - 1)
        for t in range(1, len(betas)):
            point, _ = module.transition(path, point, betas[t], steps[t], leapfrogs, generator)
            book.add(betas[t] - betas[t - 1], point)
        return book.run()

    monkeypatch.setattr(module, "_forwards", mutant)
    found = annealed(of_model(oracle.model(), oracle.posterior(1.2)), rows_of(x), rng(), replace(COARSE, start="prior"))
    assert np.abs((np.exp(found.estimate - truth) - 1) / found.standard_error).max() > 10


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    x = load_digits().data
    x = x[:, x.std(0) > 0]
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize("latents", [2, 10])
def test_all_estimators_agree_with_scikit_learn_on_digits(digits, latents):
    truth = PCA(latents).fit(digits).score_samples(digits[:50])
    oracle, x = PPCA.of(digits, latents), torch.tensor(digits[:50])
    np.testing.assert_allclose(oracle.log_prob(x), truth, rtol=1e-9)
    targets, generator = of_model(oracle.model(), oracle.posterior(widen=1.1)), rng()
    found = {
        "importance": importance_sampling(targets, rows_of(x), generator, 2000),
        "from q": annealed(targets, rows_of(x), generator, Settings(temperatures=30, chains=8)),
        "from p": annealed(targets, rows_of(x), generator, Settings(temperatures=300, chains=8, start="prior")),
    }
    for name, each in found.items():
        error = float((each.estimate - truth).mean())
        assert abs(error) < 0.03 + 4 * each.mean_monte_carlo_error, name
        assert each.mean_monte_carlo_error < 0.08
    above = annealed(targets, rows_of(x), generator, Settings(temperatures=30, chains=8), exact_draws(oracle, x))
    assert abs(float((above.estimate - truth).mean())) < 0.03 + 4 * above.mean_monte_carlo_error
    assert float((above.estimate - found["from q"].estimate).mean()) > -4 * above.mean_monte_carlo_error


def test_the_sandwich_holds_the_exact_evidence_and_closes_as_the_path_grows_finer(digits):
    oracle = PPCA.of(digits, 10)
    model, posterior = oracle.model(), oracle.posterior(1.3)
    targets, gaps = of_model(model, posterior), []
    for temperatures in (20, 200):
        settings = Settings(temperatures=temperatures, chains=4, leapfrogs=5, start="prior")
        found = sandwich(targets, simulator(model, posterior), rng(), 100, settings)
        gaps.append(found.mean_gap)
    z, rows = simulator(model, posterior)(100, rng())
    truth = oracle.log_prob(rows.x).numpy()
    assert z.shape == (100, 10)
    assert found.lower.mean - 0.02 < truth.mean() < found.upper.mean + 0.02
    assert gaps[0] > 3 * gaps[1] > 0
    assert abs(gaps[1]) < 1.0 + 4 * found.mean_gap_error


@pytest.mark.parametrize(
    ("widen", "settings"), [(1.2, Settings(3, 8, 2)), (1.3, Settings(30, 8, 5))], ids=["coarse", "finer"]
)
def test_errors_of_upper_bounds_are_those_of_rows(widen, settings):
    """z-scores against the closed form have a deviation within 0.75 and 1.35 (of 8 chains it is 1.2 by Student's t);
    by the spread over chains alone, which share their exact start, it is larger."""
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 5)) @ random.normal(size=(5, 8)) + 0.5 * random.normal(size=(400, 8))
    latents = 2 if settings.temperatures == 3 else 5
    oracle = PPCA.of(x, latents, np.linalg.qr(np.random.default_rng(2).normal(size=(latents, latents)))[0])
    model, posterior = oracle.model(), oracle.posterior(widen)
    simulate, seen = simulator(model, posterior), []

    def spy(n: int, generator: torch.Generator) -> tuple[Tensor, Rows]:
        seen.append(simulate(n, generator))
        return seen[-1]

    found = sandwich(of_model(model, posterior), spy, rng(), 200, settings)
    error = found.upper.estimate - oracle.log_prob(seen[0][1].x).numpy()
    assert 0.75 < np.std(error / found.upper.standard_error) < 1.35
    of_chains = log_mean(-found.upper.log_weights)[1]
    assert np.std(error / of_chains) > (1.8 if settings.temperatures == 3 else 1.25)
    mean_error = found.upper.mean_monte_carlo_error
    assert mean_error == pytest.approx(error.std(ddof=1) / math.sqrt(200), rel=0.25)
    assert found.mean_gap_error == pytest.approx(found.gap.std(ddof=1) / math.sqrt(200))


def test_rows_far_off_are_not_what_was_validated(digits):
    """Raw digits, whose posterior is a thousand times narrower than the prior: a small error, and a wrong answer."""
    raw = load_digits().data[:, load_digits().data.std(0) > 0]
    oracle = PPCA.of(raw, 50)
    x = torch.tensor(raw[:20])
    model, posterior = oracle.model(), oracle.posterior()
    targets, settings = of_model(model, posterior), Settings(temperatures=300, chains=4, start="prior")
    found = annealed(targets, rows_of(x), rng(), settings)
    short = float((found.estimate - oracle.log_prob(x).numpy()).mean())
    assert short < -5
    assert float(found.standard_error.mean()) < 1.0, "and it does not know"
    both = sandwich(targets, simulator(model, posterior), rng(), 20, settings)
    assert both.mean_gap > 5, "the sandwich does"
    by_prior = importance_sampling(targets, rows_of(x), rng(), 1000, source="prior")
    assert float((by_prior.estimate - oracle.log_prob(x).numpy()).mean()) < -20
    assert not by_prior.reliable.any()


def test_twice_the_temperatures_move_the_estimate_where_the_path_is_too_coarse(digits):
    oracle = PPCA.of(digits, 10)
    targets, x = of_model(oracle.model(), oracle.posterior()), rows_of(torch.tensor(digits[:60]))
    coarse = steadiness(targets, x, rng(), Settings(temperatures=20, chains=4, leapfrogs=5, start="prior"))
    fine = steadiness(targets, x, rng(), Settings(temperatures=50, chains=4))
    assert coarse.moved[0] > 4 * coarse.moved[1]
    assert abs(fine.moved[0]) < 0.05
    assert coarse.spread[0] > fine.spread[0]
    assert math.isnan(coarse.spread[1])


def test_an_adaptive_schedule_evens_out_the_weights(digits):
    oracle = PPCA.of(digits, 10)
    targets, x = of_model(oracle.model(), oracle.posterior()), rows_of(torch.tensor(digits[:60]))
    truth = oracle.log_prob(torch.tensor(digits[:60])).numpy()
    plain = Settings(temperatures=100, chains=8, start="prior")
    found = {s: annealed(targets, x, rng(), replace(plain, schedule=s)) for s in ("sigmoid", "adaptive")}
    errors = {name: abs(float((each.estimate - truth).mean())) for name, each in found.items()}
    even = {name: float(each.effective_temperatures.mean()) for name, each in found.items()}
    assert even["adaptive"] > even["sigmoid"]
    assert errors["adaptive"] < errors["sigmoid"] + 0.02
    for each in found.values():
        assert 0.5 < float(each.acceptance.mean()) < 0.95


def test_a_model_written_elsewhere_is_judged_by_its_functions():
    """A decoder and a prior in plain PyTorch, and any proposal."""
    oracle, x = linear(rotated=False)
    decoder = torch.nn.Linear(2, 4).double()
    with torch.no_grad():
        decoder.weight.copy_(oracle.weight)
        decoder.bias.copy_(oracle.mean)
    noise = torch.distributions.Normal(torch.zeros(()).double(), math.sqrt(oracle.variance))

    def log_joint(z: Tensor, x: Tensor) -> Tensor:
        return noise.log_prob(x - decoder(z)).sum(-1) - 0.5 * z.square().sum(-1) - math.log(2 * math.pi)

    standard = lb.distributions.Normal(torch.zeros(2).double(), torch.ones(2).double(), batch_dims=0)
    targets = of_functions(log_joint, oracle.posterior(), (2,), standard)
    truth = oracle.log_prob(x[:50]).numpy()
    np.testing.assert_allclose(importance_sampling(targets, rows_of(x[:50]), rng(), 2).estimate, truth, atol=1e-8)
    from_prior = annealed(targets, rows_of(x[:50]), rng(), Settings(200, 8, 5, "prior"))
    assert float((from_prior.estimate - truth).mean()) == pytest.approx(0, abs=0.05)
    assert decoder.weight.grad is None
    lacking = of_functions(log_joint, oracle.posterior(), (2,))
    with pytest.raises(ValueError, match="has no prior"):
        annealed(lacking, rows_of(x), rng(), Settings(2, 2, 1, "prior"))


def test_latents_that_are_not_real_numbers_are_refused():
    posterior = lb.posteriors.Bernoulli(2, lb.nn.MLP((3,), (2,), ()))
    model = lb.LatentVariableModel(lb.priors.Bernoulli(2), lb.nn.MLP((2,), (3,), ()), lb.likelihoods.Bernoulli())
    x = Rows(torch.ones(4, 3))
    for start in ("posterior", "prior"):
        with pytest.raises(ValueError, match="latent 'z' is a Bernoulli; use importance sampling, or enumerate"):
            annealed(of_model(model, posterior), x, rng(), Settings(2, 2, 1, start))


def test_bad_settings_are_refused():
    for given, words in (({"chains": 1}, "chains must be at least 2"), ({"temperatures": 0}, "temperatures")):
        with pytest.raises(ValueError, match=words):
            Settings(**given)


def test_log_mean_is_that_of_the_weights():
    log_w = np.random.default_rng(0).normal(size=(50, 7)) - 1000
    estimate, error = log_mean(log_w)
    w = np.exp(log_w + 1000)
    np.testing.assert_allclose(estimate, np.log(w.mean(0)) - 1000)
    np.testing.assert_allclose(error, w.std(0, ddof=1) / math.sqrt(50) / w.mean(0))
