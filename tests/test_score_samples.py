"""``score_samples`` where the encoder's posterior serves rows badly: against Gaussian densities, row by row."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import lowerbound as lb
from lowerbound.evidence import proposals

N, D, LATENTS = 200, 28, 6


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, 2)) @ rng.normal(size=(2, D)) + 0.05 * rng.normal(size=(N, D))


@pytest.fixture(scope="module")
def fitted(data) -> lb.VAE:
    """A linear decoder, so that log p(x) is that of a normal, and an encoder whose q is moved away and too narrow."""
    vae = lb.VAE(LATENTS, hidden=(), likelihood="Normal", epochs=30, learning_rate=1e-2, random_state=0, threads=1)
    vae.fit(data)
    last = [layer for layer in vae.posterior_.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias[:LATENTS] += 1.0
        last.bias[LATENTS:] -= 1.0
    return vae


def exact(vae: lb.VAE, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        z = torch.cat([torch.zeros(1, LATENTS), torch.eye(LATENTS)]).unsqueeze(1)
        means = vae.model_.likelihood.mean(vae.model_.decode(z))[:, 0].double().numpy()
        noise = vae.model_.likelihood.sample(vae.model_.decode(torch.zeros(4000, 1, LATENTS)), torch.Generator())
    weight, spread = means[1:] - means[0], noise[:, 0].double().numpy().std(0)
    return stats.multivariate_normal(means[0], weight.T @ weight + np.diag(spread**2)).logpdf(x)


def test_rows_that_q_serves_badly_get_a_proposal_of_their_own(fitted, data):
    due = exact(fitted, data)
    plain = fitted.score_samples(data, samples=100)
    found = fitted.score_samples(data)
    assert (due - plain).max() > 2, "100 draws from q are far too low for some rows"
    assert abs(np.mean(found - due)) < 0.5
    assert np.abs(found - due).max() < 2


def test_a_row_s_score_does_not_depend_on_its_neighbours(fitted, data):
    x, order = data[:140], np.random.default_rng(1).permutation(140)
    whole = fitted.score_samples(x)
    np.testing.assert_allclose(fitted.score_samples(x[order]), whole[order], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(fitted.score_samples(x[17:18]), whole[17], rtol=1e-5, atol=1e-4)


def test_what_stays_rough_is_counted_and_the_way_out_is_named(fitted, data, monkeypatch):
    monkeypatch.setattr(proposals, "fits", lambda target: False)
    far = data[:20] + 3 * np.random.default_rng(2).normal(size=(20, D))
    with pytest.warns(UserWarning, match=r"fewer than 3 effective draws for \d+ of 20 rows, .* log_likelihood"):
        fitted.score_samples(far)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.score_samples(far, samples=50)


def test_scores_of_wide_tables_are_those_of_log_likelihood(data):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(data[:60], columns=[f"c{j}" for j in range(D)])
    vae = lb.VAE(LATENTS, hidden=(64,), epochs=60, learning_rate=3e-3, random_state=0, threads=1)
    vae.fit(frame.mask(rng.random(frame.shape) < 0.1))
    best = vae.log_likelihood(frame).estimate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a few rows that stay rough
        found, kept = vae.score_samples(frame), vae.score_samples(frame.assign(id=range(60)), keep=["id"])
    assert abs(np.median(found - best)) < 0.3
    assert np.mean(best - found) < 0.5 * np.mean(best - vae.score_samples(frame, samples=100))
    assert list(kept.columns) == ["id", "log_p"]
    np.testing.assert_array_equal(kept["log_p"], found)
