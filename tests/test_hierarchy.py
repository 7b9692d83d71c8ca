"""Hierarchies: ladders and layers from the rows up, against closed forms, and the mutants that these refuse."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from enumeration import gradient
from layers import grid
from linear_hierarchies import LinearHierarchy, plain_of
from oracles import PPCA, batch_of, rng, sigma_points
from torch import Tensor, nn

import lowerbound as lb
from lowerbound import evidence, gradients, objectives, recipes
from lowerbound.distributions.latents import Merged
from lowerbound.draw import tempered
from lowerbound.model import draw
from lowerbound.nn import BottomUp, ConvBottomUp
from lowerbound.objectives import elbo, elbo_entropy, elbo_sampled, free_bits, iwae

SHAPES = [
    ("bottom-up", (2, 2)),
    ("ladder", (2, 2)),
    ("ladder", (3, 1, 2)),
    ("skip", (2, 2)),
    ("skip", (3, 1, 2)),
    ("ladder", (2,)),
]


def rows(n: int, dim: int = 3) -> Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=rng(7))


def at_sigma_points(toy: LinearHierarchy, x: Tensor) -> lb.draw.Draw:
    """Noise over which the mean of what is quadratic is exact."""
    return draw(toy.model, toy.posterior, batch_of(x), sigma_points(sum(toy.latents)))


# Closed forms


@pytest.mark.parametrize(("order", "latents"), SHAPES)
def test_the_gap_of_the_bound_is_the_divergence_from_the_exact_posterior(order, latents):
    toy, x = LinearHierarchy(order, latents), rows(4)
    there = at_sigma_points(toy, x)
    gap = toy.gap(x)
    assert float(gap.detach().min()) > 0.05
    for bound in (elbo, elbo_sampled, elbo_entropy):
        torch.testing.assert_close(toy.log_prob(x) - bound(there), gap, rtol=0, atol=1e-8)
    each = {node.name: node.mean_kl for node in there.nodes}
    assert set(each) == set(toy.names)
    torch.testing.assert_close(sum(each.values()), there.log_lik.mean(0) - elbo(there), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("order", "latents"), SHAPES)
def test_draws_have_the_moments_of_q_in_closed_form(order, latents):
    toy, x = LinearHierarchy(order, latents), rows(4)
    there, due = at_sigma_points(toy, x), toy.q(x)
    z = toy.model.prior().join({node.name: node.z for node in there.nodes})
    torch.testing.assert_close(z.mean(0), due.mean, rtol=0, atol=1e-8)
    centred = z - z.mean(0)
    covariance = torch.einsum("kbi,kbj->bij", centred, centred) / len(z)
    torch.testing.assert_close(covariance, due.covariance_matrix, rtol=0, atol=1e-8)


@pytest.mark.parametrize("order", ["ladder", "skip"])
def test_every_weight_of_an_exact_ladder_is_the_evidence(order):
    """WᵀW and AᵀA are multiples of I: both layers of p(z|x) factorise as those of a ladder do."""
    toy, x = LinearHierarchy("ladder"), rows(4)
    toy.make_exact()
    if order == "skip":  # the same model; its decoder also reads z2, with weight 0
        other = LinearHierarchy("skip")
        other.posterior.load_state_dict(toy.posterior.state_dict())
        other.model.prior.load_state_dict(toy.model.prior.state_dict())
        with torch.no_grad():
            other.decoder.weight.zero_()
            other.decoder.weight[:, :2] = toy.decoder.weight
            other.decoder.bias.copy_(toy.decoder.bias)
        toy = other
    exact, q = toy.exact(x), toy.q(x)
    torch.testing.assert_close(q.mean, exact.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(q.covariance_matrix, exact.covariance_matrix.expand(4, 4, 4), rtol=0, atol=1e-8)
    there = draw(toy.model, toy.posterior, batch_of(x), rng(), 5)
    torch.testing.assert_close(there.log_w, toy.log_prob(x).expand(5, 4), rtol=0, atol=1e-8)


def gradients_of(toy: LinearHierarchy, value: Tensor) -> Tensor:
    """∂ ``value`` of each parameter that the closed forms read."""
    found = torch.autograd.grad(value, [parameter for parameter, _ in toy.affine])
    return torch.cat([own[some].flatten() for own, (_, some) in zip(found, toy.affine, strict=True)])


@pytest.mark.parametrize(("order", "latents"), SHAPES)
@pytest.mark.parametrize(
    "estimator",
    [gradients.reparameterised, gradients.sticking_the_landing, gradients.doubly_reparameterised],
    ids=lambda one: one.__name__,
)
def test_the_gradient_of_the_bound_is_that_of_its_closed_form(order, latents, estimator):
    toy, x = LinearHierarchy(order, latents), rows(4)
    due = gradients_of(toy, (toy.log_prob(x) - toy.gap(x)).sum())
    found = gradients_of(toy, estimator(at_sigma_points(toy, x), elbo).sum())
    torch.testing.assert_close(found, due, rtol=1e-8, atol=1e-8)


BOTH = Merged.both


def of_the_mean(self, latents):
    return BOTH(self, {name: z.mean(0, keepdim=True).expand_as(z) for name, z in latents.items()})


def of_the_detached(self, latents):
    q, _ = BOTH(self, latents)
    return q, self.prior.given({name: z.detach() for name, z in latents.items()})


def unmerged(self, latents):
    _, p = BOTH(self, latents)
    return self.own.given(latents), p


@pytest.mark.parametrize("order", ["ladder", "skip"])
def test_mutants_of_a_ladder_are_refused(order, monkeypatch):
    """A child of its parent's mean, KL with the parent detached, and a q that is not merged."""
    x = rows(4)
    for mutant, value in ((of_the_mean, True), (of_the_detached, False), (unmerged, True)):
        with monkeypatch.context() as patch:
            patch.setattr(Merged, "both", mutant)
            toy = LinearHierarchy(order)
            bound = elbo(at_sigma_points(toy, x))
        due = toy.log_prob(x) - toy.gap(x)
        assert bool(((bound - due).abs() > 1e-3).any()) == value, mutant
        away = gradients_of(toy, bound.sum()) - gradients_of(toy, due.sum())
        assert float(away.abs().max()) > 1e-2, mutant


# Layers that are not linear: gradients against quadrature


@pytest.mark.parametrize(
    ("estimator", "objective", "draws"),
    [
        (gradients.sticking_the_landing, elbo_sampled, 1),
        (gradients.doubly_reparameterised, elbo, 1),
        (gradients.doubly_reparameterised, iwae, 2),
        (partial(gradients.partially_importance_weighted, groups=1), iwae, 2),
        (gradients.ByNode(("z1", "z2"), (gradients.reparameterised, gradients.sticking_the_landing)), elbo, 1),
        (gradients.ByNode(("z1", "z2"), (gradients.doubly_reparameterised,) * 2), iwae, 2),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_gradients_of_a_ladder_are_those_of_its_bound(estimator, objective, draws, skip):
    start, likelihood = torch.zeros(1, 2), lb.likelihoods.Normal(0.8, shape=(2,))
    model, posterior = recipes.ladder(start, (1, 1), hidden=(3, 3), skip=skip, likelihood=likelihood, seed=2)
    model.double(), posterior.double()
    parameters = [*model.parameters(), *posterior.parameters()]
    nodes, weight = grid(12 if draws == 2 else 24, 2 * draws)
    noise = nodes.view(draws, 2, -1).transpose(1, 2)
    x = torch.tensor([[0.8, -1.0]]).double().expand(noise.shape[1], 2)
    due = gradient((weight * objective(draw(model, posterior, batch_of(x), noise))).sum(), parameters)
    found = gradient((weight * estimator(draw(model, posterior, batch_of(x), noise), objective)).sum(), parameters)
    torch.testing.assert_close(found, due, rtol=1e-3, atol=2e-4)


# Learnt


@pytest.mark.parametrize("skip", [False, True])
def test_a_ladder_is_learnt_to_the_best_that_a_linear_model_can(skip):
    """Two layers of normals above x: probabilistic PCA, whose maximum of the likelihood is known."""
    toy = LinearHierarchy("ladder")
    x = toy.model.sample(1000, rng(5)).detach()
    best = PPCA.of(x.numpy(), 2, ddof=0).log_prob(x).mean()
    likelihood = lb.likelihoods.Normal(shape=(3,))
    model, posterior = recipes.ladder(x, (2, 1), hidden=(), skip=skip, likelihood=likelihood, seed=1)
    model.double(), posterior.double()
    settings = {"gradient": gradients.sticking_the_landing, "learning_rate": lb.training.Cosine(0.05, 60)}
    lb.fit(model, x, lb.AEVB(posterior, **settings), epochs=60, batch_size=200, validation=0)
    with torch.no_grad():
        reached = elbo_sampled(draw(model, posterior, batch_of(x), rng(), 20)).mean()
    assert abs(float(reached - best)) < 0.01


# One layer


@pytest.mark.parametrize("objective", [elbo, iwae])
def test_a_ladder_of_one_layer_is_the_plain_model_bit_for_bit(objective):
    x = torch.rand(60, 6, generator=rng()).round()
    found = []
    for wrap in (lambda *both: both, plain_of):
        model, posterior = wrap(*recipes.ladder(x, (3,), hidden=(8,), seed=4))
        inference = lb.AEVB(posterior, objective, draws=3)
        records = lb.fit(model, x, inference, epochs=3, batch_size=20, seed=1).history.records
        found.append((records, [*model.parameters(), *posterior.parameters()]))
    (first, mine), (second, theirs) = found
    assert first == second
    assert len(mine) == len(theirs)
    assert all(map(torch.equal, mine, theirs))


def in_one_layer(latent_dim: int, encoder: nn.Module) -> lb.posteriors.Latents:
    return lb.posteriors.Latents({"z": lb.posteriors.DiagonalNormal(latent_dim, nn.Identity())}, encoder)


def test_latents_of_one_layer_are_the_vae_bit_for_bit():
    x = np.random.default_rng(0).normal(size=(60, 4))
    given = {"latent_dim": 2, "epochs": 2, "random_state": 0, "hidden": (8,)}
    layer = {
        "prior": lb.priors.Latents({"z": lb.priors.Normal(2)}),
        "posterior": in_one_layer,
    }
    one, other = lb.VAE(**given).fit(x), lb.VAE(**given, **layer).fit(x)
    assert (one.transform(x) == other.transform(x)).all()
    assert (one.score_samples(x) == other.score_samples(x)).all()
    assert one.history_.records == other.history_.records


# Networks and recipes


IMAGES = torch.rand(40, 9, 9, generator=rng()).round()


@pytest.mark.parametrize(
    "settings",
    [
        {"latents": (4, 3, 2)},
        {"latents": (2,) * 12, "hidden": (16,) * 12},
        {"latents": (4, 3, 2), "channels": (4, 4, 6)},
        {"latents": (2,) * 12, "channels": (4,) * 12, "skip": False},
        {"latents": (4, 2), "likelihood": lb.likelihoods.Normal("entry", (9, 9))},
    ],
    ids=lambda settings: f"{len(settings['latents'])} layers, {sorted(settings)[0]}",
)
def test_ladders_of_any_depth_use_every_layer(settings):
    model, posterior = recipes.ladder(IMAGES, seed=1, **settings)
    networks = [*model.named_parameters(), *posterior.named_parameters()]
    assert len({id(parameter) for _, parameter in networks}) == len(networks)  # none registered twice
    names = [f"z{level + 1}" for level in range(len(settings["latents"]))]
    found = lb.fit(model, IMAGES, lb.AEVB(posterior), epochs=2, batch_size=20, validation=0)
    assert {f"train_kl_{name}" for name in names} <= found.history.records[-1].keys()
    objective = elbo(draw(model, posterior, batch_of(IMAGES), rng(), 2)).mean()
    each = torch.autograd.grad(objective, [parameter for _, parameter in networks], allow_unused=True)
    assert not [name for (name, _), own in zip(networks, each, strict=True) if own is None or not own.any()]
    assert model.sample(3, rng()).shape == (3, 9, 9)


def test_the_networks_of_a_prior_run_once_per_step():
    model, posterior = recipes.ladder(IMAGES, (4, 3, 2))
    calls: list[str] = []
    for name, part in list(model.prior.parts.items())[:-1]:
        part.network.register_forward_hook(lambda *_, name=name: calls.append(name))
    elbo(draw(model, posterior, batch_of(IMAGES), rng(), 2)).mean().backward()
    assert calls == ["z2", "z1"]


def test_layers_from_the_rows_up_are_those_of_the_paper():
    """IWAE's table: 784-200-200-100-100-100-50 and back; q(z2|z1) does not read the rows."""
    model, posterior = recipes.iwae_two_layers(torch.zeros(2, 784))
    sizes = [
        [layer.weight.shape for layer in network.layers if isinstance(layer, nn.Linear)]
        for network in (
            posterior.parts["z1"].encoder,
            posterior.parts["z2"].encoder.network,
            model.prior.parts["z1"].network,
            model.decoder,
        )
    ]
    assert sizes == [
        [(200, 784), (200, 200), (200, 200)],
        [(100, 100), (100, 100), (100, 100)],
        [(100, 50), (100, 100), (200, 100)],
        [(200, 100), (200, 200), (784, 200)],
    ]
    given = {"z1": torch.randn(3, 2, 100, generator=rng())}
    one, other = (posterior(x).conditionals["z2"].given(given) for x in (torch.zeros(2, 784), torch.ones(2, 784)))
    assert torch.equal(one.loc, other.loc)


def test_each_output_of_a_path_reads_its_layer_and_those_below():
    x = torch.rand(2, 28, 28, generator=rng())
    for network, start in ((BottomUp((28, 28), (2, 3), (8, 6)), 0), (ConvBottomUp((28, 28), (2, 3), (4, 4)), 1)):
        before = network(x)
        assert before.shape == (2, 5)
        with torch.no_grad():
            next(network.steps[1].parameters()).mul_(2)
        changed = network(x) != before
        assert not changed[:, :2].any()
        assert changed[:, 2:].all()
        assert getattr(network, "halved", 0) == 2 * start
    torch.testing.assert_close(BottomUp((28, 28), (2, 3))(x).shape, torch.Size([2, 5]))
    assert ConvBottomUp((3, 8, 6), (2, 2), (4, 4)).halved == 0
    with torch.device("meta"):
        assert BottomUp((4,), (2, 2), (3, 3))(torch.zeros(5, 4)).shape == (5, 4)
        assert ConvBottomUp((9, 9), (2, 2), (3, 3))(torch.zeros(5, 9, 9)).shape == (5, 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: recipes.ladder(IMAGES, ()), "latents is empty; give the dimension of each layer"),
        (lambda: recipes.ladder(IMAGES, (2, 2), hidden=(4,)), "hidden has 1 numbers for 2 layers of latents"),
        (lambda: recipes.ladder(IMAGES, (2, 2), channels=(4,)), "channels has 1 numbers for 2 layers of latents"),
        (lambda: BottomUp((4,), (2, 2), (3,)), "widths has 1 numbers for 2 layers of latents; give one each"),
        (lambda: recipes.ladder(torch.zeros(5, 4), (2, 2), channels=(4, 4)), "rows of shape"),
        (lambda: started({"z3": 0.5}), "beta= names 'z3', which is not a latent; the latents are z1, z2"),
        (lambda: charged(floor={"z3": 1.0}), "floor= names 'z3', which is not a latent; the latents are z1, z2"),
        (lambda: charged(floor=1.0, groups="layers"), 'groups is \'layers\'; give "dimensions" or "latents"'),
        (
            lambda: free_bits(bits(), torch.ones(2) / 2, 1.0, "latents"),
            "needs a closed-form KL or a reparameterisation, but latent 'b1' has neither",
        ),
    ],
)
def test_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert str(caught.value).count("\n") == 0


def started(beta) -> object:
    model, posterior = recipes.ladder(IMAGES, (2, 2))
    return lb.AEVB(posterior, beta=beta).start(model)


def charged(**settings) -> Tensor:
    toy, x = LinearHierarchy("ladder"), rows(4)
    return free_bits(at_sigma_points(toy, x), torch.full((4,), 0.25).double(), **settings)


def bits() -> lb.draw.Draw:
    above = lb.priors.Given(lb.posteriors.Bernoulli(2, lb.nn.MLP((1,), (2,))))
    prior = lb.priors.Latents({"b1": above, "b2": lb.priors.Bernoulli(1)}, {"b1": ["b2"]})
    parts = {
        "b1": lb.posteriors.Bernoulli(2, lb.nn.MLP((3,), (2,))),
        "b2": lb.posteriors.Bernoulli(1, lb.nn.MLP((3,), (1,), context=2)),
    }
    model = lb.LatentVariableModel(prior, lb.nn.MLP((2,), (3,)), lb.likelihoods.Bernoulli(), ["b1"])
    posterior = lb.posteriors.Latents(parts, parents={"b2": ["b1"]})
    return draw(model, posterior, batch_of(torch.zeros(2, 3)), rng(), 2)


# Weights and floors of each layer


def test_each_layer_has_a_warm_up_of_its_own():
    model, posterior = recipes.ladder(IMAGES, (3, 2))
    inference = lb.AEVB(posterior, beta={"z2": lb.training.WarmUp(4)})
    assert not inference.is_bound
    assert lb.AEVB(posterior, beta={"z2": 1.0}).is_bound
    first, last = lb.fit(model, IMAGES, inference, epochs=2, batch_size=20, validation=0).history.records
    assert "beta" not in last
    assert 0 == first["beta_z2"] < last["beta_z2"] < 1
    there = draw(model, posterior, batch_of(IMAGES), rng(), 2)
    kl = {node.name: node.mean_kl for node in there.nodes}
    weighted = elbo(tempered(there, {"z2": torch.tensor(0.3)}))
    torch.testing.assert_close(weighted, there.log_lik.mean(0) - kl["z1"] - 0.3 * kl["z2"])


def test_the_same_weight_of_every_layer_is_one_weight():
    found = []
    for beta in (0.5, {"z1": 0.5, "z2": 0.5}):
        model, posterior = recipes.ladder(IMAGES, (3, 2))
        lb.fit(model, IMAGES, lb.AEVB(posterior, beta=beta), epochs=1, batch_size=20, validation=0)
        found.append([*model.parameters(), *posterior.parameters()])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("order", ["ladder", "bottom-up"])
def test_a_floor_of_each_layer_is_charged_once_per_layer(order):
    toy, x, weight = LinearHierarchy(order), rows(4), torch.full((4,), 0.25).double()
    there = at_sigma_points(toy, x)
    kl = {node.name: weight @ node.mean_kl for node in there.nodes}
    both = free_bits(there, weight, 100.0, "latents")
    torch.testing.assert_close(both, 200 - kl["z1"] - kl["z2"])
    torch.testing.assert_close(free_bits(there, weight, {"z2": 100.0}, "latents"), 100 - kl["z2"])
    torch.testing.assert_close(free_bits(there, weight, {"z2": 100.0}), 2 * 100 - kl["z2"])
    assert free_bits(there, weight, {"z2": 0.0, "z1": kl["z1"].item() - 0.1}, "latents").item() == 0


# Storage and evidence


def test_a_ladder_is_saved_resumed_and_loaded(tmp_path: Path):
    settings = {"batch_size": 20, "validation": 0}
    whole, posterior = recipes.ladder(IMAGES, (3, 2), channels=(4, 4))
    beta = {"z2": lb.training.WarmUp(1.5)}
    lb.fit(whole, IMAGES, lb.AEVB(posterior, beta=beta), epochs=4, run_dir=tmp_path / "whole", **settings)
    for epochs in (2, 4):
        model, other = recipes.ladder(IMAGES, (3, 2), channels=(4, 4))
        lb.fit(model, IMAGES, lb.AEVB(other, beta=beta), epochs=epochs, run_dir=tmp_path / "parts", **settings)
    assert all(map(torch.equal, whole.parameters(), model.parameters()))
    assert all(map(torch.equal, posterior.parameters(), other.parameters()))
    saved = lb.load(tmp_path / "whole")
    draws = [
        draw(of, q, batch_of(IMAGES), rng(3), 2).log_w for of, q in ((whole, posterior), (saved.model, saved.posterior))
    ]
    assert torch.equal(*draws)


@pytest.mark.parametrize("order", ["ladder", "bottom-up"])
def test_importance_sampling_finds_the_evidence_and_the_gap_report_that_of_each_layer(order):
    toy = LinearHierarchy(order)
    x = toy.model.sample(6, rng(5)).detach()
    if order == "ladder":
        toy.make_exact()
    targets = evidence.of_model(toy.model, toy.posterior)
    found = evidence.importance_sampling(targets, x, rng(), samples=4000)
    exact = toy.log_prob(x).detach()
    tolerance = 1e-8 if order == "ladder" else 0.2
    torch.testing.assert_close(torch.tensor(found.estimate), exact, rtol=0, atol=tolerance)
    gaps = evidence.gap_report(toy.model, toy.posterior, x, found, steps=20, samples=100, richer=())
    there = at_sigma_points(toy, x)
    for node in there.nodes:
        due = node.mean_kl.mean().item()
        assert gaps.kl[node.name].mean == pytest.approx(due, abs=0.15 * max(due, 1))
    assert objectives.description_length(at_sigma_points(toy, x)).latent.shape == (6,)
