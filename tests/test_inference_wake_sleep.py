"""Wake-sleep and reweighted wake-sleep: their gradients by enumeration, and where they end."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from enumeration import MODELS, belief_net, gradient
from layers import BeliefNet, LinearLayers
from oracles import PPCA, batch_of, rng
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.draw import Batch
from lowerbound.inference.wake_sleep import WakeSleepProcedure, dream, wake
from lowerbound.nn import MLP, seeded
from lowerbound.objectives import elbo, iwae
from lowerbound.training.cursor import Cursor

METHODS = {"wake-sleep": lb.WakeSleep, "reweighted": lb.ReweightedWakeSleep}


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gradients_of(procedure: WakeSleepProcedure, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients in θ and in φ along which a step moves."""
    posterior = procedure.settings.posterior
    parameters = [*procedure.model.parameters(), *posterior.parameters()]
    loss, _ = procedure.loss(batch, noise, {})
    return gradient(-loss, parameters).tensor_split([size(procedure.model)])


# The wake phases, over all tuples of states


@pytest.mark.parametrize(("objective", "K"), [(elbo, 1), (elbo, 2), (iwae, 2), (iwae, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_follows_the_gradient_of_the_bound(name, objective, K):
    """wake-θ: the exact gradient of the ELBO, or of the IWAE bound of K draws, in the model's parameters."""
    toy = MODELS[name]()
    theta = slice(0, size(toy.model))
    exact, found = toy.exact(objective, K), toy.expected(partial(wake, phi=1.0), objective, K)
    torch.testing.assert_close(found[theta], exact[theta], rtol=0, atol=1e-12)
    assert exact[theta].norm() > 0.1


@pytest.mark.parametrize("order", ["bottom-up", "top-down", "apart"])
def test_the_model_of_latents_with_parents_follows_the_gradient_of_the_bound(order):
    toy = BeliefNet(order)
    theta = slice(0, size(toy.model))
    exact, found = toy.exact(iwae, 2), toy.expected(partial(wake, phi=0.5), iwae, 2)
    torch.testing.assert_close(found[theta], exact[theta], rtol=0, atol=1e-12)


def weighted(toy, K: int) -> Tensor:
    """wake-φ by its formula: E_q Σ_k w̃_k ∂log q(z_k|x), over K-tuples of states."""
    states = toy.posterior(toy.x).states().unsqueeze(1)
    log_q = toy.posterior(toy.x).log_prob(states).squeeze(1)
    w = (toy.model.log_joint(states, toy.x).squeeze(1) - log_q).exp().detach()
    q, total = log_q.exp().detach(), log_q.new_zeros(())
    for each in map(list, itertools.product(range(len(states)), repeat=K)):
        total = total + q[each].prod() * (w[each] / w[each].sum() * log_q[each]).sum()
    return toy.gradient(total)


@pytest.mark.parametrize(("name", "K"), [*itertools.product(MODELS, (1, 2)), ("mixture", 4)])
def test_the_posterior_maximises_the_reweighted_log_density(name, K):
    toy = MODELS[name]()
    found = toy.expected(partial(wake, phi=0.3), iwae, K)[size(toy.model) :]
    torch.testing.assert_close(found, 0.3 * weighted(toy, K)[size(toy.model) :], rtol=0, atol=1e-12)


def test_a_wake_phase_without_phi_leaves_the_posterior():
    toy = belief_net()
    assert not toy.expected(partial(wake, phi=0.0), iwae, 2)[size(toy.model) :].any()


def counted(K: int, states: int) -> tuple[Tensor, Tensor]:
    """All multisets of K of so many states, as indices ``[K, M]``, and how many tuples each stands for, as a log."""
    index = torch.tensor(list(itertools.combinations_with_replacement(range(states), K))).T
    counts = torch.stack([(index == state).sum(0) for state in range(states)]).double()
    return index, math.lgamma(K + 1) - torch.lgamma(counts + 1).sum(0)


def test_the_bias_of_the_wake_phase_of_the_posterior_falls_as_1_over_K():
    """Against E_p(z|x)[∂log q(z|x)], which it estimates; exact for each K, as a sum over multisets of states."""
    toy = belief_net(2)
    states = toy.posterior(toy.x).states()
    joint = toy.model.log_joint(states.unsqueeze(1), toy.x).squeeze(1).detach()
    exact = toy.gradient(joint.softmax(0) @ toy.posterior(toy.x).log_prob(states.unsqueeze(1)).squeeze(1))
    sizes, bias = (4, 8, 16, 32), []
    for K in sizes:
        index, log_count = counted(K, len(states))
        there = toy.draw(rng(), K, index.shape[1]).at({"z": states[index]})
        probability = (there.nodes[0].log_density.sum(0) + log_count).exp().detach()
        assert float(probability.sum()) == pytest.approx(1)
        found = toy.gradient((probability * wake(there, iwae, phi=1.0)).sum())
        bias.append(float((found - exact)[size(toy.model) :].norm()))
    slope = np.polyfit(np.log(sizes), np.log(bias), 1)[0]
    assert slope == pytest.approx(-1, abs=0.2)


# The sleep phase


def sleep_gradients(model: lb.LatentVariableModel, posterior: lb.posteriors.Posterior, batch: Batch) -> Tensor:
    """The gradient in φ of ``WakeSleep``, which is that of the sleep phase, of 40 steps: ``[40, P]``."""
    procedure = lb.WakeSleep(posterior).start(model)
    noises = (procedure.noise(len(batch.x), rng(seed)) for seed in range(40))
    return torch.stack([gradients_of(procedure, batch, noise)[1] for noise in noises])


def distance(found: Tensor, exact: Tensor) -> float:
    """The largest number of standard errors between a mean and its exact value; errors are small against it."""
    error = found.std(0) / math.sqrt(len(found))
    assert error.norm() < 0.03
    return float(((found.mean(0) - exact).abs() / error.clamp(min=1e-12)).max())


def test_the_sleep_phase_is_its_enumerated_gradient():
    """E_p(x,z)[∂log q(z|x)], over the 2³ latents and 2⁵ rows of a belief net."""
    toy = belief_net()
    x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5))).double()
    states = toy.posterior(toy.x).states().unsqueeze(1).expand(-1, len(x), -1)
    joint = toy.model.log_joint(states, x).exp().detach()
    assert float(joint.sum()) == pytest.approx(1)
    exact = toy.gradient((joint * toy.posterior(x).log_prob(states)).sum())[size(toy.model) :]
    found = sleep_gradients(toy.model, toy.posterior, batch_of(toy.x.expand(5000, 5)))
    assert distance(found, exact) < 4.5
    assert distance(found, -exact) > 20


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_the_exact_posterior_is_where_the_sleep_phase_ends(order):
    """Of latents with parents, p and q in different orders: E_p(x,z)[∂log q(z|x)] = 0 where q(z|x) = p(z|x)."""
    toy = LinearLayers()
    batch = batch_of(toy.rows(5000))
    found = sleep_gradients(toy.model, toy.posterior(order), batch)
    assert distance(found, torch.zeros_like(found[0])) < 4.5
    shifted = sleep_gradients(toy.model, toy.posterior(order, shift=0.4), batch)
    assert distance(shifted, torch.zeros_like(found[0])) > 20


def test_drawn_rows_get_the_context_and_the_missing_cells_of_the_batch():
    with seeded(0):
        prior = lb.priors.ConditionalNormal(2, MLP((3,), (4,)))
        model = lb.LatentVariableModel(prior, MLP((2,), (5,), context=3), lb.likelihoods.Bernoulli()).double()
        posterior = lb.posteriors.DiagonalNormal(2, MLP((5,), (4,), context=3)).double()
    x, context = (torch.rand(40, 5, generator=rng()) < 0.5).double(), torch.randn(40, 3, generator=rng()).double()
    mask = torch.rand(40, 5, generator=rng(1)) < 0.7
    batch = Batch(x, mask, torch.arange(40), torch.full((40,), 1 / 40).double(), context)
    procedure, generator = lb.WakeSleep(posterior).start(model), rng(2)
    noise = procedure.noise(40, rng(2))
    procedure.noise(40, generator)  # what a step draws first
    z, drawn = dream(model, batch, generator)
    procedure.noise(40, rng(2))
    due = posterior(torch.where(mask, drawn, 0), mask, context).log_prob(z).mean()
    found = gradients_of(procedure, batch, noise)[1]
    torch.testing.assert_close(found, gradient(due, list(posterior.parameters())))
    assert model.prior_given(context).log_prob(z).mean() > model.prior_given(context.flip(0)).log_prob(z).mean()


def test_drawing_rows_leaves_the_mode_of_the_model():
    model = belief_net().model.train()
    dream(model, batch_of(torch.zeros(3, 5).double()), rng())
    assert model.training
    assert all(module.training for module in model.modules())


# Both phases in one step


def test_a_step_adds_both_gradients_and_no_more():
    """θ is not moved by sleep, whatever its weight, and φ is by 1 − sleep and sleep."""
    toy = belief_net()
    batch = batch_of((torch.rand(60, 5, generator=rng()) < 0.5).double())
    found = {}
    for sleep in (0.0, 0.25, 1.0):
        procedure = lb.ReweightedWakeSleep(toy.posterior, 3, sleep=sleep).start(toy.model)
        found[sleep] = gradients_of(procedure, batch, procedure.noise(60, rng()))
    for sleep in (0.25, 1.0):
        torch.testing.assert_close(found[sleep][0], found[0.0][0])
    torch.testing.assert_close(found[0.25][1], 0.75 * found[0.0][1] + 0.25 * found[1.0][1])
    with pytest.warns(UserWarning, match="iwae of a single draw is the ELBO"):
        same = lb.ReweightedWakeSleep(toy.posterior, 1, sleep=1.0).start(toy.model)
    each = [
        gradients_of(one, batch, one.noise(60, rng())) for one in (same, lb.WakeSleep(toy.posterior).start(toy.model))
    ]
    for ours, theirs in zip(*each, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_batches_with_a_padded_last_one_have_the_gradient_of_all_rows():
    """Σ over batches of (its rows/N) · its gradient, of 50 rows in batches of 16, is that of one batch of 50."""
    toy = belief_net()
    rows = lb.data.Rows((torch.rand(50, 5, generator=rng()) < 0.5).double(), dtype=torch.float64)
    procedure = lb.ReweightedWakeSleep(toy.posterior, 4, sleep=0.0).start(toy.model)
    noise = procedure.noise(50, rng())
    whole = torch.cat(gradients_of(procedure, batch_of(rows.batch(torch.arange(50), torch.ones(50)).x), noise))
    cursor, total = Cursor(rows, 16, seed=0), torch.zeros_like(whole)
    for _ in range(cursor.steps_per_epoch):
        batch, real = cursor.next()
        total += real / 50 * torch.cat(gradients_of(procedure, batch, noise[:, batch.index]))
    assert real == 2
    torch.testing.assert_close(total, whole)


def test_the_density_of_a_flow_is_differentiated_at_fixed_draws():
    """The gradient of log q(z|x) at z, not along the path by which z was drawn."""
    with seeded(0):
        posterior = lb.posteriors.Flow(2, MLP((4,), (8,), ()), hidden=(6,), features=4).double()
        model = lb.LatentVariableModel(lb.priors.Normal(2), MLP((2,), (4,), ()), lb.likelihoods.Bernoulli()).double()
        for parameter in posterior.parameters():
            nn.init.normal_(parameter, std=0.5)
    x = (torch.rand(20, 4, generator=rng()) < 0.5).double()
    procedure = lb.ReweightedWakeSleep(posterior, 3, sleep=0.0).start(model)
    noise = procedure.noise(20, rng())
    z = posterior(x).sample(noise).detach()
    log_p, log_q = model.log_joint(z, x), posterior(x).log_prob(z)
    weights = (log_p - log_q).detach().softmax(0)
    due = ((weights * (log_p + log_q)).sum(0).mean(), [*model.parameters(), *posterior.parameters()])
    torch.testing.assert_close(torch.cat(gradients_of(procedure, batch_of(x), noise)), gradient(*due))


def test_a_step_after_its_explanation_draws_the_same_rows():
    """A replay that looks for what went wrong sees the steps as they were."""
    toy = belief_net()
    batch = batch_of(toy.x.expand(8, 5))
    procedure = lb.WakeSleep(toy.posterior).start(toy.model)
    noise = procedure.noise(8, rng())
    assert procedure.explain(procedure.state, batch, noise, {}) == ""
    explained = gradients_of(procedure, batch, noise)[1]
    procedure.noise(8, rng())
    torch.testing.assert_close(explained, gradients_of(procedure, batch, noise)[1], rtol=0, atol=0)


# Where fits end


@pytest.mark.parametrize("name", METHODS)
def test_fits_of_a_linear_model_reach_its_evidence(name):
    """Probabilistic PCA, where both methods can be exact: log p(x) of the fitted model, in closed form."""
    x = np.random.default_rng(0).normal(size=(500, 2)) @ [[1.5, -1.0, 0.5, 0.8], [0.3, 0.9, -1.2, 0.4]]
    x += 0.5 * np.random.default_rng(1).normal(size=(500, 4))
    best = float(PPCA.of(x, 2, ddof=0).log_prob(torch.tensor(x)).mean())
    with seeded(0):
        likelihood = lb.likelihoods.Normal(shape=(4,))
        model = lb.LatentVariableModel(lb.priors.Normal(2), MLP((2,), (4,), ()), likelihood).double()
        posterior = lb.posteriors.FullNormal(2, MLP((4,), (5,), ())).double()
    model.initialise(torch.tensor(x))
    inference = METHODS[name](posterior, learning_rate=lb.training.Cosine(5e-2, 120))
    lb.fit(
        model, lb.data.Rows(torch.tensor(x), dtype=torch.float64), inference, epochs=120, batch_size=60, validation=0
    )
    assert evidence(model, torch.tensor(x)) > best - 0.02


@torch.no_grad()
def evidence(model: lb.LatentVariableModel, x: Tensor) -> float:
    """Mean log p(x) of a linear normal model, in closed form."""
    mean = model.likelihood.mean(model.decode(torch.zeros(1, 1, 2).double()))[0, 0]
    columns = [model.likelihood.mean(model.decode(z.view(1, 1, 2)))[0, 0] - mean for z in torch.eye(2).double()]
    noise = model.likelihood.sigma().square().expand(4).diag()
    covariance = torch.stack(columns, 1) @ torch.stack(columns) + noise
    return float(torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).mean())


@pytest.mark.parametrize(("name", "behind"), [("wake-sleep", 2.0), ("reweighted", -0.3)])
def test_fits_of_a_belief_net_against_those_of_the_bound(name, behind):
    """Ten bits that explain 64: exact log p(x), by its 1,024 states; AEVB's gradient is leave-one-out."""
    ours, bound = belief_net_fit(METHODS[name]), belief_net_fit(lb.AEVB)
    assert ours > bound - behind


def belief_net_fit(method) -> float:
    x = torch.tensor((lb.data.digits().train[:600] > 7).reshape(-1, 64)).float()
    with seeded(0):
        posterior = lb.posteriors.Bernoulli(10, MLP((64,), (10,), ()))
        model = lb.LatentVariableModel(lb.priors.Bernoulli(10), MLP((10,), (64,), ()), lb.likelihoods.Bernoulli())
    model.initialise(x)
    inference = method(posterior, draws=5, learning_rate=lb.training.Cosine(2e-2, 15))
    lb.fit(model, x, inference, epochs=15, batch_size=50, validation=0)
    states = posterior(x[:1]).states().unsqueeze(1).expand(-1, 100, -1)
    with torch.no_grad():
        return float(model.log_joint(states, x[:100]).logsumexp(0).mean())


# Settings and models that are refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sleep": 1.5}, "sleep must be a weight from 0 to 1, got 1.5"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0"),
        ({"precision": "half"}, "precision is 'half'"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        lb.ReweightedWakeSleep(belief_net().posterior, **settings)


@pytest.mark.parametrize("name", METHODS)
def test_a_prior_made_of_the_posterior_is_refused(name):
    posterior = lb.posteriors.DiagonalNormal(2, MLP((5,), (4,), ()))
    vamp = lb.priors.VampPrior((2,), (5,), 3)
    shared = lb.priors.Normal(2)
    shared.part = posterior.encoder
    for prior in (vamp, shared):
        model = lb.LatentVariableModel(prior, MLP((2,), (5,), ()), lb.likelihoods.Bernoulli())
        with pytest.raises(ValueError, match="have parameters in common; choose a prior and a posterior that are not"):
            METHODS[name](posterior).start(model)
    ladder = LinearLayers()
    with pytest.raises(ValueError, match="have parameters in common"):
        METHODS[name](ladder.posterior("ladder")).start(ladder.model)


def test_self_masking_rows_cannot_be_drawn():
    posterior = lb.posteriors.DiagonalNormal(2, MLP((3,), (4,), ()))
    likelihood = lb.likelihoods.SelfMasking(lb.likelihoods.Product([lb.likelihoods.Normal() for _ in range(3)]))
    model = lb.LatentVariableModel(lb.priors.Normal(2), MLP((2,), (3,), ()), likelihood)
    with pytest.raises(ValueError, match=r"SelfMasking does not draw which cells are missing; use Rewe.*sleep=0"):
        lb.WakeSleep(posterior).start(model)
    lb.ReweightedWakeSleep(posterior, sleep=0).start(model)
