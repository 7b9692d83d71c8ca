"""Options that are not the default, against closed forms, enumeration and quadrature."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from oracles import PPCA, batch_of, rng, z_score
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.distributions import Bernoulli, Dirichlet, Latents, LogisticNormal, Normal, kl
from lowerbound.distributions.latents import Known
from lowerbound.draw import Draw, Node, of_terms
from lowerbound.evidence.importance import importance_sampling
from lowerbound.evidence.targets import of_model
from lowerbound.likelihoods import LogNormal, RoundedLogistic, StudentT, ZeroInflatedLogNormal
from lowerbound.likelihoods import Normal as NormalLikelihood
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, Chain
from lowerbound.objectives import capacity, cubo, elbo, elbo_entropy, elbo_sampled, iwae, minus_cubo, renyi

# A prior of another scale


def scaled(oracle: PPCA, scale: float) -> tuple[LatentVariableModel, lb.posteriors.DiagonalNormal]:
    """The same p(x) by latents that are ``scale`` times as large, with the exact posterior."""
    model, posterior = oracle.model(), oracle.posterior()
    latents = oracle.weight.shape[1]
    model.prior = lb.priors.Normal(latents, scale).double()
    out = posterior.encoder.second.layers[0]
    with torch.no_grad():
        model.decoder.layers[0].weight /= scale
        out.weight[:latents] *= scale
        small = scale * (oracle.precision.diagonal().rsqrt())
        out.bias[latents:] = lb.distributions.inverse_positive(small - 1e-6)
    return model, posterior


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_a_prior_of_another_scale_is_the_same_model_in_other_units(linear, scale):
    """z/s ~ N(0, I): the evidence, every bound at the exact posterior, the draws and the KL are what they were."""
    oracle, x = linear
    model, posterior = scaled(oracle, scale)
    with torch.no_grad():
        there = draw(model, posterior, batch_of(x[:50]), rng(), 4)
        due = oracle.log_prob(x[:50])
        for bound in (elbo_sampled, iwae):
            torch.testing.assert_close(bound(there), due, rtol=1e-9, atol=1e-8)
        for bound in (elbo, elbo_entropy):
            assert abs(z_score(bound(there) - due, 0.0)) < 4.5
        plain = draw(oracle.model(), oracle.posterior(), batch_of(x[:50]), rng(), 4)
        torch.testing.assert_close(there.kl, plain.kl, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(there.nodes[0].z, scale * plain.nodes[0].z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(there.entropy - plain.entropy, torch.full_like(there.kl, 5 * math.log(scale)))
        drawn = model.sample(40_000, rng(3))
        covariance = oracle.weight @ oracle.weight.T + oracle.variance * torch.eye(8).double()
        assert float((torch.cov(drawn.T) - covariance).norm() / covariance.norm()) < 0.03
        z = model.prior.sample(100_000, rng(4))
        assert float(z.std()) == pytest.approx(scale, rel=0.01)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_estimates_from_a_prior_of_another_scale_meet_the_evidence(scale):
    """Importance sampling from the prior itself, of one latent, where it is exact enough."""
    x = np.random.default_rng(0).normal(size=(60, 1)) @ np.ones((1, 3)) + np.random.default_rng(1).normal(size=(60, 3))
    oracle = PPCA.of(x, 1)
    model, posterior = scaled(oracle, scale)
    rows, due = Rows(torch.tensor(x), dtype=torch.float64), oracle.log_prob(torch.tensor(x)).numpy()
    found = importance_sampling(of_model(model, posterior), rows, rng(), 4000, source="prior")
    z = (found.estimate - due) / found.standard_error
    assert abs(z.mean()) * math.sqrt(60) < 4.5
    assert found.standard_error.mean() < 0.03


def test_the_scale_of_a_vaes_prior_is_that_of_its_latents():
    x = np.random.default_rng(0).normal(size=(80, 3))
    wide = lb.VAE(2, prior=lb.priors.Normal(2, 3.0), hidden=(8,), epochs=2, random_state=0).fit(x)
    q = wide.encode(x)
    due = math.log(3) - np.log(q.scale) + (q.scale**2 + q.mean**2) / 18 - 0.5
    np.testing.assert_allclose(wide.kl(x), due, rtol=1e-4, atol=1e-5)


# The floor of a scale

KINDS = {"normal": NormalLikelihood, "log-normal": LogNormal, "t": partial(StudentT, 5.0)}


def sigma(likelihood: NormalLikelihood | LogNormal | StudentT, raw: float) -> Tensor:
    """σ where the raw scale is ``raw``, the learned one's or the decoder's."""
    if likelihood.scale == "entry":
        return likelihood.sigma(torch.full((1, 1, 2, 3), raw))[0, 0]
    with torch.no_grad():
        likelihood.raw_scale.fill_(raw)
    return likelihood.sigma().expand(3)


@pytest.mark.parametrize("floor", [1e-3, 0.2, (0.1, 0.5, 1e-3)])
@pytest.mark.parametrize("scale", ["scalar", "dimension", "entry"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_scale_has_the_floor_that_is_asked_for(kind, scale, floor):
    """σ ≥ min_scale · spread, reached as the raw scale falls; at 0 it is the spread, and the floor above it."""
    if scale == "scalar" and isinstance(floor, tuple):
        pytest.skip("one scale has one floor")
    likelihood = KINDS[kind](scale, shape=(3,), min_scale=floor)
    spread = torch.tensor([0.5, 2.0, 7.0])
    likelihood.spread.copy_(spread)
    if scale == "scalar":
        spread = spread.square().mean().sqrt().expand(3)
    share = torch.tensor(floor).expand(3)
    torch.testing.assert_close(sigma(likelihood, -80.0), share * spread, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(sigma(likelihood, 0.0), (1 + share) * spread, rtol=1e-5, atol=1e-9)
    far = sigma(likelihood, 9.0)
    torch.testing.assert_close(far, (math.log1p(math.exp(9) * (math.e - 1)) + share) * spread, rtol=1e-5, atol=1e-9)


def test_the_floor_reaches_the_likelihoods_made_of_others():
    zero = ZeroInflatedLogNormal("dimension", (2,), min_scale=(0.3, 0.01))
    with torch.no_grad():
        zero.above.raw_scale.fill_(-80)
    torch.testing.assert_close(zero.above.sigma(), torch.tensor([0.3, 0.01]), rtol=1e-4, atol=1e-9)
    counts = RoundedLogistic("dimension", (2,))
    with torch.no_grad():
        counts.raw_scale.fill_(-80)
    assert (counts.sigma() > 0).all()


@pytest.mark.parametrize("floor", [0.05, 0.5])
def test_repeated_values_have_no_more_density_than_the_floor_allows(floor):
    x = np.repeat(np.random.default_rng(0).normal(size=(4, 2)), 50, 0)
    likelihood = NormalLikelihood("dimension", shape=(2,), min_scale=floor)
    vae = lb.VAE(2, likelihood=likelihood, hidden=(32,), epochs=60, learning_rate=0.02, random_state=0).fit(x)
    least = floor * x.std(0)
    most = -np.log(least).sum() - math.log(2 * math.pi)
    assert (vae.score_samples(x) <= most).all()
    assert (vae.model_.likelihood.sigma().detach().numpy() >= least * (1 - 1e-5)).all()


# Objectives

D, WIDE = 5, 1.3


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3.0])
def test_cubo_of_any_order_is_that_of_the_closed_form(order):
    """p = N(0, I), q = N(0, c² I): E_q[(p/q)ⁿ] is a Gaussian integral; exp(n · CUBO) has no bias."""
    eps = torch.randn(20, 20_000, D, generator=rng(), dtype=torch.float64)
    z = WIDE * eps
    log_w = 0.5 * (eps.square() - z.square()).sum(2) + D * math.log(WIDE)
    there = of_terms(log_w, torch.zeros_like(log_w), torch.zeros_like(log_w))
    precision = order + (1 - order) / WIDE**2
    exact = D * ((order - 1) * math.log(WIDE) - 0.5 * math.log(precision))
    found = cubo(there, order)
    torch.testing.assert_close(found, (order * log_w).exp().mean(0).log() / order)
    torch.testing.assert_close(minus_cubo(there, order), -found)
    moments = (order * found).exp()
    assert abs(z_score(moments, math.exp(exact))) < 4
    if order != 1:
        assert abs(z_score(moments, math.exp(exact * 1.05))) > 4, "one 5 % off is seen"
        assert abs(z_score((2 * found).exp(), math.exp(exact))) > 4 or order == 2, "as is the order 2"
    torch.testing.assert_close(found, renyi(there, 1 - order) if order != 1 else iwae(there))
    assert (order == 1) or bool((cubo(there, order) >= cubo(there, order - 0.5) - 1e-9).all()), (
        "it rises with its order"
    )


@pytest.mark.parametrize("sampled", [False, True])
def test_capacity_holds_the_kl_from_both_sides(sampled):
    """log p(x|z) − γ |KL − C|: above C the KL is to fall, and below it to rise, by γ per nat."""
    log_lik = torch.tensor([[-3.0, -5.0, -7.0], [-1.0, -5.0, -9.0]], dtype=torch.float64)
    kls = torch.tensor([0.5, 2.0, 6.5], dtype=torch.float64, requires_grad=True)
    log_q = kls.expand(2, 3)
    none = torch.zeros_like(log_lik)
    there = of_terms(log_lik, none, log_q if sampled else none, None if sampled else kls)
    found = capacity(there, nats=2.0, strength=4.0)
    torch.testing.assert_close(found, torch.tensor([-2 - 4 * 1.5, -5.0, -8 - 4 * 4.5], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found.sum(), kls)
    assert gradient.tolist() == [4.0, 0.0, -4.0]


@pytest.mark.parametrize("nats", [1.0, 6.0])
def test_a_fit_under_a_capacity_ends_at_it(nats):
    """From below and from above: without it these rows take some 3 nats."""
    x = np.random.default_rng(0).normal(size=(200, 2)) @ np.random.default_rng(1).normal(size=(2, 6))
    x = x + 0.3 * np.random.default_rng(2).normal(size=x.shape)
    with lb.nn.seeded(0):
        decoder, encoder = MLP((2,), (6,), (16,)), MLP((6,), (4,), (16,))
    model = LatentVariableModel(lb.priors.Normal(2), decoder, NormalLikelihood(0.5, shape=(6,)))
    posterior = lb.posteriors.DiagonalNormal(2, encoder)
    ends = []
    for objective in (elbo, partial(capacity, nats=nats, strength=20.0)):
        inference = lb.AEVB(posterior, objective=objective, learning_rate=0.01)
        ends.append(lb.fit(model, x.astype(np.float32), inference, epochs=60, validation=0).history.records[-1])
    assert ends[1]["train_kl"] == pytest.approx(nats, abs=0.35)
    assert abs(ends[0]["train_kl"] - nats) > 1, "the ELBO takes another KL"


# What lies under a mask


class Sums(nn.Module):
    """An encoder that knows of no mask: what it is given under one, it uses."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.weight = nn.Parameter(torch.linspace(0.1, 0.4, n))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True) * self.weight


def masked_parts(kind: str) -> tuple[LatentVariableModel, lb.posteriors.Posterior]:
    with lb.nn.seeded(0):
        decoder = MLP((2,), (4,), (8,))
        prior = lb.priors.VampPrior((2,), (4,), 3) if kind == "vamp" else lb.priors.Normal(2)
        encoder = Chain(lb.nn.Cells([0] * 4, [False] * 4), MLP((8,), (4,), (8,))) if kind == "cells" else Sums(4)
    model = LatentVariableModel(prior, decoder, NormalLikelihood("dimension", shape=(4,)))
    return model.double(), lb.posteriors.DiagonalNormal(2, encoder).double()


@pytest.mark.parametrize("under", [1e3, -7.0])
@pytest.mark.parametrize("kind", ["sums", "cells", "vamp"])
def test_nothing_sees_what_lies_under_a_mask(kind, under):
    """Whatever stands there: start, bounds, gradients, a fit, evidence, completions and scores are the same."""
    x = torch.randn(40, 4, generator=rng(), dtype=torch.float64)
    mask = torch.rand(40, 4, generator=rng(1)) > 0.4
    mask[:, 0] = True
    found = []
    for data in (torch.where(mask, x, 0), torch.where(mask, x, under)):
        model, posterior = masked_parts(kind)
        model.initialise(data, mask)
        there = draw(model, posterior, batch_of(data, mask), rng(2), 3)
        parts = [there.x, there.log_lik, there.log_q, there.log_prior]
        loss = iwae(there).sum()
        learned = [p for module in (model, posterior) for p in module.parameters()]
        parts += [g for g in torch.autograd.grad(loss, learned, allow_unused=True) if g is not None]
        rows = Rows(data, mask, dtype=torch.float64)
        inference = lb.AEVB(posterior, objective=iwae, draws=3)
        lb.fit(model, rows, inference, epochs=2, batch_size=16, validation=0)
        parts += [p.detach() for p in learned]
        parts.append(torch.tensor(lb.log_likelihood(model, posterior, rows, samples=20).estimate))
        best = lb.queries.complete(model, posterior, rows, rng(), samples=50, refine=None, least_ess=0).best
        parts.append(torch.where(mask, 0, torch.tensor(best)))
        parts.append(torch.tensor(lb.queries.anomaly(model, posterior, rows, rng(), samples=50).score))
        found.append(parts)
    for plain, other in zip(*found, strict=True):
        assert torch.equal(plain, other)


def test_an_encoder_learns_what_is_missing_by_zeros():
    posterior = lb.posteriors.DiagonalNormal(2, Sums(4))
    x, mask = torch.tensor([[1.0, 2.0, math.nan, 5.0]]), torch.tensor([[True, True, False, True]])
    torch.testing.assert_close(posterior.outputs(x, mask), 8 * posterior.encoder.weight.unsqueeze(0))


# Posteriors of several parts


def test_the_weights_of_a_mixture_posterior_are_learnt():
    """x = z² and noise, under a prior about 0.7: p(z|x) has a mode at each of ±1, of shares known by quadrature."""

    class Square(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.square()

    prior = lb.priors.LearnedNormal(1)
    with torch.no_grad():
        prior.loc.fill_(0.7)
    prior.requires_grad_(False)
    model = LatentVariableModel(prior, Square(), NormalLikelihood(0.5, shape=(1,)))
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    log_joint = -0.5 * (grid - 0.7).square() - 0.5 * ((1 - grid.square()) / 0.5).square()
    share = log_joint.softmax(0)
    above = float(share[grid > 0].sum())
    assert 0.75 < above < 0.85

    class Constant(nn.Module):
        """Numbers that are the same for all rows: two logits, two means at ±1, two raw scales."""

        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.tensor([0.0, 0.0, -1.0, 1.0, -1.0, -1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.values.expand(len(x), -1)

    posterior = lb.posteriors.NormalMixture(1, 2, Constant())
    x = np.ones((50, 1), dtype=np.float32)
    inference = lb.AEVB(posterior, draws=20, learning_rate=lb.training.Cosine(0.05, 200))
    lb.fit(model, x, inference, epochs=200, batch_size=50, validation=0)
    with torch.no_grad():
        q = posterior(torch.ones(1, 1))
        weights = q.logits.softmax(-1)[0].tolist()
        bound = iwae(draw(model, posterior, batch_of(torch.ones(2000, 1)), rng(), 50)).mean()
    assert weights[1] == pytest.approx(above, abs=0.03)
    log_p = float(log_joint.logsumexp(0) + math.log(grid[1] - grid[0]) - math.log(2 * math.pi * 0.5))
    assert float(bound) == pytest.approx(log_p, abs=0.01)


def joint() -> Latents:
    normal = Normal(torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[0.2, 1.7]]).double())
    bits = Bernoulli(torch.tensor([[0.4, -2.0, 1.0]]).double())
    return Latents({"z": Known((2,), normal), "b": Known((3,), bits)})


def test_the_entropy_of_a_joint_is_that_of_its_draws_and_of_its_parts():
    q = joint()
    noise = q.noise((40_000, 1), (5,), rng(), torch.float64)
    surprise = -q.log_prob(q.sample(noise))[:, 0]
    found = q.entropy()
    assert found.shape == (1,)
    assert abs(z_score(surprise, float(found))) < 4
    assert surprise.std() / 200 < 0.005 * abs(float(found))
    scale, p = q.nodes()["z"].scale, q.nodes()["b"].logits.sigmoid()
    bits = -(p * p.log() + (1 - p) * (1 - p).log()).sum()
    due = (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum() + bits
    torch.testing.assert_close(found, due.unsqueeze(0))
    # by KL to a prior, part for part: H = −E log p − KL
    p_z, p_b = Normal(torch.zeros(2).double(), torch.ones(2).double(), 0), Bernoulli(torch.zeros(3).double(), 0)
    cross = 0.5 * (q.nodes()["z"].loc.square() + scale.square()).sum() + math.log(2 * math.pi) + 3 * math.log(2)
    divergence = kl(q.nodes()["z"], p_z) + kl(q.nodes()["b"], p_b)
    torch.testing.assert_close(found, cross - divergence)


def test_the_entropy_of_a_joint_is_unknown_where_that_of_a_part_is():
    known = joint().nodes()["z"]
    part = LogisticNormal(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    assert part.entropy() is None
    assert Latents({"z": Known((2,), known), "p": Known((3,), part)}).entropy() is None


def test_the_kl_of_a_draw_is_unknown_where_that_of_a_latent_is():
    """A draw of a normal and of proportions: neither KL nor entropy leaves out the part that has none."""
    known = joint().nodes()["z"]
    part = LogisticNormal(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    priors = {
        "z": Normal(torch.zeros(2).double(), torch.ones(2).double(), 0),
        "p": Dirichlet(torch.ones(3).double(), 0),
    }
    nodes = []
    for name, q in (("z", known), ("p", part)):
        noise = q.noise((4, 1), (2,) if name == "z" else (3,), rng(), torch.float64)
        nodes.append(Node(name, q.sample(noise), q, priors[name], noise))
    there = Draw(tuple(nodes), torch.zeros(4, 1).double())
    assert nodes[0].kl is not None
    assert nodes[0].entropy is not None
    assert there.kl is None
    assert there.entropy is None
    torch.testing.assert_close(elbo(there), elbo_sampled(there))


def test_a_joint_prior_gives_its_parts_their_context():
    """p(z|c) of one part, N(0, 1) of the other: each part's mean is what the context says."""
    network = MLP((1,), (2,), hidden=())
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([[3.0], [0.0]]))
        network.layers[0].bias.zero_()
    prior = lb.priors.Latents({"c": lb.priors.ConditionalNormal(1, network), "z": lb.priors.Normal(1, 2.0)})
    context = torch.tensor([[1.0], [-2.0]])
    p = prior(context)
    torch.testing.assert_close(p.nodes()["c"].mean(), 3 * context)
    z = prior.sample(40_000, rng(), context.repeat(20_000, 1))
    torch.testing.assert_close(
        z.unflatten(0, (20_000, 2)).mean(0), torch.tensor([[3.0, 0.0], [-6.0, 0.0]]), atol=0.07, rtol=0
    )
    torch.testing.assert_close(z[::2].std(0), torch.tensor([1.0, 2.0]), atol=0.05, rtol=0)


def test_elbo_entropy_of_a_joint_is_the_elbo_in_expectation():
    """Of a class, a bit and a number: mean log p(x, z) + H(q) has the mean of log p(x, z) − log q(z)."""
    names, none = ("k", "b", "z"), nn.Identity()
    with lb.nn.seeded(7):
        decoder, encoder = MLP((5,), (2,), hidden=()), MLP((2,), (6,), hidden=())
    latents = (lb.posteriors.Categorical(1, 3, none), lb.posteriors.Bernoulli(1, none))
    parts = dict(zip(names, (*latents, lb.posteriors.DiagonalNormal(1, none)), strict=True))
    posterior = lb.posteriors.Latents(parts, encoder).double()
    priors = (lb.priors.Categorical(1, 3), lb.priors.Bernoulli(1), lb.priors.Normal(1, 2.0))
    prior = lb.priors.Latents(dict(zip(names, priors, strict=True)))
    model = LatentVariableModel(prior, decoder, NormalLikelihood(0.8, shape=(2,))).double()
    x = torch.tensor([[0.5, -0.4]], dtype=torch.float64).expand(30_000, 2)
    with torch.no_grad():
        there = draw(model, posterior, batch_of(x), rng(), 2)
        sampled = elbo_sampled(there)
        for bound in (elbo_entropy, elbo):
            assert abs(z_score(bound(there) - sampled, 0.0)) < 4
        assert (elbo_sampled(there) - elbo_entropy(there)).std() > 0.1
