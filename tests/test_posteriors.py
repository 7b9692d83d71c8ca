"""Richer posteriors and priors against pPCA, explicit mixtures and enumeration."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from oracles import PPCA, batch_of, rng, sigma_points
from scipy import stats

import lowerbound as lb
from lowerbound.distributions import inverse_positive
from lowerbound.model import draw
from lowerbound.nn import MLP, Chain, Standardise, seeded
from lowerbound.objectives import elbo, elbo_sampled, iwae
from lowerbound.posteriors.normal import MIN_SCALE

D = 2


@pytest.fixture(scope="module")
def rotated() -> tuple[PPCA, torch.Tensor]:
    """pPCA whose posterior is correlated, and 1,000 rows from it."""
    random = np.random.default_rng(3)
    x = random.normal(size=(1000, D)) @ (np.diag([3.0, 1.0]) @ random.normal(size=(D, 6)))
    x = x + random.normal(size=x.shape)
    angle = math.pi / 4
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return PPCA.of(x, D, turn), torch.tensor(x)


def exact_full_normal(oracle: PPCA) -> lb.posteriors.FullNormal:
    """q(z|x) = p(z|x), by setting the weights."""
    dim, latents = oracle.weight.shape
    centre = Standardise((dim,))
    posterior = lb.posteriors.FullNormal(latents, MLP((dim,), (1,), hidden=()))
    encoder = Chain(centre, MLP((dim,), (posterior.n_outputs,), hidden=()))
    posterior = lb.posteriors.FullNormal(latents, encoder).double()
    tril = torch.linalg.cholesky(torch.linalg.inv(oracle.precision))
    with torch.no_grad():
        centre.shift.copy_(oracle.mean)
        linear = encoder.second.layers[0]
        linear.weight.zero_()
        linear.weight[:latents] = torch.linalg.solve(oracle.precision, oracle.weight.T) / oracle.variance
        linear.bias.zero_()
        linear.bias[latents : 2 * latents] = inverse_positive(tril.diagonal() - MIN_SCALE)
        rows, columns = torch.tril_indices(latents, latents, -1)
        linear.bias[2 * latents :] = tril[rows, columns]
    return posterior


@pytest.mark.parametrize("form", [elbo, elbo_sampled])
def test_a_full_covariance_closes_the_gap_of_the_diagonal(rotated, form):
    oracle, x = rotated
    assert oracle.diagonal_gap > 0.2
    with torch.no_grad():
        bound = form(draw(oracle.model(), exact_full_normal(oracle), batch_of(x), sigma_points(D)))
    np.testing.assert_allclose(bound, oracle.log_prob(x), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("make", "rate", "epochs"),
    [
        (lb.posteriors.FullNormal, 5e-2, 50),
        (partial(lb.posteriors.LowRankNormal, rank=1), 5e-2, 100),
        (partial(lb.posteriors.Flow, kind="iaf"), 2e-2, 50),
        (partial(lb.posteriors.Flow, kind="realnvp"), 2e-2, 50),
        (partial(lb.posteriors.Flow, kind="nsf"), 5e-3, 100),
    ],
)
def test_a_richer_posterior_learns_to_close_it(rotated, make, rate, epochs):
    """The model fixed at pPCA, the posterior learned from scratch: the closed-form gap is gained, to 0.02 nats."""
    oracle, x = rotated
    model = oracle.model().requires_grad_(False)
    with seeded(0):
        width = make(D, encoder=torch.nn.Identity()).n_outputs
        encoder = Chain(Standardise((6,)), MLP((6,), (width,), hidden=()))
        posterior = make(D, encoder=encoder).double()
    encoder.first.fit(x)
    inference = lb.AEVB(
        posterior,
        objective=elbo_sampled,
        gradient=lb.gradients.sticking_the_landing,
        learning_rate=lb.training.Cosine(rate, epochs=epochs),
    )
    lb.fit(model, x, inference, epochs=epochs, batch_size=100, validation=0, seed=0)
    with torch.no_grad():
        bound = float(elbo_sampled(draw(model, posterior, batch_of(x), rng(), 200)).mean())
    exact = float(oracle.log_prob(x).mean())
    assert exact - 0.02 < bound < exact + 1e-3
    assert oracle.diagonal_gap > 10 * 0.02


def test_vamp_prior_is_the_explicit_mixture_of_posteriors():
    with seeded(0):
        posterior = lb.posteriors.DiagonalNormal(D, MLP((3,), (2 * D,), (8,))).double()
        prior = lb.priors.VampPrior((D,), (3,), 5).double()
    x = torch.randn(40, 3, generator=rng(), dtype=torch.float64)
    prior.initialise(x)
    assert torch.equal(prior.pseudo_inputs, x[::8])
    q = posterior(prior.pseudo_inputs)
    parts = torch.distributions.Independent(torch.distributions.Normal(q.loc, q.scale), 1)
    explicit = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(5)), parts)
    z = 3 * torch.randn(4, 7, D, generator=rng(1), dtype=torch.float64)
    torch.testing.assert_close(prior(posterior=posterior).log_prob(z), explicit.log_prob(z))
    rows = prior.draws(prior(posterior=posterior), 4000, rng(2)).detach()
    grid = explicit.component_distribution.base_dist
    for dim in range(D):  # 1e-3 of false alarm each
        cdf = partial(_mixture_cdf, loc=grid.loc[:, dim].detach().numpy(), scale=grid.scale[:, dim].detach().numpy())
        assert stats.kstest(rows[:, dim].numpy(), cdf).pvalue > 1e-3
        assert stats.kstest(rows[:, dim].numpy() + 0.1, cdf).pvalue < 1e-3
    with pytest.raises(ValueError, match="needs the posterior"):
        prior()


def _mixture_cdf(values: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return stats.norm.cdf(values[:, None], loc, scale).mean(1)


@pytest.mark.parametrize("make", [partial(lb.priors.NormalMixture, D, 3), partial(lb.priors.Flow, D, transforms=2)])
def test_what_a_learned_prior_draws_has_its_density(make):
    """Fitted by maximum likelihood to two clusters; its draws against the integral of its density in one dimension."""
    with seeded(0):
        prior = make().double()
    random = np.random.default_rng(0)
    z = torch.tensor(0.5 * random.normal(size=(500, D)) + np.where(random.random((500, 1)) < 0.5, -1.5, 1.5))
    optimizer = torch.optim.Adam(prior.parameters(), 2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (-prior().log_prob(z.unsqueeze(0)).mean()).backward()
        optimizer.step()
    normal = torch.distributions.MultivariateNormal(z.mean(0), torch.cov(z.T)).log_prob(z).mean()
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        assert float(prior().log_prob(z.unsqueeze(0)).mean()) > float(normal) + 0.1
        density = prior().log_prob(grid.unsqueeze(0))[0].exp().view(241, 241)
        rows = prior.sample(4000, rng(2))
    step = float(axis[1] - axis[0])
    assert float(density.sum()) * step**2 == pytest.approx(1, abs=2e-3)
    for dim in range(D):  # 1e-3 of false alarm each
        cdf = partial(np.interp, xp=axis + step / 2, fp=(density.sum(1 - dim).cumsum(0) * step**2).numpy())
        assert stats.kstest(rows[:, dim].numpy(), cdf).pvalue > 1e-3
        assert stats.kstest(1.1 * rows[:, dim].numpy() + 0.1, cdf).pvalue < 1e-3


def test_vamp_prior_raises_the_bound_of_a_fit():
    """On two clusters a mixture prior leaves less to pay than N(0, I): paired over held-out rows."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 4)) * 0.3 + np.where(random.random((2000, 1)) < 0.5, -2.0, 2.0)
    bounds = []
    for prior in (None, "VampPrior"):
        vae = lb.VAE(2, prior=prior, likelihood="Normal", hidden=(32,), epochs=60, learning_rate=3e-3, random_state=0)
        bounds.append(vae.fit(x[:1600]).log_likelihood(x[1600:], samples=100).elbo)
    difference = bounds[1] - bounds[0]
    assert difference.mean() > 3 * difference.std() / math.sqrt(len(difference))


@pytest.mark.parametrize(
    ("posterior", "draws", "columns"),
    [
        ("Bernoulli", 3, 4),
        (partial(lb.posteriors.Categorical, n_classes=3), 3, 12),
        ("FullNormal", 1, 4),
        (partial(lb.posteriors.Flow, kind="realnvp"), 1, 4),
        ("Dirichlet", 1, 4),
    ],
)
def test_the_estimator_takes_other_posteriors(posterior, draws, columns, tmp_path):
    x = (lb.data.digits().train[:300] > 8).astype(np.float32).reshape(300, 64)
    before = torch.random.get_rng_state()
    vae = lb.VAE(4, posterior=posterior, draws=draws, hidden=(16,), epochs=10, random_state=0).fit(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    z = vae.transform(x[:20])
    assert z.shape == (20, columns)
    assert np.isfinite(z).all()
    np.testing.assert_array_equal(vae.transform(x[5:20]), z[5:])  # no row's result depends on its neighbours
    assert vae.inverse_transform(z).shape == (20, 64)
    assert vae.sample(3).shape == (3, 64)
    assert vae.reconstruct(x[:2]).shape == (2, 64)
    vae.save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    np.testing.assert_array_equal(again.score_samples(x[:20]), vae.score_samples(x[:20]))
    np.testing.assert_array_equal(again.transform(x[:20]), z)


def test_a_belief_nets_evidence_by_importance_sampling_is_the_enumerated_one():
    x = (lb.data.digits().train[:400] > 8).astype(np.float32).reshape(400, 64)
    vae = lb.VAE(6, posterior="Bernoulli", objective="iwae", draws=5, hidden=(), epochs=20, random_state=0).fit(x)
    rows = torch.from_numpy(x[:50])
    states = vae.posterior_(rows).states()
    with torch.no_grad():
        exact = vae.model_.log_joint(states.unsqueeze(1).expand(-1, 50, 6), rows).logsumexp(0).numpy()
    found = vae.log_likelihood(x[:50], samples=20_000)
    np.testing.assert_allclose(found.estimate, exact, atol=0.05)
    there = draw(vae.model_, vae.posterior_, batch_of(rows), rng(), 50)
    assert (iwae(there).detach().numpy() <= exact + 0.5).all()


def test_what_needs_more_than_its_name_says_what():
    x = np.zeros((5, 2)) + np.arange(5)[:, None]
    with pytest.raises(
        ValueError, match=r"renyi needs more.* functools.partial\(lowerbound.objectives.renyi, alpha=…\)"
    ):
        lb.VAE(1, objective="renyi").fit(x)
    with pytest.raises(ValueError, match=r"posterior is 'DiagonalNorma', none of .*; did you mean 'DiagonalNormal'"):
        lb.VAE(1, posterior="DiagonalNorma").fit(x)
    with pytest.raises(ValueError, match="leave_one_out needs draws of at least 2, got 1"):
        lb.VAE(1, posterior="Bernoulli").fit(x)
