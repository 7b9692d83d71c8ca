"""Stochastic-gradient steps of topics have the law that theory gives them, with fixed counts; and mutants do not."""

from __future__ import annotations

import numpy as np
import pytest

from lowerbound.topics.scir import process_step
from lowerbound.topics.sgrld import expanded_step
from lowerbound.topics.tlasgr import langevin_step

CHAINS, ETA = 20_000, 0.05
INTERIOR, BOUNDARY = np.array([300.0, 200.0, 100.0, 400.0]), np.array([10.0, 3.0, 1.0, 0.0])


class Noise:
    """A generator whose normal numbers are multiplied by ``scale``."""

    def __init__(self, rng: np.random.Generator, scale: float) -> None:
        self.rng, self.scale = rng, scale

    def standard_normal(self, shape):
        return self.scale * self.rng.standard_normal(shape)


def langevin(counts: np.ndarray, step: float, steps: int, eta: float = ETA, noise: float = 1.0) -> np.ndarray:
    """Shares ``[V, chains · snapshots]`` of TLASGR at the end of its way, some steps apart."""
    rng = Noise(np.random.default_rng(0), noise)
    n = np.repeat(counts[:, None], CHAINS, 1)
    phi, found = (n + 0.5) / (n + 0.5).sum(0), []
    for i in range(steps):
        langevin_step(phi, n, np.full(CHAINS, counts.sum()), eta, step, rng)
        if i > steps // 3 and i % max(1, round(1 / step)) == 0:
            found.append(phi.copy())
    return np.concatenate(found, 1)


def worst(shares: np.ndarray, step: float) -> float:
    """The largest difference of means and covariances from the law of TLASGR, relative to means and deviations."""
    total = INTERIOR.sum() + ETA * len(INTERIOR)
    mean = (INTERIOR + ETA) / total
    inflation = step * total / INTERIOR.sum()
    covariance = (np.diag(mean) - np.outer(mean, mean)) / (total * (1 - inflation / 2) + 1)
    of_mean = np.abs(shares.mean(1) / mean - 1).max()
    deviation = np.sqrt(np.diag(covariance))
    return max(of_mean, np.abs((np.cov(shares) - covariance) / np.outer(deviation, deviation)).max())


@pytest.mark.parametrize("step", [1.0, 0.3, 0.1])
def test_the_law_of_tlasgr_with_fixed_counts(step: float) -> None:
    shares = langevin(INTERIOR, step, round(30 / step) + 30)
    assert worst(shares, step) < 0.01


@pytest.mark.parametrize("mutant", [{"noise": 0.98}, {"noise": 0.5**0.5}, {"eta": 10.0}])
def test_a_wrong_noise_or_drift_is_rejected(mutant: dict[str, float]) -> None:
    assert worst(langevin(INTERIOR, 0.3, 130, **mutant), 0.3) > 0.02


def test_the_clip_makes_an_empty_cell_too_large_by_what_is_known() -> None:
    exact = ETA / (BOUNDARY.sum() + 4 * ETA)
    found = {step: langevin(BOUNDARY, step, round(30 / step) + 30)[3].mean() / exact for step in (1.0, 0.3, 0.1)}
    assert found == pytest.approx({1.0: 3.9, 0.3: 3.4, 0.1: 3.1}, rel=0.05)


class Jumps:
    """A generator whose Poisson numbers are their means, rounded."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.standard_gamma = rng, rng.standard_gamma

    def poisson(self, mean):
        return np.round(mean)


class FewerJumps(Jumps):
    """A generator whose Poisson numbers have means that are too small; the shares of g do not show it."""

    def poisson(self, mean):
        return self.rng.poisson(0.9 * mean)


def after_steps(counts: np.ndarray, step: float, mutant=lambda rng: rng) -> np.ndarray:
    """The expanded mean of SCIR after a time of 1.5 or more, from an exact start."""
    rng = np.random.default_rng(1)
    shape = np.repeat((counts + ETA)[:, None], 50 * CHAINS, 1)
    g = rng.standard_gamma(shape)
    for _ in range(round(1.5 / step)):
        g = process_step(g, shape, np.full(g.shape[1], step), mutant(rng))
    return g


def gamma_error(g: np.ndarray, counts: np.ndarray) -> float:
    """The largest relative difference of means and variances of g from Gam(n + η, 1), of its shares from Dir(n + η)."""
    alpha, shares = counts + ETA, g / g.sum(0)
    mean = alpha / alpha.sum()
    variance = mean * (1 - mean) / (alpha.sum() + 1)
    found = np.stack([shares.mean(1) / mean, shares.var(1) / variance, g.mean(1) / alpha, g.var(1) / alpha])
    return float(np.abs(found - 1).max())


@pytest.mark.parametrize("step", [1.0, 0.3])
@pytest.mark.parametrize("counts", [INTERIOR, BOUNDARY], ids=["interior", "boundary"])
def test_scir_has_the_law_of_the_dirichlet(counts: np.ndarray, step: float) -> None:
    assert gamma_error(after_steps(counts, step), counts) < 0.02


@pytest.mark.parametrize("mutant", [Jumps, FewerJumps])
def test_a_wrong_process_is_rejected(mutant: type[Jumps]) -> None:
    assert gamma_error(after_steps(INTERIOR, 0.5, mutant), INTERIOR) > 0.05


def test_small_steps_of_the_expanded_mean_have_the_law_of_the_dirichlet() -> None:
    counts, rng, found = np.array([30.0, 20.0, 10.0]), np.random.default_rng(2), []
    n = np.repeat(counts[:, None], 3000, 1)
    mean = np.full(n.shape, 30.0)  # the sum of g is Gam(ηV), here with η = 5
    for i in range(1500):
        shares = expanded_step(mean, n, 5.0, 0.01, rng)
        if i > 500 and i % 10 == 0:
            found.append(shares)
    alpha = counts + 5
    assert np.concatenate(found, 1).mean(1) == pytest.approx(alpha / alpha.sum(), rel=0.02)


def test_topics_stay_on_the_simplex() -> None:
    rng = np.random.default_rng(3)
    n, phi = np.array([[100.0, 0], [3, 0], [0, 0], [0, 0], [40, 0]]), np.full((5, 2), 0.2, np.float32)
    for step in range(100_000):
        langevin_step(phi, n, np.maximum(n.sum(0), 1), ETA, 0.3, rng)
        if step % 10 == 9:
            assert phi.min() > 0
            assert abs(phi.sum(0) - 1).max() < 1e-6
    assert (phi[:, 0] @ n[:, 0]) > 40  # the words of the topic are where its mass is


def test_a_topic_without_words_comes_back_to_life() -> None:
    rng = np.random.default_rng(4)
    phi, mass = np.full((6, 1), 1 / 6, np.float32), np.zeros(1)
    for n in [np.zeros((6, 1))] * 50 + [np.array([[200.0], [100], [0], [0], [0], [0]])] * 50:
        mass = 0.8 * mass + 0.2 * n.sum(0)
        langevin_step(phi, n, np.maximum(mass, 1.0), ETA, 0.3, rng)
        assert np.isfinite(phi).all()
    assert phi[:2].sum() > 0.9
