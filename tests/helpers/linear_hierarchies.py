"""Hierarchies of linear normal layers: evidence, posterior and gap of the bound in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from oracles import rng
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import lowerbound as lb
from lowerbound import recipes
from lowerbound.distributions import positive
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors.normal import MIN_SCALE

Affine = tuple[Tensor, Tensor, Tensor]
"""Weight, bias and standard deviations of a normal whose mean is affine."""


class LinearHierarchy:
    """z_L ~ N(0, I), z_l | z_{>l} and x | z affine with fixed deviations, and q of the same kind, from ``recipes``.

    ``order``: "ladder", "skip" (a ladder that reads all layers above) or "bottom-up" (of two layers).
    """

    def __init__(self, order: str, latents: Sequence[int] = (2, 2), dim: int = 3, t: float = 0.5) -> None:
        start, settings = torch.zeros(2, dim), {"likelihood": lb.likelihoods.Normal(t, shape=(dim,)), "seed": 3}
        self.order, self.latents, self.t = order, tuple(latents), t
        if order == "bottom-up":
            self.model, self.posterior = recipes.iwae_two_layers(start, self.latents, hidden=((), ()), **settings)
        else:
            self.model, self.posterior = recipes.ladder(start, latents, hidden=(), skip=order == "skip", **settings)
        self.model.double(), self.posterior.double()
        self.names = self.model.prior.names
        self.layers = {name: part.network.layers[0] for name, part in list(self.model.prior.parts.items())[:-1]}
        if order == "bottom-up":
            first, second = self.posterior.parts.values()
            self.encoders = [first.encoder.layers[0], second.encoder.network.layers[0]]
        else:
            self.encoders = list(self.posterior.encoder.heads)
        self.decoder = self.model.decoder.layers[0]
        with torch.no_grad():
            for layer in (*self.layers.values(), *self.encoders):
                layer.bias.copy_(0.3 * torch.randn(layer.bias.shape, generator=rng(len(layer.bias))))
                layer.weight[len(layer.weight) // 2 :] = 0  # deviations that depend on nothing

    @property
    def affine(self) -> list[tuple[Tensor, slice]]:
        """Each parameter, with those of its rows that closed forms are functions of."""
        layers = [*self.layers.values(), *self.encoders]
        weights = [(layer.weight, slice(len(layer.weight) // 2)) for layer in layers]
        return [*weights, *((layer.bias, slice(None)) for layer in layers), (self.decoder.weight, slice(None))]

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of all latents, from the rows up."""
        mean, noise = self._propagated({name: _affine(layer) for name, layer in self.layers.items()}, None)
        return mean[0], noise @ noise.T

    def log_prob(self, x: Tensor) -> Tensor:
        mean, covariance = self.prior()
        weight = self._decoder()
        whole = weight @ covariance @ weight.T + self.t**2 * torch.eye(x.shape[1]).double()
        return MultivariateNormal(mean @ weight.T + self.decoder.bias, whole).log_prob(x)

    def exact(self, x: Tensor) -> MultivariateNormal:
        """p(z|x) of all latents, from the rows up."""
        mean, covariance = self.prior()
        weight = self._decoder()
        inside = (covariance.inverse() + weight.T @ weight / self.t**2).inverse()
        residual = x - self.decoder.bias - mean @ weight.T
        return MultivariateNormal(mean + residual @ weight @ inside / self.t**2, inside)

    def q(self, x: Tensor) -> MultivariateNormal:
        """q(z|x) of all latents, from the rows up, by the formulas of the papers."""
        if self.order == "bottom-up":
            (first, a, s), (second, b, t) = (_affine(layer) for layer in self.encoders)
            below = x @ first.T + a
            zero = torch.zeros(len(s), len(t)).double()
            noise = torch.cat([torch.cat([s.diag(), zero], 1), torch.cat([second @ s.diag(), t.diag()], 1)])
            mean = torch.cat([below, below @ second.T + b], 1)
        else:
            layers = {name: _affine(layer) for name, layer in self.layers.items()}
            mean, noise = self._propagated(layers, [_affine(layer) for layer in self.encoders], x)
        return MultivariateNormal(mean, noise @ noise.T)

    def gap(self, x: Tensor) -> Tensor:
        """log p(x) − ELBO = KL(q(z|x) ‖ p(z|x)), ``[N]``."""
        return kl_divergence(self.q(x), self.exact(x))

    def make_exact(self) -> None:
        """Parameters whose p(z|x) a ladder of two layers can be: WᵀW and AᵀA are multiples of I, deviations equal."""
        (layer,), (first, second) = self.layers.values(), self.encoders
        size, t = self.latents[0], self.t
        w = torch.linalg.qr(torch.randn(len(self.decoder.weight), size, generator=rng()).double()).Q * 0.9
        a = torch.linalg.qr(torch.randn(size, self.latents[1], generator=rng(1)).double()).Q * 1.2
        with torch.no_grad():
            self.decoder.weight.copy_(w)
            layer.weight[:size] = a
            layer.bias[size:] = layer.bias[size]
            s = float(_affine(layer)[2][0])
            own = t / 0.9  # deviation of the row's estimate of z1, (wᵀw)⁻¹wᵀ(x − b)
            first.weight[:size], first.bias[:size] = w.T / 0.81, -w.T @ self.decoder.bias / 0.81
            _deviations(first, own)
            away = (own**2 + s**2) / 1.44
            gain = a.T / (1.44 * (1 + away))  # E[z2|x], from the estimate of z1
            second.weight[:size] = gain @ first.weight[:size]
            second.bias[:size] = gain @ (first.bias[:size] - layer.bias[:size])
            _deviations(second, (away / (1 + away)) ** 0.5)

    def _decoder(self) -> Tensor:
        """The decoder's weight, of all latents."""
        lacking = sum(self.latents) - self.decoder.weight.shape[1]
        return torch.cat([self.decoder.weight, torch.zeros(len(self.decoder.weight), lacking).double()], 1)

    def _propagated(
        self, layers: dict[str, Affine], own: list[Affine] | None, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """z = mean ``[N, d]`` + factor ``[d, d]`` · noise; ``own``: what each layer is merged with."""
        rows, total = 1 if x is None else len(x), sum(self.latents)
        means: list[Tensor] = []
        factors: list[Tensor] = []
        for level in reversed(range(len(self.latents))):
            at, size = sum(self.latents[:level]), self.latents[level]
            select = torch.zeros(size, total).double()
            select[:, at : at + size] = torch.eye(size)
            given = means if self.order == "skip" else means[:1]
            if level == len(self.latents) - 1:
                mean, factor, scale = torch.zeros(rows, size).double(), torch.zeros(size, total).double(), None
            else:
                weight, bias, scale = layers[self.names[level]]
                mean = torch.cat(given, 1) @ weight.T + bias
                factor = weight @ torch.cat(factors[: len(given)])
            if own is not None:
                weight, bias, deviation = own[level]
                assert x is not None
                direct = x @ weight.T + bias
                if scale is None:
                    mean, scale = direct, deviation
                else:
                    share = deviation**-2 / (deviation**-2 + scale**-2)
                    mean, factor = share * direct + (1 - share) * mean, (1 - share).unsqueeze(1) * factor
                    scale = (deviation**-2 + scale**-2).rsqrt()
            factor = factor + (select if scale is None else scale.unsqueeze(1) * select)
            means.insert(0, mean), factors.insert(0, factor)
        return torch.cat(means, 1), torch.cat(factors)


def _affine(layer: torch.nn.Linear) -> Affine:
    size = len(layer.weight) // 2
    return layer.weight[:size], layer.bias[:size], positive(layer.bias[size:]) + MIN_SCALE


def _deviations(layer: torch.nn.Linear, scale: float) -> None:
    size = len(layer.weight) // 2
    value = torch.tensor(scale - MIN_SCALE, dtype=torch.float64)
    layer.bias[size:] = lb.distributions.inverse_positive(value)


def plain_of(model: LatentVariableModel, posterior: lb.posteriors.Posterior) -> tuple[LatentVariableModel, object]:
    """The plain model and posterior of the same networks, for a hierarchy of one layer."""
    (size,) = model.prior.event
    plain = LatentVariableModel(lb.priors.Normal(size), model.decoder, model.likelihood)
    return plain, lb.posteriors.DiagonalNormal(size, posterior.encoder)
