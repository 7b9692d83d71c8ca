"""Gradient estimators against gradients that are known: by enumeration, by quadrature and in closed form."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from enumeration import MODELS, belief_net, gradient, mixture
from oracles import PPCA, batch_of, rng
from scipy import stats
from torch import Tensor

import lowerbound as lb
from lowerbound import gradients
from lowerbound.distributions import Normal
from lowerbound.draw import Draw, Node, of_terms
from lowerbound.gradients import (
    LearnedBaseline,
    bounded,
    control_variate,
    doubly_reparameterised,
    enumerated,
    leave_one_out,
    partially_importance_weighted,
    rao_blackwellised,
    rebar,
    relaxed,
    reparameterised,
    score_function,
    second_order,
    sticking_the_landing,
    straight_through,
)
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, seeded
from lowerbound.objectives import elbo, elbo_entropy, elbo_sampled, iwae, multi_iwae, renyi

FALSE_ALARM = 1e-4  # of one z-test of a whole gradient, divided over its components


def refuted(samples: Tensor, truth: Tensor) -> bool:
    """Whether the mean of independent gradients ``[R, P]`` is not ``truth``: t-tests, Bonferroni over components."""
    error = samples.std(0) / math.sqrt(len(samples))
    moves = error > 1e-12 * (1 + truth.abs())
    if not torch.allclose(samples.mean(0)[~moves], truth[~moves], rtol=1e-9, atol=1e-12):
        return True
    t = ((samples.mean(0) - truth)[moves] / error[moves]).abs()
    limit = stats.t.isf(FALSE_ALARM / (2 * max(1, len(t))), len(samples) - 1)
    return bool((t > limit).any())


def unbiased(samples: Tensor, truth: Tensor) -> bool:
    """Whether the mean is not refuted, though that of an estimator that is 5 % off would be."""
    return not refuted(samples, truth) and refuted(1.05 * samples, truth)


# Finite latents: the mean over draws is itself enumerated


def baseline(features: int) -> LearnedBaseline:
    with seeded(3):
        return LearnedBaseline(MLP((features,), (1,), hidden=())).double().eval()


EXACT = {
    "score": (score_function, (elbo, elbo_sampled, elbo_entropy, iwae, partial(renyi, alpha=0.5)), 1),
    "leave-one-out": (leave_one_out, (elbo, elbo_sampled, elbo_entropy, iwae, partial(renyi, alpha=2)), 2),
    "control variate": (control_variate, (elbo, elbo_sampled, elbo_entropy), 2),
    "Rao-Blackwell": (rao_blackwellised, (elbo, elbo_sampled), 1),
    "enumerated": (enumerated, (elbo, elbo_sampled), 1),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize(
    ("estimator", "objective", "draws"),
    [(each, objective, K) for each, objectives, K in EXACT.values() for objective in objectives],
)
def test_the_enumerated_mean_of_an_estimator_is_the_exact_gradient(model, estimator, objective, draws, beta):
    toy = MODELS[model]()
    toy.beta = beta
    truth = toy.exact(objective, draws)
    assert truth.abs().max() > 1e-3
    torch.testing.assert_close(toy.expected(estimator, objective, draws), truth, rtol=1e-10, atol=1e-10)


def test_leave_one_out_is_exact_for_three_draws_and_grouped_bounds():
    toy = mixture()
    for objective in (iwae, partial(lb.objectives.combined_iwae, share=0.4)):
        truth = toy.exact(objective, 3)
        torch.testing.assert_close(toy.expected(leave_one_out, objective, 3), truth, rtol=1e-10, atol=1e-10)
    four = belief_net(2)
    truth = four.exact(partial(multi_iwae, groups=2), 4)
    found = four.expected(leave_one_out, partial(multi_iwae, groups=2), 4)
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("objective", "needed"), [(elbo_sampled, False), (iwae, True)])
def test_the_direct_term_is_needed_where_it_has_no_zero_mean(objective, needed):
    """The score alone misses ∂L/∂φ at fixed z, which vanishes in the mean of a sampled ELBO only."""
    toy = mixture()
    phi = sum(p.numel() for p in toy.model.parameters())
    truth = toy.exact(objective, 2)[phi:]
    found = toy.expected(lambda there, L: leave_one_out(there, L) - L(there), objective, 2)[phi:]
    assert torch.allclose(found, truth, rtol=1e-9, atol=1e-10) != needed


def test_a_learned_baseline_leaves_the_gradient_and_learns_by_least_squares():
    toy = belief_net()
    nvil = baseline(5)
    truth = toy.exact(elbo_sampled, 1)
    torch.testing.assert_close(toy.expected(nvil, elbo_sampled, 1), truth, rtol=1e-10, atol=1e-10)
    there, probability = toy.tuples(1)
    probability = probability.detach()
    nvil.zero_grad()
    f = elbo_sampled(there).detach()
    (probability * nvil(there, elbo_sampled)).sum().backward()
    predicted = nvil.network(toy.x).squeeze()
    least_squares = torch.autograd.grad(
        -0.5 * (probability * (f - predicted).square()).sum(), list(nvil.network.parameters())
    )
    for parameter, due in zip(nvil.network.parameters(), least_squares, strict=True):
        torch.testing.assert_close(parameter.grad, due, rtol=1e-10, atol=1e-12)


def test_a_learned_baseline_keeps_running_moments_while_training():
    toy, nvil = belief_net(), baseline(5).train()
    there = toy.draw(rng(), 1, 500)
    f = elbo_sampled(there).detach()
    error = f - nvil.network(toy.x).squeeze().detach()
    nvil(there, elbo_sampled)
    assert float(nvil.mean) == pytest.approx(0.2 * float(f.mean()), rel=1e-9)
    assert float(nvil.variance) == pytest.approx(0.8 + 0.2 * float(error.var(correction=0)), rel=1e-9)


@pytest.mark.parametrize("variance", [9.0, 0.04])
def test_a_normalised_baseline_divides_the_signal_by_its_deviation_where_that_is_above_1(variance):
    """φ's gradient by the score is so much shorter; θ's, and what the baseline learns, are what they were."""
    toy = belief_net()
    theta = sum(p.numel() for p in toy.model.parameters())
    detached, normal = (LearnedBaseline(MLP((5,), (1,), hidden=()), normalise=n).double().eval() for n in (False, True))
    normal.network.load_state_dict(detached.network.state_dict())
    found, learned = [], []
    for each in (detached, normal):
        each.variance.fill_(variance)
        there, probability = toy.tuples(1)
        # the direct term is left out: its mean is 0, and that of the score alone is what is divided
        surrogate = (probability.detach() * (each(there, elbo_sampled) - elbo_sampled(there))).sum()
        found.append(toy.gradient(surrogate))
        there, probability = toy.tuples(1)
        value = (probability.detach() * each(there, elbo_sampled)).sum()
        learned.append(gradient(value, list(each.network.parameters())))
    assert found[0][theta:].abs().max() > 1e-3
    torch.testing.assert_close(
        found[1][theta:], found[0][theta:] / max(1.0, math.sqrt(variance)), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(learned[1], learned[0], rtol=1e-10, atol=1e-12)


def replicates(toy, estimator, objective, K: int, R: int = 60, copies: int = 4000, detached: bool = True) -> Tensor:
    """R gradients, each a mean over ``copies`` independent draws."""
    found = []
    for seed in range(R):
        there = toy.draw(rng(seed), K, copies, detached)
        found.append(toy.gradient(estimator(there, objective).mean()))
    return torch.stack(found)


@pytest.mark.parametrize("model", ["mixture", "belief net"])
@pytest.mark.parametrize(
    ("estimator", "objective", "draws"),
    [
        (leave_one_out, elbo, 2),
        (leave_one_out, iwae, 2),
        (control_variate, elbo, 3),
        (rao_blackwellised, elbo_sampled, 1),
        (rebar, elbo, 1),
        (rebar, elbo_sampled, 1),
        (partial(rebar, temperature=0.1, coefficient=0.7), elbo, 2),
    ],
)
def test_drawn_gradients_have_the_exact_mean(model, estimator, objective, draws):
    toy = MODELS[model]()
    assert unbiased(replicates(toy, estimator, objective, draws), toy.exact(objective, draws))


def relax(latents: tuple[int, ...]) -> gradients.Relax:
    with seeded(5):
        return gradients.Relax(MLP(latents, (1,), (16,)), 0.4).double()


@pytest.mark.parametrize(("model", "latents"), [("mixture", (1, 4)), ("belief net", (3,))])
def test_relax_is_unbiased_whatever_its_network(model, latents):
    toy = MODELS[model]()
    assert unbiased(replicates(toy, relax(latents), elbo, 2), toy.exact(elbo, 2))


def test_relax_descends_the_variance_of_its_own_gradient():
    """Its ψ-gradient is that of E|g|² by finite differences over the same draws; and learning leaves less of it."""
    toy, learned = belief_net(), relax((3,))
    phi = sum(p.numel() for p in toy.model.parameters())

    def squares(copies: int, seed: int) -> Tensor:
        there = toy.draw(rng(seed), 1, copies)
        logits = there.nodes[0].q.logits
        # without what the objective itself adds, by which the network changes nothing in the mean
        (g,) = torch.autograd.grad((learned(there, elbo) - elbo(there)).sum(), logits)
        return g.square().sum(1).mean()

    weight = learned.network.layers[0].weight
    learned.zero_grad()
    (-learned(toy.draw(rng(0), 1, 500), elbo).mean()).backward()
    with torch.no_grad():
        weight[0, 0] += 1e-4
    above = squares(500, 0)
    with torch.no_grad():
        weight[0, 0] -= 2e-4
    below = squares(500, 0)
    with torch.no_grad():
        weight[0, 0] += 1e-4
    assert float(weight.grad[0, 0]) == pytest.approx(float(above - below) / 2e-4, rel=1e-3)

    before = replicates(toy, learned, elbo, 1, R=300, copies=20)[:, phi:].var(0).sum()
    optimizer = torch.optim.Adam(learned.network.parameters(), 1e-2)
    for seed in range(400):
        optimizer.zero_grad()
        (-learned(toy.draw(rng(seed), 1, 100), elbo).mean()).backward()
        optimizer.step()
    after = replicates(toy, learned, elbo, 1, R=300, copies=20)[:, phi:].var(0).sum()
    detached = replicates(toy, score_function, elbo, 1, R=300, copies=20)[:, phi:].var(0).sum()
    assert after < 0.9 * before
    assert after < 0.1 * detached


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("estimator", [relaxed, straight_through])
def test_relaxations_are_biased_and_say_so(estimator, temperature, model):
    """Biased in φ, but along the enumerated gradient and not against it, for each parameter of the encoder that counts;
    of θ the straight-through estimator, whose forward pass is that of the finite latent, is unbiased."""
    toy, given = MODELS[model](), partial(estimator, temperature=temperature)
    theta = sum(p.numel() for p in toy.model.parameters())
    truth, found = toy.exact(elbo, 1), replicates(toy, given, elbo, 1)
    mean = found.mean(0)
    assert refuted(found[:, theta:], truth[theta:])
    assert cosine(mean[theta:], truth[theta:]) > 0.8
    assert 0.4 < float(mean[theta:] @ truth[theta:] / truth[theta:].square().sum()) < 2, "of about the same length"
    large = truth[theta:].abs() > 0.3 * truth[theta:].abs().max()
    assert bool((mean[theta:][large].sign() == truth[theta:][large].sign()).all())
    assert refuted(found[:, :theta], truth[:theta]) == (estimator is relaxed)
    for words in (estimator, given):
        assert gradients.why_biased(words, elbo)


def test_a_relaxation_has_less_bias_where_it_is_colder():
    toy = belief_net()
    truth = toy.exact(elbo, 1)
    errors = [
        float((replicates(toy, partial(relaxed, temperature=t), elbo, 1, R=50).mean(0) - truth).norm())
        for t in (2.0, 0.5, 0.1)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_baselines_lower_the_variance():
    toy = belief_net()
    phi = sum(p.numel() for p in toy.model.parameters())

    def spread(estimator, K: int) -> float:
        found = replicates(toy, estimator, elbo, K, R=400, copies=12 // K)[:, phi:]
        return float(found.var(0).sum())

    detached = spread(score_function, 1)
    assert spread(leave_one_out, 4) < 0.5 * detached
    assert spread(control_variate, 4) < 0.5 * detached
    assert spread(rebar, 1) < 0.5 * detached


# Normal latents


def quadratic(loc: Tensor, scale: Tensor, noise: Tensor, detached: bool) -> Draw:
    """A draw for f = −½‖z‖²."""
    q = Normal(loc, scale)
    z = q.sample(noise)
    z = z.detach() if detached else z
    p = Unnormalised(torch.zeros(loc.shape[1]).double(), torch.ones(loc.shape[1]).double(), 0)
    node = Node("z", z, q, p, noise)
    return Draw((node,), torch.zeros(z.shape[:2]).double())


class Unnormalised(Normal):
    """A standard normal prior without its constant: log p(z) = −½‖z‖²."""

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        return -0.5 * z.square()


def log_prior(there: Draw) -> Tensor:
    return there.log_prior.mean(0)


@pytest.mark.parametrize(("mu", "s"), [(1.0, 0.1), (0.5, 0.5), (1.0, 2.0)])
def test_variances_are_those_of_the_closed_forms(mu, s):
    """∂μ of E[−z²/2]: s² reparameterised, μ⁴/4s² + 3.5μ² + 15s²/4 by the score function."""
    draws = 400_000
    noise = torch.randn(1, draws, 1, dtype=torch.float64, generator=rng())
    due = {reparameterised: s**2, score_function: mu**4 / (4 * s**2) + 3.5 * mu**2 + 15 * s**2 / 4}
    for estimator, variance in due.items():
        loc = torch.full((draws, 1), mu, dtype=torch.float64, requires_grad=True)
        scale = torch.full((draws, 1), s, dtype=torch.float64)
        there = quadratic(loc, scale, noise, detached=estimator is score_function)
        (found,) = torch.autograd.grad(estimator(there, log_prior).sum(), loc)
        assert float(found.mean()) == pytest.approx(-mu, abs=5 * math.sqrt(variance / draws))
        assert float(found.var()) == pytest.approx(variance, rel=0.05)


def test_rao_blackwell_is_what_is_known():
    """f = −½‖z‖², μ = 1, d = 10, s = .5: 5.44 against 181.5 a component (Ranganath et al. 2014, checked)."""
    draws, d = 200_000, 10
    noise = torch.randn(1, draws, d, dtype=torch.float64, generator=rng())
    for estimator, due in ((rao_blackwellised, 5.44), (score_function, 181.5)):
        loc = torch.ones(draws, d, dtype=torch.float64, requires_grad=True)
        there = quadratic(loc, torch.full((draws, d), 0.5).double(), noise, detached=True)
        (found,) = torch.autograd.grad(estimator(there, log_prior).sum(), loc)
        assert float(found.var(0).mean()) == pytest.approx(due, rel=0.02)


@pytest.fixture(scope="module")
def oracle() -> PPCA:
    data = np.random.default_rng(0).normal(size=(200, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    return PPCA.of(data, 2)


@pytest.mark.parametrize("estimator", [sticking_the_landing, doubly_reparameterised])
@pytest.mark.parametrize("draws", [1, 5])
def test_at_the_posterior_the_gradient_in_phi_has_no_variance(oracle, estimator, draws):
    """With R = I the best diagonal q is the posterior: each draw's gradient is zero; reparameterised, it is not."""
    x = torch.randn(6, 4, dtype=torch.float64, generator=rng())
    model, posterior = oracle.model(), oracle.posterior()
    there = draw(model, posterior, batch_of(x), rng(), draws)
    phi = gradient(estimator(there, elbo).mean(), list(posterior.parameters()))
    assert phi.abs().max() < 1e-10
    there = draw(model, posterior, batch_of(x), rng(), draws)
    detached = gradient(reparameterised(there, elbo).mean(), list(posterior.parameters()))
    assert detached.abs().max() > 1e-2


def test_dreg_at_the_posterior_has_no_zero_over_zero(oracle):
    x = torch.randn(6, 4, dtype=torch.float64, generator=rng())
    model, posterior = oracle.model(), oracle.posterior()
    there = draw(model, posterior, batch_of(x), rng(), 8)
    phi = gradient(doubly_reparameterised(there, iwae).mean(), list(posterior.parameters()))
    assert phi.abs().max() < 1e-10


class OneLatent:
    """x | z ~ N(az + b, s²) with one latent and q ≠ posterior: E of any objective of two draws is a plane integral."""

    def __init__(self) -> None:
        with seeded(4):
            decoder, encoder = MLP((1,), (1,), hidden=()), MLP((1,), (2,), hidden=())
        self.model = LatentVariableModel(lb.priors.Normal(1), decoder, lb.likelihoods.Normal(0.7, shape=(1,))).double()
        self.posterior = lb.posteriors.DiagonalNormal(1, encoder).double()
        self.x = torch.tensor([[0.8]], dtype=torch.float64)
        self.parameters = [*self.model.parameters(), *self.posterior.parameters()]

    def draw(self, noise, K: int, copies: int = 1, detached: bool = False) -> Draw:
        return draw(self.model, self.posterior, batch_of(self.x.expand(copies, *self.x.shape[1:])), noise, K, detached)

    def gradient(self, value: Tensor) -> Tensor:
        return gradient(value, self.parameters)

    def exact(self, objective, K: int, points: int = 40) -> Tensor:
        nodes, weights = np.polynomial.hermite_e.hermegauss(points)
        grid = torch.tensor(np.stack(np.meshgrid(*[nodes] * K))).reshape(K, -1, 1)
        weight = torch.tensor(np.stack(np.meshgrid(*[weights / weights.sum()] * K))).reshape(K, -1).prod(0)
        there = self.draw(grid, K, grid.shape[1])
        return self.gradient((weight * objective(there)).sum())


@pytest.mark.parametrize(
    ("estimator", "objective", "draws"),
    [
        (reparameterised, elbo, 1),
        (reparameterised, iwae, 2),
        (sticking_the_landing, elbo, 1),
        (sticking_the_landing, elbo_sampled, 2),
        (doubly_reparameterised, iwae, 2),
        (doubly_reparameterised, iwae, 3),
        (doubly_reparameterised, partial(renyi, alpha=0.5), 2),
        (doubly_reparameterised, partial(lb.objectives.combined_iwae, share=0.3), 2),
        (doubly_reparameterised, elbo, 2),
        (score_function, elbo, 1),
        (leave_one_out, iwae, 2),
        (leave_one_out, elbo, 2),
        (partial(bounded, control=second_order), elbo, 1),
        (partial(bounded, control=second_order, coefficient=0.5), elbo, 2),
    ],
)
def test_gradients_of_a_normal_latent_have_the_exact_mean(estimator, objective, draws):
    toy = OneLatent()
    detached = gradients.traits(estimator).detached
    assert unbiased(replicates(toy, estimator, objective, draws, detached=detached), toy.exact(objective, draws))


@pytest.mark.parametrize(("draws", "groups"), [(2, 2), (4, 2), (3, 1)])
def test_piwae_gives_each_its_own_bound(draws, groups):
    """θ the bound of all K draws, φ that of K/groups: groups of several draws, of one, and of all."""
    toy = OneLatent()
    theta = sum(p.numel() for p in toy.model.parameters())
    estimator = partial(partially_importance_weighted, groups=groups)
    found = replicates(toy, estimator, iwae, draws, detached=False)
    points = 14 if draws > 2 else 40
    bounds = {g: toy.exact(partial(multi_iwae, groups=g), draws, points) for g in {1, groups, draws}}
    truth = torch.cat([bounds[1][:theta], bounds[groups][theta:]])
    assert unbiased(found, truth)
    for other in bounds.keys() - {1}:
        assert refuted(found[:, :theta], bounds[other][:theta])
    for other in bounds.keys() - {groups}:
        assert refuted(found[:, theta:], bounds[other][theta:])


def test_sticking_the_landing_is_biased_for_a_bound_of_several_draws_and_says_so():
    toy = OneLatent()
    found = replicates(toy, sticking_the_landing, iwae, 2, detached=False)
    assert refuted(found, toy.exact(iwae, 2))
    assert gradients.why_biased(sticking_the_landing, iwae)
    assert not gradients.why_biased(sticking_the_landing, elbo)


def test_the_signal_of_dreg_grows_with_the_draws_where_that_of_iwae_falls(oracle):
    """|mean|/deviation of a component of φ's gradient, at q ≠ posterior. Rainforth et al. 2018; Tucker et al. 2019."""
    x = torch.randn(1, 4, dtype=torch.float64, generator=rng(3))
    model, posterior = oracle.model(), oracle.posterior(widen=1.2)

    def signal(estimator, K: int, copies: int = 400) -> float:
        rows = batch_of(x.expand(copies, 4))
        q = posterior(rows.x)
        loc = q.loc.detach().requires_grad_()
        own = Normal(loc, q.scale.detach() * 1.0)
        z = own.sample(torch.randn(K, copies, 2, dtype=torch.float64, generator=rng(K)))
        node = Node("z", z, own, model.prior())
        there = Draw((node,), model.log_lik(z, rows.x))
        (found,) = torch.autograd.grad(estimator(there, iwae).sum(), loc)
        return float((found.mean(0).abs() / found.std(0)).mean())

    shifted = posterior.encoder.second.layers[0].bias
    with torch.no_grad():
        shifted[:2] += 0.3
    falls = [signal(reparameterised, K) for K in (5, 50, 500)]
    grows = [signal(doubly_reparameterised, K) for K in (5, 50, 500)]
    assert grows[0] < grows[1] < grows[2]
    assert grows[2] > 3 * grows[0]
    assert falls[2] < falls[0]


class Logistic(OneLatent):
    """x | z ~ Bernoulli(σ(wz + b)), five values of one latent."""

    def __init__(self) -> None:
        with seeded(6):
            decoder, encoder = MLP((1,), (5,), hidden=()), MLP((5,), (2,), hidden=())
        self.model = LatentVariableModel(lb.priors.Normal(1), decoder, lb.likelihoods.Bernoulli()).double()
        self.posterior = lb.posteriors.DiagonalNormal(1, encoder).double()
        self.x = torch.tensor([[1.0, 0, 1, 1, 0]], dtype=torch.float64)
        self.parameters = [*self.model.parameters(), *self.posterior.parameters()]

    def lower(self, there: Draw) -> tuple[Tensor, Tensor]:
        """Jaakkola & Jordan's bound on log p(x, z), log σ(t) ≥ log σ(ξ) + (t − ξ)/2 − λ(ξ)(t² − ξ²), and its mean."""
        (node,) = there.nodes
        layer = self.model.decoder.layers[0]
        w, b, sign = layer.weight.detach()[:, 0], layer.bias.detach(), 2 * there.x - 1

        def bound(t, t2, z2, xi):
            lam = (0.5 * xi).tanh() / (4 * xi)
            return (xi.sigmoid().log() + 0.5 * (t - xi) - lam * (t2 - xi.square())).sum(-1) - 0.5 * z2

        t = sign * (w * node.z.detach() + b)
        mean, variance = node.q.loc, node.q.scale.square()
        expected, second = sign * (w * mean + b), (w * mean + b).square() + w.square() * variance
        xi = second.detach().sqrt()
        g = bound(t, t.square(), node.z.detach().square().sum(-1), xi)
        return g, bound(expected, second, (mean.square() + variance).sum(-1), xi)


def test_a_bound_as_control_variate_lowers_the_variance_and_not_the_mean():
    """Paisley et al. 2012, §3: with Jaakkola & Jordan's bound on a logistic model, and with a Taylor series."""
    toy = Logistic()
    truth, theta = toy.exact(elbo_sampled, 1), sum(p.numel() for p in toy.model.parameters())
    (node,), g = (there := toy.draw(rng(), 1, 1000)).nodes, toy.lower(there)[0]
    joint = there.log_lik - 0.5 * node.z.square().sum(-1)
    assert bool((g <= joint + 1e-12).all()), "a lower bound"
    detached = replicates(toy, score_function, elbo_sampled, 1)
    for control in (toy.lower, second_order):
        found = replicates(toy, partial(bounded, control=control), elbo_sampled, 1)
        assert unbiased(found, truth)
        assert found[:, theta:].var(0).sum() < 0.4 * detached[:, theta:].var(0).sum()


# Latents of different kinds in one model


class Several:
    """x | k, b, z ~ N(w_k + vb + az, s²): a class, a bit and a number; k and b are enumerated, z is integrated."""

    def __init__(self) -> None:
        with seeded(7):
            decoder, encoder = MLP((5,), (2,), hidden=()), MLP((2,), (6,), hidden=())
            torch.nn.init.normal_(decoder.layers[0].weight)
        names, none = ("k", "b", "z"), torch.nn.Identity()
        latents = (lb.posteriors.Categorical(1, 3, none), lb.posteriors.Bernoulli(1, none))
        parts = dict(zip(names, (*latents, lb.posteriors.DiagonalNormal(1, none)), strict=True))
        self.posterior = lb.posteriors.Latents(parts, encoder).double()
        priors = (lb.priors.Categorical(1, 3), lb.priors.Bernoulli(1), lb.priors.Normal(1))
        prior = lb.priors.Latents(dict(zip(names, priors, strict=True)))
        self.model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal(0.8, shape=(2,))).double()
        self.x = torch.tensor([[0.5, -0.4]], dtype=torch.float64)
        self.parameters = [*self.model.parameters(), *self.posterior.parameters()]

    def draw(self, noise, K: int, copies: int = 1, detached: bool = False) -> Draw:
        return draw(self.model, self.posterior, batch_of(self.x.expand(copies, 2)), noise, K, detached)

    def gradient(self, value: Tensor) -> Tensor:
        return gradient(value, self.parameters)

    def exact(self, objective, K: int) -> Tensor:
        points, weights = np.polynomial.hermite_e.hermegauss(20)
        weights = torch.tensor(weights / weights.sum())
        q = self.posterior(self.x).nodes()
        each = [(k, b, z) for k in range(3) for b in range(2) for z in range(len(points))]
        index = torch.tensor(list(itertools.product(range(len(each)), repeat=K))).T
        k, b, z = torch.tensor(each)[index].unbind(-1)
        latents = {
            "k": q["k"].states()[k],
            "b": q["b"].states()[b],
            "z": q["z"].sample(torch.tensor(points)[z].unsqueeze(-1)),
        }
        there = self.draw(rng(), K, index.shape[1]).at(latents)
        finite = sum(node.log_density.sum(0) for node in there.nodes if node.name != "z").exp()
        return self.gradient((finite * weights[z].prod(0) * objective(there)).sum())


BY_NODE = partial(gradients.ByNode, ("k", "b", "z"))


@pytest.mark.parametrize(
    ("estimator", "objective", "draws"),
    [
        (gradients.by_family, elbo, 2),
        (gradients.by_family, iwae, 2),
        (leave_one_out, elbo_sampled, 2),
        (rebar, elbo, 1),
        (BY_NODE((leave_one_out, leave_one_out, reparameterised)), iwae, 2),
        (BY_NODE((leave_one_out, score_function, doubly_reparameterised)), iwae, 2),
        (BY_NODE((rebar, rao_blackwellised, sticking_the_landing)), elbo, 1),
        (BY_NODE((control_variate, rebar, score_function)), elbo, 2),
    ],
)
def test_each_latent_has_its_own_estimator(estimator, objective, draws):
    toy = Several()
    detached = gradients.traits(estimator).detached
    found = replicates(toy, estimator, objective, draws, copies=1600, detached=detached)
    assert unbiased(found, toy.exact(objective, draws))


def test_latents_of_different_kinds_are_what_their_parts_are():
    toy = Several()
    there = toy.draw(rng(), 4, 6)
    assert [node.name for node in there.nodes] == ["k", "b", "z"]
    assert [node.path for node in there.nodes] == [False, False, True]
    q = toy.posterior(toy.x.expand(6, 2))
    z = q.join({node.name: node.z for node in there.nodes})
    assert z.shape == (4, 6, 5)
    torch.testing.assert_close(q.log_prob(z), there.log_q)
    torch.testing.assert_close(toy.model.prior().log_prob(z), there.log_prior)
    torch.testing.assert_close(q.entropy(), there.entropy)
    torch.testing.assert_close(toy.model.log_joint(z, toy.x.expand(6, 2)) - there.log_q, there.log_w)
    assert q.mean().shape == (6, 5)
    assert toy.model.sample(7, rng()).shape == (7, 2)
    assert lb.AEVB(toy.posterior, draws=2).estimator is gradients.by_family
    with pytest.raises(ValueError, match="the posterior is of the latents k, b, z and the prior of z; name them alike"):
        draw(LatentVariableModel(lb.priors.Normal(5), toy.model.decoder, toy.model.likelihood), toy.posterior,
             batch_of(toy.x), rng())  # fmt: skip
    with pytest.raises(ValueError, match="ByNode has estimators for a"):
        gradients.ByNode(("a",), (leave_one_out,))(there, elbo)
    with pytest.raises(ValueError, match="enumerated is for models with one latent, but this has 3"):
        enumerated(there, elbo)


# What is refused, and what is chosen


def test_the_posterior_says_what_is_used():
    normal = lb.posteriors.DiagonalNormal(2, MLP((3,), (4,), hidden=()))
    finite = lb.posteriors.Bernoulli(2, MLP((3,), (2,), hidden=()))
    assert lb.AEVB(normal).estimator is reparameterised
    assert lb.AEVB(finite, draws=2).estimator is leave_one_out
    with pytest.raises(ValueError, match="leave_one_out needs draws of at least 2, got 1"):
        lb.AEVB(finite)


def test_a_path_through_finite_latents_is_refused():
    there = belief_net().draw(rng(), 2)
    for estimator in (reparameterised, sticking_the_landing, doubly_reparameterised):
        with pytest.raises(ValueError, match="latent 'z' has no reparameterisation"):
            estimator(there, elbo)


def test_estimators_of_means_refuse_a_bound_of_several_draws():
    there = belief_net().draw(rng(), 2)
    for estimator in (control_variate, rao_blackwellised, rebar, enumerated):
        with pytest.raises(ValueError, match="needs an objective that is a mean over the draws"):
            estimator(there, iwae)


def test_dreg_allows_no_penalty():
    normal = lb.posteriors.DiagonalNormal(2, MLP((3,), (4,), hidden=()))
    with pytest.raises(ValueError, match="doubly_reparameterised rescales"):
        lb.AEVB(normal, gradient=doubly_reparameterised, penalties=(partial(lb.objectives.free_bits, floor=0.1),))


def test_a_draw_of_terms_alone_cannot_be_evaluated_elsewhere():
    there = of_terms(*torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match="cannot evaluate its model"):
        there.at({"z": torch.zeros(1)})
