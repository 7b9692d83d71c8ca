"""Importance sampling against evidence that is known exactly."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from enumeration import belief_net
from oracles import PPCA, batch_of, rng

import lowerbound as lb
from lowerbound import evidence
from lowerbound.data import Rows
from lowerbound.evidence import (
    Target,
    bits_per_dimension,
    importance,
    importance_sampling,
    log_likelihood,
    of_model,
)
from lowerbound.evidence.importance import WeightTotal
from lowerbound.evidence.pareto import pareto_k, tail_size


def test_estimates_meet_the_exact_evidence_within_their_standard_errors(linear):
    # 4,000 independent z-scores: their mean square has standard error √(2/4000) = .022; errors 5 % off show.
    oracle, x = linear
    many = log_likelihood(oracle.model(), oracle.posterior(widen=1.3), x.repeat(10, 1), samples=1000)
    z = (many.estimate - oracle.log_prob(x).repeat(10).numpy()) / many.standard_error
    assert abs(z.mean()) < 4 / math.sqrt(4000)
    assert np.square(z).mean() == pytest.approx(1, abs=0.1)
    found = log_likelihood(oracle.model(), oracle.posterior(widen=1.3), x, samples=4000)
    assert found.standard_error.max() < 0.1
    assert abs(found.mean - float(oracle.log_prob(x).mean())) < 4 * found.mean_monte_carlo_error
    assert found.mean_monte_carlo_error < 0.003
    assert found.mean_standard_error == pytest.approx(found.estimate.std(ddof=1) / 20)


def test_its_elbo_is_the_elbo(linear):
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    oracle, x = PPCA.of(linear[1].numpy(), 5, turn), linear[1]
    found = log_likelihood(oracle.model(), oracle.posterior(), x, samples=4000)
    gap = float(oracle.log_prob(x).mean()) - found.mean_elbo
    assert gap == pytest.approx(oracle.diagonal_gap, abs=0.02)


def test_the_exact_posterior_needs_one_draw(linear):
    oracle, x = linear
    found = log_likelihood(oracle.model(), oracle.posterior(), x, samples=2)
    np.testing.assert_allclose(found.estimate, oracle.log_prob(x), atol=1e-9)
    np.testing.assert_allclose(found.ess, 2)
    assert found.standard_error.max() < 1e-6


def test_the_effective_sample_size_falls_as_the_posterior_worsens(linear):
    oracle, x = linear
    sizes = [log_likelihood(oracle.model(), oracle.posterior(w), x, samples=500).ess.mean() for w in (1.0, 1.5, 3.0)]
    assert 500.1 > sizes[0] > sizes[1] > sizes[2] > 1


def test_sums_do_not_depend_on_how_draws_are_split():
    log_w = torch.randn(60, 7, generator=rng(), dtype=torch.float64) * 30 - 900
    whole, parts = WeightTotal(9), WeightTotal(9)
    whole.add(log_w)
    for piece in log_w.split(7):
        parts.add(piece)
    assert torch.allclose(whole.result(), parts.result(), rtol=1e-12)
    assert torch.equal(whole.largest().sort(0).values, log_w.sort(0).values[-9:])
    assert torch.equal(parts.largest().sort(0).values, log_w.sort(0).values[-9:])
    estimate, error, ess, elbo = whole.result()
    weights = (log_w - log_w.amax(0)).exp()
    assert torch.allclose(estimate, log_w.logsumexp(0) - math.log(60))
    assert torch.allclose(ess, weights.sum(0) ** 2 / (weights**2).sum(0))
    assert torch.allclose(error, weights.std(0) / math.sqrt(60) / weights.mean(0))
    assert torch.allclose(elbo, log_w.mean(0))


def test_memory_stays_bounded_as_draws_grow(linear, monkeypatch):
    oracle, x = linear
    monkeypatch.setattr(importance, "_CHUNK_VALUES", 100 * 8 * 50)
    seen, original = [], Target.log_weights

    def spy(target, proposal, noise):
        seen.append(noise.shape[0] * noise.shape[1])
        return original(target, proposal, noise)

    monkeypatch.setattr(Target, "log_weights", spy)
    chunked = log_likelihood(oracle.model(), oracle.posterior(widen=1.3), x, samples=1000)
    assert max(seen) <= 50 * 100
    assert sum(seen) == 1000 * 400
    assert abs(chunked.mean - float(oracle.log_prob(x).mean())) < 4 * chunked.mean_monte_carlo_error


def test_shared_draws_make_a_score_independent_of_its_neighbours(linear):
    oracle, x = linear
    model, posterior = oracle.model(), oracle.posterior()
    whole = evidence.score_rows(model, posterior, batch_of(x), 50, rng())
    backwards = evidence.score_rows(model, posterior, batch_of(x.flip(0)), 50, rng())
    np.testing.assert_allclose(backwards.flip(0), whole, rtol=1e-12)


def test_bits_per_dimension():
    assert bits_per_dimension(-math.log(2) * 64, (8, 8)) == pytest.approx(1)
    assert bits_per_dimension(-math.log(2) * 64, 16.0) == pytest.approx(4)
    assert math.isnan(bits_per_dimension(0.0, 0.0))


def coins(mask: torch.Tensor, likelihood=None) -> tuple[lb.LatentVariableModel, lb.posteriors.Posterior, Rows]:
    """Fair coins, whatever z: 1 bit each; those where the mask is False are missing."""
    x = (torch.rand(mask.shape, generator=rng()) < 0.5).float()
    decoder, encoder = torch.nn.Linear(2, mask.shape[1]), torch.nn.Linear(mask.shape[1], 4)
    with torch.no_grad():
        decoder.weight.zero_(), decoder.bias.zero_(), encoder.weight.zero_(), encoder.bias.zero_()
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, likelihood or lb.likelihoods.Bernoulli())
    return model, lb.posteriors.DiagonalNormal(2, encoder), Rows(x, mask)


def test_bits_are_of_observed_values():
    """A coin is 1 bit, however many others are missing; divided by all cells it would be 0.2."""
    mask = torch.zeros(40, 10, dtype=torch.bool)
    mask[:, :2] = True
    mask[:8, 3:] = True  # rows of different numbers of values: the mean of the rows' ratios is not what is asked
    mask[8] = False
    model, posterior, rows = coins(mask)
    for seen in (
        evidence.log_likelihood(model, posterior, rows, samples=200),
        evidence.to_precision(evidence.of_model(model, posterior), rows, rng(), 0.5, 300),
    ):
        np.testing.assert_array_equal(seen.values, mask.sum(1))
        assert seen.bits_per_dimension((10,)) == pytest.approx(1, abs=0.02)
        np.testing.assert_array_equal(evidence.importance.subset(seen, np.arange(9)).values, mask[:9].sum(1))
    judged = evidence.judge_model(model, posterior, rows, budget=300, anneal=0, simulate=0, gaps=0, simulations=0)
    assert judged.summary()["bits_per_dimension"] == pytest.approx(1, abs=0.02)
    each = judged.bits_per_dimension
    assert each is not None
    assert np.isnan(each[8])
    np.testing.assert_allclose(np.delete(each, 8), 1, atol=0.3)
    bits = judged.summary()["bits_per_dimension"]
    assert f"({bits:.4g} bits per dimension)" in str(judged)
    whole = evidence.log_likelihood(model, posterior, rows.x, samples=200)
    assert whole.bits_per_dimension((10,)) == pytest.approx(1, abs=0.02)


def test_bits_are_of_all_cells_where_log_p_is_of_what_is_missing_too():
    mask = torch.zeros(20, 4, dtype=torch.bool)
    mask[:, 0] = True
    likelihood = lb.likelihoods.SelfMasking(lb.likelihoods.Product([lb.likelihoods.Bernoulli() for _ in range(4)]))
    targets, (_, _, rows) = evidence.of_model(*coins(mask, likelihood)[:2]), coins(mask)
    assert evidence.importance_sampling(targets, rows, rng(), 2).values.tolist() == [4] * 20


def test_one_row_has_no_standard_error_over_rows(linear):
    oracle, x = linear
    found = log_likelihood(oracle.model(), oracle.posterior(), x[:1], samples=10)
    assert math.isnan(found.mean_standard_error)
    with pytest.raises(ValueError, match="samples"):
        log_likelihood(oracle.model(), oracle.posterior(), x, samples=1)


def test_the_whole_path_is_public(linear):
    oracle, x = linear
    assert lb.log_likelihood(oracle.model(), oracle.posterior(), x[:5], samples=10).estimate.shape == (5,)


def test_standard_errors_are_honest(linear):
    """8,000 repetitions, c = 1.3, K = 1,000: the nominal 95 % interval covers in 94 to 96 %. A row is a repetition, for
    its weights depend on its noise alone."""
    oracle, x = linear
    many = Rows(x.repeat(20, 1), dtype=torch.float64)
    found = importance_sampling(of_model(oracle.model(), oracle.posterior(widen=1.3)), many, rng(), 1000)
    error = np.abs(found.estimate - oracle.log_prob(x).repeat(20).numpy())
    assert 0.94 < np.mean(error < 1.96 * found.standard_error) < 0.96
    assert np.mean(error < 1.5 * found.standard_error) < 0.94, "an error that is too small would show"
    assert found.reliable.mean() > 0.999


def test_a_narrow_posterior_is_unreliable(linear):
    """c = 0.7, where the weights have no variance: the intervals are too small, and k̂ says so; more so at 0.5."""
    oracle, x = linear
    for widen, covers, flagged in ((0.7, 0.9, 0.6), (0.5, 0.6, 0.95)):
        targets = of_model(oracle.model(), oracle.posterior(widen=widen))
        found = importance_sampling(targets, Rows(x, dtype=torch.float64), rng(), 1000)
        error = np.abs(found.estimate - oracle.log_prob(x).numpy())
        assert np.mean(error < 1.96 * found.standard_error) < covers
        assert np.mean(~found.errors_hold) > flagged
    assert np.mean(~found.reliable) > 0.8
    exact = importance_sampling(of_model(oracle.model(), oracle.posterior()), Rows(x, dtype=torch.float64), rng(), 1000)
    assert exact.errors_hold.all()


def test_its_k_hat_is_that_of_its_weights(linear):
    oracle, x = linear
    targets = of_model(oracle.model(), oracle.posterior(1.5))
    noise = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng(5))))  # that of the first batch
    found = importance_sampling(targets, Rows(x[:7], dtype=torch.float64), rng(5), 140)
    target = targets(batch_of(x[:7]))
    log_w = target.log_weights(target.posterior, target.posterior.noise((140, 7), (5,), noise, torch.float64))
    due = pareto_k(log_w.sort(0).values[-tail_size(140) - 1 :].detach().numpy())
    np.testing.assert_allclose(found.pareto_k, due)


def test_evidence_of_a_mixture_is_that_of_scikit_learn():
    """A Gaussian mixture as a model with a categorical latent, under a poor posterior."""
    from sklearn.mixture import GaussianMixture

    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(-2, 1, (60, 2)), random.normal(2, 0.5, (60, 2))])
    fitted = GaussianMixture(3, covariance_type="spherical", random_state=0).fit(x)
    means, deviations = torch.tensor(fitted.means_), torch.tensor(fitted.covariances_).sqrt()
    log_shares = torch.tensor(fitted.weights_).log()

    def log_joint(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        one_hot = z.squeeze(2)
        each = torch.distributions.Normal(one_hot @ means, (one_hot @ deviations).unsqueeze(-1)).log_prob(x).sum(-1)
        return each + one_hot @ log_shares

    def poor(x: torch.Tensor) -> lb.distributions.Categorical:
        return lb.distributions.Categorical(torch.zeros(len(x), 1, 3).double() + torch.tensor([0.3, 0.0, -0.3]))

    targets = evidence.of_functions(log_joint, poor, (1, 3))
    x = np.tile(x, (8, 1))
    found = importance_sampling(targets, Rows(torch.tensor(x), dtype=torch.float64), rng(), 4000)
    z = (found.estimate - fitted.score_samples(x)) / np.maximum(found.standard_error, 1e-12)
    assert found.standard_error.max() < 0.1
    assert np.abs(z).max() < 4.5
    assert np.square(z).mean() == pytest.approx(1, abs=0.2)


def test_evidence_of_a_belief_net_is_the_enumerated_one():
    toy = belief_net(10)
    targets = of_model(toy.model, toy.posterior)
    found = importance_sampling(targets, Rows(toy.x.expand(200, -1), dtype=torch.float64), rng(), 4000)
    weights = np.exp(found.estimate - float(toy.log_evidence().detach()))
    error = weights.std(ddof=1) / math.sqrt(200)
    assert weights.mean() == pytest.approx(1, abs=4 * error)
    assert error < 0.01


def test_what_is_found_does_not_depend_on_threads(linear):
    """Batches on threads of their own: the same bits on one thread and on three, and torch's number is as it was."""
    oracle, x = linear
    targets, rows = of_model(oracle.model(), oracle.posterior(1.3)), Rows(x, dtype=torch.float64)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(importance_sampling(targets, rows, rng(), 200, batch_size=30))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].estimate, found[1].estimate)
    np.testing.assert_array_equal(found[0].pareto_k, found[1].pareto_k)


def test_an_error_in_one_batch_is_that_of_all(linear):
    oracle, x = linear
    right, seen = of_model(oracle.model(), oracle.posterior()), []

    def targets(batch):
        seen.append(int(batch.index[0]))
        if seen[-1] == 60:
            raise ValueError("a decoder that cannot")
        return right(batch)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="a decoder that cannot"):
            importance_sampling(targets, Rows(x, dtype=torch.float64), rng(), 100_000, batch_size=30)
    finally:
        torch.set_num_threads(before)
    assert len(seen) < 400 / 30  # what had not begun is dropped


def test_two_at_once_leave_the_number_of_threads_as_it_was(linear):
    """One has the pool, the other takes its batches one after another; the random numbers are the same."""
    oracle, x = linear
    targets, rows = of_model(oracle.model(), oracle.posterior(1.3)), Rows(x, dtype=torch.float64)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(importance_sampling, targets, rows, rng(), 2000, 30) for _ in range(2)]
        one, other = (each.result().estimate for each in both)
        assert pool.submit(torch.get_num_threads).result() == before
    assert torch.get_num_threads() == before
    np.testing.assert_allclose(one, other, atol=1e-9)
