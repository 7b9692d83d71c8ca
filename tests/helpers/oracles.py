"""Exact answers to test against: probabilistic PCA, whose evidence, posterior and bounds have closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowerbound.distributions import inverse_positive
from lowerbound.draw import Batch
from lowerbound.likelihoods import Normal as NormalLikelihood
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, Chain, Standardise
from lowerbound.posteriors import DiagonalNormal
from lowerbound.posteriors.normal import MIN_SCALE
from lowerbound.priors import Normal


@dataclass(frozen=True)
class PPCA:
    """x = Wz + μ + N(0, σ²I), z ~ N(0, I): W = U(Λ − σ²)^½ R, σ² the mean discarded eigenvalue. Tipping & Bishop 1999.

    ``ddof`` = 1 is scikit-learn's; 0 is the maximum of the likelihood.
    """

    mean: Tensor
    weight: Tensor
    variance: float

    @classmethod
    def of(cls, x: np.ndarray, latent_dim: int, rotation: np.ndarray | None = None, ddof: int = 1) -> PPCA:
        values, vectors = np.linalg.eigh(np.cov(x.T, ddof=ddof))
        values, vectors = values[::-1], vectors[:, ::-1]
        variance = values[latent_dim:].mean()
        weight = vectors[:, :latent_dim] * np.sqrt(values[:latent_dim] - variance)
        if rotation is not None:
            weight = weight @ rotation
        return cls(torch.tensor(x.mean(0)), torch.tensor(weight.copy()), float(variance))

    @property
    def precision(self) -> Tensor:
        """P = I + WᵀW/σ², the posterior's precision."""
        return torch.eye(self.weight.shape[1]).double() + self.weight.T @ self.weight / self.variance

    @property
    def diagonal_gap(self) -> float:
        """log p(x) − ELBO at the best diagonal q: ½[Σ ln P_ii − ln|P|]."""
        return float(0.5 * (self.precision.diagonal().log().sum() - self.precision.logdet()))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), ``[N]``."""
        covariance = self.weight @ self.weight.T + self.variance * torch.eye(len(self.mean)).double()
        return torch.distributions.MultivariateNormal(self.mean, covariance).log_prob(x)

    def model(self) -> LatentVariableModel:
        """The model as the library's parts, in float64."""
        dim, latents = self.weight.shape
        decoder = MLP((latents,), (dim,), hidden=())
        likelihood = NormalLikelihood(math.sqrt(self.variance), shape=(dim,))
        model = LatentVariableModel(Normal(latents), decoder, likelihood).double()
        with torch.no_grad():
            decoder.layers[0].weight.copy_(self.weight)
            decoder.layers[0].bias.zero_()
            likelihood.shift.copy_(self.mean)
        return model

    def posterior(self, widen: float = 1.0) -> DiagonalNormal:
        """The best diagonal q(z|x): exact mean, variances 1/P_ii (times ``widen``²)."""
        dim, latents = self.weight.shape
        linear, centre = MLP((dim,), (2 * latents,), hidden=()), Standardise((dim,))
        posterior = DiagonalNormal(latents, Chain(centre, linear)).double()
        scale = widen * self.precision.diagonal().rsqrt()
        with torch.no_grad():
            centre.shift.copy_(self.mean)
            linear.layers[0].weight.zero_()
            linear.layers[0].weight[:latents] = torch.linalg.solve(self.precision, self.weight.T) / self.variance
            linear.layers[0].bias.zero_()
            linear.layers[0].bias[latents:] = inverse_positive(scale - MIN_SCALE)
        return posterior


def batch_of(x: Tensor, mask: Tensor | None = None) -> Batch:
    """All of ``x`` as one batch."""
    return Batch(x, mask, torch.arange(len(x)), torch.full((len(x),), 1 / len(x), dtype=x.dtype))


def sigma_points(latent_dim: int) -> Tensor:
    """±√d e_i, ``[2d, 1, d]``: noise over which any quadratic's mean is its mean under N(0, I), exactly."""
    points = math.sqrt(latent_dim) * torch.eye(latent_dim, dtype=torch.float64)
    return torch.cat([points, -points]).unsqueeze(1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def z_score(sample: Tensor, truth: float) -> float:
    """How many standard errors the mean of independent values lies from the truth."""
    return float((sample.mean() - truth) / (sample.std() / math.sqrt(sample.numel())))
