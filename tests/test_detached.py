"""``Distribution.stopped``: no gradient to parameters, nor to those of networks that the distribution holds.

DReG and sticking the landing stand on it; where it misses a network, their gradient is biased.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from enumeration import gradient
from oracles import batch_of, rng
from scipy import stats
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.distributions import Distribution, Flow, Latents, Normal
from lowerbound.distributions.densities import normal_log_prob
from lowerbound.distributions.family import standard_normal
from lowerbound.distributions.flow import Transforms
from lowerbound.distributions.latents import Known
from lowerbound.draw import Draw
from lowerbound.gradients import doubly_reparameterised, reparameterised, sticking_the_landing
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, seeded
from lowerbound.objectives import elbo_sampled, iwae
from lowerbound.posteriors import Posterior


@pytest.fixture(autouse=True)
def _checks_of_arguments() -> Iterator[None]:
    """torch.compile, which a test here calls, switches off the checks of torch.distributions for the process."""
    before = torch.distributions.Distribution._validate_args
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


FALSE_ALARM = 1e-5  # of one test of a whole gradient, divided over its components
COPIES = 200_000


class Pair(NamedTuple):
    loc: Any
    scale: Any


@dataclass(frozen=True)
class Own(Distribution):
    """A normal whose mean and scale a network computes from ``features [B, F]``: a user's own family."""

    features: Tensor
    head: Any
    batch_dims: int = 1
    reparameterisation = "location-scale"

    def both(self) -> tuple[Tensor, Tensor]:
        loc, raw = self.head(self.features).chunk(2, -1)
        return loc, nn.functional.softplus(raw)

    @staticmethod
    def noise(lead, event, generator, dtype):
        return standard_normal(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        loc, scale = self.both()
        return loc + scale * noise

    def log_prob(self, z: Tensor) -> Tensor:
        return normal_log_prob(z, *self.both()).sum(-1)


class OwnPosterior(Posterior):
    family = Own

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__(latent_dim, encoder)
        self.head = MLP((3,), (2 * latent_dim,), hidden=(3,))

    @property
    def n_outputs(self) -> int:
        return 3

    def distribution(self, out: Tensor) -> Own:
        return Own(out, self.head)


def flow(latent_dim: int, encoder: nn.Module) -> Posterior:
    posterior = lb.posteriors.Flow(latent_dim, encoder, transforms=1, hidden=(3,), features=2)
    for parameter in posterior.chain.parameters():
        nn.init.normal_(parameter, std=0.5)
    return posterior


def joint(latent_dim: int, encoder: nn.Module) -> Posterior:
    parts = [flow(1, nn.Identity()), OwnPosterior(1, nn.Identity())]
    return lb.posteriors.Latents(dict(zip("ab", parts, strict=True)), encoder)


class Toy:
    """Two columns of normals around a decoder of z, one row: E of an objective of two draws by quadrature."""

    def __init__(self, make: Callable[[int, nn.Module], Posterior], latents: int, points: int) -> None:
        with seeded(4):
            encoder = MLP((2,), (make(latents, nn.Identity()).n_outputs,), hidden=())
            self.posterior = make(latents, encoder).double()
            decoder = MLP((latents,), (2,), hidden=())
        prior = lb.priors.Normal(latents)
        if latents == 2:
            prior = lb.priors.Latents({"a": lb.priors.Normal(1), "b": lb.priors.Normal(1)})
        self.model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal(0.7, shape=(2,))).double()
        self.x, self.latents, self.points = torch.tensor([[0.8, -1.0]], dtype=torch.float64), latents, points
        self.parameters = [*self.model.parameters(), *self.posterior.parameters()]

    def draw(self, noise: Tensor | torch.Generator, K: int, copies: int) -> Draw:
        return draw(self.model, self.posterior, batch_of(self.x.expand(copies, 2)), noise, K)

    def exact(self, objective) -> Tensor:
        """The gradient of E[objective of two draws], over a grid of their noise."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.points)
        axes = 2 * self.latents
        grid = torch.tensor(np.stack(np.meshgrid(*[nodes] * axes))).reshape(2, self.latents, -1).transpose(1, 2)
        weight = torch.tensor(np.stack(np.meshgrid(*[weights / weights.sum()] * axes))).reshape(axes, -1).prod(0)
        return gradient((weight * objective(self.draw(grid, 2, grid.shape[1]))).sum(), self.parameters)

    def samples(self, estimator, objective, batches: int = 40) -> Tensor:
        """Means of independent gradients of two draws, ``[batches, P]``, of ``COPIES`` draws in all."""
        found, copies = [], COPIES // batches
        for number in range(batches):
            there = self.draw(rng(100 + number), 2, copies)
            found.append(gradient(estimator(there, objective).mean(), self.parameters))
        return torch.stack(found)


def refuted(samples: Tensor, truth: Tensor) -> bool:
    """Whether the mean of ``samples [R, P]`` is not ``truth``: t-tests, Bonferroni over components."""
    error = samples.std(0) / math.sqrt(len(samples))
    moves = error > 1e-12
    t = ((samples.mean(0) - truth)[moves] / error[moves]).abs()
    return bool((t > stats.t.isf(FALSE_ALARM / (2 * len(t)), len(samples) - 1)).any())


def tensors_only(self: Distribution) -> Distribution:
    """As ``stopped`` would be if it forgot networks."""
    own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
    return dataclasses.replace(self, **{k: v.detach() for k, v in own.items() if isinstance(v, Tensor)})


TOYS = {"own": (OwnPosterior, 1, 40), "flow": (flow, 1, 40), "joint": (joint, 2, 14)}


@pytest.mark.parametrize("name", TOYS)
def test_gradients_of_a_posterior_that_holds_a_network_have_the_exact_mean(name):
    toy = Toy(*TOYS[name])
    truth = toy.exact(iwae)
    assert not refuted(toy.samples(reparameterised, iwae), truth)
    assert not refuted(found := toy.samples(doubly_reparameterised, iwae), truth)
    assert refuted(1.05 * found, truth)
    assert not refuted(toy.samples(sticking_the_landing, elbo_sampled), toy.exact(elbo_sampled))


@pytest.mark.parametrize("name", ["own", "flow"])
def test_a_network_that_is_forgotten_biases_dreg(name, monkeypatch):
    toy = Toy(*TOYS[name])
    monkeypatch.setattr(Distribution, "stopped", tensors_only)
    assert refuted(toy.samples(doubly_reparameterised, iwae), toy.exact(iwae))


class Recurrent(nn.Module):
    """A network with parameters in a list of its own, and with a shared one."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(3, 2), nn.Linear(2, 2)
        self.again = self.out

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.gru(x)[0])


@dataclass
class Callback:
    """An object that is no module, with one inside."""

    net: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


class Averaged(nn.Module):
    """Batch normalisation, weight normalisation and a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        self.norm = nn.BatchNorm1d(2)
        self.linear.register_forward_hook(lambda module, inputs, out: out + 0 * module.bias.sum())

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def plain() -> nn.Module:
    return nn.Linear(3, 2)


HELD: dict[str, Callable[[], tuple[Any, nn.Module]]] = {
    "module": lambda: (net := plain(), net),
    "method": lambda: ((net := plain()).forward, net),
    "partial": lambda: (partial(net := plain()), net),
    "object": lambda: (Callback(net := plain()), net),
    "recurrent": lambda: (net := Recurrent(), net),
    "normalised": lambda: (net := Averaged(), net),
    "compiled": lambda: (torch.compile(net := plain(), backend="eager"), net),
}


@pytest.mark.parametrize("name", HELD)
def test_no_gradient_reaches_a_network_however_it_is_held(name):
    head, net = HELD[name]()
    q, z = Own(torch.randn(5, 3, generator=rng(0)), head), torch.randn(4, 5, 1, generator=rng(1))
    z.requires_grad_()
    assert any(p.grad is None for p in net.parameters())
    q.log_prob(z).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    due, z.grad = z.grad.clone(), None
    net.zero_grad(set_to_none=True)
    still = q.stopped()
    torch.testing.assert_close(still.log_prob(z), q.log_prob(z))
    still.log_prob(z).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    torch.testing.assert_close(z.grad, due)


@dataclass(frozen=True)
class Holds(Distribution):
    """Parts of every kind, in every container."""

    held: Any
    batch_dims: int = 1

    noise = Own.noise

    def sample(self, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        raise NotImplementedError


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight: Any) -> None:
        self.weight = weight


@pytest.mark.parametrize("what", ["slots", "a set", "a closure", "a default"])
def test_a_tensor_that_cannot_be_detached_is_refused(what):
    weight = torch.ones(2, requires_grad=True)

    def around(x: Tensor) -> Tensor:
        return x * weight

    def default(x: Tensor, w: Tensor = weight) -> Tensor:
        return x * w

    held = {"slots": Slotted(plain()), "a set": {weight}, "a closure": around, "a default": default}[what]
    with pytest.raises(ValueError, match="which cannot be detached; store"):
        Holds(held).stopped()
    assert Holds(Slotted(3)).stopped().held.weight == 3


def test_containers_and_distributions_within_are_detached_too():
    net = plain()
    loc = torch.ones(2, 1, requires_grad=True)
    inner = Normal(loc, torch.ones(2, 1))
    held = {
        "a": [net, (loc, 3)],
        "b": Pair(inner, net),
        "c": Latents({"z": Known((1,), inner)}),
        "d": torch.device("cpu"),
    }
    found = Holds(held).stopped().held
    assert not any(p.requires_grad for p in found["a"][0].parameters())
    assert found["b"].scale is found["a"][0]  # what is shared stays so
    assert not found["a"][1][0].requires_grad
    assert found["a"][1][1] == 3
    assert not found["b"].loc.loc.requires_grad
    assert not found["c"].nodes()["z"].loc.requires_grad
    other = torch.distributions.Normal(loc, torch.ones(2, 1))
    assert not Holds(other).stopped().held.loc.requires_grad
    assert other.loc.requires_grad
    assert net.weight.requires_grad


def test_what_cannot_be_detached_is_refused():
    net = plain()
    with pytest.raises(ValueError, match=r"holds .*lambda.*, a function that uses a network.*store the network itself"):
        Own(torch.zeros(1, 3), lambda x: net(x)).stopped()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of scripting
        scripted = torch.jit.trace(net, torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"a scripted network.*without torch.jit"):
        Own(torch.zeros(1, 3), scripted).stopped()
    Own(torch.zeros(1, 3), lambda x: x).stopped()


def test_a_flow_that_is_stopped_forgets_its_last_draw():
    q = Flow(torch.zeros(2, 2), torch.ones(2, 2), None, Transforms(2))
    q.sample(torch.zeros(1, 2, 2))
    assert q.drawn
    assert not q.stopped().drawn
