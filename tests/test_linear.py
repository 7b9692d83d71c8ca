"""The linear model against probabilistic PCA, whose evidence and bounds are known exactly, on real data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import PPCA, batch_of, rng, sigma_points, z_score
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import lowerbound as lb
from lowerbound.likelihoods import Normal
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, Chain, Standardise
from lowerbound.objectives import elbo, elbo_entropy, elbo_sampled, iwae

LATENTS = 20


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return load_digits().data


@pytest.fixture(scope="module")
def rotation() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).normal(size=(LATENTS, LATENTS)))[0]


@pytest.mark.parametrize("form", [elbo, elbo_sampled, elbo_entropy])
def test_at_the_optimum_the_elbo_is_the_evidence_of_pca(digits, form):
    oracle = PPCA.of(digits, LATENTS)
    x = torch.tensor(digits)
    with torch.no_grad():
        bound = form(draw(oracle.model(), oracle.posterior(), batch_of(x), sigma_points(LATENTS)))
    pca = PCA(LATENTS).fit(digits)
    np.testing.assert_allclose(bound, pca.score_samples(digits), atol=1e-8, rtol=0)
    assert abs(float(bound.mean()) - pca.score(digits)) < 1e-8


def test_rotated_the_best_diagonal_posterior_leaves_the_closed_form_gap(digits, rotation):
    oracle, x = PPCA.of(digits, LATENTS, rotation), torch.tensor(digits)
    with torch.no_grad():
        bound = elbo(draw(oracle.model(), oracle.posterior(), batch_of(x), sigma_points(LATENTS)))
    gap = oracle.log_prob(x) - bound
    assert oracle.diagonal_gap > 3
    np.testing.assert_allclose(gap, oracle.diagonal_gap, atol=1e-8, rtol=0)


def test_the_best_diagonal_posterior_is_a_stationary_point(digits, rotation):
    oracle, x = PPCA.of(digits, LATENTS, rotation), torch.tensor(digits)
    for widen, stationary in ((1.0, True), (1.02, False)):
        posterior = oracle.posterior(widen)
        elbo(draw(oracle.model(), posterior, batch_of(x), sigma_points(LATENTS))).mean().backward()
        largest = max(float(p.grad.abs().max()) for p in posterior.parameters())
        assert (largest < 1e-8) == stationary, (widen, largest)


def test_fitted_from_random_weights_it_reaches_pca(digits):
    latents, x = 5, torch.tensor(digits)
    with lb.nn.seeded(0):
        encoder = Chain(Standardise(()), MLP((64,), (2 * latents,), hidden=()))
        decoder = MLP((latents,), (64,), hidden=())
    model = LatentVariableModel(lb.priors.Normal(latents), decoder, Normal("scalar", shape=(64,))).double()
    posterior = lb.posteriors.DiagonalNormal(latents, encoder).double()
    model.initialise(x)
    encoder.first.fit(x)
    model.likelihood.spread.fill_(1.0)  # one noise for all pixels asks for one unit
    # SGVB-A: its noise vanishes as q nears the posterior.
    inference = lb.AEVB(posterior, objective=elbo_sampled, learning_rate=lb.training.Cosine(0.1, epochs=300))
    lb.fit(model, x, inference, epochs=300, batch_size=300, validation=0, seed=0)
    with torch.no_grad():
        bound = float(elbo(draw(model, posterior, batch_of(x), sigma_points(latents))).mean())
    exact = PCA(latents).fit(digits).score(digits)
    assert exact - 0.05 < bound < exact + 0.05, (bound, exact)
    assert bound < float(PPCA.of(digits, latents, ddof=0).log_prob(x).mean()) + 1e-9  # the most any such model has


def test_a_learned_scale_is_the_squared_error_over_posterior_samples(digits):
    # At the optimum σ² = E_q‖x − Wz − μ‖²/D, and not the error of the mean reconstruction.
    oracle, x = PPCA.of(digits, LATENTS, ddof=0), torch.tensor(digits)
    model, posterior = oracle.model(), oracle.posterior()
    likelihood = Normal("scalar", shape=(64,), min_scale=0.0).double()
    likelihood.shift.copy_(oracle.mean)
    model.likelihood = likelihood
    q = posterior(x)
    with torch.no_grad():
        z = q.sample(sigma_points(LATENTS))
        over_samples = float((x - likelihood.mean(model.decode(z))).square().mean())
        of_the_mean = float((x - likelihood.mean(model.decode(q.loc.unsqueeze(0)))).square().mean())
    assert over_samples == pytest.approx(2.888, abs=0.003)
    assert of_the_mean == pytest.approx(2.081, abs=0.003)
    for variance, optimal in ((over_samples, True), (of_the_mean, False)):
        with torch.no_grad():
            likelihood.raw_scale.copy_(
                lb.distributions.inverse_positive(torch.tensor(variance, dtype=torch.float64).sqrt())
            )
        bound = elbo(draw(model, posterior, batch_of(x), sigma_points(LATENTS))).mean()
        (slope,) = torch.autograd.grad(bound, likelihood.raw_scale)
        assert (abs(float(slope)) < 1e-8) == optimal, (variance, slope)


def small_linear(widen: float = 1.0, rotated: bool = True) -> tuple[PPCA, torch.Tensor]:
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 5)) @ random.normal(size=(5, 8)) + 0.5 * random.normal(size=(400, 8))
    turn = np.linalg.qr(random.normal(size=(5, 5)))[0] if rotated else None
    return PPCA.of(x, 5, turn), torch.tensor(x)


def quadratic_variance(term) -> float:
    """Var over ε ~ N(0, I) of a quadratic ½εᵀAε + bᵀε + c: ½ tr A² + ‖b‖²."""
    zero = torch.zeros(5, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(term, zero)
    curve = torch.autograd.functional.hessian(term, zero)
    return float(0.5 * (curve @ curve).trace() + slope @ slope)


FORMS = {
    "A": (elbo_sampled, lambda d: d.log_w),
    "B": (elbo, lambda d: d.log_lik),
    "entropy": (elbo_entropy, lambda d: d.log_lik + d.log_prior),
}


def test_the_three_forms_have_one_mean_and_the_predicted_variances():
    # One row, 200,000 draws of each form; |z| > 5 for one of three: a false alarm once in 600,000 runs.
    oracle, x = small_linear()
    model, posterior, row, draws = oracle.model(), oracle.posterior(widen=1.3), batch_of(x[:1]), 200_000
    variances = {}
    for name, (form, random_part) in FORMS.items():
        with torch.no_grad():
            truth = float(elbo(draw(model, posterior, row, sigma_points(5))))
            exact = float(form(draw(model, posterior, row, sigma_points(5))))
            d = draw(model, posterior, row, rng(), K=draws)
            many = form(draw(model, posterior, batch_of(x[:1].expand(draws, -1)), rng(1)))
        assert exact == pytest.approx(truth, abs=1e-9)
        assert abs(z_score(many, truth)) < 5
        assert abs(z_score(many, truth + 0.02 * abs(truth))) > 5  # a form off by 2 % is caught
        predicted = quadratic_variance(lambda e, f=random_part: f(draw(model, posterior, row, e.view(1, 1, 5))).sum())
        assert float(many.var()) == pytest.approx(predicted, rel=0.03)
        assert float(random_part(d).var()) == pytest.approx(predicted, rel=0.03)
        variances[name] = predicted
    assert variances["A"] < 0.5 * min(variances["B"], variances["entropy"])


def test_at_the_exact_posterior_only_the_sampled_form_has_no_variance():
    oracle, x = small_linear(rotated=False)
    with torch.no_grad():
        d = draw(oracle.model(), oracle.posterior(), batch_of(x), rng(), K=50)
    assert float(d.log_w.std(0).max()) < 1e-10
    assert float(d.log_lik.std(0).min()) > 0.1
    assert float((d.log_lik + d.log_prior).std(0).min()) > 0.1


def test_the_variance_of_l_draws_falls_as_one_over_l():
    oracle, x = small_linear()
    rows = batch_of(x[:1].expand(40_000, -1))
    with torch.no_grad():
        one = float(elbo(draw(oracle.model(), oracle.posterior(1.3), rows, rng(), K=1)).var())
        for draws in (4, 16):
            many = float(elbo(draw(oracle.model(), oracle.posterior(1.3), rows, rng(draws), K=draws)).var())
            assert one / many == pytest.approx(draws, rel=0.04)  # 4 standard errors of a variance ratio


@pytest.mark.parametrize(("draws", "gap"), [(1, 0.4132), (5, 0.0632), (50, 0.0058)])
def test_iwae_of_a_widened_posterior_has_the_known_gaps(draws, gap):
    # q = the exact posterior, widened by 1.3 in 5 dimensions: the gap depends on the noise alone. As p̂/p has mean 1,
    # (p̂/p − 1) is added to the gap: the same mean, and a small variance. The known gaps are rounded to ±.00005.
    oracle, x = small_linear(rotated=False)
    rows, repeats = batch_of(x[:1].expand(4000, -1)), max(10, 500 // draws)
    with torch.no_grad():
        model, posterior, stream = oracle.model(), oracle.posterior(widen=1.3), rng(draws)
        bounds = [iwae(draw(model, posterior, rows, stream, K=draws)) for _ in range(repeats)]
    gaps = oracle.log_prob(x[:1]) - torch.cat(bounds)
    ratio = (-gaps).exp() - 1
    steady = gaps + ratio
    error = float(steady.std()) / math.sqrt(steady.numel())
    assert error < 0.01 * gap
    assert abs(float(steady.mean()) - gap) < 3 * error + 0.00005
    assert abs(z_score(gaps, gap)) < 4
    assert abs(z_score(ratio, 0.0)) < 4  # E[exp bound] = p(x)
    if draws == 1:
        assert gap == pytest.approx(0.5 * 5 * (1.3**2 - 1 - 2 * math.log(1.3)), abs=1e-4)


def test_iwae_grows_with_its_draws_towards_the_evidence():
    oracle, x = small_linear()
    rows = batch_of(x.repeat(20, 1))
    with torch.no_grad():
        model, posterior, stream = oracle.model(), oracle.posterior(), rng(3)
        means = [float(iwae(draw(model, posterior, rows, stream, K=k)).mean()) for k in (1, 2, 5, 20, 100)]
        truth, noise = float(oracle.log_prob(x).mean()), 0.01
    assert all(low < high for low, high in zip(means, [*means[1:], truth + noise], strict=True)), (means, truth)
