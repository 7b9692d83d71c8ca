"""Predictive checks, and typicality: of data that are the model's own, and of others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import PPCA, rng
from scipy import stats
from torch import Tensor

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.evidence.predictive import STATISTICS, neighbour_correlation, predictive_check, share_of_zeros
from lowerbound.evidence.typicality import Terms, terms, two_sided, typicality
from lowerbound.model import LatentVariableModel


def linear(latents: int = 2, dim: int = 4, rotated: bool = False) -> PPCA:
    random = np.random.default_rng(1)
    x = random.normal(size=(400, latents)) @ random.normal(size=(latents, dim)) + random.normal(size=(400, dim))
    return PPCA.of(x + 1, latents, np.linalg.qr(random.normal(size=(latents, latents)))[0] if rotated else None)


def simulated(oracle: PPCA, n: int, seed: int = 5) -> Tensor:
    with torch.no_grad():
        return oracle.model().sample(n, rng(seed))


def noisier(oracle: PPCA) -> LatentVariableModel:
    return PPCA(oracle.mean, oracle.weight, 2 * oracle.variance).model()


def test_p_values_of_the_models_own_data_are_uniform():
    """Of 200 data sets among 19: ten values, alike probable. A false alarm in 1,000 for each statistic."""
    oracle = linear()
    model, posterior = oracle.model(), oracle.posterior()
    p = np.stack(
        [
            predictive_check(model, posterior, simulated(oracle, 40, s), replications=19, seed=s).p_values
            for s in range(200)
        ]
    )
    names = list(STATISTICS)
    assert p.shape == (200, len(names))
    for column, name in enumerate(names):
        if name == "share of zeros":  # there are none, ever
            assert (p[:, column] == 1).all()
        else:
            counts = np.histogram(p[:, column], np.linspace(0, 1, 11) + 0.05)[0]
            assert stats.chisquare(counts).pvalue > 0.001, name


def test_a_model_of_too_much_noise_is_rejected():
    oracle = linear()
    found = predictive_check(noisier(oracle), oracle.posterior(), simulated(oracle, 1000))
    deviation = found.names.index("standard deviation")
    assert found.p_values[deviation] == pytest.approx(2 / 201)
    assert found.observed[deviation] < found.mean[deviation] - 8 * found.standard_deviation[deviation]
    assert found.p_value == pytest.approx(6 * 2 / 201)
    assert "data sets drawn from the prior; p = 0.01" in found.verdict()
    right = predictive_check(oracle.model(), oracle.posterior(), simulated(oracle, 1000))
    assert right.p_values.min() > 0.02
    assert right.observed[0] == pytest.approx(float(simulated(oracle, 1000).mean()))


@pytest.mark.parametrize("given", ["prior", "posterior"])
def test_replicated_data_have_the_moments_of_the_closed_form(given):
    """The mean over all of N rows of D columns, rows chosen where the latent is large.

    Given the prior: N(mean of μ, 1ᵀ(WWᵀ + σ²I)1/ND²); given the posterior: μ + W m_i in the mean, and P⁻¹ in WWᵀ.
    """
    oracle = linear()
    x = simulated(oracle, 4000)
    x = x[(x - oracle.mean) @ oracle.weight[:, 0] > 1][:100]
    found = predictive_check(oracle.model(), oracle.posterior(), x, replications=1000, given=given)
    inner = torch.eye(2).double()
    mean = oracle.mean.expand(100, -1)
    if given == "posterior":
        inner = torch.linalg.inv(oracle.precision)
        mean = mean + (x - oracle.mean) @ oracle.weight @ inner @ oracle.weight.T / oracle.variance
    covariance = oracle.weight @ inner @ oracle.weight.T + oracle.variance * torch.eye(4).double()
    deviation = math.sqrt(float(covariance.sum()) / (100 * 16))
    assert found.mean[0] == pytest.approx(float(mean.mean()), abs=4 * deviation / math.sqrt(1000))
    assert found.standard_deviation[0] == pytest.approx(deviation, rel=4 / math.sqrt(2000))
    assert abs(found.observed[0] - float(oracle.mean.mean())) > 4 * deviation
    assert (found.p_values[0] < 0.01) == (given == "prior")


def test_statistics_of_ones_own_and_of_what_is_observed():
    oracle = linear()
    x = simulated(oracle, 300)
    mask = torch.rand(x.shape, generator=rng(), dtype=torch.float64) < 0.7
    mask[:, 0] = torch.arange(300) < 150
    seen: list[np.ndarray] = []

    def first(data: np.ndarray) -> float:
        seen.append(data)
        return float(np.nanmean(data[:, 0]))

    rows = Rows(torch.where(mask, x, 1e6), mask, dtype=torch.float64)
    found = predictive_check(oracle.model(), oracle.posterior(), rows, statistics={"first": first}, replications=50)
    assert found.names == ("first",)
    assert all((np.isnan(data) == ~mask.numpy()).all() for data in seen)
    assert len(seen) == 51
    assert found.observed[0] == pytest.approx(float(x[:150, 0].mean()))
    whole = predictive_check(oracle.model(), oracle.posterior(), rows, replications=50)
    assert whole.p_values.min() > 0.03
    wrong = predictive_check(noisier(oracle), oracle.posterior(), rows, replications=50)
    assert wrong.p_values.min() == pytest.approx(2 / 51)


def test_the_statistics_are_what_they_are_called():
    x = np.random.default_rng(0).normal(size=(50, 2, 3)).round()
    flat = x.reshape(50, 6)
    by_hand = np.mean([abs(np.corrcoef(flat[:, j], flat[:, j + 1])[0, 1]) for j in range(5)])
    assert neighbour_correlation(x) == pytest.approx(by_hand)
    assert share_of_zeros(x) == pytest.approx((x == 0).mean())
    holes = flat.copy()
    holes[:10, 0] = np.nan
    pairs = [abs(np.corrcoef(*flat[10 * (j == 0) :, j : j + 2].T)[0, 1]) for j in range(5)]
    assert neighbour_correlation(holes) == pytest.approx(np.mean(pairs))
    assert share_of_zeros(holes) == pytest.approx((holes == 0).sum() / 290)
    assert neighbour_correlation(np.ones((5, 3))) == 0
    assert neighbour_correlation(np.ones((5, 1))) == 0
    for constant in (np.full((1001, 3), 0.1), np.full((1001, 3), 0.1, dtype=np.float32)):
        assert neighbour_correlation(constant) == 0  # whatever its mean is rounded to
        constant[:300, 0] = np.nan
        assert neighbour_correlation(constant) == 0
    values = {name: statistic(flat) for name, statistic in STATISTICS.items()}
    assert values["standard deviation"] == pytest.approx(flat.std())
    assert (values["smallest"], values["largest"]) == (flat.min(), flat.max())


def test_bad_input_is_named():
    oracle = linear()
    x, model, posterior = simulated(oracle, 10), oracle.model(), oracle.posterior()
    with pytest.raises(ValueError, match='"prior" or "posterior"'):
        predictive_check(model, posterior, x, given="data")
    with pytest.raises(ValueError, match="replications"):
        predictive_check(model, posterior, x, replications=1)
    with pytest.raises(ValueError, match="'odd' is not a finite number"):
        predictive_check(model, posterior, x, statistics={"odd": lambda data: math.nan})
    with pytest.raises(ValueError, match="rows of the model"):
        predictive_check(model, posterior, x[:, :3])
    with pytest.raises(ValueError, match="samples"):
        terms(model, posterior, x, samples=0)
    with pytest.raises(ValueError, match="no rows"):
        typicality(Terms(*np.empty((3, 0))), terms(model, posterior, x, samples=1))


# Typicality


@pytest.mark.parametrize("rotated", [False, True])
def test_terms_are_the_closed_forms(rotated):
    """E_q log p(x|z) of a diagonal q: the density at its mean less tr(WᵀW S)/2σ²."""
    oracle = linear(rotated=rotated)
    x = simulated(oracle, 200)
    found = terms(oracle.model(), oracle.posterior(), x, samples=2000)
    q = oracle.posterior()(x)
    variance = q.scale.detach() ** 2
    centre = oracle.mean + q.loc.detach() @ oracle.weight.T
    spread = ((oracle.weight**2).sum(0) * variance).sum(1) / (2 * oracle.variance)
    normal = torch.distributions.Normal(centre, math.sqrt(oracle.variance))
    np.testing.assert_allclose(found.log_lik, normal.log_prob(x).sum(1) - spread, atol=0.25)
    assert float((normal.log_prob(x).sum(1) - spread - torch.tensor(found.log_lik)).mean()) == pytest.approx(
        0, abs=0.01
    )
    kl = 0.5 * (variance + q.loc.detach() ** 2 - 1 - variance.log()).sum(1)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-10)
    off = found.log_p - oracle.log_prob(x).numpy()
    assert np.abs(off).max() < (0.3 if rotated else 1e-9)
    assert abs(off.mean()) < 0.015


def test_a_kl_without_closed_form_is_that_of_the_draws():
    oracle = linear()
    x, model = simulated(oracle, 100), oracle.model()
    prior = lb.priors.VampPrior((2,), (4,), components=1).double()
    with torch.no_grad():
        prior.pseudo_inputs.copy_(oracle.mean)
    found = terms(LatentVariableModel(prior, model.decoder, model.likelihood), oracle.posterior(), x, samples=4000)
    q = oracle.posterior()(x)
    exact = 0.5 * (q.loc / q.scale).square().sum(1).detach().numpy()  # one component, of the same scale
    error = np.sqrt(2 * exact / 4000)
    assert np.abs((found.kl - exact) / error).max() < 4.5
    assert ((found.kl - exact) / error).std() == pytest.approx(1, abs=0.3)


@pytest.fixture(scope="module")
def reference() -> tuple[PPCA, Terms]:
    oracle = linear(latents=5, dim=40)
    return oracle, terms(oracle.model(), oracle.posterior(), simulated(oracle, 2000), samples=20)


def judged(reference: tuple[PPCA, Terms], x: Tensor):
    oracle, known = reference
    return typicality(known, terms(oracle.model(), oracle.posterior(), x, samples=20, seed=1))


def test_rows_of_the_model_are_flagged_at_the_nominal_rate(reference):
    found = judged(reference, simulated(reference[0], 2000, seed=6))
    error = math.sqrt(0.05 * 0.95 * (1 / 2000 + 1 / 2000))
    np.testing.assert_allclose((found.p_values <= 0.05).mean(0), 0.05, atol=4 * error)
    assert 0.005 < (found.p_value <= 0.05).mean() < 0.05 + 4 * error
    assert (found.low_density <= 0.05).mean() == pytest.approx(0.05, abs=4 * error)
    assert found.p_values.shape == (2000, 3)
    assert found.names == ("log p(x)", "E log p(x|z)", "KL")


def test_rows_at_the_mean_are_too_dense_to_be_typical(reference):
    """The mode has the highest density of all, and lies √D away from where the rows are."""
    oracle = reference[0]
    found = judged(reference, oracle.mean + 0.05 * simulated(oracle, 100, seed=7).sub(oracle.mean))
    assert (found.p_value < 0.01).all()
    assert (found.low_density > 0.99).all()
    assert (found.p_values[:, 1] < 0.01).all()


def test_rows_of_other_kinds_are_flagged(reference):
    oracle = reference[0]
    x = simulated(oracle, 300, seed=8)
    order = torch.argsort(torch.rand(x.shape, generator=rng(), dtype=torch.float64), 1)
    mixed = judged(reference, x.gather(1, order))
    assert (mixed.p_value <= 0.05).mean() > 0.9
    noise = torch.randn(x.shape, generator=rng(), dtype=torch.float64) * math.sqrt(3 * oracle.variance)
    assert (judged(reference, x + noise).p_value <= 0.05).mean() > 0.99


def test_a_row_far_out_in_the_latents_alone_is_told_by_the_kl(reference):
    """x = μ + W z with |z| = 9: p(x|z) is as high as can be."""
    oracle = reference[0]
    z = torch.randn(100, 5, generator=rng(), dtype=torch.float64)
    z = 9 * z / z.norm(dim=1, keepdim=True)
    noise = torch.randn(100, 40, generator=rng(3), dtype=torch.float64) * math.sqrt(oracle.variance)
    found = judged(reference, oracle.mean + z @ oracle.weight.T + noise)
    assert (found.p_values[:, 2] <= 2.1 / 2001).mean() > 0.95
    assert (found.p_values[:, 1] <= 0.05).mean() < 0.2


def test_two_sided_p_values_by_counting():
    reference = np.array([[1.0], [2.0], [2.0], [3.0]])
    new = np.array([[0.0], [1.0], [2.0], [3.5], [-np.inf]])
    # no larger: 0 1 3 4 0; no smaller: 4 4 3 0 4
    np.testing.assert_allclose(two_sided(reference, new)[:, 0], [0.4, 0.8, 1.0, 0.4, 0.4])
