"""Importance sampling against evidence that is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound import evidence
from lowerbound.evidence import WeightTotal, bits_per_dimension, log_likelihood
from oracles import PPCA, batch_of, rng


@pytest.fixture(scope="module")
def linear() -> tuple[PPCA, torch.Tensor]:
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 5)) @ random.normal(size=(5, 8)) + 0.5 * random.normal(size=(400, 8))
    return PPCA.of(x, 5), torch.tensor(x)


def test_estimates_meet_the_exact_evidence_within_their_standard_errors(linear):
    # 400 independent z-scores: their mean square has standard error √(2/400) = .07; a wrong error shows.
    oracle, x = linear
    found = log_likelihood(oracle.model(), oracle.posterior(widen=1.3), x, samples=4000)
    z = (found.estimate - oracle.log_prob(x).numpy()) / found.standard_error
    assert abs(z.mean()) < 4 / math.sqrt(400)
    assert np.square(z).mean() == pytest.approx(1, abs=0.3)
    assert found.standard_error.max() < 0.1
    assert abs(found.mean - float(oracle.log_prob(x).mean())) < 4 * found.mean_monte_carlo_error
    assert found.mean_monte_carlo_error < 0.003
    assert found.mean_standard_error == pytest.approx(found.estimate.std(ddof=1) / 20)


def test_its_elbo_is_the_elbo(linear):
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    oracle, x = PPCA.of(linear[1].numpy(), 5, turn), linear[1]
    found = log_likelihood(oracle.model(), oracle.posterior(), x, samples=4000)
    gap = float(oracle.log_prob(x).mean()) - found.mean_elbo
    assert gap == pytest.approx(oracle.diagonal_gap, abs=0.02)


def test_the_exact_posterior_needs_one_draw(linear):
    oracle, x = linear
    found = log_likelihood(oracle.model(), oracle.posterior(), x, samples=2)
    np.testing.assert_allclose(found.estimate, oracle.log_prob(x), atol=1e-9)
    np.testing.assert_allclose(found.ess, 2)
    assert found.standard_error.max() < 1e-6


def test_the_effective_sample_size_falls_as_the_posterior_worsens(linear):
    oracle, x = linear
    sizes = [log_likelihood(oracle.model(), oracle.posterior(w), x, samples=500).ess.mean() for w in (1.0, 1.5, 3.0)]
    assert 500.1 > sizes[0] > sizes[1] > sizes[2] > 1


def test_sums_do_not_depend_on_how_draws_are_split():
    log_w = torch.randn(60, 7, generator=rng(), dtype=torch.float64) * 30 - 900
    whole, parts = WeightTotal(), WeightTotal()
    whole.add(log_w)
    for piece in log_w.split(7):
        parts.add(piece)
    assert torch.allclose(whole.result(), parts.result(), rtol=1e-12)
    estimate, error, ess, elbo = whole.result()
    weights = (log_w - log_w.amax(0)).exp()
    assert torch.allclose(estimate, log_w.logsumexp(0) - math.log(60))
    assert torch.allclose(ess, weights.sum(0) ** 2 / (weights**2).sum(0))
    assert torch.allclose(error, weights.std(0) / math.sqrt(60) / weights.mean(0))
    assert torch.allclose(elbo, log_w.mean(0))


def test_memory_stays_bounded_as_draws_grow(linear, monkeypatch):
    oracle, x = linear
    monkeypatch.setattr(evidence, "_CHUNK_VALUES", 100 * 8 * 50)
    seen, original = [], evidence.draw

    def spy(model, posterior, batch, noise):
        seen.append(noise.shape[0] * noise.shape[1])
        return original(model, posterior, batch, noise)

    monkeypatch.setattr(evidence, "draw", spy)
    chunked = log_likelihood(oracle.model(), oracle.posterior(widen=1.3), x, samples=1000)
    assert max(seen) <= 50 * 100
    assert sum(seen) == 1000 * 400
    assert abs(chunked.mean - float(oracle.log_prob(x).mean())) < 4 * chunked.mean_monte_carlo_error


def test_shared_draws_make_a_score_independent_of_its_neighbours(linear):
    oracle, x = linear
    model, posterior = oracle.model(), oracle.posterior()
    whole = evidence.score_rows(model, posterior, batch_of(x), 50, rng())
    backwards = evidence.score_rows(model, posterior, batch_of(x.flip(0)), 50, rng())
    np.testing.assert_allclose(backwards.flip(0), whole, rtol=1e-12)


def test_bits_per_dimension():
    assert bits_per_dimension(-math.log(2) * 64, (8, 8)) == pytest.approx(1)


def test_one_row_has_no_standard_error_over_rows(linear):
    oracle, x = linear
    found = log_likelihood(oracle.model(), oracle.posterior(), x[:1], samples=10)
    assert math.isnan(found.mean_standard_error)
    with pytest.raises(ValueError, match="samples"):
        log_likelihood(oracle.model(), oracle.posterior(), x, samples=1)


def test_the_whole_path_is_public(linear):
    oracle, x = linear
    assert lb.log_likelihood(oracle.model(), oracle.posterior(), x[:5], samples=10).estimate.shape == (5,)
