"""Hamiltonian chains of p(z|x): exact moments and quantiles of pPCA whatever q is, and convergence as ArviZ has it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import PPCA, rng

import lowerbound as lb
from lowerbound.diagnostics import effective_sample_size, rhat
from lowerbound.likelihoods import Bernoulli, Normal
from lowerbound.nn import MLP, Chain, Identity
from lowerbound.queries import posterior_chains

ROWS, WIDTH, LATENTS = 6, 12, 4
FALSE_ALARM = 1e-5


def values() -> np.ndarray:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, LATENTS)) @ random.normal(size=(LATENTS, WIDTH))
    return x + random.normal(size=(200, WIDTH))


def oracle() -> PPCA:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(LATENTS, LATENTS)))[0]
    return PPCA.of(values(), LATENTS, turn)


def rows_of(x: np.ndarray) -> lb.data.Rows:
    return lb.data.Rows.from_array(x, dtype=torch.float64)


def conditional(truth: PPCA, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(z|x_observed) of each row."""
    weight, found = truth.weight.numpy(), []
    for row in x:
        seen = ~np.isnan(row)
        own = weight[seen]
        covariance = np.linalg.inv(np.eye(LATENTS) + own.T @ own / truth.variance)
        mean = covariance @ own.T @ (row - truth.mean.numpy())[seen] / truth.variance
        found.append((mean, covariance))
    return np.array([mean for mean, _ in found]), np.array([covariance for _, covariance in found])


@pytest.mark.parametrize("case", ["narrow q", "wide q", "missing values"])
def test_moments_and_quantiles_are_exact_whatever_q_is(case):
    # 24 means and 24 marginals: false alarms of 5 standard errors and of p < 1e-5 are rarer than 1 in 2,000
    truth, x = oracle(), values()[:ROWS]
    if case == "missing values":
        x[:, ::3], x[1] = np.nan, np.nan  # and a row of which nothing is observed
    widen = 0.3 if case == "narrow q" else 3.0
    found = posterior_chains(truth.model(), truth.posterior(widen), rows_of(x), rng(), draws=600)
    assert found.z.shape == (600, 4, ROWS, LATENTS)
    mean, covariance = conditional(truth, x)
    deviation = np.sqrt(covariance.diagonal(axis1=1, axis2=2))
    assert (found.standard_error < 0.06 * deviation).all()
    assert (np.abs(found.mean - mean) < 5 * found.standard_error).all()
    np.testing.assert_allclose(found.deviation, deviation, rtol=0.12)
    np.testing.assert_allclose(found.covariance, covariance, atol=0.15 * float(covariance.max()))
    due = scipy.stats.norm(mean, deviation).ppf([[[0.1]], [[0.5]], [[0.9]]])
    assert (np.abs(found.quantile([0.1, 0.5, 0.9]) - due) < 0.25 * deviation).all()
    assert found.quantile(0.5).shape == (ROWS, LATENTS)
    ends = (found.z[::10].reshape(-1, ROWS, LATENTS) - mean) / deviation
    least = min(scipy.stats.kstest(ends[:, n, i], "norm").pvalue for n, i in np.ndindex(ROWS, LATENTS))
    assert least > FALSE_ALARM
    assert found.rhat.max() < 1.02
    assert found.ess.min() > 400
    assert found.draws.shape == (2400, ROWS, LATENTS)


def test_a_row_gets_the_same_draws_whatever_rows_are_next_to_it():
    truth, x = oracle(), values()[:ROWS]
    model, q = truth.model(), truth.posterior(1.5)
    whole = posterior_chains(model, q, rows_of(x), rng(), chains=4, draws=12)
    part = posterior_chains(model, q, rows_of(x[[4, 2]]), rng(), chains=4, draws=12)
    np.testing.assert_allclose(part.z, whole.z[:, :, [4, 2]], rtol=0, atol=1e-9)
    assert not np.allclose(whole.z[:, :, 0], whole.z[:, :, 1])


class Squares(torch.nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z.square()


def test_chains_that_stay_in_one_of_two_modes_are_unreliable():
    """x = z² with little noise: z is near −1 or near 1, and no chain crosses."""
    model = lb.LatentVariableModel(lb.priors.Normal(1), Squares(), Normal()).double()
    model.likelihood.raw_scale.data.fill_(-3.0)
    encoder = Chain(Identity(), MLP((1,), (2,), ())).double()
    for parameter in encoder.parameters():
        parameter.data.zero_()
    found = posterior_chains(model, lb.posteriors.DiagonalNormal(1, encoder), rows_of(np.ones((2, 1))), rng(), chains=8)
    assert not found.reliable.any()
    assert (found.rhat > 1.5).all()
    assert (found.ess < 100).all()
    np.testing.assert_allclose(np.abs(found.z), 1, atol=0.2)


def test_rows_are_reliable_where_chains_mix():
    truth = oracle()
    found = posterior_chains(truth.model(), truth.posterior(), rows_of(values()[:2]), rng())
    assert found.reliable.tolist() == [True, True]


def test_what_it_cannot_sample_it_refuses():
    model = lb.LatentVariableModel(lb.priors.Bernoulli(2), MLP((2,), (3,)), Bernoulli())
    q = lb.posteriors.Bernoulli(2, MLP((3,), (2,)))
    rows = lb.data.Rows(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="needs real-valued latents, but latent 'z' is a Bernoulli; use posterior_dr"):
        posterior_chains(model, q, rows, rng())
    with pytest.raises(ValueError, match="chains must be at least 4 and draws at least 12, got 3 and 1000"):
        posterior_chains(model, q, rows, rng(), chains=3)


# --- convergence ---


def chains_of(phi: float, length: int, chains: int) -> np.ndarray:
    """Autoregressive chains of three numbers; of the third, one chain lies elsewhere."""
    random = np.random.default_rng(0)
    x = np.zeros((length, chains, 3))
    x[0] = random.normal(size=(chains, 3))
    for t in range(1, length):
        x[t] = phi * x[t - 1] + random.normal(size=(chains, 3)) * (1 - phi**2) ** 0.5
    x[:, 0, 2] += 1
    x[:, :, 1] = x[:, :, 1] ** 3  # heavy tails
    return x


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.95, -0.5])
@pytest.mark.parametrize("shape", [(100, 4), (103, 20), (12, 4), (500, 1)])
def test_convergence_is_measured_as_arviz_does(phi, shape):
    az = pytest.importorskip("arviz")
    x = chains_of(phi, *shape)
    for i in range(3):
        np.testing.assert_allclose(effective_sample_size(x)[i], az.ess(x[:, :, i].T), rtol=1e-9)
        if shape[1] > 1:  # ArviZ wants two chains or more
            np.testing.assert_allclose(rhat(x)[i], az.rhat(x[:, :, i].T), rtol=1e-9)


def test_the_effective_sample_size_of_autoregressive_chains():
    """τ = (1 + φ)/(1 − φ)."""
    x = chains_of(0.6, 4000, 20)[:, :, 0]
    assert float(effective_sample_size(x)) == pytest.approx(80_000 * 0.4 / 1.6, rel=0.05)
    assert float(rhat(x)) < 1.001


def test_draws_that_are_all_equal_have_converged():
    x = np.ones((20, 4, 2))
    assert rhat(x).tolist() == [1.0, 1.0]
    assert effective_sample_size(x).tolist() == [80.0, 80.0]


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="T of at least 12, got an array of shape"):
        rhat(np.zeros((11, 4)))
