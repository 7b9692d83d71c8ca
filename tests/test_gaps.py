"""The gap report against pPCA, whose gaps have closed forms, and a belief net, whose states can all be visited."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import belief_net
from oracles import PPCA, rng
from quadrature import Logistic
from torch.nn import Identity

import lowerbound as lb
from lowerbound import local_posteriors
from lowerbound.distributions import inverse_positive
from lowerbound.evidence import LogLikelihood, bounds, gaps, log_likelihood
from lowerbound.evidence.formatting import signed
from lowerbound.evidence.gaps import Gaps, gap_report
from lowerbound.inference import row_family
from lowerbound.posteriors.normal import MIN_SCALE

D, WIDE = 5, 1.3
WIDENED = 0.5 * D * (WIDE**2 - 1 - 2 * math.log(WIDE))  # 0.413 nats
NATS = 0.02


@pytest.fixture(scope="module")
def straight() -> tuple[PPCA, torch.Tensor]:
    """pPCA whose posterior has independent dimensions, and 40 rows of it."""
    random = np.random.default_rng(1)
    x = random.normal(size=(400, D)) @ random.normal(size=(D, 8)) + 0.5 * random.normal(size=(400, 8))
    return PPCA.of(x, D), torch.tensor(x[:40])


@pytest.fixture(scope="module")
def rotated(straight) -> tuple[PPCA, torch.Tensor]:
    """The same with latents that the posterior correlates."""
    oracle, x = straight
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(D, D)))[0]
    return replace(oracle, weight=oracle.weight @ torch.tensor(turn)), x


def known(log_p: torch.Tensor) -> LogLikelihood:
    """log p(x) without error."""
    n = len(log_p)
    values, none = log_p.numpy(), np.zeros(n)
    return LogLikelihood(values, none, np.full(n, 1e3), values, none, np.full(n, 1000), none.astype(bool), 0)


def report(case: tuple[PPCA, torch.Tensor], steps: int = 250, **settings) -> Gaps:
    oracle, x = case
    return gap_report(oracle.model(), oracle.posterior(WIDE), x, known(oracle.log_prob(x)), steps=steps, **settings)


def off(found: Gaps, approximation: float) -> float:
    """By how much the mean amortisation and approximation gaps are wrong, at most, in nats."""
    errors = found.amortisation.mean - WIDENED, found.approximation().mean - approximation
    return max(map(abs, errors))


def test_a_widened_encoder_is_all_that_is_lost_where_the_family_is_right(straight):
    found = report(straight, richer=())
    assert off(found, 0.0) < NATS
    assert abs(found.amortisation.estimate - WIDENED).max() < 0.2
    assert found.amortisation.mean_monte_carlo_error < NATS / 3
    assert found.converged()


def test_a_rotation_is_what_the_diagonal_family_cannot_reach_and_full_covariance_can(rotated):
    oracle, _ = rotated
    assert oracle.diagonal_gap > 20 * NATS
    found = report(rotated)
    assert list(found.local) == ["DiagonalNormal", "FullNormal"]
    assert off(found, oracle.diagonal_gap) < NATS
    assert abs(found.approximation("FullNormal").mean) < NATS
    assert abs(found.approximation("FullNormal").estimate).max() < NATS
    np.testing.assert_allclose(found.total.estimate, found.amortisation.estimate + found.approximation().estimate)
    apart = np.hypot(found.standard_error["elbo"], found.standard_error["DiagonalNormal"])
    assert (found.amortisation.standard_error < 0.9 * apart).all()  # common random numbers


def test_errors_are_those_of_the_estimates(rotated):
    """200 independent z-scores of each: their mean square has standard error 0.1."""
    oracle, x = rotated
    five = report((oracle, x.repeat(5, 1)), steps=200, samples=200)
    for bound, exact in (("elbo", oracle.diagonal_gap + WIDENED), ("DiagonalNormal", oracle.diagonal_gap)):
        estimate = five.elbo if bound == "elbo" else five.local[bound]
        z = (oracle.log_prob(x.repeat(5, 1)).numpy() - exact - estimate) / five.standard_error[bound]
        assert abs(z.mean()) < 4 / math.sqrt(200)
        assert np.square(z).mean() == pytest.approx(1, abs=0.4)


def test_errors_of_means_over_draws_are_exact():
    values, less = np.random.default_rng(0).normal(size=(2, 9, 7))
    for found, due in ((gaps._mean(values), values), (gaps._mean(values, less), values - less)):
        np.testing.assert_allclose(found[0], due.sum(0) / 9)
        np.testing.assert_allclose(found[1], np.sqrt(np.square(due - due.mean(0)).sum(0) / 8 / 9))


def test_wrong_searches_are_rejected(rotated, monkeypatch):
    oracle, _ = rotated
    right = row_family.by_path
    with monkeypatch.context() as patch:  # a sign
        patch.setattr(row_family, "by_path", lambda *of: lambda out, noise: -right(*of)(out, noise))
        assert off(report(rotated, steps=50, richer=()), oracle.diagonal_gap) > 5 * NATS
    with monkeypatch.context() as patch:
        patch.setattr(local_posteriors, "slope_of", lambda log_q, z: torch.zeros_like(z))  # no entropy
        assert off(report(rotated, richer=()), oracle.diagonal_gap) > 5 * NATS
    fixed = torch.randn(8, 1, D, generator=rng(), dtype=torch.float64)
    with monkeypatch.context() as patch:  # bounds of the draws that were maximised
        patch.setattr(lb.posteriors.DiagonalNormal, "noise", lambda self, draws, rows, *_: fixed.expand(-1, rows, -1))
        assert report(rotated, richer=(), samples=8).approximation().mean < oracle.diagonal_gap - 5 * NATS


def test_a_search_that_stops_early_says_so(rotated):
    short, long = report(rotated, steps=5), report(rotated)
    assert not short.converged()
    assert "not converged for DiagonalNormal and FullNormal" in short.words()
    assert long.converged()
    assert long.converged("FullNormal")
    assert "converged" not in long.words()
    assert short.late["DiagonalNormal"].mean > 10 * abs(long.late["DiagonalNormal"].mean)
    assert off(short, rotated[0].diagonal_gap) > NATS


def test_without_log_p_it_is_estimated_from_the_best_q(rotated):
    oracle, x = rotated
    found = gap_report(oracle.model(), oracle.posterior(WIDE), x, steps=250, rows_at_once=15)
    np.testing.assert_allclose(found.log_p, oracle.log_prob(x), atol=NATS)
    assert off(found, oracle.diagonal_gap) < NATS
    assert found.reliable.all()
    assert found.standard_error["log_p"].max() < NATS


@pytest.fixture(scope="module")
def skewed() -> tuple[Logistic, torch.Tensor]:
    return Logistic.steep(), Logistic.steep().rows


def test_rows_that_are_right_are_not_called_unreliable(skewed):
    """Posteriors that no normal fits: the best q is too narrow, and its weights have infinite variance."""
    oracle, x = skewed
    found = gap_report(oracle.model(), oracle.posterior(), x, steps=250)
    np.testing.assert_allclose(found.log_p, oracle.log_prob(x), atol=0.025)
    assert found.reliable.all()
    assert "unreliable" not in found.words()
    z = (found.log_p - oracle.log_prob(x).numpy()) / found.standard_error["log_p"]
    assert abs(z).max() < 4
    assert found.approximation().mean > 2 * found.approximation().mean_monte_carlo_error


def test_a_narrow_proposal_would_call_them_so(skewed, monkeypatch):
    """What the test above rejects: draws from the best q itself."""
    oracle, x = skewed
    monkeypatch.setattr("lowerbound.evidence.proposals.around", lambda q, *_: q)
    assert not gap_report(oracle.model(), oracle.posterior(), x, steps=250).reliable.all()


@pytest.mark.parametrize("family", [lb.posteriors.LowRankNormal(2, 1, Identity()), "NormalMixture"])
def test_other_families_gain_on_the_diagonal(family):
    """In two dimensions a diagonal and one factor are any covariance; a mixture of diagonals comes nearer."""
    random = np.random.default_rng(3)
    x = random.normal(size=(200, 2)) @ np.diag([3.0, 1.0]) @ random.normal(size=(2, 6)) + random.normal(size=(200, 6))
    angle = math.pi / 4
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    oracle, x = PPCA.of(x, 2, turn), torch.tensor(x[:30])
    assert oracle.diagonal_gap > 10 * NATS
    found = gap_report(oracle.model(), oracle.posterior(), x, known(oracle.log_prob(x)), steps=250, richer=[family])
    left = found.approximation(list(found.local)[1])
    assert found.approximation().mean == pytest.approx(oracle.diagonal_gap, abs=NATS)
    if family == "NormalMixture":
        assert 0 < left.mean < oracle.diagonal_gap - 2 * NATS
    else:
        assert abs(left.mean) < NATS


def test_latents_of_a_joint_posterior_are_sought_together(straight):
    oracle, x = straight
    model, whole = oracle.model(), oracle.posterior(WIDE)
    names, sizes = ("a", "b"), (2, 3)
    model.prior = lb.priors.Latents({n: lb.priors.Normal(size) for n, size in zip(names, sizes, strict=True)}).double()
    encoder = whole.encoder
    linear = encoder.second.layers[0]
    order = torch.tensor([0, 1, 5, 6, 2, 3, 4, 7, 8, 9])  # each latent's means, then its scales
    with torch.no_grad():
        linear.weight.copy_(linear.weight[order])
        linear.bias.copy_(linear.bias[order])
    parts = {n: lb.posteriors.DiagonalNormal(size, Identity()) for n, size in zip(names, sizes, strict=True)}
    found = gap_report(model, lb.posteriors.Latents(parts, encoder), x, known(oracle.log_prob(x)), steps=250)
    assert list(found.local) == ["Latents", "FullNormal"]
    assert off(found, 0.0) < NATS


def best_factorised(log_joint: torch.Tensor, states: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The ELBO ``[N]`` at the end of coordinate ascent over Π Bernoulli, by summing over all states.

    ``log_joint [S, N]``; each logit becomes the mean of log p over the others of on less off.
    """
    logits = logits.clone()
    for _ in range(500):
        for bit in range(states.shape[1]):
            others = [i for i in range(states.shape[1]) if i != bit]
            q = torch.distributions.Bernoulli(logits=logits[:, others])
            weight = q.log_prob(states[:, None, others]).sum(2).exp()  # [S, N]
            sign = 2 * states[:, bit : bit + 1] - 1
            logits[:, bit] = (sign * weight * log_joint).sum(0)
    log_q = torch.distributions.Bernoulli(logits=logits).log_prob(states[:, None]).sum(2)
    return (log_q.exp() * (log_joint - log_q)).sum(0)


def test_a_finite_latent_reaches_the_best_factorised_bound():
    net = belief_net(6)
    with torch.no_grad():
        net.model.decoder.layers[0].weight.mul_(2)  # bits that explain each other away
    x = torch.tensor(np.random.default_rng(0).integers(0, 2, (20, 5)), dtype=torch.float64)
    with torch.no_grad():
        states = net.posterior(x).states()
        log_joint = net.model.log_joint(states.unsqueeze(1).expand(-1, len(x), -1), x)
        exact = log_joint.logsumexp(0)
        best = best_factorised(log_joint, states, net.posterior.outputs(x))
    found = gap_report(net.model, net.posterior, x, known(exact), steps=250, draws=16, samples=4000)
    assert list(found.local) == ["Bernoulli"]
    assert found.amortisation.mean > 10 * NATS
    assert found.local["Bernoulli"].mean() == pytest.approx(best.mean().item(), abs=NATS)
    assert abs(found.local["Bernoulli"] - best.numpy()).max() < 5 * NATS
    assert found.approximation().mean == pytest.approx((exact - best).mean().item(), abs=NATS)
    assert best.mean() < exact.mean() - 5 * NATS


def test_nothing_but_the_report_is_changed(rotated):
    oracle, x = rotated
    model, posterior = oracle.model(), oracle.posterior(WIDE)
    parameters = [*model.parameters(), *posterior.parameters()]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.detach().clone() for parameter in parameters]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = gap_report(model, posterior, x, steps=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert all(torch.equal(p, was) and bool((p.grad == 1).all()) for p, was in zip(parameters, before, strict=True))
    np.testing.assert_array_equal(gap_report(model, posterior, x, steps=20).log_p, first.log_p)
    assert (gap_report(model, posterior, x, steps=20, seed=1).log_p != first.log_p).all()


def test_it_says_what_it_found_in_sentences(rotated):
    oracle, x = rotated
    log_p = log_likelihood(oracle.model(), oracle.posterior(WIDE), x)
    heavy = np.where(np.arange(len(x)) < 3, 0.9, log_p.pareto_k)
    found = gap_report(oracle.model(), oracle.posterior(WIDE), x, replace(log_p, pareto_k=heavy), steps=50)
    words = found.words()
    assert f"log p(x) is {log_p.mean:.2f} nats per row" in words
    error = found.amortisation.mean_monte_carlo_error
    assert f"{signed(found.amortisation.mean, error)} ± {error:.2g} of it is amort" in words
    assert "the best DiagonalNormal found comes no closer" in words
    left = found.approximation("FullNormal")
    assert f"The best FullNormal found leaves {signed(left.mean, left.mean_monte_carlo_error)} ±" in words
    assert f"In {int((~found.reliable).sum())} of 40 rows the estimate of log p(x) is unreliable" in words
    np.testing.assert_array_equal(found.reliable, replace(log_p, pareto_k=heavy).reliable)


def test_a_report_of_masked_rows_is_of_what_is_observed(straight):
    """A row of which nothing is observed: log p = 0, and the prior is the best q."""
    oracle, x = straight
    x, mask = x[:2], torch.zeros(2, 8, dtype=torch.bool)
    rows = lb.data.Rows(x, mask, dtype=torch.float64)
    found = gap_report(oracle.model(), oracle.posterior(), rows, steps=250, richer=())
    np.testing.assert_allclose(found.local["DiagonalNormal"], 0, atol=NATS)
    scale = oracle.precision.diagonal().rsqrt()
    mean = torch.linalg.solve(oracle.precision, oracle.weight.T @ -oracle.mean) / oracle.variance
    gap = 0.5 * (scale**2 + mean**2 - 1 - 2 * scale.log()).sum()
    np.testing.assert_allclose(found.amortisation.estimate, gap, rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps and rows_at_once must be at least 1"),
        ({"samples": 1}, "draws and samples at least 2"),
        ({"richer": ["Gamma"]}, "richer holds 'Gamma'"),
        ({"richer": ["FullNormal", "FullNormal"]}, "must have different names"),
        ({"richer": [lb.posteriors.Flow(D, Identity())]}, "no Flow can start"),
    ],
)
def test_what_cannot_be_reported_is_refused(straight, settings, said):
    oracle, x = straight
    with pytest.raises(ValueError, match=said):
        gap_report(oracle.model(), oracle.posterior(), x, **{"steps": 1, **settings})


def test_evidence_of_other_rows_and_other_latents_are_refused(straight):
    oracle, x = straight
    with pytest.raises(ValueError, match="log_p has 39 rows and x has 40"):
        gap_report(oracle.model(), oracle.posterior(), x, known(oracle.log_prob(x[1:])))
    net = belief_net(3)
    with pytest.raises(ValueError, match="richer needs real-valued latents"):
        gap_report(net.model, net.posterior, net.x, richer=["FullNormal"])
    found = gap_report(oracle.model(), oracle.posterior(), x[:2], steps=1, richer=())
    with pytest.raises(ValueError, match="family is 'FullNormal'; the report is of DiagonalNormal"):
        found.approximation("FullNormal")


@pytest.mark.parametrize("name", ["FullNormal", "LowRankNormal", "NormalMixture"])
def test_a_richer_family_starts_at_the_best_of_the_first(name):
    """Its variances are the first one's, of LowRankNormal to rounding; of NormalMixture the parts lie 0.3 apart."""
    loc, scale = torch.tensor([[0.5, -2.0, 9.0]]).double(), torch.tensor([[1.0, 0.02, 3.0]]).double()
    first = lb.posteriors.DiagonalNormal(3, Identity())
    best = local_posteriors.LocalPosterior(first, loc, torch.cat([loc, inverse_positive(scale - MIN_SCALE)], 1))
    (family,) = bounds.families(first, [name])
    start = family.outputs_of(*local_posteriors.moments(first.distribution(best.end), (3,), loc, rng()), rng())
    q = family.distribution(start)
    z = q.sample(family.noise(40_000, 1, rng(1), torch.float64)).squeeze(1)
    np.testing.assert_allclose(((z.mean(0) - loc) / scale).abs(), 0, atol=0.6 if name == "NormalMixture" else 0.03)
    np.testing.assert_allclose(z.std(0) / scale[0], 1, atol=0.2 if name == "NormalMixture" else 0.02)


def test_the_moments_of_any_family_are_those_of_its_draws():
    noise = torch.randn(1, 9, generator=rng(), dtype=torch.float64)
    full = lb.posteriors.FullNormal(3, Identity())
    exact = full.distribution(noise).scale_tril @ full.distribution(noise).scale_tril.mT
    found = local_posteriors.moments(full.distribution(noise), (3,), noise, rng())
    np.testing.assert_allclose(found[1], exact)
    mixture = lb.posteriors.NormalMixture(3, 1, Identity())
    out = torch.cat([torch.zeros(1, 1), noise[:, :6]], 1).double()
    q = mixture.distribution(out)
    loc, covariance = local_posteriors.moments(q, (3,), out, rng())
    np.testing.assert_allclose((loc - q.loc[0]) / q.scale[0], 0, atol=4 / math.sqrt(2000))
    scaled = covariance / q.scale[0].mT / q.scale[0]
    np.testing.assert_allclose(scaled[0], torch.eye(3), atol=4 * math.sqrt(2 / 2000))


def test_a_search_in_many_dimensions_does_not_run_away():
    """30 latents, of which the diagonal family misses 14 nats: full covariance finds them, and nothing passes log p."""
    random = np.random.default_rng(5)
    spread = np.geomspace(0.5, 10, 30)
    x = random.normal(size=(500, 30)) * spread @ np.linalg.qr(random.normal(size=(40, 30)))[0].T
    turn = np.linalg.qr(random.normal(size=(30, 30)))[0]
    oracle, x = PPCA.of(x + random.normal(size=(500, 40)), 30, turn), torch.tensor(x[:20])
    found = gap_report(oracle.model().float(), oracle.posterior().float(), x.float(), steps=300)
    exact = oracle.log_prob(x).numpy()
    np.testing.assert_allclose(found.log_p, exact, atol=0.2)
    assert (found.local["FullNormal"] < exact + 4 * found.standard_error["FullNormal"] + 1e-3).all()
    np.testing.assert_allclose(found.local["FullNormal"], exact, atol=1)
    assert found.approximation("FullNormal").mean < 0.1 * found.approximation().mean
