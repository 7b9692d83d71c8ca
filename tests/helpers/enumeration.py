"""Small models whose every latent state can be visited: exact objectives and exact gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from oracles import batch_of
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.draw import Draw, tempered
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, seeded
from lowerbound.posteriors import Posterior

Objective = Callable[[Draw], Tensor]


def gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """∂ value, ``[P]``: zero in what it does not depend on."""
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in pairs])


@dataclass
class Enumerable:
    """A model of one row whose latent has few states, in float64."""

    model: LatentVariableModel
    posterior: Posterior
    x: Tensor
    beta: float = 1.0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Of the model and of the posterior, each once."""
        return [*self.model.parameters(), *self.posterior.parameters()]

    def draw(self, noise: Tensor | torch.Generator, K: int, copies: int = 1, detached: bool = True) -> Draw:
        rows = batch_of(self.x.expand(copies, *self.x.shape[1:]))
        found = draw(self.model, self.posterior, rows, noise, K, detached)
        return found if self.beta == 1 else tempered(found, self.beta)

    def tuples(self, K: int) -> tuple[Draw, Tensor]:
        """A draw whose rows are all K-tuples of states, and the probability of each, ``[S^K]``."""
        states = self.posterior(self.x).states()
        index = torch.tensor(list(itertools.product(range(len(states)), repeat=K))).T
        there = self.draw(torch.Generator().manual_seed(0), K, index.shape[1]).at({"z": states[index]})
        return there, there.nodes[0].log_density.sum(0).exp()

    def gradient(self, value: Tensor) -> Tensor:
        return gradient(value, self.parameters)

    def exact(self, objective: Objective, K: int) -> Tensor:
        """The gradient of E_q[objective of K draws], by summing over every tuple of states."""
        there, probability = self.tuples(K)
        return self.gradient((probability * objective(there)).sum())

    def expected(self, estimator: Callable[[Draw, Objective], Tensor], objective: Objective, K: int) -> Tensor:
        """The mean of an estimator's gradient, by summing over every tuple of states."""
        there, probability = self.tuples(K)
        return self.gradient((probability.detach() * estimator(there, objective)).sum())

    def log_evidence(self) -> Tensor:
        states = self.posterior(self.x).states()
        return self.model.log_joint(states.unsqueeze(1), self.x).logsumexp(0)


def mixture(classes: int = 4, variables: int = 1) -> Enumerable:
    """A mixture of normals with a categorical latent."""
    with seeded(1):
        prior = lb.priors.Categorical(variables, classes)
        nn.init.normal_(prior.logits)
        decoder = MLP((variables, classes), (2,), hidden=())
        nn.init.normal_(decoder.layers[0].weight)
        posterior = lb.posteriors.Categorical(variables, classes, MLP((2,), (variables * classes,), hidden=()))
    model = LatentVariableModel(prior, decoder, lb.likelihoods.Normal(0.8, shape=(2,)))
    return Enumerable(model.double(), posterior.double(), torch.tensor([[0.3, -0.9]]).double())


def belief_net(bits: int = 3) -> Enumerable:
    """A sigmoid belief net of one layer."""
    with seeded(2):
        prior = lb.priors.Bernoulli(bits)
        nn.init.normal_(prior.logits)
        decoder = MLP((bits,), (5,), hidden=())
        nn.init.normal_(decoder.layers[0].weight)
        posterior = lb.posteriors.Bernoulli(bits, MLP((5,), (bits,), hidden=()))
    model = LatentVariableModel(prior, decoder, lb.likelihoods.Bernoulli())
    return Enumerable(model.double(), posterior.double(), torch.tensor([[1.0, 0, 1, 1, 0]]).double())


MODELS = {"mixture": mixture, "two variables": partial(mixture, 3, 2), "belief net": belief_net}
