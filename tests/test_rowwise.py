"""Completions against exact conditioning under probabilistic PCA, from good posteriors and hopeless ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import PPCA, rng

from lowerbound.data import Rows
from lowerbound.posteriors import DiagonalNormal
from lowerbound.queries import complete

N, D, LATENTS = 80, 6, 3


def completed(model, posterior, rows: Rows, seed: int, **how) -> np.ndarray:
    """The best values, or one draw of each row."""
    found = complete(model, posterior, rows, rng(seed), refine=None, **how)
    return found.best if found.draws is None else found.draws[0]


@pytest.fixture(scope="module")
def ppca() -> PPCA:
    random = np.random.default_rng(0)
    data = (
        random.normal(size=(200, LATENTS)) @ random.normal(size=(LATENTS, D)) + 0.4 * random.normal(size=(200, D)) + 2
    )
    return PPCA.of(data, LATENTS)


@pytest.fixture(scope="module")
def rows(ppca) -> Rows:
    """Rows of the model itself with 40 % of their cells hidden; two of them hold nothing, and one is whole."""
    random = np.random.default_rng(1)
    covariance = (ppca.weight @ ppca.weight.T).numpy() + ppca.variance * np.eye(D)
    x, mask = random.multivariate_normal(ppca.mean.numpy(), covariance, size=N), random.random((N, D)) > 0.4
    mask[[3, 60]], mask[5] = False, True
    return Rows.from_array(x, mask, dtype=torch.float64)


def exact(ppca: PPCA, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of each row's cells given those that are observed."""
    covariance = (ppca.weight @ ppca.weight.T).numpy() + ppca.variance * np.eye(D)
    mu, mean, variance = ppca.mean.numpy(), rows.x.numpy().copy(), np.zeros((len(rows), D))
    for row, seen in enumerate(rows.mask.numpy()):
        gain = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        mean[row, ~seen] = mu[~seen] + gain @ (mean[row, seen] - mu[seen])
        variance[row, ~seen] = np.diag(covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)])
    return mean, np.sqrt(variance)


def hopeless(ppca: PPCA) -> DiagonalNormal:
    """q(z|x) = N(6, 0.05²) of every row: nowhere near any p(z|x)."""
    posterior = ppca.posterior()
    linear = posterior.encoder.second.layers[0]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias[:LATENTS] = 6.0
        linear.bias[LATENTS:] = -3.0
    return posterior


def standard_errors(ppca: PPCA, rows: Rows, found: np.ndarray) -> np.ndarray:
    """The hidden cells' distances from their exact means, over their exact deviations."""
    mean, deviation = exact(ppca, rows)
    hidden = ~rows.mask.numpy()
    return (found - mean)[hidden] / deviation[hidden]


@pytest.mark.parametrize("make", [PPCA.posterior, hopeless])
def test_the_best_values_are_the_exact_means(ppca, rows, make):
    """Of 500 draws, one row in 500 or so has weights that look well and are not."""
    found = completed(ppca.model(), make(ppca), rows, 0, samples=2000)
    assert np.sqrt(np.mean(standard_errors(ppca, rows, found) ** 2)) < 0.05
    seen = rows.mask.numpy()
    assert found[seen].tobytes() == rows.x.numpy()[seen].tobytes()


@pytest.mark.filterwarnings("ignore:importance sampling has too few")
def test_without_a_proposal_of_its_own_a_hopeless_posterior_stays_so(ppca, rows):
    found = completed(ppca.model(), hopeless(ppca), rows, 0, samples=500, fit=False)
    assert np.sqrt(np.mean(standard_errors(ppca, rows, found) ** 2)) > 0.5


@pytest.mark.parametrize("make", [PPCA.posterior, hopeless])
def test_a_row_gets_alone_what_it_gets_in_company(ppca, rows, make):
    whole = completed(ppca.model(), make(ppca), rows, 0, samples=100)
    order = np.random.default_rng(0).permutation(N)
    shuffled = completed(ppca.model(), make(ppca), rows.subset(torch.from_numpy(order)), 0, samples=100)
    np.testing.assert_allclose(shuffled, whole[order], rtol=1e-9)
    for row in (0, 3, 79):
        alone = completed(ppca.model(), make(ppca), rows.subset(torch.tensor([row])), 0, samples=100)
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-9)
    assert (whole[3] == whole[60]).all()
    assert (completed(ppca.model(), make(ppca), rows, 1, samples=100)[0] != whole[0]).any()


def test_draws_have_the_exact_moments(ppca, rows):
    """190 hidden cells, 8 draws of each: both bounds are 4 standard errors and more."""
    model, posterior = ppca.model(), ppca.posterior()
    draws = np.stack([completed(model, posterior, rows, seed, samples=500, draws=1) for seed in range(8)])
    standard = np.stack([standard_errors(ppca, rows, each) for each in draws])
    assert abs(standard.mean()) < 0.11
    assert np.mean(standard**2) == pytest.approx(1, abs=0.15)
    assert np.abs(np.corrcoef(standard) - np.eye(8)).max() < 0.35  # draws of different seeds are independent
