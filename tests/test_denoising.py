"""Denoising against exact conditionals: probabilistic PCA, enumeration of bits, and quadrature over one latent."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from oracles import PPCA, rng
from scipy import stats

import lowerbound as lb
from lowerbound import likelihoods
from lowerbound.errors import DataError
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, seeded
from lowerbound.posteriors import DiagonalNormal
from lowerbound.queries.denoising import Denoised, Flips, Gaussian, average_pooling, denoise
from lowerbound.queries.denoising.clean_rows import _moments, _settled
from lowerbound.queries.posterior_sampling import Part

MIXING = np.random.default_rng(3).normal(size=(3, 6))


def pca(variance: float = 0.25) -> PPCA:
    random = np.random.default_rng(1)
    weight, mean = random.normal(size=(6, 2)), random.normal(size=6)
    return PPCA(torch.tensor(mean), torch.tensor(weight), variance)


def corrupted(truth: PPCA, n: int, operator: np.ndarray, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clean rows of the model, and y = A x + noise."""
    random = np.random.default_rng(seed)
    noise = np.sqrt(truth.variance) * random.normal(size=(n, 6))
    x = truth.mean.numpy() + random.normal(size=(n, 2)) @ truth.weight.numpy().T + noise
    return x, x @ operator.T + scale * random.normal(size=(n, len(operator)))


def exact(truth: PPCA, y: np.ndarray, operator: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E[x|y] and the deviation of x given y, ``[N, D]``, and log p(y) ``[N]``; NaN in y is missing."""
    weight, mean = truth.weight.numpy(), truth.mean.numpy()
    covariance = weight @ weight.T + truth.variance * np.eye(6)
    means, deviations, evidence = [], [], []
    for row in y:
        seen = ~np.isnan(row)
        a = operator[seen]
        total = a @ covariance @ a.T + scale**2 * np.eye(len(a))
        gain = covariance @ a.T @ np.linalg.inv(total)
        means.append(mean + gain @ (row[seen] - a @ mean))
        deviations.append(np.sqrt(np.diag(covariance - gain @ a @ covariance)))
        evidence.append(stats.multivariate_normal(a @ mean, total).logpdf(row[seen]) if len(a) else 0.0)
    return np.stack(means), np.stack(deviations), np.array(evidence)


def errors(found: Denoised, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """How many of its errors each mean is off, ``[N, …]``: x varies more than E[x|y, z], so these are too few."""
    ess = found.ess.reshape(-1, *[1] * (mean.ndim - 1))
    return np.abs(found.mean - mean) / (deviation / np.sqrt(ess))


@pytest.mark.parametrize("operator", [None, MIXING])
def test_rows_of_a_linear_model_are_denoised_as_they_are_exactly(operator):
    truth, scale, a = pca(), 0.4, np.eye(6) if operator is None else operator
    _, y = corrupted(truth, 8, a, scale)
    mean, deviation, evidence = exact(truth, y, a, scale)
    noise = Gaussian(scale, None if operator is None else torch.tensor(operator))
    wide = truth.posterior(widen=1.5 if operator is None else 6.0)
    found = denoise(truth.model(), wide, torch.tensor(y), noise, rng(), samples=20_000)
    assert found.trusted.all()
    assert errors(found, mean, deviation).max() < 4.5
    assert np.abs((found.mean - mean) / deviation).max() < 0.06
    np.testing.assert_allclose(found.standard_deviation, deviation, rtol=0.03)
    assert (np.abs(found.log_evidence - evidence) < 4.5 * found.standard_error).all()
    assert found.standard_error.max() < 0.05

    # As if y were clean, which is the mutant: E[Wz|x = guess].
    guess = y if operator is None else truth.mean.numpy() + (y - a @ truth.mean.numpy()) @ np.linalg.pinv(a).T
    z = np.linalg.solve(truth.precision.numpy(), truth.weight.numpy().T @ (guess - truth.mean.numpy()).T)
    mutant = truth.mean.numpy() + (truth.weight.numpy() @ z / truth.variance).T
    assert np.median((np.abs(mutant - mean) / (deviation / np.sqrt(found.ess)[:, None])).max(1)) > 20


@pytest.mark.parametrize("operator", [None, MIXING])
def test_chains_put_right_what_a_poor_encoder_has_wrong(operator):
    truth, scale, a = pca(), 1.0, np.eye(6) if operator is None else operator
    _, y = corrupted(truth, 12, a, scale)
    mean, deviation, evidence = exact(truth, y, a, scale)
    noise = Gaussian(scale, None if operator is None else torch.tensor(operator))
    narrow, model = truth.posterior(widen=0.2), truth.model()
    found = denoise(model, narrow, torch.tensor(y), noise, rng(), samples=2000, fit=False)
    assert found.refined.all()
    assert found.trusted.all()
    assert found.ess.min() > 150, "of 1,000 states of chains"
    assert errors(found, mean, deviation).max() < 4.5
    np.testing.assert_allclose(found.standard_deviation, deviation, rtol=0.1)
    assert (np.abs(found.log_evidence - evidence) < 4.5 * found.standard_error).all()
    assert found.standard_error.max() < 0.02
    with pytest.warns(RuntimeWarning, match=r"of 12 rows have too few effective draws .* refine=True"):
        crude = denoise(model, narrow, torch.tensor(y), noise, rng(), samples=2000, refine=False, fit=False)
    assert not crude.refined.any()
    off = np.abs(crude.mean - mean) / (deviation / np.sqrt(found.ess)[:, None])
    assert np.median(off.max(1)) > 5, "the unrefined answer is to be told from the right one"


@pytest.mark.parametrize("operator", [None, MIXING])
def test_fitted_proposals_put_right_what_a_poor_encoder_has_wrong(operator):
    truth, scale, a = pca(), 1.0, np.eye(6) if operator is None else operator
    _, y = corrupted(truth, 12, a, scale)
    mean, deviation, evidence = exact(truth, y, a, scale)
    noise = Gaussian(scale, None if operator is None else torch.tensor(operator))
    found = denoise(truth.model(), truth.posterior(widen=0.2), torch.tensor(y), noise, rng(), samples=2000)
    assert not found.refined.any()
    assert found.trusted.all()
    assert errors(found, mean, deviation).max() < 4.5
    np.testing.assert_allclose(found.standard_deviation, deviation, rtol=0.1)
    assert (np.abs(found.log_evidence - evidence) < 4.5 * found.standard_error).all()


def test_draws_are_of_the_posterior_and_cover_the_truth_as_often_as_they_say():
    truth, scale, n = pca(), 0.4, 300
    for a in (np.eye(6), MIXING):
        x, y = corrupted(truth, n, a, scale, seed=5)
        mean, deviation, _ = exact(truth, y, a, scale)
        noise = Gaussian(scale, None if len(a) == 6 else torch.tensor(a))
        wide = truth.posterior(widen=1.5 if len(a) == 6 else 6.0)
        found = denoise(truth.model(), wide, torch.tensor(y), noise, rng(), samples=2000, draws=200)
        assert found.draws.shape == (200, n, 6)
        standard = (found.draws - mean) / deviation
        assert abs(standard.mean()) < 0.02
        assert abs(standard.std() - 1) < 0.02
        # Correlated as x given y is, and not only as wide: the sum of a row's values has the variance it should have.
        of_sum = found.draws.sum(2).var(0).mean()
        assert abs(of_sum / _variance_of_sum(truth, a, scale) - 1) < 0.05
        low, high = np.quantile(found.draws, [0.05, 0.95], axis=0)
        for value in range(6):  # 300 rows, 90 %: 4 standard errors
            share = ((x >= low) & (x <= high))[:, value].mean()
            assert abs(share - 0.9) < 4 * np.sqrt(0.09 / n)


def _variance_of_sum(truth: PPCA, a: np.ndarray, scale: float) -> float:
    weight = truth.weight.numpy()
    covariance = weight @ weight.T + truth.variance * np.eye(6)
    gain = covariance @ a.T @ np.linalg.inv(a @ covariance @ a.T + scale**2 * np.eye(len(a)))
    return float((covariance - gain @ a @ covariance).sum())


def test_missing_values_of_noisy_rows_are_filled_in():
    truth, scale = pca(), 0.4
    _, y = corrupted(truth, 6, np.eye(6), scale)
    y[np.random.default_rng(0).random(y.shape) < 0.3] = np.nan
    y[0] = np.nan  # of which nothing is known but the model
    mean, deviation, evidence = exact(truth, y, np.eye(6), scale)
    found = denoise(truth.model(), truth.posterior(3.0), torch.tensor(y), Gaussian(scale), rng(), samples=4000)
    assert errors(found, mean, deviation).max() < 4.5
    np.testing.assert_allclose(found.standard_deviation, deviation, rtol=0.1)
    assert (np.abs(found.log_evidence - evidence) < 4.5 * found.standard_error + 1e-12).all()


def bits(values: int = 5) -> tuple[LatentVariableModel, lb.posteriors.Bernoulli]:
    """A model of bits whose latent has 8 states."""
    with seeded(2):
        decoder, encoder = MLP((3,), (values,), hidden=()), MLP((values,), (3,), hidden=())
        torch.nn.init.normal_(decoder.layers[0].weight, std=3.0)
        model = LatentVariableModel(lb.priors.Bernoulli(3), decoder, likelihoods.Bernoulli()).double()
        torch.nn.init.normal_(model.prior.logits)
    return model, lb.posteriors.Bernoulli(3, encoder).double()


@pytest.mark.parametrize("noise", [Flips(0.1), Flips(0.0), Gaussian(0.5), Gaussian(torch.linspace(0.2, 0.9, 5))])
def test_bits_are_denoised_as_enumeration_over_all_rows_and_latents_has_it(noise):
    model, posterior = bits()
    x = np.array(list(itertools.product([0.0, 1.0], repeat=5)))
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double().unsqueeze(1)
    with torch.no_grad():
        log_prior = model.prior(None).log_prob(states)
        p_x = (
            (model.log_lik(states.expand(-1, len(x), -1), torch.tensor(x)) + log_prior).logsumexp(0).exp().numpy()
        )  # [32]
    random = np.random.default_rng(0)
    y = x if isinstance(noise, Flips) else x + np.asarray(noise.scale) * random.normal(size=x.shape)
    if isinstance(noise, Flips):
        flipped = (y[:, None] != x[None]).sum(2)
        p_y = noise.rate**flipped * (1 - noise.rate) ** (5 - flipped)
    else:
        p_y = stats.norm(x[None], np.asarray(noise.scale)).pdf(y[:, None]).prod(2)
    weights = p_y * p_x  # [y, x]
    evidence = np.log(weights.sum(1))
    mean = weights @ x / weights.sum(1, keepdims=True)
    deviation = np.sqrt(mean * (1 - mean))
    found = denoise(model, posterior, torch.tensor(y), noise, rng(), samples=20_000, draws=400)
    assert found.ess.min() > 100
    assert (np.abs(found.mean - mean) <= 5 * deviation / np.sqrt(found.ess)[:, None] + 1e-9).all()
    np.testing.assert_allclose(found.standard_deviation, np.sqrt(found.mean * (1 - found.mean)), atol=1e-6)
    assert (np.abs(found.log_evidence - evidence) < 5 * found.standard_error + 1e-9).all()
    assert found.standard_error.max() < 0.05
    assert set(np.unique(found.draws)) <= {0.0, 1.0}
    assert (
        np.abs(found.draws.mean(0) - mean) <= 5.5 * deviation * np.sqrt(1 / 400 + 1 / found.ess)[:, None] + 1e-9
    ).all()
    if noise == Flips(0.0):
        np.testing.assert_array_equal(found.mean, y)
        return
    # y taken as it is, which is the mutant: it is off by many errors in most rows
    off = np.abs(np.clip(y, 0, 1) - mean) / (deviation / np.sqrt(found.ess)[:, None] + 1e-9)
    assert np.median(off.max(1)) > 20


def of_columns() -> LatentVariableModel:
    """Two normal columns, bits and classes, of one latent."""
    normals = [likelihoods.Normal(0.4, shape=(1,)), likelihoods.Normal("dimension", shape=(1,))]
    product = likelihoods.Product([normals[0], likelihoods.Bernoulli(), normals[1], likelihoods.Categorical(3)])
    return small(product, (3, 4))


def small(likelihood: likelihoods.Likelihood, out: tuple[int, ...]) -> LatentVariableModel:
    with seeded(4):
        decoder = MLP((1,), out, hidden=(6,))
        for layer in decoder.layers:
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight)
    return LatentVariableModel(lb.priors.Normal(1), decoder, likelihood).double()


def gaussian_product(model: LatentVariableModel, params: np.ndarray, y: np.ndarray):
    """log p(y|z), E[x|y, z], Var[x|y, z] where noise of 0.5 is on columns 0 and 2."""
    log_p, mean, variance = flips_free(params, y)
    for column, part in ((0, model.likelihood.likelihoods[0]), (2, model.likelihood.likelihoods[2])):
        mu, own = params[:, 0, column], float(part.sigma().detach()) ** 2
        log_p += stats.norm(mu, np.sqrt(own + 0.25)).logpdf(y[column])
        mean[:, column] = (mu / own + y[column] / 0.25) / (1 / own + 1 / 0.25)
        variance[:, column] = 1 / (1 / own + 1 / 0.25)
    log_p += stats.bernoulli(1 / (1 + np.exp(-params[:, 0, 1]))).logpmf(y[1])
    return log_p, mean, variance


def flips_free(params: np.ndarray, y: np.ndarray):
    """What noise does not touch: classes, and all values as they are."""
    classes = params[:, :, 3] - np.log(np.exp(params[:, :, 3]).sum(1, keepdims=True))
    return classes[:, int(y[3])].copy(), np.tile(y, (len(params), 1)), np.zeros((len(params), 4))


def flips_product(model: LatentVariableModel, params: np.ndarray, y: np.ndarray):
    log_p, mean, variance = flips_free(params, y)
    for column, part in ((0, model.likelihood.likelihoods[0]), (2, model.likelihood.likelihoods[2])):
        log_p += stats.norm(params[:, 0, column], float(part.sigma().detach())).logpdf(y[column])
    one = 1 / (1 + np.exp(-params[:, 0, 1]))
    seen = one * (0.8 if y[1] else 0.2)
    total = seen + (1 - one) * (0.2 if y[1] else 0.8)
    mean[:, 1], variance[:, 1] = seen / total, seen / total * (1 - seen / total)
    return log_p + np.log(total), mean, variance


def entries(model: LatentVariableModel, params: np.ndarray, y: np.ndarray):
    """Normal values of which the decoder says how wide they are, after a mixing; noise 0.3."""
    mixing, rows = MIXING[:2, :4], []
    sigma = model.likelihood.sigma(torch.tensor(params).unsqueeze(1)).squeeze(1).numpy()
    for mu, own in zip(params[:, 0], sigma**2, strict=True):
        total = mixing @ np.diag(own) @ mixing.T + 0.09 * np.eye(2)
        gain = np.diag(own) @ mixing.T @ np.linalg.inv(total)
        variance = np.diag(np.diag(own) - gain @ mixing @ np.diag(own))
        rows.append((stats.multivariate_normal(mixing @ mu, total).logpdf(y), mu + gain @ (y - mixing @ mu), variance))
    return tuple(map(np.array, zip(*rows, strict=True)))


CASES = {
    "a product, normal noise": (of_columns, Gaussian(0.5), gaussian_product, 4),
    "a product, flips": (of_columns, Flips(0.2), flips_product, 4),
    "widths of each entry, mixed": (
        lambda: small(likelihoods.Normal("entry"), (2, 4)),
        Gaussian(0.3, torch.tensor(MIXING[:2, :4])),
        entries,
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_latent_is_integrated_as_quadrature_does(case):
    make, noise, of_z, _ = CASES[case]
    model, grid = make(), np.linspace(-8, 8, 3201)
    with torch.no_grad():
        x = model.sample(6, rng(1)).numpy()
        params = model.decode(torch.tensor(grid).view(-1, 1, 1)).squeeze(1).numpy()
    random = np.random.default_rng(0)
    y = x @ MIXING[:2, :4].T if case.startswith("widths") else x.copy()
    if case == "a product, normal noise":
        y[:, [0, 2]] += 0.5 * random.normal(size=(6, 2))
    with seeded(0):
        posterior = DiagonalNormal(1, MLP((4,), (2,), hidden=())).double()
    found = denoise(model, posterior, torch.tensor(y), noise, rng(), samples=1000)
    assert found.trusted.all()
    with torch.no_grad():
        for row in range(6):
            log_p, means, variances = of_z(model, params, y[row])
            weights = np.exp(log_p) * stats.norm.pdf(grid)
            evidence = np.log(weights.sum() * (grid[1] - grid[0]))
            weights /= weights.sum()
            mean = weights @ means
            deviation = np.sqrt(weights @ (variances + (means - mean) ** 2))
            assert (np.abs(found.mean[row] - mean) <= 4.5 * deviation / np.sqrt(found.ess[row]) + 1e-9).all()
            np.testing.assert_allclose(found.standard_deviation[row], deviation, rtol=0.2, atol=1e-9)
            assert abs(found.log_evidence[row] - evidence) < 4.5 * found.standard_error[row]
            assert found.standard_error[row] < 0.15


@pytest.mark.parametrize(("shape", "factor"), [((4, 6), 2), ((3, 6, 9), 3), ((2, 3), 1)])
def test_average_pooling_is_the_mean_of_blocks(shape, factor):
    x = np.random.default_rng(0).normal(size=shape)
    high, wide = shape[-2] // factor, shape[-1] // factor
    due = x.reshape(*shape[:-2], high, factor, wide, factor).mean((-3, -1))
    found = average_pooling(shape, factor).numpy() @ x.ravel()
    np.testing.assert_allclose(found, due.ravel(), rtol=1e-12)


def test_an_image_is_given_as_one_and_comes_back_as_one():
    """Super-resolution, in single precision, of images whose blocks are small images too."""
    with seeded(0):
        decoder, encoder = MLP((2,), (1, 4, 4), hidden=()), MLP((1, 4, 4), (4,), hidden=())
    model = LatentVariableModel(lb.priors.Normal(2), decoder, likelihoods.Normal(0.1, shape=(1, 4, 4)))
    x = model.sample(2, rng(1)).detach()
    small_images = torch.nn.functional.avg_pool2d(x, 2)
    noise, before = Gaussian(0.05, average_pooling((1, 4, 4), 2)), torch.get_rng_state()
    found = denoise(model, DiagonalNormal(2, encoder), small_images, noise, rng(), samples=400, draws=5)
    assert torch.equal(before, torch.get_rng_state())
    assert found.mean.shape == found.standard_deviation.shape == (2, 1, 4, 4)
    assert found.draws.shape == (5, 2, 1, 4, 4)
    blocks = found.mean.reshape(2, 2, 2, 2, 2).mean((2, 4))
    # W's blocks and own noise: blocks of the estimate are those seen, to a few times the noise of 0.05
    assert np.abs(blocks - small_images[:, 0].numpy()).max() < 0.15
    again = denoise(model, DiagonalNormal(2, encoder), small_images, noise, rng(), samples=400, draws=5)
    np.testing.assert_array_equal(found.draws, again.draws)


def in_parts(monkeypatch, rows):
    """At most so many rows through the decoder at once, also of decoders with few outputs."""
    for name in ("_CHUNK_ROWS", "_NARROW_ROWS"):
        monkeypatch.setattr(f"lowerbound.evidence.importance.{name}", rows)


def test_memory_is_of_a_batch_and_not_of_all_draws(monkeypatch):
    """Rows and draws taken in small parts give what large parts do, to Monte Carlo error."""
    truth, scale = pca(), 0.4
    _, y = corrupted(truth, 5, np.eye(6), scale)
    mean, deviation, _ = exact(truth, y, np.eye(6), scale)
    seen = []
    model = truth.model()
    model.decoder.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    in_parts(monkeypatch, 64)
    found = denoise(model, truth.posterior(1.5), torch.tensor(y), Gaussian(scale), rng(), samples=3001, draws=70)
    assert max(seen) <= 64
    assert errors(found, mean, deviation).max() < 4.5


class _Given:
    """A model and a channel whose latents are the moments themselves."""

    def decode(self, z, context):
        return z

    def moments(self, params, y):
        return params[..., 0], params[..., 1]


def test_moments_in_chunks_are_those_of_all_draws_whatever_the_weights_scale(monkeypatch):
    in_parts(monkeypatch, 24)
    random = np.random.default_rng(0)
    log_w = 30 * random.normal(size=(60, 3)) + np.linspace(-400, 800, 60)[:, None] * np.array([0, 1, -1])
    log_w[:7, 0] = -np.inf
    mean, variance = 1e4 + random.normal(size=(60, 3, 2)), random.random((60, 3, 2))
    shares = np.exp(log_w - log_w.max(0)) / np.exp(log_w - log_w.max(0)).sum(0)
    z = torch.tensor(np.stack([mean, variance], -1))
    batch = lb.draw.Batch(torch.zeros(3, 2), None, torch.arange(3), torch.ones(3))
    part = Part(np.arange(3), torch.arange(3), batch, None, z, torch.tensor(shares), z[:0], torch.zeros(4, 3), 1)
    found = _moments(_Given(), _Given(), part)
    due = (shares[..., None] * mean).sum(0)
    np.testing.assert_allclose(found[0], due, rtol=1e-13)
    np.testing.assert_allclose(found[1], (shares[..., None] * (variance + (mean - due) ** 2)).sum(0), rtol=1e-8)


def test_chains_that_stay_or_drift_are_not_settled():
    kept, heights = torch.randn(20, 50, 3, 2, generator=rng(0)), torch.randn(20, 50, 3, generator=rng(1)).double()
    kept[:, :, 1] = kept[:1, :, 1]
    heights[:, :, 2] += 0.1 * torch.arange(20).view(-1, 1)
    assert _settled(kept, heights).tolist() == [True, False, False]


def test_latents_that_are_not_real_numbers_are_not_refined_and_that_is_said():
    model, posterior = bits()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.mul_(10)  # too sure of itself
    y = torch.ones(2, 5).double()
    with pytest.warns(RuntimeWarning, match="2 of 2 rows have too few .* need real-valued latents"):
        found = denoise(model, posterior, y, Flips(0.1), rng(), samples=20)
    assert not found.refined.any()


REFUSED = [
    (lambda: Gaussian(0.0), "scale must be above 0"),
    (lambda: Gaussian(torch.tensor([1.0, -1.0])), "scale must be above 0"),
    (lambda: Gaussian(float("nan")), "scale must be above 0"),
    (lambda: Gaussian(1.0, torch.ones(3)), r"operator must be a matrix \[M, D\]"),
    (lambda: Flips(0.5), r"rate must be in \[0, 0.5\)"),
    (lambda: Flips(-0.1), "rate must be in"),
    (lambda: average_pooling((4,), 2), "shape must be"),
    (lambda: average_pooling((4, 5), 2), "divides both sides"),
    (lambda: ask(Gaussian(1.0, torch.ones(2, 5)), (3, 2)), "operator has 5 columns, but a row has shape"),
    (lambda: ask(Gaussian(1.0), (3, 5)), r"y must be \[N, 6\]"),
    (lambda: ask(Gaussian(1.0), (0, 6)), r"y must be \[N, 6\]"),
    (lambda: ask(Gaussian(1.0, torch.ones(2, 6)), (3, 6)), r"y must be \[N, 2\]"),
    (lambda: ask(Gaussian(torch.ones(4)), (3, 6)), "noise's scale has shape"),
    (lambda: ask(Flips(0.1), (3, 6)), "Flips noise supports Bernoulli likelihoods, but .* is Normal"),
    (lambda: ask(Gaussian(1.0), (3, 6), samples=1), "samples must be at least 2"),
    (lambda: ask(Gaussian(1.0), (3, 6), draws=0), "draws must be at least 1"),
    (lambda: ask(Gaussian(1.0), (3, 6), fill=float("inf")), r"value \[0\] of row 0 of y, inf, is impossible"),
    (lambda: ask(Gaussian(1.0, torch.ones(2, 6)), (3, 2), fill=float("nan")), "may not be missing"),
    (lambda: ask(Gaussian(1.0, torch.ones(2, 5)), (3, 2), bits()), "give a model of these rows with a Normal"),
    (lambda: ask(Flips(0.1), (3, 5), bits(), fill=0.5), r"value \[0\] of row 0 of y, 0.5, is impossible"),
    (lambda: ask(Gaussian(1.0), (3, 4), counts()), "the model's likelihood is Poisson"),
    (lambda: ask(Gaussian(1.0), (3, 2), pair(likelihoods.LogNormal(1.0))), "column 1 .* is LogNormal"),
    (lambda: ask(Flips(0.1), (3, 2), pair(likelihoods.Poisson())), "no column of the model's Product is Bernoulli"),
    (lambda: ask(Gaussian(1.0), (3, 2), pair(likelihoods.Poisson()), fill=0.5), r"value \[1\] of row 0 of y, 0.5"),
]


def ask(noise, shape, pair_of=None, fill: float = 1.0, **options) -> Denoised:
    model, posterior = pair_of or (pca().model(), pca().posterior())
    return denoise(model, posterior, torch.full(shape, fill).double(), noise, rng(), **options)


def counts():
    return small(likelihoods.Poisson(), (4,)), DiagonalNormal(1, MLP((4,), (2,), hidden=())).double()


def pair(other: likelihoods.Factorised):
    product = likelihoods.Product([likelihoods.Normal(1.0), other])
    return small(product, (2,)), DiagonalNormal(1, MLP((2,), (2,), hidden=())).double()


@pytest.mark.parametrize(("call", "said"), REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(call, said):
    with warnings.catch_warnings(), pytest.raises((ValueError, DataError), match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
