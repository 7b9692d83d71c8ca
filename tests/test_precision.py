"""As many draws as a row needs, from a proposal of its own where q serves it badly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from enumeration import belief_net
from oracles import PPCA, rng
from quadrature import Logistic
from scipy import stats

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.evidence import (
    LogLikelihood,
    Target,
    importance_sampling,
    of_functions,
    of_model,
    proposals,
    to_precision,
)

NARROW = 0.4  # times the deviation of p(z|x): the variance of the weights is infinite


def test_rows_get_the_draws_that_they_need(linear):
    """Rows whose posterior is far wider than it should be need more; all then meet the error that was asked for."""
    oracle, x = linear
    model, posterior = oracle.model(), oracle.posterior()

    def targets(batch):
        q = posterior(batch.x)
        hard = (batch.index % 4 == 0).unsqueeze(1)
        wide = lb.distributions.Normal(q.loc, q.scale * torch.where(hard, 2.0, 1.1))
        return Target(lambda z: model.log_joint(z, batch.x), (5,), wide, None, 8)

    rows = Rows(x, dtype=torch.float64)
    found = to_precision(targets, rows, rng(), standard_error=0.03, fit=False)
    hard = np.arange(400) % 4 == 0
    assert found.samples[hard].min() > 4 * np.median(found.samples[~hard])
    assert found.standard_error.max() < 2 * 0.03
    assert found.work == found.samples.sum() + 128 * 400
    even = importance_sampling(targets, rows, rng(1), int(found.samples[hard].mean()))
    assert found.work < 0.6 * even.work
    assert found.standard_error.max() < 1.5 * even.standard_error.max()
    z = (found.estimate - oracle.log_prob(x).numpy()) / found.standard_error
    assert abs(z.mean()) < 4 / math.sqrt(400)
    assert np.square(z).mean() == pytest.approx(1, abs=0.35)


def reported(copies: int, widen: float, shift: float, **settings) -> tuple[LogLikelihood, np.ndarray]:
    """What ``to_precision`` says of each of 16 rows of a one-latent logistic model, many times, and the truth."""
    oracle = Logistic.steep()
    x = oracle.rows.repeat(copies, 1)
    found = to_precision(oracle.targets(widen, shift), Rows(x, dtype=torch.float64), rng(), **settings)
    return found, oracle.log_prob(oracle.rows).repeat(copies).numpy()


def bias(estimate: np.ndarray, truth: np.ndarray) -> float:
    """z-score of the mean weight, whose expectation is 1 whatever the number of draws."""
    weights = np.exp(estimate - truth)
    return float((weights.mean() - 1) / (weights.std() / math.sqrt(len(weights))))


def assert_honest(found: LogLikelihood, truth: np.ndarray, some: np.ndarray) -> None:
    """No bias; intervals that cover at their level; errors right to 10 % and those of the draws reported."""
    estimate, error, exact = found.estimate[some], found.standard_error[some], truth[some]
    assert abs(bias(estimate, exact)) < 4
    assert np.mean(np.abs(estimate - exact) < 1.96 * error) == pytest.approx(0.95, abs=0.03)
    assert np.sqrt(np.mean(np.square((estimate - exact) / error))) == pytest.approx(1, abs=0.1)
    draws = found.samples[some]
    np.testing.assert_allclose(error, np.sqrt((draws / found.ess[some] - 1) / (draws - 1)), rtol=1e-6)


def test_rows_that_stop_at_the_pilot_are_reported_without_its_bias():
    """q is twice as wide as p(z|x): many rows look good enough on a pilot, whose own estimate is biased."""
    found, truth = reported(400, 2.0, 0.0, standard_error=0.064, fit=False)
    stopped = found.samples == 128
    assert 0.2 < stopped.mean() < 0.8
    assert_honest(found, truth, stopped)
    assert_honest(found, truth, ~stopped)
    oracle = Logistic.steep()
    rows = Rows(oracle.rows.repeat(400, 1), dtype=torch.float64)
    pilot = importance_sampling(oracle.targets(2.0), rows, rng(), 128)  # the same that was seen
    assert abs(bias(pilot.estimate[stopped], truth[stopped])) > 6
    assert abs(bias(found.estimate, truth)) < 4


def test_rows_with_fitted_proposals_are_reported_with_honest_errors():
    """q is too narrow and off: its own weights would be of infinite variance."""
    found, truth = reported(60, 0.5, 0.5, standard_error=0.05)
    assert found.fitted.mean() > 0.9
    assert found.reliable[found.fitted].mean() > 0.99
    assert_honest(found, truth, found.fitted)
    plain, _ = reported(60, 0.5, 0.5, standard_error=0.05, fit=False, most=1000)
    with pytest.raises(AssertionError):
        assert_honest(plain, truth, np.ones(len(truth), bool))


def test_a_budget_is_kept(linear):
    oracle, x = linear
    targets, rows = of_model(oracle.model(), oracle.posterior(2.0)), Rows(x, dtype=torch.float64)
    for fit in (False, True):
        found = to_precision(targets, rows, rng(), standard_error=0.001, budget=1000, fit=fit)
        assert found.work <= 1000 * 400
        assert found.samples.min() >= 128
        assert bool(found.fitted.any()) is fit
    free = to_precision(targets, rows, rng(), standard_error=0.5, budget=1000, fit=False)
    assert free.work < found.work
    with pytest.raises(ValueError, match="budget must be at least 256 draws per row"):
        to_precision(targets, rows, rng(), budget=100)
    with pytest.raises(ValueError, match="standard_error must be above 0"):
        to_precision(targets, rows, rng(), standard_error=0)


def test_rows_that_q_serves_badly_get_a_proposal_of_their_own(linear):
    """A q far too narrow is reliable in no row; the fitted normals meet the exact evidence within honest errors."""
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    oracle, x = PPCA.of(linear[1].numpy(), 5, turn), linear[1]
    targets, rows = of_model(oracle.model(), oracle.posterior(NARROW)), Rows(x, dtype=torch.float64)
    exact = oracle.log_prob(x).numpy()
    plain = to_precision(targets, rows, rng(), standard_error=0.03, fit=False)
    found = to_precision(targets, rows, rng(), standard_error=0.03)
    assert plain.reliable.mean() < 0.3
    assert found.fitted.mean() > 0.95  # k = 0.84, which a pilot's k̂ tells from 0.3 to 0.25
    assert found.reliable.mean() > 0.95
    z = ((found.estimate - exact) / found.standard_error)[found.fitted]
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert np.square(z).mean() == pytest.approx(1, abs=0.3)
    assert np.abs(found.estimate - exact).mean() < 0.2 * np.abs(plain.estimate - exact).mean()
    gap = exact.mean() - found.mean_elbo  # the ELBO stays that of q
    due = oracle.diagonal_gap + 2.5 * (NARROW**2 - 1 - 2 * math.log(NARROW))
    assert gap == pytest.approx(due, abs=4 * found.mean_elbo_standard_error)
    assert found.work == found.samples.sum() + 400 * 128 + found.fitted.sum() * (128 + proposals.COST)


def test_only_those_rows_do(linear):
    oracle, x = linear
    model, posterior = oracle.model(), oracle.posterior()
    hard = np.arange(400) % 3 == 0

    def targets(batch):
        q = posterior(batch.x)
        scale = q.scale * torch.where((batch.index % 3 == 0).unsqueeze(1), NARROW, 1.0)
        return Target(lambda z: model.log_joint(z, batch.x), (5,), lb.distributions.Normal(q.loc, scale))

    backwards = Rows(x, dtype=torch.float64).subset(torch.arange(399, -1, -1))
    found, exact = to_precision(targets, backwards, rng()), oracle.log_prob(x).numpy()[::-1]
    own, easy = found.fitted, ~hard[::-1]
    assert own[~easy].mean() > 0.95
    assert not own[easy].any()
    assert np.abs((found.estimate - exact)[own] / found.standard_error[own]).max() < 5
    np.testing.assert_allclose(found.estimate[easy], exact[easy], atol=1e-8)


def test_a_fit_that_does_harm_is_not_kept(linear, monkeypatch):
    """A mutant whose fits are far off: the second pilot sends every row back to q."""
    oracle, x = linear
    right = proposals.fitted
    monkeypatch.setattr(proposals, "fitted", lambda *of: right(*of) + 3.0)
    targets, rows = of_model(oracle.model(), oracle.posterior(2.0)), Rows(x[:50], dtype=torch.float64)
    found = to_precision(targets, rows, rng(), standard_error=0.02)
    assert not found.fitted.any()
    assert np.abs(found.estimate - oracle.log_prob(x[:50]).numpy()).max() < 0.2


@pytest.mark.parametrize("posterior", [lb.posteriors.FullNormal, lb.posteriors.LowRankNormal])
def test_fits_start_from_any_normal(posterior, linear):
    oracle, x = linear
    build = {"rank": 2} if posterior is lb.posteriors.LowRankNormal else {}
    with lb.nn.seeded(0):
        like = posterior(5, encoder=torch.nn.Identity(), **build)
        q = posterior(5, encoder=lb.nn.MLP((8,), (like.n_outputs,), (8,)), **build).double()
    found = to_precision(of_model(oracle.model(), q), Rows(x[:100], dtype=torch.float64), rng())
    own = found.fitted
    assert own.mean() > 0.9
    assert found.reliable[own].all()
    assert np.abs(found.estimate - oracle.log_prob(x[:100]).numpy())[own].max() < 0.3


def two_modes(z, x):
    """p(z|x) = ½ N(−4, 1) + ½ N(4, 1), log p(x) = 0."""
    normal = torch.distributions.Normal(torch.tensor([-4.0, 4.0]).double(), 1.0)
    return normal.log_prob(z).logsumexp(2) - math.log(2)


def test_a_posterior_of_several_modes_keeps_them():
    """A normal fitted to one of two modes would be .69 nats low, with a tiny error."""

    def mixture(x):
        half, ones = torch.full((len(x), 2), math.log(0.5)).double(), torch.ones(len(x), 2, 1).double()
        return lb.distributions.NormalMixture(half, torch.tensor([[-4.0], [4.0]]).double() * ones, 0.8 * ones)

    rows = Rows(torch.zeros(200, 1).double(), dtype=torch.float64)
    found = to_precision(of_functions(two_modes, mixture, (1,)), rows, rng())
    assert not found.fitted.any()
    assert abs(found.mean) < 0.05


def test_a_mode_that_q_sees_is_not_dropped_by_a_fit():
    """The same where q is one wide normal: what its pilot finds above that of the fit sends the row back."""

    def wide(x):
        zero = torch.zeros(len(x), 1).double()
        return lb.distributions.Normal(zero + 0.5, torch.full_like(zero, 4.0))

    rows = Rows(torch.zeros(200, 1).double(), dtype=torch.float64)
    found = to_precision(of_functions(two_modes, wide, (1,)), rows, rng(), standard_error=0.002, most=2000)
    assert found.work > found.samples.sum() + 200 * proposals.COST  # all were fitted
    assert not found.fitted.all()
    assert abs(found.mean) < 0.05
    assert np.abs(found.estimate).max() < 0.3, "a fit that is kept is of both modes"


def test_one_proposal_for_all_rows_is_fitted_to_each(linear):
    """Without a batch axis, as a prior has none, or with one of a single row."""
    oracle, x = linear
    model, d = oracle.model(), 5
    for loc, dims in ((torch.zeros(d).double(), 0), (torch.zeros(1, d).double(), 1)):
        one = lb.distributions.Normal(loc, torch.ones_like(loc), batch_dims=dims)
        targets = of_functions(lambda z, x: model.log_joint(z, x), lambda x, one=one: one, (d,))
        found = to_precision(targets, Rows(x[:250], dtype=torch.float64), rng())
        assert found.fitted.mean() > 0.9
        exact = oracle.log_prob(x[:250]).numpy()
        assert np.median(np.abs(found.estimate - exact)) < 0.1


def test_a_model_written_elsewhere_has_its_rows_fitted_too(linear):
    oracle, x = linear
    model = oracle.model()

    def narrow(x):
        q = oracle.posterior()(x)
        return lb.distributions.Normal(q.loc + q.scale, 0.3 * q.scale)

    targets = of_functions(lambda z, x: model.log_joint(z, x), narrow, (5,))
    found = to_precision(targets, Rows(x[:30], dtype=torch.float64), rng())
    assert found.fitted.mean() > 0.9
    assert found.reliable[found.fitted].all()
    assert np.abs(found.estimate - oracle.log_prob(x[:30]).numpy())[found.fitted].max() < 0.3


@pytest.mark.parametrize("d", [1, 2, 5])
def test_fitted_proposals_are_those_of_scipy(d):
    """Student's t of two, two and six degrees of freedom: its density, also from the noise alone, and its draws."""
    random = np.random.default_rng(d)
    root = np.tril(random.normal(size=(d, d)), -1) + np.diag(random.uniform(0.5, 2, d))
    loc, lower = torch.tensor(random.normal(size=(1, d))), torch.tensor(root)[None]
    q = proposals.StudentT(loc, lower)
    noise = q.noise((20_000, 1), (d,), rng(), torch.float64)
    z = q.sample(noise)
    due = stats.multivariate_t(loc[0].numpy(), root @ root.T, df={1: 2, 2: 2, 5: 6}[d])
    np.testing.assert_allclose(q.log_prob(z)[:, 0], due.logpdf(z[:, 0].numpy()))
    np.testing.assert_allclose(q.log_prob_of_sample(z, noise), q.log_prob(z))
    theirs = due.rvs(20_000, random_state=0).reshape(-1, d)
    along = random.normal(size=d)
    assert stats.ks_2samp(z[:, 0].numpy() @ along, theirs @ along).pvalue > 1e-3
    assert stats.ks_2samp(q.log_prob(z)[:, 0].numpy(), due.logpdf(theirs)).pvalue > 1e-3


def test_bits_have_no_normal_fitted_to_them():
    net = belief_net(3)
    found = to_precision(
        of_model(net.model, net.posterior), Rows(net.x, dtype=net.x.dtype), rng(), standard_error=0.01, most=500
    )
    assert not found.fitted.any()
