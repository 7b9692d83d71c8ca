"""Latents with parents: against closed forms, enumeration and quadrature."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from enumeration import gradient
from layers import BeliefNet, LinearLayers, grid
from oracles import PPCA, batch_of, rng, sigma_points, z_score
from torch import Tensor, nn

import lowerbound as lb
from lowerbound import distributions, evidence, gradients, objectives
from lowerbound.distributions import kl
from lowerbound.gradients import (
    ByNode,
    by_family,
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
    sticking_the_landing,
    straight_through,
)
from lowerbound.model import LatentVariableModel, check_latents, distributions_of, draw
from lowerbound.nn import MLP, seeded
from lowerbound.objectives import elbo, elbo_entropy, elbo_sampled, iwae, multi_iwae

ORDERS = ("bottom-up", "top-down", "apart")
EXACT = ("bottom-up", "top-down", "ladder")


# Two linear layers: every quantity has a closed form


@pytest.mark.parametrize("order", EXACT)
def test_every_weight_of_the_exact_posterior_is_the_evidence(order):
    """Both orders of q, and the ladder, whose second layer is its prior times the likelihood."""
    toy = LinearLayers()
    x = toy.rows(4)
    there = draw(toy.model, toy.posterior(order), batch_of(x), rng(), 5)
    torch.testing.assert_close(there.log_w, toy.log_prob(x).expand(5, 4), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.0), (0.4, 1.3)])
@pytest.mark.parametrize("order", ORDERS)
def test_the_gap_of_the_bound_is_the_divergence_of_q(order, shift, widen):
    """Means over noise whose moments are those of N(0, I) up to the second: exact of what is quadratic."""
    toy = LinearLayers()
    x, posterior = toy.rows(4), toy.posterior(order, shift, widen)
    there = draw(toy.model, posterior, batch_of(x), sigma_points(2))
    gap = torch.full((4,), toy.gap(order, shift, widen), dtype=torch.float64)
    for bound in (elbo, elbo_sampled, elbo_entropy):
        torch.testing.assert_close(toy.log_prob(x) - bound(there), gap, rtol=0, atol=1e-8)
    assert there.mean_kl.shape == (4,)
    each = sum(node.mean_kl for node in there.nodes)
    torch.testing.assert_close(each, there.log_lik.mean(0) - elbo(there), rtol=0, atol=1e-8)
    shapes = {"bottom-up": {"z1": None, "z2": (4, 4)}, "top-down": {"z1": (4, 4), "z2": (4,)}}
    due = shapes.get(order, {"z1": (4, 4), "z2": (4,)})
    assert {node.name: None if node.kl is None else node.kl.shape for node in there.nodes} == due


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_two_layers_are_learnt_to_the_best_that_a_linear_model_can(order):
    """x | z1 of one dimension, z1 | z2: probabilistic PCA, whose maximum of the likelihood is known."""
    toy = LinearLayers()
    x = toy.rows(1000)
    best = PPCA.of(x.numpy(), 1, ddof=0).log_prob(x).mean()
    with seeded(1):
        above = lb.priors.ConditionalNormal(1, MLP((1,), (2,), hidden=()))
        parents = {"z2": ["z1"]} if order == "bottom-up" else {"z1": ["z2"]}
        parts = {
            name: lb.posteriors.DiagonalNormal(1, MLP((2,), (2,), hidden=(), context=1 if name in parents else 0))
            for name in ("z1", "z2")
        }
        decoder = MLP((1,), (2,), hidden=())
    prior = lb.priors.Latents({"z2": lb.priors.Normal(1), "z1": above}, {"z1": ["z2"]})
    model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal(shape=(2,)), parents=["z1"]).double()
    posterior = lb.posteriors.Latents(parts, parents=parents).double()
    model.initialise(x)
    inference = lb.AEVB(posterior, gradient=sticking_the_landing, learning_rate=lb.training.Cosine(0.02, 80))
    found = lb.fit(model, x, inference, epochs=80, batch_size=100, validation=0)
    with torch.no_grad():
        reached = elbo_sampled(draw(model, posterior, batch_of(x), rng(), 20)).mean()
    assert abs(float(reached - best)) < 0.02
    last = found.history.records[-1]
    exact = 1e-6 if order == "top-down" else 0.05  # bottom-up, KL of both is taken from draws, and of z2 in closed form
    assert last["train_kl"] == pytest.approx(last["train_kl_z1"] + last["train_kl_z2"], abs=exact)


def test_the_decoder_reads_the_latents_that_it_names():
    toy = LinearLayers()
    z = torch.randn(3, 4, 2, dtype=torch.float64, generator=rng())
    torch.testing.assert_close(toy.model.decode(z)[:, :, 0], z[..., 1:] * toy.w + toy.b)
    toy.model.parents = None
    with pytest.raises(ValueError, match="the decoder does not fit its input"):
        toy.model.decode(z)


@pytest.mark.parametrize("order", EXACT)
def test_all_latents_are_one_flat_vector_for_evidence(order):
    toy = LinearLayers()
    x, posterior = toy.rows(4), toy.posterior(order, 0.2, 1.2) if order != "ladder" else toy.posterior(order)
    q, p = distributions_of(toy.model, posterior, x)
    noise = posterior.noise(6, 4, rng(), x.dtype)
    z, there = q.sample(noise), draw(toy.model, posterior, batch_of(x), noise)
    latents = q.split(z)
    for node in there.nodes:
        assert torch.equal(latents[node.name], node.z)
    assert torch.equal(q.join(latents), z)
    torch.testing.assert_close(q.log_prob(z), there.log_q)
    torch.testing.assert_close(q.take(torch.tensor([2, 0])).log_prob(z[:, [2, 0]]), there.log_q[:, [2, 0]])
    torch.testing.assert_close(p.log_prob(p.join(latents)), there.log_prior)
    torch.testing.assert_close(q.stopped().log_prob(z.detach()), there.log_q.detach())
    assert not q.stopped().log_prob(z.detach()).requires_grad
    assert q.unconstrained
    assert q.reparameterisation == "composition"
    assert list(q.families()) == ["z1", "z2"]
    assert q.mean() is None
    assert q.entropy() is None
    if order != "ladder":
        with pytest.raises(ValueError, match=r"latent 'z\d' has the parents z\d"):
            q.nodes()


def test_flat_latents_are_joined_in_one_order_for_the_model_and_the_posterior():
    """The prior names z2 first and the posterior z1: z of the model is in the prior's order."""
    toy = LinearLayers()
    x, posterior = toy.rows(4), toy.posterior("top-down")
    there = draw(toy.model, posterior, batch_of(x), rng(), 3)
    z = toy.model.prior().join({node.name: node.z for node in there.nodes})
    torch.testing.assert_close(toy.model.log_joint(z, x), there.log_lik + there.log_prior)
    (target,) = [evidence.of_model(toy.model, posterior)(batch_of(x))]
    noise = posterior.noise(3, 4, rng(), x.dtype)
    torch.testing.assert_close(target.log_weights(target.posterior, noise), toy.log_prob(x).expand(3, 4))


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_importance_sampling_and_annealing_find_the_evidence_of_two_layers(order):
    toy = LinearLayers()
    x = toy.rows(5)
    targets = evidence.of_model(toy.model, toy.posterior(order, 0.2, 1.2))
    found = evidence.importance_sampling(targets, x, rng(), samples=4000)
    assert abs(z_score(torch.tensor(found.estimate) - toy.log_prob(x), 0.0)) < 5
    torch.testing.assert_close(torch.tensor(found.estimate), toy.log_prob(x), rtol=0, atol=0.02)
    settings = evidence.Settings(chains=20, temperatures=50)
    annealed = evidence.annealed(targets, x, rng(), settings)
    torch.testing.assert_close(torch.tensor(annealed.estimate), toy.log_prob(x), rtol=0, atol=0.1)


# A belief net of two layers: gradients against sums over every state

SEVERAL = (elbo, elbo_sampled, elbo_entropy, iwae)
BITS = [
    (score_function, SEVERAL, 1),
    (leave_one_out, SEVERAL, 2),
    (by_family, (elbo, iwae), 2),
    (control_variate, SEVERAL[:3], 2),
    (rao_blackwellised, SEVERAL[:2], 1),
    (ByNode(("b1", "b2"), (leave_one_out, score_function)), (elbo, iwae), 2),
    (ByNode(("b1", "b2"), (rao_blackwellised, control_variate)), (elbo,), 2),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("estimator", "objective", "draws"),
    [(estimator, one, K) for estimator, several, K in BITS for one in several],
    ids=lambda part: getattr(part, "__name__", str(part)[:6]),
)
def test_the_mean_of_an_estimator_over_every_state_of_two_layers_is_exact(order, estimator, objective, draws):
    net = BeliefNet(order)
    truth = net.exact(objective, draws)
    assert truth.abs().max() > 1e-2
    torch.testing.assert_close(net.expected(estimator, objective, draws), truth, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_bounds_of_two_layers_of_bits_are_exact(order):
    net = BeliefNet(order)
    there, probability = net.tuples(1)
    sampled = (probability * elbo_sampled(there)).sum()
    for bound in (elbo, elbo_entropy):
        torch.testing.assert_close((probability * bound(there)).sum(), sampled, rtol=1e-10, atol=1e-10)
    assert float(sampled.detach()) < float(net.log_prob().detach())
    assert float((probability * there.log_w[0].exp()).sum().log().detach()) == pytest.approx(
        float(net.log_prob().detach()), abs=1e-10
    )


@pytest.mark.parametrize(
    ("order", "latent"), [("bottom-up", "b2"), ("top-down", "b1"), ("apart", "b1"), ("apart", "b2")]
)
def test_one_layer_is_enumerated_while_the_other_is_sampled(order, latent):
    """The last layer of q has no children, so the mean over the other layer's states is exact."""
    net = BeliefNet(order)
    found = net.expected(partial(enumerated, latent=latent), elbo_sampled, 1)
    torch.testing.assert_close(found, net.exact(elbo_sampled, 1), rtol=1e-10, atol=1e-10)
    other = "b1" if latent == "b2" else "b2"
    each = ByNode((latent, other), (enumerated, score_function))
    torch.testing.assert_close(net.expected(each, elbo, 1), net.exact(elbo, 1), rtol=1e-10, atol=1e-10)


def refuted(samples: Tensor, truth: Tensor) -> bool:
    error = samples.std(0) / math.sqrt(len(samples))
    moves = error > 1e-12
    return bool((((samples.mean(0) - truth)[moves] / error[moves]).abs() > 5.5).any())


def replicates(toy, estimator, objective, K: int, batches: int = 50, copies: int = 1600) -> Tensor:
    return torch.stack(
        [
            gradient(estimator(toy.draw(rng(number), K, copies), objective).mean(), toy.parameters)
            for number in range(batches)
        ]
    )


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
@pytest.mark.parametrize(
    "estimator",
    [
        rebar,
        partial(rebar, coefficient=0.5),
        partial(enumerated, latent="b1"),
        partial(enumerated, latent="b2"),
        ByNode(("b1", "b2"), (rebar, enumerated)),
    ],
    ids=["rebar", "half of rebar", "b1 enumerated", "b2 enumerated", "by node"],
)
def test_estimators_that_draw_again_are_unbiased_for_two_layers(order, estimator):
    net = BeliefNet(order)
    truth = net.exact(elbo_sampled, 1)
    found = replicates(net, estimator, elbo_sampled, 1)
    assert not refuted(found, truth)
    assert refuted(1.2 * found, truth)


def test_relaxations_of_two_layers_are_near_the_exact_gradient_at_a_low_temperature():
    """Biased, and so are their gradients; they point where the exact one does."""
    net = BeliefNet("bottom-up")
    truth = net.exact(elbo_sampled, 1)
    for estimator in (relaxed, straight_through):
        found = replicates(net, partial(estimator, temperature=0.3), elbo_sampled, 1, 20).mean(0)
        assert float(torch.cosine_similarity(found, truth, 0)) > 0.9


# Layers of normals: gradients against quadrature


class Normals:
    """z2 → z1 → x through networks that are not linear; q in either order, one row."""

    def __init__(self, order: str, points: int = 12) -> None:
        with seeded(2):
            above = MLP((1,), (2,), hidden=(3,))
            decoder = MLP((1,), (2,), hidden=(3,))
            reads = {"z2": ["z1"]} if order == "bottom-up" else {"z1": ["z2"]}
            parts = {
                name: lb.posteriors.DiagonalNormal(1, MLP((2,), (2,), hidden=(3,), context=1 if name in reads else 0))
                for name in ("z1", "z2")
            }
        prior = lb.priors.Latents(
            {"z1": lb.priors.ConditionalNormal(1, above), "z2": lb.priors.Normal(1)}, {"z1": ["z2"]}
        )
        self.model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal(0.8, shape=(2,)), parents=["z1"])
        self.posterior, self.points = lb.posteriors.Latents(parts, parents=reads).double(), points
        self.model.double()
        with torch.no_grad():
            for parameter in (*self.model.parameters(), *self.posterior.parameters()):
                parameter.mul_(0.8)
        self.x = torch.tensor([[0.8, -1.0]]).double()
        self.parameters = [*self.model.parameters(), *self.posterior.parameters()]

    def on_grid(self, K: int):
        nodes, weight = grid(self.points, 2 * K)
        rows = nodes.view(K, 2, -1).transpose(1, 2)
        return draw(self.model, self.posterior, batch_of(self.x.expand(rows.shape[1], 2)), rows), weight

    def exact(self, objective, K: int) -> Tensor:
        there, weight = self.on_grid(K)
        return gradient((weight * objective(there)).sum(), self.parameters)

    def expected(self, estimator, objective, K: int) -> Tensor:
        there, weight = self.on_grid(K)
        return gradient((weight * estimator(there, objective)).sum(), self.parameters)


NORMALS = [
    (reparameterised, elbo, 1),
    (reparameterised, iwae, 2),
    (sticking_the_landing, elbo, 1),
    (sticking_the_landing, elbo_sampled, 2),
    (doubly_reparameterised, elbo, 1),
    (doubly_reparameterised, iwae, 2),
    (doubly_reparameterised, partial(objectives.renyi, alpha=0.5), 2),
    (partial(partially_importance_weighted, groups=1), iwae, 2),
    (ByNode(("z1", "z2"), (reparameterised, reparameterised)), elbo, 1),
    (ByNode(("z1", "z2"), (sticking_the_landing, reparameterised)), elbo, 1),
    (ByNode(("z1", "z2"), (doubly_reparameterised, doubly_reparameterised)), iwae, 2),
    (ByNode(("z1", "z2"), (reparameterised, score_function)), elbo_sampled, 1),
    (ByNode(("z1", "z2"), (score_function, reparameterised)), elbo_sampled, 1),
]


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
@pytest.mark.parametrize(("estimator", "objective", "draws"), NORMALS)
def test_gradients_through_the_draws_of_a_parent_are_exact(order, estimator, objective, draws):
    """A path through a parent reaches its child's draw and q: stopped φ, rescaled paths and scores included."""
    toy = Normals(order, 12 if draws == 2 else 24)
    truth = toy.exact(objective, draws)
    torch.testing.assert_close(toy.expected(estimator, objective, draws), truth, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("objective", [elbo, elbo_sampled, iwae])
@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_the_gradient_of_a_bound_of_two_layers_is_that_of_its_differences(order, objective):
    """Central differences of the mean over a grid of noise, along a random direction of all parameters."""
    toy = Normals(order)
    found, step = toy.exact(objective, 1), 1e-5
    along = torch.randn(len(found), dtype=torch.float64, generator=rng(9))
    values = []
    for sign in (1, -1):
        first = 0
        with torch.no_grad():
            for parameter in toy.parameters:
                size = parameter.numel()
                parameter += sign * step * along[first : first + size].view_as(parameter)
                first += size
            there, weight = toy.on_grid(1)
            values.append(float((weight * objective(there)).sum()))
            first = 0
            for parameter in toy.parameters:
                size = parameter.numel()
                parameter -= sign * step * along[first : first + size].view_as(parameter)
                first += size
    assert float(found @ along) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_a_stopped_child_keeps_the_gradient_to_its_parents_draw():
    toy = Normals("bottom-up")
    there = draw(toy.model, toy.posterior, batch_of(toy.x), rng(), 2)
    below = next(node for node in there.stopped().nodes if node.name == "z2")
    phi = list(toy.posterior.parts["z2"].parameters())
    z1 = next(node.z for node in there.nodes if node.name == "z1")
    value = below.q.log_prob(below.z.detach()).sum()
    assert all(g is None for g in torch.autograd.grad(value, phi, allow_unused=True, retain_graph=True))
    (slope,) = torch.autograd.grad(value, z1)
    assert slope.abs().min() > 0


# A class, a number given it, and a row given both


class Classes:
    """y of three classes, z | y, x | y, z; q(y|x) q(z|x, y): y is enumerated, z is integrated."""

    def __init__(self) -> None:
        with seeded(5):
            above = lb.posteriors.DiagonalNormal(1, MLP((3,), (2,), hidden=()))
            decoder = MLP((4,), (2,), hidden=())
            nn.init.normal_(decoder.layers[0].weight)
            parts = {
                "y": lb.posteriors.Categorical(1, 3, MLP((2,), (3,), hidden=())),
                "z": lb.posteriors.DiagonalNormal(1, MLP((2,), (2,), hidden=(), context=3)),
            }
        prior = lb.priors.Latents({"y": lb.priors.Categorical(1, 3), "z": lb.priors.Given(above)}, {"z": ["y"]})
        self.model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal(0.7, shape=(2,))).double()
        self.posterior = lb.posteriors.Latents(parts, parents={"z": ["y"]}).double()
        self.x = torch.tensor([[0.5, -0.4]]).double()
        self.parameters = [*self.model.parameters(), *self.posterior.parameters()]

    def draw(self, noise: Tensor | torch.Generator, K: int, copies: int = 1) -> lb.draw.Draw:
        return draw(self.model, self.posterior, batch_of(self.x.expand(copies, 2)), noise, K)

    def log_prob(self, x: Tensor, of_each: bool = False) -> Tensor:
        """log p(x) ``[N]``, a mixture of three normals; or log p(x, y) ``[N, 3]`` ``of_each`` class."""
        p, layer = self.model.prior(), self.model.decoder.layers[0]
        above = p.conditionals["z"].given({"y": torch.eye(3).double().view(3, 1, 1, 3)})
        mean = layer.weight[:, :3].T + layer.bias + above.loc.view(3, 1) * layer.weight[:, 3]
        spread = torch.outer(layer.weight[:, 3], layer.weight[:, 3]) * above.scale.view(3, 1, 1).square()
        each = torch.distributions.MultivariateNormal(mean, spread + 0.49 * torch.eye(2).double())
        shares = p.conditionals["y"].given({}).logits[0].log_softmax(0)
        joint = (each.log_prob(x.unsqueeze(1)) + shares).detach()
        return joint if of_each else joint.logsumexp(1)

    def on_grid(self, K: int):
        points, weight = grid(20, K)
        classes = torch.tensor(list(itertools.product(range(3), repeat=K))).T
        index = classes.repeat_interleave(points.shape[1], 1)
        normal = points.repeat(1, classes.shape[1]).unsqueeze(2)
        uniform = torch.full((*index.shape, 6), 0.5).double()  # of y, which is put in its place
        there = self.draw(torch.cat([uniform, normal], 2), K, index.shape[1])
        states = torch.eye(3).double().unsqueeze(1)
        there = there.moved({"y": states[index]})
        y = next(node for node in there.nodes if node.name == "y")
        return there, y.log_density.sum(0).exp() * weight.repeat(classes.shape[1])

    def exact(self, objective, K: int) -> Tensor:
        there, weight = self.on_grid(K)
        return gradient((weight * objective(there)).sum(), self.parameters)

    def expected(self, estimator, objective, K: int) -> Tensor:
        there, weight = self.on_grid(K)
        return gradient((weight.detach() * estimator(there, objective)).sum(), self.parameters)


@pytest.mark.parametrize(
    ("estimator", "objective", "draws"),
    [
        (by_family, elbo, 2),
        (by_family, iwae, 2),
        (score_function, elbo, 1),
        (rebar, elbo, 1),
        (partial(enumerated, latent="y"), elbo_sampled, 1),
        (ByNode(("y", "z"), (enumerated, reparameterised)), elbo, 1),
        (ByNode(("y", "z"), (leave_one_out, sticking_the_landing)), elbo, 2),
        (ByNode(("y", "z"), (rebar, reparameterised)), elbo, 1),
        (ByNode(("y", "z"), (leave_one_out, doubly_reparameterised)), iwae, 2),
    ],
)
def test_a_class_above_a_number_has_the_exact_gradient(estimator, objective, draws):
    toy = Classes()
    truth = toy.exact(objective, draws)
    found = replicates(toy, estimator, objective, draws, 40, 750)
    assert not refuted(found, truth)
    assert refuted(1.25 * found, truth)


@pytest.mark.parametrize("estimator", [by_family, score_function])
def test_the_score_of_a_class_above_a_normal_is_exact(estimator):
    """Over every class and a grid of the normal's noise: the parent by its score, the child by its path."""
    toy = Classes()
    draws = 2 if estimator is by_family else 1
    torch.testing.assert_close(toy.expected(estimator, elbo, draws), toy.exact(elbo, draws), rtol=1e-10, atol=1e-10)


def test_enumerating_a_class_leaves_no_variance_of_its_own():
    """With z integrated too, one draw's gradient is the exact one."""
    toy = Classes()
    points, weight = grid(16, 1)
    noise = torch.cat([torch.full((1, 16, 6), 0.3).double(), points.unsqueeze(2)], 2)
    there = toy.draw(noise, 1, 16)
    found = gradient((weight * enumerated(there, elbo_sampled, latent="y")).sum(), toy.parameters)
    torch.testing.assert_close(found, toy.exact(elbo_sampled, 1), rtol=1e-10, atol=1e-10)


def test_the_evidence_of_a_class_and_a_number_is_a_sum_of_normals():
    toy = Classes()
    q = toy.posterior(toy.x)
    noise = toy.posterior.noise(20_000, 1, rng(), torch.float64)
    z = q.sample(noise)
    log_w = toy.model.log_joint(z, toy.x) - q.log_prob(z)
    found = (log_w[:, 0].logsumexp(0) - math.log(20_000)).detach()
    assert float(found) == pytest.approx(float(toy.log_prob(toy.x)), abs=0.02)


# Families with parameters of their own for each draw


MADE = {
    "Bernoulli": lambda e: lb.posteriors.Bernoulli(3, e),
    "Beta": lambda e: lb.posteriors.Beta(3, e),
    "Categorical": lambda e: lb.posteriors.Categorical(2, 3, e),
    "DiagonalNormal": lambda e: lb.posteriors.DiagonalNormal(3, e),
    "Dirichlet": lambda e: lb.posteriors.Dirichlet(3, e),
    "Flow": lambda e: lb.posteriors.Flow(3, e, "realnvp"),
    "FullNormal": lambda e: lb.posteriors.FullNormal(3, e),
    "Gamma": lambda e: lb.posteriors.Gamma(3, e),
    "LogisticNormal": lambda e: lb.posteriors.LogisticNormal(3, e),
    "LowRankNormal": lambda e: lb.posteriors.LowRankNormal(3, 2, e),
    "NormalMixture": lambda e: lb.posteriors.NormalMixture(3, 2, e),
    "VonMisesFisher": lambda e: lb.posteriors.VonMisesFisher(3, e),
    "Weibull": lambda e: lb.posteriors.Weibull(3, e),
}


@pytest.mark.parametrize("name", MADE)
def test_parameters_of_each_draw_are_those_of_as_many_rows(name):
    posterior = MADE[name](nn.Identity()).double()
    out = torch.randn(2 * 4, posterior.n_outputs, dtype=torch.float64, generator=rng())
    flat, noise = posterior.distribution(out), posterior.noise(1, 8, rng(1), out.dtype)
    each, own = flat.by_draw(2, 4), noise.view(2, 4, *noise.shape[2:])
    z = flat.sample(noise)
    found = each.sample(own)
    torch.testing.assert_close(found.flatten(0, 1), z[0])
    torch.testing.assert_close(each.log_prob(found).flatten(), flat.log_prob(z)[0])
    with torch.no_grad():
        torch.testing.assert_close(each.log_prob_of_sample(found, own).flatten(), flat.log_prob(z)[0])
    for value, due in ((each.entropy(), flat.entropy()), (each.mean(), flat.mean())):
        assert (value is None) == (due is None)
        if value is not None:
            torch.testing.assert_close(value.flatten(0, 1), due)
    torch.testing.assert_close(
        each.take(torch.tensor([3, 1])).log_prob(found[:, [3, 1]]), each.log_prob(found)[:, [3, 1]]
    )
    torch.testing.assert_close(each.score(found).flatten(0, 1), flat.score(z)[0])
    few = posterior.distribution(out[:4])  # q of rows, p of each draw: KL of each draw
    both = kl(few, each)
    if both is not None:
        torch.testing.assert_close(both[1], kl(few, posterior.distribution(out[4:])))
        torch.testing.assert_close(kl(each, few)[0], kl(posterior.distribution(out[:4]), few))


# What is refused


def normal(inputs: int = 3, context: int = 0) -> lb.posteriors.DiagonalNormal:
    return lb.posteriors.DiagonalNormal(2, MLP((inputs,), (4,), hidden=(), context=context))


BOTH = {"a": lb.priors.Normal(2), "b": lb.priors.ConditionalNormal(2, MLP((2,), (4,), hidden=()))}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lb.priors.Latents({}), "latents need names, as in Latents"),
        (
            lambda: lb.priors.Latents(BOTH, {"c": ["a"]}),
            "parents= names 'c', which is not a latent; the latents are a, b",
        ),
        (lambda: lb.priors.Latents(BOTH, {"b": ["c"]}), "latent 'b' has the parent 'c', which is not a latent"),
        (lambda: lb.priors.Latents(BOTH, {"a": ["b"]}), "its prior Normal does not read them: take a conditional"),
        (lambda: lb.priors.Latents(BOTH, {"a": ["b"], "b": ["a"]}), "the parents form a cycle: "),
        (
            lambda: lb.priors.Latents({"a": lb.priors.Latents(BOTH, {"b": ["a"]})}),
            "'a' itself consists of several latents",
        ),
        (
            lambda: lb.posteriors.Latents({"a": normal(), "b": normal()}, parents={"b": ["a"]}),
            "latent 'b' has parents, and its encoder MLP takes no context: take nn.MLP",
        ),
        (
            lambda: lb.posteriors.Latents(
                {"a": normal(), "b": lb.posteriors.Bernoulli(1, nn.Identity())}, MLP((3,), (3,))
            ),
            "some of the latents have encoders of their own and some have none",
        ),
        (lambda: lb.posteriors.Latents({"a": normal(), "b": normal()}).n_outputs, "give features=, the numbers"),
        (
            lambda: LatentVariableModel(
                lb.priors.Latents(BOTH, {"b": ["a"]}), nn.Identity(), lb.likelihoods.Normal(), parents=["c"]
            ),
            "parents= of the decoder is c, and the prior's latents are a, b",
        ),
        (
            lambda: check_latents(
                lb.priors.Latents(BOTH, {"b": ["a"]}),
                lb.posteriors.Latents(
                    {"a": normal(context=2), "b": lb.posteriors.PrecisionWeighted(2, MLP((3,), (4,)))},
                    parents={"a": ["b"]},
                ),
            ),
            "the parents form a cycle: ",
        ),
        (
            lambda: enumerated(Classes().draw(rng(), 1), elbo, latent="w"),
            "no latent is named 'w'; the latents are y, z",
        ),
    ],
)
def test_what_is_no_order_of_latents_is_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert str(caught.value).count("\n") == 0


def test_penalties_that_compare_rows_refuse_a_latent_with_parents():
    there = BeliefNet("top-down").draw(rng(), 2)
    with pytest.raises(ValueError, match="q of latent 'b1' depends on its parents' draws"):
        objectives.decomposition(there.nodes[0], torch.ones(1).double())


def test_free_bits_take_the_mean_over_draws_of_a_latent_with_parents():
    toy = LinearLayers()
    there = draw(toy.model, toy.posterior("top-down"), batch_of(toy.rows(4)), rng(), 3)
    weight = torch.full((4,), 0.25).double()
    found = objectives.free_bits(there, weight, floor=100.0)
    assert float(found.detach()) == pytest.approx(200 - float((weight @ there.mean_kl).detach()), abs=1e-9)


@pytest.mark.parametrize("bound", [elbo, partial(multi_iwae, groups=2)])
def test_kl_of_each_draw_goes_into_groups_and_shares_of_draws(bound):
    toy = LinearLayers()
    there = draw(toy.model, toy.posterior("top-down", 0.3), batch_of(toy.rows(4)), rng(), 4)
    parts = gradients.base.per_draw(there, elbo)
    torch.testing.assert_close(parts.mean(0), elbo(there))
    assert parts.shape == (4, 4)
    assert bound(there).shape == (4,)


def test_a_prior_made_of_the_posterior_can_be_that_of_the_top_latent():
    with seeded(0):
        parts = {"z1": normal(4, 2), "z2": normal(4)}
        posterior = lb.posteriors.Latents(parts, parents={"z1": ["z2"]})
        above = lb.priors.ConditionalNormal(2, MLP((2,), (4,), hidden=()))
        vamp = lb.priors.VampPrior((2,), (4,), 3)
    prior = lb.priors.Latents({"z1": above, "z2": vamp}, {"z1": ["z2"]})
    model = LatentVariableModel(prior, MLP((4,), (4,), hidden=()), lb.likelihoods.Normal(1.0))
    x = torch.randn(5, 4, generator=rng())
    model.initialise(x)
    there = draw(model, posterior, batch_of(x), rng(), 2)
    node = next(node for node in there.nodes if node.name == "z2")
    q = parts["z2"](vamp.pseudo_inputs)
    due = distributions.Mixture(q, torch.zeros(3)).log_prob(node.z)
    torch.testing.assert_close(node.log_p, due)
    assert model.sample(6, rng(), posterior=posterior).shape == (6, 4)
    upside = lb.posteriors.Latents({"z1": normal(4), "z2": normal(4, 2)}, parents={"z2": ["z1"]})
    with pytest.raises(
        ValueError, match="the prior of latent 'z2' is made of its posterior, which must have no parents"
    ):
        draw(model, upside, batch_of(x), rng())


# Storage


def two_layers() -> tuple[LatentVariableModel, lb.AEVB]:
    with seeded(4):
        parts = {"z1": normal(6), "z2": normal(6, 2)}
        posterior = lb.posteriors.Latents(parts, MLP((4,), (6,), (8,)), {"z2": ["z1"]})
        above = lb.priors.ConditionalNormal(2, MLP((2,), (4,), (8,)))
        prior = lb.priors.Latents({"z2": lb.priors.Normal(2), "z1": above}, {"z1": ["z2"]})
        decoder = MLP((2,), (4,), (8,))
    return LatentVariableModel(prior, decoder, lb.likelihoods.Bernoulli(), ["z1"]), lb.AEVB(posterior)


def test_two_layers_are_saved_resumed_and_loaded(tmp_path: Path):
    """Saved after 2 epochs and continued to 4: the same bytes as 4 epochs, and the same draws once loaded."""
    x = torch.rand(60, 4, generator=rng()).round()
    whole, inference = two_layers()
    lb.fit(whole, x, inference, epochs=4, batch_size=20, validation=0, run_dir=tmp_path / "whole")
    for epochs in (2, 4):
        model, other = two_layers()
        lb.fit(model, x, other, epochs=epochs, batch_size=20, validation=0, run_dir=tmp_path / "parts")
    for mine, theirs in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    saved = lb.load(tmp_path / "whole")
    assert saved.model.parents == ("z1",)
    assert saved.posterior.parents == {"z2": ("z1",)}
    draws = [
        draw(of, q, batch_of(x), rng(3), 2).log_w
        for of, q in ((whole, inference.posterior), (saved.model, saved.posterior))
    ]
    assert torch.equal(*draws)
