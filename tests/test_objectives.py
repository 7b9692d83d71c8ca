"""Objectives and penalties against closed forms, brute force and each other."""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from oracles import PPCA, batch_of, rng, z_score

import lowerbound as lb
from lowerbound.distributions import Normal
from lowerbound.draw import Draw, Node, of_terms, tempered
from lowerbound.model import draw
from lowerbound.objectives import (
    Constrained,
    capacity,
    combined_iwae,
    cubo,
    decomposition,
    description_length,
    disentangled,
    elbo,
    elbo_sampled,
    iwae,
    maximum_mean_discrepancy,
    minus_cubo,
    multi_iwae,
    renyi,
    total_correlation,
    why_no_bound,
)

D, WIDE = 5, 1.3


@pytest.fixture(scope="module")
def log_w() -> torch.Tensor:
    """log w − log p(x) of a posterior widened by 1.3 in 5 dimensions, on pPCA: ``[K, B]``."""
    x = np.random.default_rng(0).normal(size=(100, 8)) @ np.random.default_rng(1).normal(size=(8, 8))
    oracle = PPCA.of(x, D)
    rows = torch.tensor(x[:1]).expand(40_000, 8)
    with torch.no_grad():
        there = draw(oracle.model(), oracle.posterior(WIDE), batch_of(rows), rng(), 10)
        return there.log_w - oracle.log_prob(rows[:1])


def of(log_w: torch.Tensor) -> Draw:
    return of_terms(log_w, torch.zeros_like(log_w), torch.zeros_like(log_w))


def log_moment(power: float) -> float:
    """log E_q[(p/q)^power] of one dimension, p = N(0, 1) and q = N(0, c²)."""
    precision = power + (1 - power) / WIDE**2
    return (power - 1) * math.log(WIDE) - 0.5 * math.log(precision)


def test_the_exponential_of_cubo_is_unbiased_and_its_log_is_no_bound(log_w):
    exact = 0.5 * D * log_moment(2)
    assert exact == pytest.approx(0.228, abs=1e-3)
    assert abs(z_score((2 * cubo(of(log_w))).exp(), math.exp(2 * exact))) < 4
    one = cubo(of(log_w[:1]))
    assert float(one.mean()) == pytest.approx(-0.413, abs=0.01)  # far below log p(x), which an upper bound is not
    assert why_no_bound(cubo)
    assert why_no_bound(partial(minus_cubo, order=2.0))
    assert torch.equal(minus_cubo(of(log_w)), -cubo(of(log_w)))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0, 1.5])
def test_renyi_is_that_of_the_closed_form(log_w, alpha):
    many = log_w.reshape(-1, 4)  # 100,000 draws: the bias is gone
    found = renyi(of(many), alpha)
    power = 1 - alpha
    due = -D * (0.5 * (WIDE**2 - 1) - math.log(WIDE)) if alpha == 1 else D * log_moment(power) / power
    assert float(found.mean()) == pytest.approx(due, abs=0.01)


def test_renyi_falls_with_alpha_from_iwae_over_the_elbo(log_w):
    there = of(log_w)
    assert torch.equal(renyi(there, 0), iwae(there))
    assert torch.equal(renyi(there, 1), elbo_sampled(there))
    values = torch.stack([renyi(there, alpha) for alpha in (-1.0, 0.0, 0.5, 1.0, 2.0)])
    assert (values.diff(dim=0) < 1e-12).all()
    assert [bool(why_no_bound(partial(renyi, alpha=a))) for a in (-1, 0, 0.5, 1, 2)] == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_bounds_of_groups_lie_between(log_w):
    there = of(log_w)
    torch.testing.assert_close(multi_iwae(there, 1), iwae(there))
    torch.testing.assert_close(multi_iwae(there, 10), elbo_sampled(there))
    means = [float(multi_iwae(there, groups).mean()) for groups in (10, 5, 2, 1)]
    assert means == sorted(means)
    by_hand = torch.stack([iwae(of(log_w[:5])), iwae(of(log_w[5:]))]).mean(0)
    torch.testing.assert_close(multi_iwae(there, 2), by_hand)
    mixed = combined_iwae(there, 0.3)
    torch.testing.assert_close(mixed, 0.3 * elbo_sampled(there) + 0.7 * iwae(there))
    with pytest.raises(ValueError, match="10 draws cannot be divided into 3 groups"):
        multi_iwae(there, 3)


def normal_draw(K: int = 3, B: int = 7, d: int = 2, seed: int = 0) -> Draw:
    noise = partial(torch.randn, generator=rng(seed), dtype=torch.float64)
    q, p = Normal(noise(B, d), noise(B, d).exp()), Normal(0.3 * noise(d), noise(d).exp(), 0)
    eps = noise(K, B, d)
    return Draw((Node("z", q.sample(eps), q, p, eps),), noise(K, B))


def weights(B: int = 7) -> torch.Tensor:
    weight = torch.rand(B, generator=rng(9), dtype=torch.float64)
    return weight / weight.sum()


def test_capacity_and_description_length_are_their_formulas():
    there = normal_draw()
    kl = there.kl
    torch.testing.assert_close(capacity(there, 2.0, 10.0), there.log_lik.mean(0) - 10 * (kl - 2).abs())
    latent, data = description_length(there)
    torch.testing.assert_close((latent + data) * math.log(2), -elbo(there))
    sampled = description_length(there.sampled())
    torch.testing.assert_close((sampled.latent + sampled.data) * math.log(2), -elbo_sampled(there))
    assert why_no_bound(partial(capacity, nats=1.0, strength=1.0))


def test_the_parts_of_the_kl_are_those_of_brute_force_and_add_up():
    there, weight = normal_draw(), weights()
    (node,) = there.nodes
    found = decomposition(node, weight)
    q, p, z = node.q, node.p, node.z
    density = torch.distributions.Normal(q.loc, q.scale)
    totals = torch.zeros(3, dtype=torch.float64)
    for k in range(3):
        for b in range(7):
            each = density.log_prob(z[k, b])  # [B of q, d]
            own, joint = each[b].sum(), (each.sum(1).exp() @ weight).log()
            marginals = (weight @ each.exp()).log()
            prior = torch.distributions.Normal(p.loc, p.scale).log_prob(z[k, b])
            parts = torch.stack([own - joint, joint - marginals.sum(), (marginals - prior).sum()])
            totals += weight[b] * parts / 3
    torch.testing.assert_close(torch.stack(found), totals)
    torch.testing.assert_close(sum(found), weight @ (there.log_q - there.log_prior).mean(0))
    torch.testing.assert_close(total_correlation(there, weight, 4.0), 4 * found.total_correlation)
    assert float(found.mutual_information) <= math.log(7)


def test_padding_has_no_part_in_penalties():
    there, weight = normal_draw(), weights()
    weight[-1] = 0
    weight = weight / weight.sum()
    (node,) = there.nodes
    q = Normal(node.q.loc[:-1], node.q.scale[:-1])
    short = Draw((Node("z", node.z[:, :-1], q, node.p),), there.log_lik[:, :-1])
    for penalty in (
        partial(total_correlation, strength=1.0),
        partial(disentangled, off=1.0, on=1.0),
        partial(maximum_mean_discrepancy, strength=1.0),
    ):
        torch.testing.assert_close(penalty(there, weight), penalty(short, weight[:-1]))


@pytest.mark.parametrize("kind", ["i", "ii"])
def test_dip_penalises_the_covariance_of_means_or_draws(kind):
    there, weight = normal_draw(), weights()
    q = there.nodes[0].q
    covariance = torch.cov(q.loc.T, correction=0, aweights=weight)
    if kind == "ii":
        covariance += torch.diag((weight.unsqueeze(1) * q.scale**2).sum(0))
    off = 2 * covariance[0, 1] ** 2
    on = ((covariance.diagonal() - 1) ** 2).sum()
    found = disentangled(there, weight, off=3.0, on=0.5, kind=kind)
    torch.testing.assert_close(found, 3 * off + 0.5 * on)


def test_mmd_is_that_of_draws_from_the_prior():
    """The closed forms of the prior's part against 4,000 draws from it."""
    there, weight = normal_draw(K=1, B=30), torch.full((30,), 1 / 30).double()
    (node,) = there.nodes
    prior = node.p.sample(torch.randn(1, 4000, 2, generator=rng(5), dtype=torch.float64))[0]
    a, b = ((v - node.p.loc) / node.p.scale for v in (node.z[0], prior))

    def kernel(u, v):
        distance = torch.cdist(u, v).square()
        return sum((-distance / (2 * s**2 * 2)).exp() for s in (0.5, 1.0, 2.0))

    def off_diagonal(k):
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    due = off_diagonal(kernel(a, a)) - 2 * kernel(a, b).mean() + off_diagonal(kernel(b, b))
    found = maximum_mean_discrepancy(there, weight, strength=1.0)
    assert float(found) == pytest.approx(float(due), abs=0.02)
    assert float(found) > 0.05


def test_mmd_of_the_prior_itself_is_zero_in_the_mean():
    weight, found = torch.full((50,), 0.02).double(), []
    zero, one = torch.zeros(50, 2).double(), torch.ones(50, 2).double()
    for seed in range(200):
        q = Normal(zero, one)
        z = q.sample(torch.randn(1, 50, 2, generator=rng(seed), dtype=torch.float64))
        there = Draw((Node("z", z, q, Normal(zero[0], one[0], 0)),), torch.zeros(1, 50).double())
        found.append(maximum_mean_discrepancy(there, weight, strength=1.0))
    assert abs(z_score(torch.stack(found), 0.0)) < 4


@cache
def fitted_to(of: str, target: float, rate: float) -> tuple[lb.AEVB, float]:
    """A fit under a constraint, and what it comes to in the end; ``rate=0``: the ELBO, whatever the target."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2)) @ random.normal(size=(2, 6)) + 0.3 * random.normal(size=(300, 6))
    with lb.nn.seeded(0):
        decoder, encoder = lb.nn.MLP((2,), (6,), (16,)), lb.nn.MLP((6,), (4,), (16,))
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Normal(0.5, shape=(6,)))
    objective = Constrained(of, target, rate=rate, decay=0.5)
    inference = lb.AEVB(lb.posteriors.DiagonalNormal(2, encoder), objective=objective, learning_rate=0.01)
    fitted = lb.fit(model, x.astype(np.float32), inference, epochs=150, validation=0)
    return inference, fitted.history.records[-1]["train_" + of]


@pytest.mark.parametrize(("of", "target"), [("log_lik", -7.0), ("log_lik", -4.6), ("kl", 1.5), ("kl", 6.0)])
def test_a_constraint_is_met_in_the_end(of, target):
    """From both sides: with a multiplier that stays at 1, which is the ELBO, the fit ends elsewhere."""
    inference, end = fitted_to(of, target, rate=0.02)
    assert not inference.is_bound
    assert inference.describe()["objective"]["arguments"]["target"] == target  # another target is another fit
    assert end == pytest.approx(target, abs=0.25)
    assert abs(fitted_to(of, 0.0, rate=0.0)[1] - target) > 0.6


@pytest.mark.parametrize(("of", "target", "short"), [("log_lik", -3.0, 2.0), ("kl", 4.0, -1.0)])
def test_the_multiplier_of_a_constraint_moves_by_its_shortfall(of, target, short):
    """λ · e^(rate · running shortfall), up where the constraint is missed and down where there is room; the value is
    its Lagrangian at the multiplier after the move; nothing moves where nothing is learnt."""
    log_lik, kl = torch.tensor([[-4.0, -6.0]]).double(), torch.tensor([2.0, 4.0]).double()
    there = of_terms(log_lik, torch.zeros(1, 2).double(), torch.zeros(1, 2).double(), kl)
    constrained = Constrained(of, target, rate=0.02, decay=0.75, start=3.0).double()
    multiplier, running = 3.0, 0.0
    for _ in range(3):
        found = constrained(there)
        running = 0.75 * running + 0.25 * short
        multiplier *= math.exp(0.02 * running)
        assert float(constrained.multiplier) == pytest.approx(multiplier, rel=1e-12)
        parts = (-kl, target - log_lik[0]) if of == "log_lik" else (log_lik[0], kl - target)
        torch.testing.assert_close(found, parts[0] - multiplier * parts[1])
    assert (multiplier > 3) == (short > 0)
    with torch.no_grad():
        constrained(there)
    constrained.eval()(there)
    assert float(constrained.multiplier) == pytest.approx(multiplier, rel=1e-12)
    far = Constrained(of, target + (1e6 if of == "log_lik" else -1e6), rate=1.0).double()
    far(there)
    assert float(far.multiplier) == pytest.approx(math.exp(0.1)), "by a tenth at a step, at most"


def test_a_tempered_draw_shares_what_was_computed():
    there = normal_draw()
    kl = there.kl
    warm = tempered(there, 0.5)
    torch.testing.assert_close(warm.kl, 0.5 * kl)
    assert warm.nodes[0].terms is there.nodes[0].terms
    torch.testing.assert_close(tempered(warm, 0.5).log_q, 0.25 * there.log_q)
    torch.testing.assert_close(warm.nodes[0].log_density, there.log_q)


def test_a_cyclic_schedule_rises_and_starts_again():
    beta = lb.training.schedules.Cyclic(epochs=10, cycles=2, rising=0.5)
    times, due = (0, 2.5, 5, 9.9, 10, 12.5, 20, 99), (0, 0.5, 1, 1, 0, 0.5, 1, 1)
    assert [beta(time) for time in times] == pytest.approx(due)


COMPARE = (
    partial(total_correlation, strength=1.0),
    partial(disentangled, off=1.0, on=1.0),
    partial(disentangled, off=1.0, on=1.0, kind="ii"),
    partial(maximum_mean_discrepancy, strength=1.0),
)
"""Penalties that compare the rows of a batch."""


@pytest.mark.parametrize("penalty", COMPARE)
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("padding", [0, 4])
def test_a_single_row_has_no_other_to_compare(penalty, draws, padding):
    loc = torch.randn(1 + padding, 2, generator=rng(1)).requires_grad_()
    scale = torch.full_like(loc, 0.7)
    q = Normal(loc, scale)
    z = q.sample(torch.randn(draws, *loc.shape, generator=rng(2)))
    there = Draw((Node("z", z, q, Normal(torch.zeros(2), torch.ones(2), 0)),), torch.zeros(draws, len(loc)))
    found = penalty(there, torch.tensor([1.0] + [0.0] * padding))
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)
    if found.requires_grad:
        (slope,) = torch.autograd.grad(found, loc)
        assert float(slope.abs().max()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("penalty", COMPARE)
@pytest.mark.parametrize("rows", [41, 42])
def test_a_last_batch_of_few_rows_is_learnt_from(penalty, rows):
    x = (torch.rand(rows, 5, generator=rng(0)) < 0.5).float()
    with lb.nn.seeded(0):
        model = lb.LatentVariableModel(lb.priors.Normal(3), lb.nn.MLP((3,), (5,)), lb.likelihoods.Bernoulli())
        posterior = lb.posteriors.DiagonalNormal(3, lb.nn.MLP((5,), (6,)))
    history = lb.fit(
        model, x, lb.AEVB(posterior, penalties=(penalty,)), epochs=2, batch_size=40, validation=x[:1]
    ).history
    assert not history.rescues
    assert all(math.isfinite(value) for record in history.records for value in record.values())


@pytest.mark.parametrize("penalty", COMPARE)
@pytest.mark.parametrize(("rows", "batch_size"), [(1, 10), (20, 1)])
def test_batches_of_one_row_are_refused_before_the_first_step(penalty, rows, batch_size):
    x, calls = torch.zeros(rows, 5), []
    model = lb.LatentVariableModel(lb.priors.Normal(3), lb.nn.MLP((3,), (5,)), lb.likelihoods.Bernoulli())
    inference = lb.AEVB(lb.posteriors.DiagonalNormal(3, lb.nn.MLP((5,), (6,))), penalties=(penalty,))
    with pytest.raises(ValueError, match="compares the rows of a batch: it needs 2 or more, and a batch has 1"):
        lb.fit(model, x, inference, epochs=1, batch_size=batch_size, validation=0, callbacks=[calls.append])
    assert not calls


def test_mmd_compares_draws_of_different_rows():
    """Of an aggregate posterior that is the prior it is 0 on average, also where each row's own is narrow."""
    weight, found, wrong = torch.full((30,), 1 / 30).double(), [], []
    p = Normal(torch.zeros(2).double(), torch.ones(2).double(), 0)
    for seed in range(300):
        loc = 0.9 * torch.randn(30, 2, generator=rng(seed), dtype=torch.float64)
        q = Normal(loc, torch.full_like(loc, math.sqrt(1 - 0.9**2)))
        z = q.sample(torch.randn(4, 30, 2, generator=rng(1000 + seed), dtype=torch.float64))
        there = Draw((Node("z", z, q, p),), torch.zeros(4, 30).double())
        found.append(maximum_mean_discrepancy(there, weight, strength=1.0))
        flat = Draw((Node("z", z.reshape(1, 120, 2), q, p),), torch.zeros(1, 120).double())
        wrong.append(maximum_mean_discrepancy(flat, torch.full((120,), 1 / 120).double(), strength=1.0))
    assert abs(z_score(torch.stack(found), 0.0)) < 4
    assert z_score(torch.stack(wrong), 0.0) > 6  # pairs of draws of one row counted
