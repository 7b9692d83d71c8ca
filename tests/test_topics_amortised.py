"""Topic models with encoders: their parts, and bounds that lie just below the evidence of tiny corpora."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

import lowerbound as lb
from lowerbound import distributions, posteriors, priors, recipes
from lowerbound.data import Counts
from lowerbound.nn import MLP, Topics
from lowerbound.topics.amortised import topic_shares

N, V = 8, 5
RECIPES = {
    "prod_lda": lambda data: recipes.prod_lda(data, 2, alpha=0.7, hidden=(8,)),
    "amortised_lda": lambda data: recipes.amortised_lda(data, 2, alpha=0.7, hidden=(8,)),
    "whai, 1 layer": lambda data: recipes.whai(data, (3,), hidden=(8,)),
    "whai, 2 layers": lambda data: recipes.whai(data, (3, 2), hidden=(8,)),
}


def corpus() -> Counts:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(2, 0.5), N) @ rng.dirichlet(np.full(V, 0.3), 2)
    return Counts.from_sparse(
        np.stack([rng.multinomial(n, p) for n, p in zip(rng.integers(3, 9, N), shares, strict=True)])
    )


def dense(data: Counts) -> np.ndarray:
    return data.batch(torch.arange(len(data)), torch.ones(len(data))).x.double().numpy()


@pytest.fixture(scope="module", params=list(RECIPES))
def fitted(request):
    """A name, the model and posterior after 150 steps, and the ELBO and KL of each document by 20,000 draws."""
    data = corpus()
    model, posterior = RECIPES[request.param](data)
    lb.fit(model, data, lb.AEVB(posterior, learning_rate=1e-2, draws=4), epochs=150, batch_size=N, validation=0)
    x = torch.from_numpy(dense(data)).float()
    with torch.no_grad():
        batch = lb.Batch(x, None, torch.arange(N), torch.ones(N))
        draw = lb.model.draw(model, posterior, batch, torch.Generator().manual_seed(0), 20_000)
        kl = sum(node.kl for node in draw.nodes).expand_as(draw.log_lik)  # of a layer with parents, at their draws
        elbo = draw.log_lik - kl
    return (
        request.param,
        model,
        posterior,
        elbo.mean(0).numpy(),
        (elbo.std(0) / 20_000**0.5).numpy(),
        kl.mean(0).numpy(),
    )


def of_logistic_normal(model: lb.LatentVariableModel, x: np.ndarray) -> np.ndarray:
    """log p(x) of 2 topics by quadrature over z_1 − z_2, on which alone the shares depend."""
    loc, variance = model.prior.loc.double(), model.prior.scale.double().square()
    d = np.linspace(-12, 12, 4001)
    weight = scipy.stats.norm(float(loc[0] - loc[1]), float(variance.sum().sqrt())).logpdf(d) + np.log(d[1] - d[0])
    theta = np.stack([scipy.special.expit(d), scipy.special.expit(-d)], 1)
    w = model.decoder.weights.detach().double().numpy()
    if model.decoder.product:
        p = scipy.special.softmax(theta @ w + model.decoder.bias.detach().double().numpy(), 1)
    else:
        p = theta @ scipy.special.softmax(w, 1)
    ways = scipy.special.gammaln(x.sum(1) + 1) - scipy.special.gammaln(x + 1).sum(1)
    return ways + scipy.special.logsumexp(x @ np.log(p).T + weight, axis=1)


def of_belief_net(model: lb.LatentVariableModel, x: np.ndarray, draws: int = 400_000) -> tuple[np.ndarray, np.ndarray]:
    """log p(x) by draws from the prior of NumPy, and its standard error."""
    rng, parts = np.random.default_rng(1), list(model.prior.parts.values())
    top = parts[-1](None)
    theta = rng.gamma(top.concentration.detach().numpy(), 1 / top.rate.detach().numpy(), (draws, parts[-1].latent_dim))
    for part in reversed(parts[:-1]):
        phi = scipy.special.softmax(part.network.weights.detach().double().numpy(), 1)
        theta = rng.gamma(theta @ phi, 1 / float(part.rates().detach()))
    rate = theta @ scipy.special.softmax(model.decoder.weights.detach().double().numpy(), 1)
    log_p = np.stack([scipy.stats.poisson.logpmf(own, rate).sum(1) for own in x])
    top_log = log_p.max(1, keepdims=True)
    p = np.exp(log_p - top_log)
    return np.log(p.mean(1)) + top_log[:, 0], p.std(1) / p.mean(1) / draws**0.5


def by_gibbs(model: lb.LatentVariableModel, x: np.ndarray, chains: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """log p(x) of one layer by Chib's estimate from Gibbs chains, and its standard error over chains.

    p(x) = p(x|θ*) p(θ*)/p(θ*|x), with p(θ*|x) the mean over draws of the tokens' topics of Π Gamma(θ*; r + m, c + 1).
    """
    rng, prior = np.random.default_rng(2), model.prior.parts["theta1"](None)
    r, c = (value.detach().double().numpy() for value in (prior.concentration, prior.rate))
    phi = scipy.special.softmax(model.decoder.weights.detach().double().numpy(), 1)
    found = []
    for own in x.astype(int):
        theta, kept, sums = rng.gamma(r, 1 / c, (chains, len(r))), [], 0
        for sweep in range(60):
            p = theta[:, None, :] * phi.T
            m = rng.multinomial(own, p / p.sum(2, keepdims=True)).sum(1)
            theta = rng.gamma(r + m, 1 / (c + 1))
            if sweep >= 20:
                kept.append(m)
                sums = sums + theta.mean(0) / 40
        each = scipy.stats.gamma.pdf(sums, r + np.stack(kept), scale=1 / (c + 1)).prod(2).mean(0)
        log_joint = (
            scipy.stats.poisson.logpmf(own, sums @ phi).sum() + scipy.stats.gamma.logpdf(sums, r, scale=1 / c).sum()
        )
        found.append((log_joint - np.log(each.mean()), each.std() / each.mean() / chains**0.5))
    return tuple(map(np.array, zip(*found, strict=True)))


def test_the_bound_is_just_below_the_evidence(fitted):
    name, model, posterior, elbo, error, kl = fitted
    x = dense(corpus())
    if "whai" in name:
        exact, its_error = of_belief_net(model, x)
    else:
        exact, its_error = of_logistic_normal(model, x), np.zeros(N)
    if name == "whai, 1 layer":
        gibbs, of_gibbs = by_gibbs(model, x)
        np.testing.assert_allclose(gibbs, exact, atol=5 * (its_error + of_gibbs).max())
        exact, its_error = gibbs, of_gibbs
    slack = 4 * np.hypot(error, its_error)
    assert slack.max() < 0.1
    assert (elbo < exact + slack).all()
    assert (elbo > exact - (0.9 if name == "whai, 2 layers" else 0.5)).all()
    assert (elbo + 0.95 * kl > exact + slack).any(), "a KL of weight .05, as in public code, is no bound"
    found = lb.log_likelihood(model, posterior, corpus(), samples=4000)
    assert (np.abs(found.estimate - exact) < 5 * np.hypot(found.standard_error, its_error) + 1e-3).all()


def test_counts_and_dense_rows_are_fitted_to_the_same_bytes(tmp_path):
    data, states = corpus(), []
    data.save(tmp_path)
    for rows in (data, Counts.open(tmp_path), torch.from_numpy(dense(data)).float()):
        model, posterior = recipes.prod_lda(data, 3, hidden=(4,))
        lb.fit(model, rows, lb.AEVB(posterior), epochs=3, batch_size=3, validation=0.25)
        states.append([value.clone() for value in (*model.state_dict().values(), *posterior.state_dict().values())])
    for other in states[1:]:
        assert all(map(torch.equal, states[0], other))


def test_saved_and_loaded_it_is_the_same(fitted, tmp_path):
    _, model, posterior, *_ = fitted
    lb.save(tmp_path / "run", model, posterior)
    again = lb.load(tmp_path / "run")
    found = topic_shares(again.model, again.posterior, corpus())
    assert np.array_equal(found, topic_shares(model, posterior, corpus()))


def test_shares_of_topics_sum_to_one_and_depend_on_their_document_alone(fitted):
    _, model, posterior, *_ = fitted
    data = corpus()
    found = topic_shares(model, posterior, data)
    assert found.shape == (N, model.decoder.n_topics)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    alone = topic_shares(model, posterior, data.subset(torch.tensor([5, 2])))
    np.testing.assert_allclose(alone, found[[5, 2]], rtol=1e-4, atol=1e-6)
    assert np.abs(topic_shares(model, posterior, data, seed=1) - found).max() > 0
    model = lb.LatentVariableModel(priors.Normal(2), MLP((2,), (V,)), lb.likelihoods.Poisson())
    with pytest.raises(ValueError, match=r"the decoder is a MLP, where nn\.Topics is expected"):
        topic_shares(model, posterior, data)


@pytest.mark.parametrize("alpha", [0.3, (0.2, 1.0, 3.0, 7.0)])
def test_the_laplace_approximation_is_that_of_the_softmax_basis(alpha):
    """Its covariance is the projection of diag(1/α) on Σz = 0, of which the diagonal is kept."""
    prior = priors.LaplaceDirichlet(4, alpha)
    each = np.broadcast_to(alpha, 4)
    centred = np.eye(4) - 0.25
    np.testing.assert_allclose(prior.scale.square(), np.diag(centred @ np.diag(1 / each) @ centred), rtol=1e-6)
    np.testing.assert_allclose(prior.loc.softmax(0), each / each.sum(), rtol=1e-6)
    assert float(prior.loc.sum()) == pytest.approx(0, abs=1e-6)


def test_topics_are_mixed_or_multiplied():
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    for proportions, log, multiplied in product((True, False), (True, False), (True, False)):
        decoder = Topics(2, V, multiplied, proportions, log)
        theta = z.softmax(1) if proportions else z.exp()
        out = decoder(z if proportions else z.exp())
        found = (out.exp() if log else out).detach()
        due = theta @ decoder.weights if multiplied else theta @ decoder.weights.softmax(1)
        if not (log and multiplied):
            torch.testing.assert_close(found, due.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(decoder.topics().sum(1), torch.ones(2))
        torch.testing.assert_close(decoder.shares(z.exp()).sum(1), torch.ones(3))


def test_topics_start_at_the_frequencies_of_words():
    x = torch.poisson(torch.tensor([0.1, 1.0, 5.0, 20.0]).expand(2000, 4), generator=torch.Generator().manual_seed(0))
    likelihoods = {True: lb.likelihoods.Multinomial(), False: lb.likelihoods.Multinomial("probabilities")}
    for multiplied, likelihood in likelihoods.items():
        decoder = Topics(50, 4, multiplied)
        lb.LatentVariableModel(priors.LaplaceDirichlet(50), decoder, likelihood).initialise(x)
        centre = decoder.bias if multiplied else decoder.weights.mean(0)
        torch.testing.assert_close(centre.detach().softmax(0), x.mean(0) / x.sum(1).mean(), rtol=0.01, atol=1e-3)


def test_a_weibull_is_merged_with_gammas_alone():
    q = distributions.Weibull(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    p = distributions.Gamma(torch.tensor([0.5, 0.25]), torch.ones(2), batch_dims=0)
    part = posteriors.MergedWeibull(2, nn.Identity())
    merged = part.merge(q, p)
    assert (merged.concentration.tolist(), merged.scale.tolist()) == ([[1.5, 2.25]], [[3.0, 4.0]])
    with pytest.raises(ValueError, match="MergedWeibull needs a prior of gammas, not Normal"):
        part.merge(q, distributions.Normal(torch.zeros(2), torch.ones(2), batch_dims=0))


def test_a_conditional_gamma_reads_its_parents():
    prior = priors.ConditionalGamma(3, Topics(2, 3, proportions=False), 4.0)
    above = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    found = prior(above)
    torch.testing.assert_close(found.concentration[0], above[0] @ prior.network.weights.softmax(1))
    assert (found.concentration[1] > 0).all()
    assert (found.rate == 4).all()
    with pytest.raises(ValueError, match="no context was given"):
        prior()
    with pytest.raises(
        ValueError, match=r"the network of ConditionalGamma gave \[2, 3\], where .* \[2, 4\] is expected"
    ):
        priors.ConditionalGamma(4, Topics(2, 3, proportions=False))(above)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: recipes.prod_lda(corpus(), 1), "latent_dim of at least 2, got 1"),
        (lambda: recipes.prod_lda(corpus(), 3, alpha=-1), "concentration is one positive number, or 3 of them; got -1"),
        (lambda: recipes.whai(corpus(), ()), "layers is empty"),
    ],
)
def test_arguments_that_make_no_model_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
