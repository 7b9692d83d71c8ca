"""k̂ against ArviZ's, and what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lowerbound.evidence import pareto
from lowerbound.evidence.pareto import pareto_k, tail_size, threshold


def tails(log_weights: np.ndarray) -> np.ndarray:
    """The largest ``tail_size(K) + 1`` of each column."""
    return np.sort(log_weights, 0)[-tail_size(len(log_weights)) - 1 :]


@pytest.mark.parametrize("draws", [50, 100, 128, 999, 1000, 5000])
def test_it_is_that_of_arviz(draws):
    arviz = pytest.importorskip("arviz")
    random = np.random.default_rng(draws)
    scales = np.linspace(0.05, 8, 40)
    normal = random.normal(size=(draws, 40)) * scales - 700
    heavy = random.pareto(np.linspace(0.3, 5, 40), size=(draws, 40))
    for log_weights in (normal, np.log(heavy), np.round(normal), normal - 1e5 * (random.random((draws, 40)) < 0.5)):
        _, theirs = arviz.psislw(log_weights.T.copy())
        ours, vary = pareto_k(tails(log_weights)), np.ptp(tails(log_weights), 0) > 1e-3
        np.testing.assert_allclose(ours[vary], theirs[vary], rtol=0, atol=1e-6)
        assert (ours[~vary] == -math.inf).all(), "theirs is ∞ where all weights are the same"
        assert np.isfinite(ours).mean() > 0.5


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_it_finds_the_shape_of_a_pareto_tail(shape):
    """Weights U^(−k): 300 rows of 20,000 draws. The estimate is drawn to ½ by 10 of some 425 values."""
    weights = -shape * np.log(np.random.default_rng(0).random((20_000, 300)))
    found = pareto_k(tails(weights))
    size = tail_size(20_000)
    due = (size * shape + 5) / (size + 10)
    error = found.std(ddof=1) / math.sqrt(300)
    assert found.mean() == pytest.approx(due, abs=4 * error)
    assert error < 0.006


def test_weights_that_are_all_the_same_have_no_tail():
    assert pareto_k(np.full((65, 2), -3.0)).tolist() == [-math.inf, -math.inf]
    noise = np.float32(-700) + np.float32(6e-5) * np.random.default_rng(0).integers(-3, 4, (65, 50))
    assert (pareto_k(noise) == -math.inf).all(), "what rounding leaves"


def test_one_weight_that_carries_all_has_the_worst_tail():
    lonely = np.full((65, 1), -5000.0)
    lonely[-1] = 0
    assert pareto_k(lonely).tolist() == [math.inf]


def test_rows_beyond_the_models_precision_are_unreliable():
    assert pareto_k(np.full((65, 1), -math.inf))[0] > 0.7


def test_the_threshold_is_lower_for_few_draws():
    np.testing.assert_allclose(threshold(np.array([100, 1000, 2154, 10**6])), [0.5, 2 / 3, 0.7, 0.7], atol=1e-3)


def test_many_rows_are_those_of_each(monkeypatch):
    log_weights = np.random.default_rng(1).normal(size=(500, 23)) * 2
    whole = pareto_k(tails(log_weights))
    monkeypatch.setattr(pareto, "_ROWS", 3)
    np.testing.assert_array_equal(pareto_k(tails(log_weights)), whole)
