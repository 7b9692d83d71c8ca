"""One-latent models whose posterior is no normal, with log p(x) by quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.evidence import Targets, of_functions

GRID = torch.linspace(-12, 12, 6001, dtype=torch.float64)


@dataclass(frozen=True)
class Logistic:
    """x_d ~ Bernoulli(σ(slope_d z + bias_d)), z ~ N(0, 1): p(z|x) is skewed, the more so the more alike the x_d are."""

    slope: Tensor
    bias: Tensor

    @classmethod
    def steep(cls) -> Logistic:
        return cls(torch.tensor([4.0, 3.0, 2.0, -3.0]).double(), torch.tensor([-1.0, 0.5, 2.0, 1.0]).double())

    @property
    def rows(self) -> Tensor:
        """Every x, ``[2^D, D]``."""
        return torch.cartesian_prod(*[torch.arange(2.0).double()] * len(self.slope))

    def log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        """``z [K, B, 1]`` → ``[K, B]``."""
        logits = z * self.slope + self.bias
        log_lik = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
        return log_lik - 0.5 * z.square().sum(-1) - 0.5 * math.log(2 * math.pi)

    def _on_grid(self, x: Tensor) -> Tensor:
        return self.log_joint(GRID[:, None, None].expand(-1, len(x), 1), x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) ``[B]`` by the trapezoidal rule, exact to rounding."""
        return self._on_grid(x).logsumexp(0) + math.log(float(GRID[1] - GRID[0]))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of p(z|x), ``[B, 1]`` each."""
        weight = self._on_grid(x).softmax(0)
        mean = weight.T @ GRID
        return mean[:, None], (weight.T @ GRID.square() - mean.square()).sqrt()[:, None]

    def targets(self, widen: float = 1.0, shift: float = 0.0) -> Targets:
        """A normal q of the right mean and deviation, moved by ``shift`` deviations and ``widen`` times as wide."""

        powers = 2 ** torch.arange(len(self.slope) - 1, -1, -1).double()
        table = self.moments(self.rows)

        def posterior(x: Tensor) -> lb.distributions.Normal:
            loc, scale = (each[(x @ powers).long()] for each in table)
            return lb.distributions.Normal(loc + shift * scale, widen * scale)

        prior = lb.distributions.Normal(torch.zeros(1).double(), torch.ones(1).double(), batch_dims=0)
        return of_functions(self.log_joint, posterior, (1,), prior)

    def model(self) -> lb.LatentVariableModel:
        """The same as the library's parts."""
        decoder = lb.nn.MLP((1,), (len(self.slope),), hidden=())
        model = lb.LatentVariableModel(lb.priors.Normal(1), decoder, lb.likelihoods.Bernoulli()).double()
        with torch.no_grad():
            decoder.layers[0].weight.copy_(self.slope[:, None])
            decoder.layers[0].bias.copy_(self.bias)
        return model

    def posterior(self) -> lb.posteriors.DiagonalNormal:
        """q(z|x) = p(z), whatever x."""
        encoder = lb.nn.MLP((len(self.slope),), (2,), hidden=())
        with torch.no_grad():
            encoder.layers[0].weight.zero_()
            encoder.layers[0].bias.copy_(torch.tensor([0.0, math.log(math.e - 1)]))
        return lb.posteriors.DiagonalNormal(1, encoder).double()
