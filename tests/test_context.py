"""Models of p(y|c): against the linear normal one, whose conditional evidence is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import rng, sigma_points

import lowerbound as lb
from lowerbound.distributions import inverse_positive
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP
from lowerbound.objectives import elbo, elbo_sampled
from lowerbound.posteriors import DiagonalNormal
from lowerbound.posteriors.normal import MIN_SCALE
from lowerbound.priors import ConditionalNormal
from lowerbound.priors.normal import MIN_SCALE as PRIOR_MIN_SCALE

C, D, Y, NOISE = 3, 2, 4, 0.5


class Linear:
    """z | c ~ N(Mc, I), y | z, c ~ N(Wz + Bc, σ²I): y | c ~ N((WM + B)c, WWᵀ + σ²I). W has orthogonal columns."""

    def __init__(self) -> None:
        normal = np.random.default_rng(0).normal
        self.M, self.B = torch.tensor(normal(size=(D, C))), torch.tensor(normal(size=(Y, C)))
        self.W = torch.tensor(np.linalg.qr(normal(size=(Y, D)))[0] * np.array([2.0, 1.0]))

    def rows(self, n: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        noise = rng(seed)
        c, e, u = (torch.randn(n, k, generator=noise, dtype=torch.float64) for k in (C, D, Y))
        return (c @ self.M.T + e) @ self.W.T + c @ self.B.T + NOISE * u, c

    def log_prob(self, y: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        covariance = self.W @ self.W.T + NOISE**2 * torch.eye(Y).double()
        return torch.distributions.MultivariateNormal(c @ (self.W @ self.M + self.B).T, covariance).log_prob(y)

    def parts(self) -> tuple[LatentVariableModel, DiagonalNormal]:
        """The model, and its exact posterior: precision I + WᵀW/σ² (diagonal), mean P⁻¹(Mc + Wᵀ(y − Bc)/σ²)."""
        prior = ConditionalNormal(D, MLP((C,), (2 * D,), hidden=()))
        decoder, encoder = MLP((D,), (Y,), (), context=C), MLP((Y,), (2 * D,), (), context=C)
        model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal(NOISE, shape=(Y,))).double()
        posterior = DiagonalNormal(D, encoder).double()
        precision = torch.eye(D).double() + self.W.T @ self.W / NOISE**2
        gain = torch.linalg.solve(precision, self.W.T) / NOISE**2
        with torch.no_grad():
            for part in (prior.network, decoder, encoder):
                part.layers[0].weight.zero_()
                part.layers[0].bias.zero_()
            prior.network.layers[0].weight[:D] = self.M
            prior.network.layers[0].bias[D:] = inverse_positive(
                torch.tensor(1.0 - PRIOR_MIN_SCALE, dtype=torch.float64)
            )
            decoder.layers[0].weight.copy_(torch.cat([self.W, self.B], 1))
            encoder.layers[0].weight[:D, :Y] = gain
            encoder.layers[0].weight[:D, Y:] = torch.linalg.solve(precision, self.M) - gain @ self.B
            encoder.layers[0].bias[D:] = inverse_positive(precision.diagonal().rsqrt() - MIN_SCALE)
        return model, posterior


@pytest.mark.parametrize("form", [elbo, elbo_sampled])
def test_at_the_exact_posterior_the_bound_is_the_conditional_evidence(form):
    truth = Linear()
    y, c = truth.rows(50)
    model, posterior = truth.parts()
    batch = Batch(y, None, torch.arange(50), torch.full((50,), 0.02).double(), c)
    with torch.no_grad():
        bound = form(draw(model, posterior, batch, sigma_points(D)))
    np.testing.assert_allclose(bound, truth.log_prob(y, c), atol=1e-9, rtol=0)
    wrong = Batch(y, None, torch.arange(50), batch.weight, c.flip(0))
    with torch.no_grad():
        assert (form(draw(model, posterior, wrong, sigma_points(D))) - bound).abs().max() > 1


def test_a_fit_reaches_the_conditional_evidence():
    truth = Linear()
    (y, c), (held, held_c) = truth.rows(4000), truth.rows(1000, seed=2)
    prior = ConditionalNormal(D, MLP((C,), (2 * D,), hidden=()))
    decoder, encoder = MLP((D,), (Y,), (), context=C), MLP((Y,), (2 * D,), (), context=C)
    model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal("scalar", shape=(Y,)))
    rows = lb.data.Rows(y, context=c)
    model.initialise(rows.x)
    posterior = DiagonalNormal(D, encoder)
    inference = lb.AEVB(posterior, learning_rate=lb.training.Cosine(1e-2, epochs=60))
    lb.fit(model, rows, inference, epochs=60, validation=0)
    found = lb.log_likelihood(model, posterior, lb.data.Rows(held, context=held_c), samples=500)
    exact = float(truth.log_prob(held, held_c).mean())
    assert found.mean == pytest.approx(exact, abs=0.03)
    unconditional = torch.distributions.MultivariateNormal(held.mean(0), torch.cov(held.T)).log_prob(held).mean()
    assert exact - float(unconditional) > 1  # the context is worth something


@pytest.fixture(scope="module")
def fitted() -> tuple[lb.VAE, np.ndarray, np.ndarray]:
    y, c = Linear().rows(2000)
    vae = lb.VAE(D, likelihood="Normal", prior="ConditionalNormal", hidden=(32,), learning_rate=3e-3, random_state=0)
    return vae.fit(y.numpy(), context=c.numpy()), y.numpy(), c.numpy()


def test_the_estimator_learns_and_samples_given_a_context(fitted):
    vae, y, c = fitted
    truth = Linear()
    found = vae.log_likelihood(y[:500], context=c[:500])
    assert found.mean == pytest.approx(float(truth.log_prob(*map(torch.tensor, (y[:500], c[:500]))).mean()), abs=0.15)
    at = np.array([1.0, -1.0, 0.5])
    rows = vae.sample(4000, context=at)
    due = (truth.W @ truth.M + truth.B) @ torch.tensor(at)
    spread = float((truth.W @ truth.W.T).diagonal().add(NOISE**2).sqrt().max())
    np.testing.assert_allclose(rows.mean(0), due, atol=0.15 * spread + 4 * spread / math.sqrt(4000))
    assert vae.transform(y[:5], context=c[:5]).shape == (5, D)
    assert vae.reconstruct(y[:5], context=c[:5]).shape == (5, Y)
    assert vae.score(y[:50], context=c[:50]) > vae.score(y[:50], context=c[50:100])


def test_it_is_saved_with_its_context(fitted, tmp_path):
    vae, y, c = fitted
    vae.save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    np.testing.assert_array_equal(again.score_samples(y[:5], context=c[:5]), vae.score_samples(y[:5], context=c[:5]))
    with pytest.raises(ValueError, match="fitted with a context of 3 numbers per row"):
        again.score_samples(y[:5])


def test_a_context_that_does_not_fit_is_refused(fitted):
    vae, y, c = fitted
    with pytest.raises(ValueError, match="the context has 2 numbers per row, but this model was fitted with one of 3"):
        vae.transform(y[:5], context=c[:5, :2])
    with pytest.raises(ValueError, match=r"context is float64 of shape \(4, 3\); give numbers, \[5, C\]"):
        vae.transform(y[:5], context=c[:4])
    bad = c[:5].copy()
    bad[2, 1] = np.nan
    with pytest.raises(DataError, match="the context of row 2 holds NaN"):
        vae.transform(y[:5], context=bad)
    with pytest.raises(ValueError, match="has 3 numbers per row, but this model was fitted with none"):
        lb.VAE(1, epochs=1).fit(y).transform(y[:5], context=c[:5])
    with pytest.raises(ValueError, match="give fit a context"):
        lb.VAE(1, prior="ConditionalNormal", epochs=1).fit(y)


def test_a_network_without_its_context_says_so():
    network = MLP((2,), (1,), (), context=3)
    with pytest.raises(ValueError, match=r"takes a context of \[3\] numbers a row, and was given none"):
        network(torch.zeros(4, 2))
