"""Models of two layers whose evidence, posterior and gradients are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from enumeration import gradient
from oracles import batch_of, rng
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.distributions import inverse_positive
from lowerbound.draw import Draw
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, seeded
from lowerbound.posteriors import DiagonalNormal, PrecisionWeighted
from lowerbound.posteriors.normal import MIN_SCALE

Objective = Callable[[Draw], Tensor]
Order = Literal["bottom-up", "top-down", "apart", "ladder"]


def linear(
    inputs: int, weight: Sequence[Sequence[float]], bias: Sequence[float], scale: float, context: int = 0
) -> MLP:
    """A layer [N, inputs] → mean of one latent and its raw scale, beside a context."""
    layer = MLP((inputs,), (2,), hidden=(), context=context).double()
    with torch.no_grad():
        layer.layers[0].weight.zero_()
        layer.layers[0].weight[:1] = torch.tensor(weight, dtype=torch.float64)
        layer.layers[0].bias[0] = bias[0]
        layer.layers[0].bias[1] = inverse_positive(torch.tensor(scale, dtype=torch.float64) - MIN_SCALE)
    return layer


class LinearLayers:
    """z2 ~ N(0, 1), z1 | z2 ~ N(a z2 + c, s²), x | z1 ~ N(w z1 + b, t² I) in two dimensions."""

    a, c, s, t = 0.8, 0.3, 0.6, 0.5
    w, b = torch.tensor([1.0, -0.7]).double(), torch.tensor([0.2, 0.4]).double()

    def __init__(self) -> None:
        with seeded(0):
            above = linear(1, [[self.a]], [self.c], self.s)
            decoder = MLP((1,), (2,), hidden=())
        prior = lb.priors.Latents(
            {"z2": lb.priors.Normal(1), "z1": lb.priors.ConditionalNormal(1, above)}, {"z1": ["z2"]}
        )
        likelihood = lb.likelihoods.Normal(self.t, shape=(2,))
        self.model = LatentVariableModel(prior, decoder, likelihood, parents=["z1"]).double()
        with torch.no_grad():
            decoder.layers[0].weight.copy_(self.w.unsqueeze(1))
            decoder.layers[0].bias.copy_(self.b)

    def log_prob(self, x: Tensor) -> Tensor:
        variance = self.a**2 + self.s**2
        covariance = variance * torch.outer(self.w, self.w) + self.t**2 * torch.eye(2).double()
        return torch.distributions.MultivariateNormal(self.w * self.c + self.b, covariance).log_prob(x)

    def rows(self, n: int) -> Tensor:
        return self.model.sample(n, rng(5)).detach()

    def precision(self) -> Tensor:
        """Of (z1, z2) given x."""
        s, t = self.s**-2, self.t**-2
        return torch.tensor(
            [[s + float(self.w @ self.w) * t, -self.a * s], [-self.a * s, 1 + self.a**2 * s]], dtype=torch.float64
        )

    def posterior(self, order: Order, shift: float = 0.0, widen: float = 1.0) -> lb.posteriors.Latents:
        """The exact posterior in one order, or the best that is factorised; z1 shifted and widened."""
        precision = self.precision()
        inverse = precision.inverse()
        slope, at = self.w / self.t**2, float(self.w @ self.b) / self.t**2  # of wᵀ(x − b)/t²
        prior = torch.tensor([self.c / self.s**2, -self.a * self.c / self.s**2], dtype=torch.float64)

        def mean_of(index: int) -> tuple[list[list[float]], list[float]]:
            gain = inverse[index, 0] * slope
            return [gain.tolist()], [float(inverse[index] @ prior - inverse[index, 0] * at)]

        def part(weight: list[list[float]], bias: list[float], scale: float, context: int = 0) -> DiagonalNormal:
            return DiagonalNormal(1, linear(2, [[*weight[0]]], bias, scale, context))

        parents: dict[str, list[str]] = {}
        first, second = mean_of(0), mean_of(1)
        if order == "bottom-up":
            given = math.sqrt(1 / float(precision[1, 1]))
            share = -float(precision[1, 0] / precision[1, 1])
            start = float(prior[1] / precision[1, 1])
            parts = {
                "z1": part(first[0], [first[1][0] + shift], widen * math.sqrt(inverse[0, 0])),
                "z2": part([[0.0, 0.0, share]], [start], given, 1),
            }
            parents = {"z2": ["z1"]}
        elif order == "top-down":
            given = math.sqrt(1 / float(precision[0, 0]))
            share = -float(precision[0, 1] / precision[0, 0])
            weight = [*(slope / precision[0, 0]).tolist(), share]
            start = float((prior[0] - at) / precision[0, 0])
            parts = {
                "z1": part([weight], [start + shift], widen * given, 1),
                "z2": part(second[0], second[1], math.sqrt(inverse[1, 1])),
            }
            parents = {"z1": ["z2"]}
        elif order == "ladder":
            own = float(self.w @ self.w) / self.t**2
            weight, start = [(slope / own).tolist()], [-at / own]
            merged = PrecisionWeighted(1, linear(2, weight, start, own**-0.5))
            parts = {"z1": merged, "z2": part(second[0], second[1], math.sqrt(inverse[1, 1]))}
        else:
            parts = {
                "z1": part(first[0], [first[1][0] + shift], widen * float(precision[0, 0]) ** -0.5),
                "z2": part(second[0], second[1], float(precision[1, 1]) ** -0.5),
            }
        return lb.posteriors.Latents(parts, parents=parents).double()

    def gap(self, order: Order, shift: float = 0.0, widen: float = 1.0) -> float:
        """KL(q(z|x) ‖ p(z|x)) of ``posterior``, in closed form."""
        precision, inverse = self.precision(), self.precision().inverse()
        if order == "apart":
            variance = torch.diag(
                precision.diagonal().reciprocal() * torch.tensor([widen**2, 1.0], dtype=torch.float64)
            )
            away = torch.tensor([shift, 0.0], dtype=torch.float64)
            trace = (precision @ variance).trace()
            return float(0.5 * (trace + away @ precision @ away - 2 - precision.logdet() - variance.logdet()))
        variance_1 = float(inverse[0, 0]) if order == "bottom-up" else 1 / float(precision[0, 0])
        return 0.5 * (widen**2 + shift**2 / variance_1 - 1) - math.log(widen)

    def of_q(self, order: Order, shift: float = 0.0, widen: float = 1.0) -> tuple[Tensor, Tensor]:
        """Of ``posterior``: the mean of (z1, z2) less E[z|x], and the covariance; for every x the same."""
        precision, inverse = self.precision(), self.precision().inverse()
        if order == "bottom-up":
            slope, first, second = -precision[1, 0] / precision[1, 1], widen**2 * inverse[0, 0], 1 / precision[1, 1]
            both = torch.stack([slope.new_ones(()), slope])
            return shift * both, first * torch.outer(both, both) + torch.diag(torch.stack([0 * second, second]))
        away = precision.new_tensor([shift, 0.0])
        if order == "apart":
            return away, torch.diag(precision.diagonal().reciprocal() * precision.new_tensor([widen**2, 1.0]))
        slope, first, second = -precision[0, 1] / precision[0, 0], widen**2 / precision[0, 0], inverse[1, 1]
        both = torch.stack([slope, slope.new_ones(())])
        return away, second * torch.outer(both, both) + torch.diag(torch.stack([first, 0 * first]))

    def parts_of_kl(self, order: Order, shift: float = 0.0, widen: float = 1.0) -> dict[str, float]:
        """Over x of the model: I_q(x; z), KL(q(z) ‖ p(z)), and E[log q(z_n|·) − log p(z_n|·)] of each latent."""
        away, inside = self.of_q(order, shift, widen)
        prior = inside.new_tensor([[self.a**2 + self.s**2, self.a], [self.a, 1.0]])
        whole = prior - self.precision().inverse() + inside
        trace, distance = torch.linalg.solve(prior, whole).trace(), away @ torch.linalg.solve(prior, away)
        found = {
            "information": 0.5 * (whole.logdet() - inside.logdet()),
            "marginal": 0.5 * (trace + distance - 2 - whole.logdet() + prior.logdet()),
        }
        second = inside[1, 1] - (inside[0, 1] ** 2 / inside[0, 0] if order == "bottom-up" else 0)  # var(z2 | parents)
        squares = whole + torch.outer(away, away)  # about (c, 0)
        found["z2"] = 0.5 * (squares[1, 1] - 1 - second.log())
        found["z1"] = found["information"] + found["marginal"] - found["z2"]
        return {name: float(value) for name, value in found.items()}


class BeliefNet:
    """p(b2) p(b1|b2) p(x|b1): two bits a layer, one row; q in either order."""

    def __init__(self, order: Order) -> None:
        with seeded(3):
            above = lb.posteriors.Bernoulli(2, MLP((2,), (2,), hidden=()))
            top, decoder = lb.priors.Bernoulli(2), MLP((2,), (3,), hidden=())
            for module in (above.encoder.layers[0], decoder.layers[0]):
                nn.init.normal_(module.weight)
            nn.init.normal_(top.logits)
            reads = {"b2": ["b1"]} if order == "bottom-up" else {"b1": ["b2"]} if order == "top-down" else {}
            parts = {}
            for name in ("b1", "b2"):
                encoder = MLP((3,), (2,), hidden=(), context=2 if name in reads else 0)
                nn.init.normal_(encoder.layers[0].weight)
                parts[name] = lb.posteriors.Bernoulli(2, encoder)
        prior = lb.priors.Latents({"b1": lb.priors.Given(above), "b2": top}, {"b1": ["b2"]})
        self.model = LatentVariableModel(prior, decoder, lb.likelihoods.Bernoulli(), parents=["b1"]).double()
        self.posterior = lb.posteriors.Latents(parts, parents=reads).double()
        self.x = torch.tensor([[1.0, 0, 1]]).double()
        self.parameters = [*self.model.parameters(), *self.posterior.parameters()]
        self.states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))).double()

    def draw(self, noise: Tensor | torch.Generator, K: int, copies: int = 1, detached: bool = False) -> Draw:
        return draw(self.model, self.posterior, batch_of(self.x.expand(copies, 3)), noise, K, detached)

    def tuples(self, K: int) -> tuple[Draw, Tensor]:
        """A draw whose rows are all K-tuples of states of both layers, and the probability of each."""
        pairs = list(itertools.product(range(4), repeat=2))
        index = torch.tensor(list(itertools.product(pairs, repeat=K))).movedim(0, 1)
        there = self.draw(rng(), K, index.shape[1])
        there = there.at({"b1": self.states[index[..., 0]], "b2": self.states[index[..., 1]]})
        return there, torch.stack([node.log_density.sum(0) for node in there.nodes]).sum(0).exp()

    def exact(self, objective: Objective, K: int) -> Tensor:
        there, probability = self.tuples(K)
        return gradient((probability * objective(there)).sum(), self.parameters)

    def expected(self, estimator: Callable[[Draw, Objective], Tensor], objective: Objective, K: int) -> Tensor:
        there, probability = self.tuples(K)
        return gradient((probability.detach() * estimator(there, objective)).sum(), self.parameters)

    def log_prob(self) -> Tensor:
        b1, b2 = (self.states[list(each)] for each in zip(*itertools.product(range(4), repeat=2), strict=True))
        z = self.model.prior().join({"b1": b1.unsqueeze(1), "b2": b2.unsqueeze(1)})
        return self.model.log_joint(z, self.x).logsumexp(0)


def grid(points: int, size: int) -> tuple[Tensor, Tensor]:
    """Gauss and Hermite's nodes ``[size, points^size]`` of normal noise, and their weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    mesh = torch.tensor(np.stack(np.meshgrid(*[nodes] * size, indexing="ij"))).flatten(1)
    weight = torch.tensor(np.stack(np.meshgrid(*[weights / weights.sum()] * size, indexing="ij"))).flatten(1)
    return mesh, weight.prod(0)
