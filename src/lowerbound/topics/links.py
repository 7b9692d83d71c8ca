"""What deep LDA can describe: counts, or what depends on latent counts x ~ Pois(Φ¹θ¹). Zhou, Cong and Chen 2016."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import constraints

from lowerbound.likelihoods import Poisson
from lowerbound.topics.csr import Csr

Array = NDArray[Any]
Link = Literal["counts", "binary", "positive"]


class Occurrence(Poisson):
    """1 if a latent Poisson number is at least 1, else 0; the parameter is the log of its rate."""

    support = constraints.boolean  # type: ignore[assignment]

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        rate = params.squeeze(2).exp()
        return torch.where(x > 0, (-torch.expm1(-rate)).log(), -rate)


class Amount(Poisson):
    """y ~ Gam(x, 1) for a latent Poisson number x, so 0 if x = 0; the parameter is the log of the rate of x.

    p(y) = exp(−λ − y) √(λ/y) I₁(2√(λy)) for y > 0.
    """

    support = constraints.nonnegative  # type: ignore[assignment]

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        rate, y = params.squeeze(2).exp(), torch.where(x > 0, x, 1)
        z = 2 * (rate * y).sqrt()
        density = (rate / y).log() / 2 + torch.special.i1e(z).log() + z - rate - y
        return torch.where(x > 0, density, -rate)


LIKELIHOODS: Mapping[Link, type[Poisson]] = {"counts": Poisson, "binary": Occurrence, "positive": Amount}


def latent_counts(likelihood: Poisson, x: Csr, phi: Array, theta: Array, kernels: ModuleType, streams: Any) -> Csr:
    """Draw the latent counts of observed values given Φ¹ and θ¹; counts are their own."""
    if type(likelihood) is Poisson:
        return x
    rates = kernels.rates(x, phi, theta)
    if isinstance(likelihood, Occurrence):
        drawn = kernels.at_least_one(x, rates, streams)
    else:
        drawn = kernels.bessels(x, np.maximum(rates * x.counts, np.finfo(float).tiny), streams)
    return Csr(x.indptr, x.indices, drawn)


def log_likelihood(likelihood: Poisson, x: Csr, phi: Array, theta: Array, kernels: ModuleType) -> Array:
    """log p(x_j | Φ¹θ¹_j) of each document, ``[J]``, in the time of its stored values: those that are 0 add −λ."""
    rates = np.maximum(kernels.rates(x, phi, theta), np.finfo(float).tiny)
    params, counts = torch.from_numpy(np.log(rates)), torch.from_numpy(np.asarray(x.counts, np.float64))
    each = likelihood.log_prob_per_value(params[None, None, None], counts[None])[0, 0].numpy() + rates
    row = np.repeat(np.arange(x.rows), np.diff(x.indptr))
    found: Array = np.bincount(row, each, x.rows) - theta.sum(-1)  # columns of Φ sum to 1
    return found
