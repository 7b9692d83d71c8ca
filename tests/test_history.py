"""The estimator of Kingma & Welling 2013, appendix D, on pPCA."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from enumeration import belief_net
from oracles import PPCA, batch_of, rng, z_score
from scipy import stats

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.draw import Batch
from lowerbound.evidence.early_estimators import Chains, PosteriorEstimate, appendix_d
from lowerbound.evidence.targets import of_model

CHAINS = Chains(warm_up=50, transitions=40, leapfrogs=8)


def linear(latents: int, rows: int) -> tuple[PPCA, Rows]:
    """pPCA with a correlated posterior."""
    random = np.random.default_rng(latents)
    x = random.normal(size=(1000, latents)) @ random.normal(size=(latents, 15)) + 0.5 * random.normal(size=(1000, 15))
    turn = np.linalg.qr(random.normal(size=(latents, latents)))[0]
    return PPCA.of(x, latents, turn), Rows(torch.tensor(x[:rows]), dtype=torch.float64)


def exact(oracle: PPCA, copied: bool = False):
    """Draws of p(z|x) = N(P⁻¹Wᵀ(x − μ)/σ², P⁻¹); ``copied``: the second half those of the first."""
    root = torch.linalg.cholesky(oracle.precision.inverse())
    gain = torch.linalg.solve(oracle.precision, oracle.weight.T) / oracle.variance

    def draw(batch: Batch, count: int, generator: torch.Generator) -> torch.Tensor:
        noise = torch.randn(count, len(batch.x), len(root), generator=generator, dtype=torch.float64)
        z = (batch.x - oracle.mean) @ gain.T + noise @ root.T
        return torch.cat([z[: count // 2]] * 2) if copied else z

    return draw


def error_of(oracle: PPCA, rows: Rows, **settings) -> tuple[PosteriorEstimate, np.ndarray]:
    found = appendix_d(of_model(oracle.model(), oracle.posterior()), rows, rng(), **settings)
    return found, found.estimate - oracle.log_prob(rows.x).numpy()


@pytest.mark.parametrize(("latents", "mean", "spread"), [(3, 0.001, 0.07), (10, 0.05, 0.23)])
def test_with_exact_draws_its_error_is_the_checked_one(latents, mean, spread):
    """1,000 rows: standard errors of the mean are .002 and .007, of the spread 2 % and more."""
    oracle, rows = linear(latents, 1000)
    found, error = error_of(oracle, rows, exact=exact(oracle))
    assert error.mean() == pytest.approx(mean, abs=4 * spread / math.sqrt(1000))
    assert error.std() == pytest.approx(spread, rel=0.2)
    assert (found.acceptance == 1).all()


@pytest.mark.parametrize("latents", [3, 10])
def test_the_same_draws_for_the_fit_and_the_estimate_are_biased(latents):
    oracle, rows = linear(latents, 200)
    _, right = error_of(oracle, rows, exact=exact(oracle))
    _, wrong = error_of(oracle, rows, exact=exact(oracle, copied=True))
    assert wrong.mean() < right.mean() - 10 * wrong.std() / math.sqrt(200)
    assert wrong.mean() < -latents / 50


def test_its_standard_error_is_that_of_its_errors():
    oracle, rows = linear(3, 1000)
    found, error = error_of(oracle, rows, exact=exact(oracle))
    assert np.square(error / found.standard_error).mean() == pytest.approx(1, abs=0.25)
    assert found.mean == pytest.approx(found.estimate.mean())
    assert found.mean_monte_carlo_error == pytest.approx(error.std() / math.sqrt(1000), rel=0.2)


@pytest.mark.parametrize(("latents", "mean", "spread"), [(3, 0.001, 0.07), (10, 0.05, 0.23)])
def test_with_chains_it_is_near_that(latents, mean, spread):
    """Chains that start from a q that is too wide; of one step each they are still there."""
    oracle, rows = linear(latents, 40)
    targets, truth = of_model(oracle.model(), oracle.posterior(widen=1.5)), oracle.log_prob(rows.x).numpy()
    found = appendix_d(targets, rows, rng(), chains=CHAINS)
    error = found.estimate - truth
    assert error.mean() == pytest.approx(mean, abs=4 * spread / math.sqrt(40))
    assert error.std() == pytest.approx(spread, rel=0.4)
    assert 0.7 < found.acceptance.mean() < 0.9
    stuck = appendix_d(targets, rows, rng(), chains=Chains(1, 1, 1)).estimate - truth
    assert abs(stuck.mean() - mean) > 5 * stuck.std() / math.sqrt(40)


@pytest.mark.parametrize("latents", [3, 10])
def test_chains_end_where_the_posterior_is(latents):
    """(z − m)ᵀP(z − m) of 4,000 independent ends is of χ² with d degrees; where they began its mean is far higher."""
    oracle, rows = linear(latents, 40)
    batch = batch_of(rows.x)
    target = of_model(oracle.model(), oracle.posterior(widen=1.5))(batch)
    z, acceptance = CHAINS.run(target, batch, 100, rng())
    away = z - (rows.x - oracle.mean) @ (torch.linalg.solve(oracle.precision, oracle.weight.T) / oracle.variance).T
    distance = torch.einsum("kbi,ij,kbj->kb", away, oracle.precision, away)
    assert stats.kstest(distance.flatten().detach().numpy(), stats.chi2(latents).cdf).pvalue > 1e-3
    assert abs(z_score(distance, latents)) < 4
    noise = torch.randn(100, 40, latents, generator=rng(), dtype=torch.float64)
    start = target.posterior.sample(noise).detach() - z + away
    assert z_score(torch.einsum("kbi,ij,kbj->kb", start, oracle.precision, start), latents) > 30
    assert acceptance.shape == (40,)


def test_global_generators_are_left_alone():
    oracle, rows = linear(3, 5)
    targets = of_model(oracle.model(), oracle.posterior())
    state = torch.get_rng_state()
    first = appendix_d(targets, rows, rng(), chains=Chains(5, 5, 2))
    assert torch.equal(torch.get_rng_state(), state)
    again = appendix_d(targets, rows, rng(), chains=Chains(5, 5, 2))
    np.testing.assert_array_equal(again.estimate, first.estimate)


def test_what_it_cannot_do_is_refused():
    oracle, rows = linear(11, 5)
    with pytest.raises(ValueError, match="this model has 11; use importance_sampling"):
        error_of(oracle, rows)
    oracle, rows = linear(3, 5)
    with pytest.raises(ValueError, match="draws must be at least 5"):
        error_of(oracle, rows, draws=4)
    with pytest.raises(ValueError, match="must be at least 1"):
        Chains(warm_up=0)
    net = belief_net(3)
    with pytest.raises(ValueError, match="latent 'z' is a Bernoulli"):
        appendix_d(of_model(net.model, net.posterior), Rows(net.x, dtype=torch.float64), rng())


def test_draws_from_the_prior_are_importance_sampling():
    """Of one latent they serve. The relative variance of p̂ is (4πσ²)^(−D/2) N(x; 0, WWᵀ + σ²I/2)/p(x)² − 1."""
    oracle, rows = linear(1, 40)
    targets = of_model(oracle.model(), oracle.posterior())
    found = lb.evidence.importance_sampling(targets, rows, rng(), 20_000, source="prior")
    truth, error = oracle.log_prob(rows.x).numpy(), found.standard_error
    assert np.square((found.estimate - truth) / error).mean() == pytest.approx(1, abs=0.9)
    dim, variance = len(oracle.mean), oracle.variance
    half = torch.distributions.MultivariateNormal(
        oracle.mean, oracle.weight @ oracle.weight.T + 0.5 * variance * torch.eye(dim).double()
    )
    log_square = half.log_prob(rows.x).numpy() - 0.5 * dim * math.log(4 * math.pi * variance)
    relative = np.exp(log_square - 2 * truth) - 1
    np.testing.assert_allclose(np.square(error) * 20_000, relative, rtol=0.2)
