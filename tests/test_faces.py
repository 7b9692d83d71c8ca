"""What an estimator answers, beyond its first batch and for every posterior, against draws, enumeration and medians."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from oracles import rng, z_score
from scipy import stats
from torch import nn

import lowerbound as lb
from lowerbound.likelihoods import Normal

QUICK = {"epochs": 1, "hidden": (8,), "random_state": 0}


def last(network: nn.Module) -> nn.Linear:
    """The last layer of an estimator's network."""
    network = network.second if isinstance(network, lb.nn.Chain) else network
    return network.layers[-1]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(330, 3)) * [1.0, 2.0, 0.5]


@pytest.fixture(scope="module")
def vae(rows) -> lb.VAE:
    return lb.VAE(2, **QUICK).fit(rows)


# Rows beyond the first batch


def test_all_rows_of_a_large_sample_are_of_their_own(vae):
    """2,500 rows are drawn by the thousand: no row is drawn again, and each thousand has the model's distribution."""
    x = vae.sample(2500)
    assert x.shape == (2500, 3)
    assert len(np.unique(x[:, 0])) == 2500
    np.testing.assert_array_equal(x, vae.sample(2500))
    np.testing.assert_array_equal(x[:1000], vae.sample(1000))
    other = vae.sample(2500, random_state=1)
    assert not np.isin(other[:, 0], x[:, 0]).any()
    for first, second in itertools.combinations((x[:1000], x[1000:2000], x[2000:]), 2):
        size = min(len(first), len(second))
        assert min(stats.ks_2samp(first[:, j], second[:, j]).pvalue for j in range(3)) > 1e-4
        assert abs(np.corrcoef(first[:size, 0], second[:size, 0])[0, 1]) < 5 / math.sqrt(size)


def test_rows_of_a_large_table_sample_are_of_their_own(table):
    frame = table.sample(2300)
    assert len(frame) == 2300
    assert frame["size"].nunique() > 2200
    first, later = frame["size"][:1000].to_numpy(), frame["size"][1000:2000].to_numpy()
    assert not np.array_equal(first, later)
    assert abs(stats.spearmanr(first, later).statistic) < 5 / math.sqrt(1000)


def test_each_row_of_a_sample_has_its_own_context():
    """x = 10 c + noise, which the decoder is told: 2,300 rows, each near ten times its own context."""
    c = np.random.default_rng(1).normal(size=(200, 1))
    vae = lb.VAE(1, **QUICK).fit(10 * c + np.random.default_rng(2).normal(size=(200, 1)), context=c)

    class Told(nn.Module):
        context = 1

        def forward(self, z, context):
            return (10 * context - vae.model_.likelihood.shift) / vae.model_.likelihood.spread

    vae.model_.decoder = Told()
    with torch.no_grad():
        vae.model_.likelihood.raw_scale.fill_(-50)
    context = np.random.default_rng(3).normal(size=(2300, 1))
    np.testing.assert_allclose(vae.sample(2300, context=context), 10 * context, atol=0.3)
    assert np.abs(vae.sample(2300, context=context) - 10 * np.roll(context, 1000)).max() > 5
    np.testing.assert_allclose(vae.sample(1200, context=[2.0]), 20, atol=0.3)


@pytest.mark.parametrize("ask", ["transform", "reconstruct", "score_samples", "kl", "scale", "inverse_transform"])
def test_a_row_is_answered_alike_wherever_it_stands(vae, rows, ask):
    """330 rows go through by 128, the last batch padded: each has what it has alone."""
    asks = {"scale": lambda x: vae.encode(x).scale, "inverse_transform": lambda x: vae.inverse_transform(x[:, :2])}
    answer = asks.get(ask, getattr(vae, ask, None))
    whole = answer(rows)
    assert len(whole) == 330
    for at in (0, 127, 128, 200, 256, 329):
        np.testing.assert_allclose(answer(rows[at : at + 1])[0], whole[at], rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.asarray(whole).reshape(330, -1)[:, 0])) > 320
    if ask == "score_samples":
        assert vae.score(rows) == pytest.approx(whole.mean(), rel=1e-6)


# Moments of q


POSTERIORS = {
    "diagonal": "DiagonalNormal",
    "full": "FullNormal",
    "low rank": partial(lb.posteriors.LowRankNormal, rank=1),
    "mixture": partial(lb.posteriors.NormalMixture, components=2),
    "flow": "Flow",
    "gamma": "Gamma",
    "Weibull": "Weibull",
    "beta": "Beta",
    "Dirichlet": "Dirichlet",
    "logistic normal": "LogisticNormal",
    "von Mises-Fisher": "VonMisesFisher",
    "bits": "Bernoulli",
    "classes": partial(lb.posteriors.Categorical, n_classes=3),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_an_encoding_has_the_moments_of_the_posterior(name, rows):
    """Mean and standard deviation of each row's z against 100,000 draws, far from unit scale."""
    posterior = POSTERIORS[name]
    prior = {
        "logistic normal": lb.priors.Dirichlet(2),
        "von Mises-Fisher": None,
        "classes": lb.priors.Categorical(2, 3),
    }.get(name)
    finite = name in ("bits", "classes")
    vae = lb.VAE(2, posterior=posterior, prior=prior, draws=2 if finite else None, **QUICK).fit(rows)
    with torch.no_grad():
        bias = last(vae.posterior_.encoder).bias
        bias += torch.linspace(-1.5, 1.2, len(bias)).flip(0)
        found = vae.encode(rows[:5])
        x = torch.tensor(rows[:5], dtype=torch.float32)
        q = vae.posterior_(x)
        z = torch.cat([q.sample(vae.posterior_.noise(10_000, 5, rng(seed), torch.float32)) for seed in range(10)])
        z = z.flatten(2).double()
    mean, scale = z.mean(0).numpy(), z.std(0).numpy()
    assert found.mean.shape == found.scale.shape == mean.shape
    # 1,000 draws shared by the rows where a moment has no closed form: five standard errors of them
    fourth = ((z - z.mean(0)) ** 4).mean(0).numpy() / np.maximum(scale, 1e-9) ** 4
    error = np.sqrt(np.maximum(fourth - 1, 0.1) / 4000)
    np.testing.assert_allclose(found.mean, mean, atol=5 * scale.max() / math.sqrt(1000))
    assert (np.abs(found.scale / scale - 1) < 5 * error + 0.01).all()
    if not finite:
        assert (np.abs(scale**2 / scale - 1) > 5 * error + 0.01).any(), "a variance is another number"


def test_an_encoding_of_nothing_is_the_prior(table):
    frame = pandas.DataFrame({"size": [np.nan, 2.0], "weight": [np.nan, 1.0]})
    found = table.encode(frame)
    np.testing.assert_allclose(found.mean[0], 0, atol=1e-7)
    np.testing.assert_allclose(found.scale[0], 1, rtol=1e-6)
    assert np.abs(found.mean[1]).max() > 1e-3


# Grey rows


@pytest.fixture(scope="module")
def grey() -> tuple[lb.VAE, np.ndarray]:
    x = np.random.default_rng(0).uniform(size=(200, 4)) ** 2
    vae = lb.VAE(1, binarise="afresh", max_value=1.0, **{**QUICK, "epochs": 10}).fit(x)
    with torch.no_grad():
        decoder = last(vae.model_.decoder)
        decoder.bias.copy_(torch.tensor([2.0, -1.5, 0.5, -3.0]))
        decoder.weight.copy_(5 * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]) * decoder.weight[:1])  # bits that depend
        encoder = last(vae.posterior_.encoder)
        encoder.weight.mul_(torch.tensor([[0.3], [0.0]]))  # q is near the prior, and wider: weights are bounded
        encoder.bias.copy_(torch.tensor([0.1, 0.3]))
    return vae, np.array([[0.9, 0.15, 0.6, 0.05], [0.3, 0.3, 0.95, 0.5]])


def expected(vae: lb.VAE, x: np.ndarray, power: int = 1, samples: int = 5000) -> np.ndarray:
    """Σ over the 16 rows of bits of p(bits|grey row) (log p(bits))^power, for each grey row."""
    bits = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    log_p = vae.log_likelihood(bits, samples=samples).estimate
    assert np.exp(log_p).sum() == pytest.approx(1, abs=0.02)
    chance = np.where(bits == 1, x[:, None], 1 - x[:, None]).prod(2)
    found: np.ndarray = chance @ log_p**power
    return found


def test_scores_of_grey_rows_are_those_of_their_bits(grey):
    """Over many seeds, whose thresholds differ: the mean score of a grey row is the mean over its bits."""
    vae, x = grey
    due, seed, found = expected(vae, x), vae.seed_, []
    try:
        for vae.seed_ in range(300):
            found.append(vae.score_samples(x, samples=100))
    finally:
        vae.seed_ = seed
    scores = torch.tensor(np.array(found)).double()
    for row in range(2):
        assert abs(z_score(scores[:, row], due[row])) < 4.5
        assert abs(z_score(scores[:, row].square(), expected(vae, x, 2)[row])) < 4.5, "each bit has a threshold"
        assert scores[:, row].std() / math.sqrt(300) < 0.12
    for wrong in (1 - x, np.round(x), np.sqrt(x)):
        assert any(abs(z_score(scores[:, row], expected(vae, wrong)[row])) > 4.5 for row in range(2))


def test_the_evidence_of_grey_rows_is_that_of_their_bits(grey):
    """``log_likelihood`` binarises each row on its own: 3,000 copies have the mean over its bits."""
    vae, x = grey
    due = expected(vae, x)
    for row in range(2):
        found = vae.log_likelihood(np.repeat(x[row : row + 1], 3000, 0), samples=100).estimate
        assert abs(z_score(torch.tensor(found), due[row])) < 4.5
        assert found.std() / math.sqrt(3000) < 0.04


def test_bits_are_scored_as_they_are(grey):
    """Rows of 0 and 1 are their own bits, whatever the thresholds; and an encoder sees grey as it is."""
    vae, x = grey
    bits = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    scores = vae.score_samples(bits, samples=5000)
    np.testing.assert_allclose(scores, vae.log_likelihood(bits, samples=5000).estimate, atol=0.2)
    encoder, given = vae.posterior_.encoder, torch.tensor(x, dtype=torch.float32)
    np.testing.assert_allclose(vae.transform(x), encoder(given).detach()[:, :1], rtol=1e-5, atol=1e-6)


# Positive cells


@pytest.fixture(scope="module")
def table() -> lb.VAE:
    random = np.random.default_rng(0)
    z = random.normal(size=200)
    frame = pandas.DataFrame({"size": np.exp(1 + 0.8 * z), "weight": np.exp(0.5 * z + random.normal(size=200))})
    return lb.VAE(2, **QUICK).fit(frame)


def test_missing_positive_cells_are_filled_with_the_mean_of_clipped_values(table):
    """Under a decoder that sees no z, a missing cell's distribution is one log-normal. The best value is its mean, with
    larger values counted as the largest fitted one; half of the draws are above its median; their logarithms spread as
    σ says.
    """
    (likelihood,) = table.model_.likelihood.likelihoods
    assert type(likelihood).__name__ == "LogNormal"
    decoder, direct = last(table.model_.decoder), table.model_.decoder.direct
    parameters = (decoder.weight, decoder.bias, direct.weight)
    before = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            decoder.weight.zero_()
            direct.weight.zero_()
            decoder.bias.copy_(torch.tensor([0.3, -0.7, 0.9, 0.2]))
            params = decoder.bias.view(1, 1, 2, 2)
            mu, sigma = likelihood.mu(params)[0, 0].numpy(), likelihood.sigma(params)[0, 0].numpy()
        scale = np.array([column.scale for column in table.schema_.modelled])
        median = scale * np.exp(mu)
        frame = pandas.DataFrame({"size": [np.nan, 3.0] * 150, "weight": [2.0, np.nan] * 150})
        best = table.impute(frame)
        drawn = np.array([each.to_numpy() for each in table.impute(frame, draws=20)])
    finally:
        with torch.no_grad():
            for parameter, was in zip(parameters, before, strict=True):
                parameter.copy_(was)
    for j, name in enumerate(("size", "weight")):
        hole = frame[name].isna().to_numpy()
        x = median[j] * np.exp(sigma[j] * stats.norm.ppf((np.arange(10**6) + 0.5) / 10**6))
        due = np.minimum(x, table.schema_[name].high).mean()
        np.testing.assert_allclose(best[name][hole], due, rtol=1e-4)
        assert median[j] * np.exp(sigma[j] ** 2 / 2) > 1.001 * due, "the mean is another value"
        logs = torch.tensor(np.log(drawn[:, hole, j]).ravel())
        assert abs(z_score(logs, math.log(median[j]))) < 4.5
        assert float(logs.std()) == pytest.approx(sigma[j], rel=0.06)
        np.testing.assert_array_equal(best[name][~hole], frame[name][~hole])


def test_completions_of_a_heavy_tail_with_zeros_are_no_worse_than_the_mean():
    """83 % of a column are 0, and the logarithms of the others have a standard deviation of 2.5 given z."""
    random, n = np.random.default_rng(1), 300
    z = random.normal(size=n)
    frame = pandas.DataFrame({f"x{j}": (z + 0.5 * random.normal(size=n)).round(3) for j in range(3)})
    some = random.random(n) < 1 / (1 + np.exp(2.5 - 2 * z))
    frame["y"] = np.where(some, np.exp(z + 2.5 * random.normal(size=n)).round(3), 0.0)
    seen = frame.mask(random.random(frame.shape) < 0.3)
    vae = lb.VAE(2, hidden=(32,), epochs=60, learning_rate=3e-3, random_state=0).fit(seen)
    hole = seen["y"].isna()
    error = vae.impute(seen)["y"][hole] - frame["y"][hole]
    assert (error**2).mean() <= ((seen["y"].mean() - frame["y"][hole]) ** 2).mean()


def test_a_positive_value_of_an_array_is_reconstructed_as_its_mean():
    """Of a likelihood asked for by name the mean is given: exp(μ + σ²/2)."""
    x = np.exp(np.random.default_rng(0).normal(size=(100, 2)))
    vae = lb.VAE(1, likelihood="LogNormal", **QUICK).fit(x)
    with torch.no_grad():
        last(vae.model_.decoder).weight.zero_()
        if vae.model_.decoder.direct is not None:
            vae.model_.decoder.direct.weight.zero_()
        likelihood = vae.model_.likelihood
        likelihood.raw_scale.copy_(torch.tensor([-0.5, 0.3]))
        mu = likelihood.shift + likelihood.spread * last(vae.model_.decoder).bias
        due = (mu + likelihood.sigma().square() / 2).exp().numpy()
    np.testing.assert_allclose(vae.reconstruct(x[:3]), np.broadcast_to(due, (3, 2)), rtol=1e-5)
    drawn = vae.sample(20_000)
    for j in range(2):
        assert abs(z_score(torch.tensor(drawn[:, j]), float(due[j]))) < 4.5


def test_a_fixed_scale_is_that_of_the_rows_that_are_drawn(rows):
    vae = lb.VAE(1, likelihood=Normal(0.3, shape=(3,)), **QUICK).fit(rows)
    with torch.no_grad():
        last(vae.model_.decoder).weight.zero_()
        if vae.model_.decoder.direct is not None:
            vae.model_.decoder.direct.weight.zero_()
    np.testing.assert_allclose(vae.sample(20_000).std(0), 0.3, rtol=0.03)
