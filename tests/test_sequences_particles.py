"""Particle filters, FIVO and queries of sequences, against the Kalman filter of a linear normal model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import assert_one_sentence
from torch import Tensor

import lowerbound as lb
from lowerbound import nn, posteriors, queries
from lowerbound.data import Sequences
from lowerbound.inference import exact_posterior, particles, state_space
from lowerbound.model import distributions_of, draw
from test_sequences import all_of, deep, linear_model, linear_rows

RUNS, STEPS = 20_000, 5
SCHEMES = ("systematic", "stratified", "multinomial")


def estimates(K: int, scheme: str, threshold: float = 0.5, runs: int = RUNS) -> tuple[Tensor, float]:
    """log p̂ of one row by independent runs of the bootstrap filter, and log p by the Kalman filter."""
    model = linear_model(1, 1, STEPS, seed=4)
    with torch.no_grad():
        model.likelihood.of.raw_scale.sub_(2)  # steps that say much of z, so that weights are uneven
    rows = linear_rows(model, (STEPS,), missing=False)
    one = all_of(rows)
    many = lb.Batch(one.x.expand(runs, -1, -1), None, torch.zeros(runs, dtype=torch.int64), torch.ones(runs))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        noise = particles.particle_noise(exact_posterior(model), K, runs, rng, torch.float64)
        p = model.prior_given()
        found = particles.particle_filter(model, p, p, many, noise, scheme, threshold).log_p
        exact, *_ = state_space(model).filtered(one.x, torch.ones_like(one.x, dtype=torch.bool))
    return found, float(exact)


def z_score(found: Tensor, exact: float) -> float:
    """Of mean p̂/p − 1."""
    ratio = (found - exact).exp()
    error = float(ratio.std() / len(ratio) ** 0.5)
    assert error < 0.02
    return float((ratio.mean() - 1) / error)


@pytest.mark.parametrize(("scheme", "threshold"), [*((scheme, 0.5) for scheme in SCHEMES), ("systematic", 0.0)])
def test_the_mean_of_the_estimate_is_p(scheme: str, threshold: float) -> None:
    assert abs(z_score(*estimates(8, scheme, threshold))) < 3.5


def test_weights_that_are_not_reset_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the reset, weights count again at each resampling."""
    where = torch.where
    reset = lambda due, a, b: b if isinstance(a, int) and a == 0 else where(due, a, b)  # noqa: E731
    monkeypatch.setattr(particles.torch, "where", reset)
    found, exact = estimates(8, "systematic", runs=2000)
    ratio = (found - exact).exp()
    assert abs(float(ratio.mean()) - 1) > 10 * float(ratio.std()) / len(ratio) ** 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_of_resampling_differ(scheme: str) -> None:
    """On average a particle has K w copies; by systematic resampling fewer than one away, by strata fewer than two."""
    K, rows = 8, 20_000
    rng = torch.Generator().manual_seed(0)
    log_w = torch.tensor([0.3, 2.0, -1.0, 0.0, 1.0, -3.0, 0.5, 0.2], dtype=torch.float64)[:, None].expand(K, rows)
    due, chosen = particles._resampled(log_w, torch.rand(K, rows, generator=rng, dtype=torch.float64), scheme, 1.0)
    assert due.all()
    copies = (chosen == torch.arange(K)[:, None, None]).sum(1).double()
    away = copies - K * log_w.softmax(0)
    assert float(away.mean(1).abs().max()) < 0.05
    least, most = {"systematic": (0, 1), "stratified": (1, 2), "multinomial": (2, 8)}[scheme]
    assert least < float(away.abs().max()) < most


def test_the_bound_rises_with_the_number_of_particles() -> None:
    means = [float(estimates(K, "systematic", runs=4000)[0].mean()) for K in (1, 4, 16)]
    exact = estimates(1, "systematic", runs=1)[1]
    assert means[0] < means[1] < means[2] < exact + 0.02


def test_without_resampling_it_is_the_bound_of_importance_weights() -> None:
    model, posterior = deep(2, 6, 3, product=True)
    batch = all_of(linear_rows(linear_model(1, 3, 6)))
    batch = lb.Batch((batch.x > 0).double(), batch.mask, batch.index, batch.weight)
    noise = particles.particle_noise(posterior, 5, len(batch.x), torch.Generator().manual_seed(0), torch.float64)
    q, p = distributions_of(model, posterior, batch.x, batch.mask)
    found = particles.particle_filter(model, q, p, batch, noise, threshold=0.0)
    expected = lb.objectives.iwae(draw(model, posterior, batch, noise[..., :-1]))
    torch.testing.assert_close(found.log_p, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(lb.objectives.elbo(found), found.log_p, rtol=0, atol=1e-10)


def test_the_exact_posterior_needs_one_particle() -> None:
    model = linear_model(2, 3, 6)
    rows, posterior = linear_rows(model), exact_posterior(model)
    batch = all_of(rows)
    with torch.no_grad():
        noise = particles.particle_noise(posterior, 1, len(rows), torch.Generator().manual_seed(0), torch.float64)
        found = particles.particle_filter(model, *distributions_of(model, posterior, batch.x, batch.mask), batch, noise)
        log_p, *_ = state_space(model).filtered(batch.x, batch.mask)
    torch.testing.assert_close(found.log_p, log_p, rtol=0, atol=1e-8)


def test_fivo_learns_and_resumes(tmp_path: Path) -> None:
    rows = linear_rows(linear_model(1, 1, 6, seed=3), (6, 5, 4, 6) * 10)

    def run(folder: Path, stop: int | None) -> tuple[dict[str, Tensor], list]:
        model = linear_model(1, 1, 6, seed=8)
        with nn.seeded(0):
            posterior = posteriors.Markov(1, nn.Recurrent((1,), 2, 8), 6).double()
        learning = lb.FIVO(posterior, particles=4, learning_rate=2e-2)
        assert learning.is_bound
        stops = [] if stop is None else [lambda event: event.step >= stop]
        settings = {"run_dir": folder, "checkpoint_every": 2, "callbacks": stops}
        history = lb.fit(model, rows, learning, epochs=12, batch_size=10, **settings).history
        return model.state_dict() | posterior.state_dict(), history.records

    whole, records = run(tmp_path / "whole", None)
    assert records[-1]["valid_objective"] > records[0]["valid_objective"]
    run(tmp_path / "parts", 7)
    resumed, _ = run(tmp_path / "parts", None)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resampling": "residual"}, ("resampling is 'residual'", "it takes")),
        ({"particles": 0}, ("particles of at least 1",)),
        ({"threshold": 2.0}, ("threshold from 0 to 1",)),
    ],
)
def test_settings_of_fivo_are_checked(settings, words) -> None:
    with pytest.raises(ValueError, match=r"particles|resampling") as caught:
        lb.FIVO(deep(2, 6, 3, product=True)[1], **settings)
    assert_one_sentence(str(caught.value), words)


# --- queries ---


def test_filtered_and_smoothed_states() -> None:
    model = linear_model(2, 3, 6)
    rows = linear_rows(model)
    batch, rng = all_of(rows), torch.Generator().manual_seed(0)
    with torch.no_grad():
        _, mean, _ = state_space(model).filtered(batch.x, batch.mask)
        smooth, _ = state_space(model).posterior(batch.x, batch.mask, model.prior_given()).marginals()
    found = queries.filtered(model, rows, rng)
    exact = queries.smoothed(model, exact_posterior(model), rows, rng)
    for i, length in enumerate(rows.lengths.tolist()):
        np.testing.assert_allclose(found.mean[i, :length], mean[i, :length], atol=1e-8)
        np.testing.assert_allclose(exact.mean[i, :length], smooth[i, :length], atol=1e-8)
        assert np.isnan(found.mean[i, length:]).all()


def test_states_of_a_model_that_is_not_linear_by_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model by draws, as one that is not linear."""
    model = linear_model(1, 2, 6)
    rows, rng = linear_rows(model), torch.Generator().manual_seed(0)
    exact = queries.filtered(model, rows, rng), queries.smoothed(model, exact_posterior(model), rows, rng)
    monkeypatch.setattr("lowerbound.queries.sequences.is_state_space", lambda model: False)
    found = (
        queries.filtered(model, rows, rng, particles=20_000),
        queries.smoothed(model, exact_posterior(model), rows, rng, samples=20_000),
    )
    for own, due in zip(found, exact, strict=True):
        assert np.nanmax(np.abs(own.mean - due.mean) / due.deviation) < 0.06
        assert np.nanmax(np.abs(own.deviation / due.deviation - 1)) < 0.06


def exact_forecasts(model: lb.LatentVariableModel, rows: Sequences) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Of the two steps after each sequence: means and deviations ``[2, 1]``, and the covariance of the two."""
    space, batch = state_space(model), all_of(rows.extended(2))
    with torch.no_grad():
        _, mean, covariance = space.filtered(batch.x, batch.mask)
        for i, length in enumerate(rows.lengths.tolist()):
            at = slice(length, length + 2)
            centre = mean[i, at] @ space.emission.T + space.offset
            spread = (space.emission.square() * covariance[i, at].squeeze(2) + space.error).sqrt()
            both = space.emission.square() * space.transition * covariance[i, length]
            yield centre.numpy(), spread.numpy(), float(both)


def test_forecasts_are_those_of_the_kalman_filter() -> None:
    model = linear_model(1, 1, 6, seed=2)
    rows = linear_rows(model, (3, 6, 4, 6), missing=True)
    found = queries.forecast(
        model, exact_posterior(model), rows, 2, torch.Generator().manual_seed(0), level=0.8, draws=4000, samples=4000
    )
    assert found.mean.shape == (4, 2, 1)
    for i, (centre, spread, _) in enumerate(exact_forecasts(model, rows)):
        assert np.abs((found.mean[i] - centre) / spread).max() < 0.08
        assert np.abs((found.upper[i] - found.lower[i]) / (2 * 1.2816 * spread) - 1).max() < 0.08


def test_forecasts_by_weighted_particles_are_those_of_the_kalman_filter() -> None:
    """With q that does not know the rows: only the weights do, some of which are uneven at the ends of rows."""
    model = linear_model(1, 1, 30, seed=2)
    with torch.no_grad():
        model.prior.network.weight.fill_(0.9)
        model.likelihood.of.raw_scale.add_(1)
    rows = linear_rows(model, (30, 20, 3, 8))
    with nn.seeded(0):
        posterior = posteriors.Markov(1, nn.Recurrent((1,), 2, 4), 30).double()
    with torch.no_grad():
        posterior.encoder.head.weight.zero_()
        posterior.encoder.head.bias.copy_(torch.tensor([0.0, -12.0]))
    found = queries.forecast(
        model, posterior, rows, 2, torch.Generator().manual_seed(0), level=0.8, draws=8000, samples=8000
    )
    for i, (centre, spread, covariance) in enumerate(exact_forecasts(model, rows)):
        assert np.abs((found.mean[i] - centre) / spread).max() < 0.06
        assert np.abs((found.upper[i] - found.lower[i]) / (2 * 1.2816 * spread) - 1).max() < 0.06
        assert np.abs((found.draws[:, i].mean(0) - centre) / spread).max() < 0.06
        both = np.cov(found.draws[:, i, :, 0].T)[0, 1]  # the two steps of a draw are of one path
        assert both == pytest.approx(covariance, abs=0.06 * spread.prod())


def test_gaps_are_filled_by_completion() -> None:
    model = linear_model(1, 2, 6)
    rows = linear_rows(model)
    batch = all_of(rows)
    found = queries.complete(
        model, exact_posterior(model), rows.padded(), torch.Generator().manual_seed(0), samples=4000, refine=None
    )
    smooth = queries.smoothed(model, exact_posterior(model), rows, torch.Generator().manual_seed(0)).mean
    space = state_space(model)
    due = torch.tensor(smooth[1, 2]) @ space.emission.detach().T + space.offset.detach()
    assert np.abs(found.best[1, 2] - due.numpy()).max() < 0.1
    np.testing.assert_array_equal(found.best[0, 0], batch.x[0, 0])


def test_a_forecast_says_what_it_needs() -> None:
    model = linear_model(1, 1, 6)
    with pytest.raises(ValueError, match="steps of at least 1"):
        queries.forecast(model, exact_posterior(model), Sequences([np.ones((2, 1))]), 0, torch.Generator())
