"""Models whose variational updates have closed forms: mixtures of conjugate components, and linear regression."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from lowerbound import likelihoods, priors
from lowerbound.inference.conjugate_components import Component
from lowerbound.inference.conjugate_nodes import ConjugateModel, Dirichlet, Gamma, NormalVector
from lowerbound.inference.e_steps import linear_map
from lowerbound.inference.m_steps import set_table
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, Table

_LEAST = 1e-10  # of a probability: its logarithm stays finite


class BayesianMixture(ConjugateModel):
    """x ~ Σ_k π_k p(x|β_k), π ~ Dirichlet(``concentration``), with L ``components`` β_k. L = 1 has no mixture.

    ``concentration``: of each component, 1/L by default. With several components, ``assign`` a start.
    """

    def __init__(self, components: Component, concentration: float | None = None) -> None:
        super().__init__()
        self.count, width = components.prior.shape
        each = 1 / self.count if concentration is None else concentration
        weights = Dirichlet(torch.full((self.count,), each, dtype=torch.float64))
        self.nodes = nn.ModuleDict({"weights": weights, "components": components})
        self.size = self.count * (1 + width)

    @property
    def components(self) -> Component:
        return cast(Component, self.nodes["components"])

    def shares(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q(k) of each row of x ``[B, L]``, and the bound of each row ``[B]``."""
        log_joint: Tensor = (
            self.node("weights").expected() + self.components.statistics(x) @ self.components.expected().mT
        )
        bound = log_joint.logsumexp(1) + self.components.log_base(x)
        return log_joint.softmax(1), bound

    def rows(self, x: Tensor, context: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        shares, bound = self.shares(x)
        return self._total(x, shares * weight.unsqueeze(1)), bound

    def update_of(self, name: str, total: Tensor) -> Tensor:
        counts, sums = total.split([self.count, self.size - self.count])
        more: Tensor = counts if name == "weights" else sums.view(self.count, -1)
        return self.node(name).prior + more

    @torch.no_grad()
    def assign(self, x: Tensor, shares: Tensor | None = None, seed: int = 0) -> None:
        """Update the nodes once from the ``shares [N, L]`` of the rows ``x [N, D]`` that each component has.

        By default a row is the component's whose centre is nearest, of centres that are drawn from the rows by
        k-means++ with the random numbers of ``seed``. Arthur & Vassilvitskii 2007.
        """
        x = x.double()
        total = self._total(x, _nearest(x, self.count, seed) if shares is None else shares.double())
        for name in self.nodes:
            self.node(name).natural.copy_(self.update_of(name, total))

    def check(self) -> None:
        natural = self.components.natural
        if self.count > 1 and bool((natural == natural[0]).all()):
            raise ValueError("all components are alike, and would stay so: call assign(x) before the fit.")

    def model(self) -> LatentVariableModel:
        likelihood, moments = self.components.likelihood(), self.components.moments()
        assert moments is not None
        shape = (likelihood.n_parameters, *moments.shape[2:])
        table = Table(self.count, shape if likelihood.n_parameters > 1 else shape[1:])
        model = LatentVariableModel(priors.Categorical(1, self.count), table, likelihood).double()
        self.fill(model)
        return model

    @torch.no_grad()
    def fill(self, model: LatentVariableModel) -> None:
        moments = self.components.moments()
        if isinstance(model.prior, priors.Categorical):
            model.prior.logits.copy_(cast(Dirichlet, self.nodes["weights"]).mean().clamp(min=_LEAST).log())
        if isinstance(model.decoder, Table) and moments is not None:
            set_table(model.decoder, model.likelihood, moments)

    def _total(self, x: Tensor, shares: Tensor) -> Tensor:
        return torch.cat([shares.sum(0), (shares.mT @ self.components.statistics(x)).flatten()])


class BayesianRegression(ConjugateModel):
    """Rows of one value y ~ N(wᵀc, 1/α) given a context c ``[C]``, w ~ N(0, I/λ), and q(w) q(α) q(λ).

    ``noise`` and ``precision``: shape and rate of the Gamma priors of α and λ. There is no intercept; give c a column
    of ones for one. Bishop 2006, §10.3.
    """

    def __init__(
        self, columns: int, noise: tuple[float, float] = (1e-6, 1e-6), precision: tuple[float, float] = (1e-6, 1e-6)
    ) -> None:
        super().__init__()
        self.columns = columns
        self.nodes = nn.ModuleDict(
            {"coefficients": NormalVector(columns), "noise": Gamma(*noise), "precision": Gamma(*precision)}
        )
        self.size = 2 + columns + columns**2

    def rows(self, x: Tensor, context: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        if context is None or x[0].numel() != 1 or context.shape[1:] != (self.columns,):
            raise ValueError(f"BayesianRegression needs rows of one value with a context of {self.columns} numbers.")
        y, c = x.flatten(), context.double()
        statistics = torch.cat([torch.ones_like(x), x.square(), x * c, (c.unsqueeze(2) * c.unsqueeze(1)).flatten(1)], 1)
        mean, second = self._coefficients()
        log_noise, noise = self.node("noise").expected()[0]
        squares = y.square() - 2 * y * (c @ mean) + ((c @ second) * c).sum(1)
        return weight @ statistics, 0.5 * (log_noise - math.log(2 * math.pi) - noise * squares)

    def update_of(self, name: str, total: Tensor) -> Tensor:
        count, squares, cross, inner = total.split([1, 1, self.columns, self.columns**2])
        mean, second = self._coefficients()
        prior = self.node(name).prior
        if name == "coefficients":
            noise, precision = (self.node(each).expected()[0, 1] for each in ("noise", "precision"))
            return torch.cat([noise * cross, precision * prior[0, self.columns :] - 0.5 * noise * inner]).unsqueeze(0)
        if name == "noise":
            left = squares - 2 * mean @ cross + second.flatten() @ inner
            return prior + torch.cat([count / 2, -left / 2])
        return prior + torch.stack([prior.new_tensor(self.columns / 2), -second.trace() / 2])

    def kl(self) -> Tensor:
        """The prior of w depends on λ: E_q[log q(w) − log p(w|λ)] replaces its KL."""
        w, (log_precision, precision) = self.node("coefficients"), self.node("precision").expected()[0]
        _, second = self._coefficients()
        log_q = (w.natural * w.expected()).sum() - w.log_normaliser(w.natural).sum()
        log_p: Tensor = 0.5 * self.columns * (log_precision - math.log(2 * math.pi)) - 0.5 * precision * second.trace()
        return log_q - log_p + self.node("noise").kl() + self.node("precision").kl()

    def model(self) -> LatentVariableModel:
        """A model whose latent has no effect."""
        decoder = MLP((1,), (1,), (), context=self.columns)
        model = LatentVariableModel(priors.Normal(1), decoder, likelihoods.Normal("scalar", (1,))).double()
        self.fill(model)
        return model

    @torch.no_grad()
    def fill(self, model: LatentVariableModel) -> None:
        weight, bias = linear_map(model.decoder)
        weight.zero_()[0, 1:] = self._coefficients()[0]  # the first input is the latent
        bias.zero_()
        likelihood = cast(likelihoods.Normal, model.likelihood)
        noise = self.node("noise").expected()[0, 1]
        likelihood.maximise_scale(1 / noise.view(1), torch.ones_like(noise).view(1))

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        """E[w] and E[w wᵀ]."""
        mean, second = self.node("coefficients").expected()[0].split([self.columns, self.columns**2])
        return mean, second.view(self.columns, self.columns)


def _nearest(x: Tensor, count: int, seed: int) -> Tensor:
    """Shares ``[N, count]``, 1 for the nearest of ``count`` rows that are drawn by k-means++."""
    rng = torch.Generator(x.device).manual_seed(seed)
    centres = x[torch.randint(len(x), (1,), generator=rng, device=x.device)]
    while len(centres) < count:
        away = torch.cdist(x, centres).amin(1).square()
        centres = torch.cat([centres, x[torch.multinomial(away + 1e-300, 1, generator=rng)]])
    return nn.functional.one_hot(torch.cdist(x, centres).argmin(1), count).double()
