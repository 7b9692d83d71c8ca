"""What a fit takes from the data when it is not told: the likelihood, and networks of the right shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lowerbound import io
from lowerbound import nn as networks
from lowerbound.data import arrays
from lowerbound.errors import DataError
from lowerbound.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Likelihood,
    NegativeBinomial,
    Normal,
    Poisson,
)

COUNTS = (Poisson, NegativeBinomial)
_CHUNK = 10_000  # rows looked at together: large data are not copied to be looked at
_BOUNDED = (Bernoulli, Categorical, DiscretizedLogistic)


def default_likelihood(x: NDArray[Any], binarised: bool = False) -> tuple[str, str]:
    """The likelihood that suits ``x [N, *X]``, by name, and why, in words."""
    if binarised:
        return "Bernoulli", "values are binarised"
    low, high, whole = x.min(), x.max(), _whole(x)
    if whole and low >= 0 and high <= 1:
        return "Bernoulli", "every value is 0 or 1"
    if x.dtype == np.uint8:
        return "DiscretizedLogistic", "values are 8-bit"
    if whole and low >= 0:
        return "NegativeBinomial", "every value is a whole number, 0 or more"
    return "Normal", "values are real numbers"


def _whole(x: NDArray[Any]) -> bool:
    """Whether every value is a whole number; large arrays are not copied for it."""
    chunks = (x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK))
    return x.dtype.kind != "f" or all(bool((chunk == np.floor(chunk)).all()) for chunk in chunks)


def build_likelihood(name: str, x: NDArray[Any], white: float) -> Likelihood:
    """A likelihood by name, with what it needs to know of ``x [N, *X]``. ``white``: the largest 8-bit value."""
    part = io.find("likelihoods", name)
    if part is Normal:
        return Normal("dimension", shape=x.shape[1:])
    if part is Categorical:
        return Categorical(max(2, int(x.max()) + 1))
    if part is DiscretizedLogistic:
        return DiscretizedLogistic(int(white) + 1)
    likelihood: Likelihood = part()
    return likelihood


def build_networks(
    network: str, latent_dim: int, hidden: Sequence[int], shape: tuple[int, ...], likelihood: Likelihood
) -> tuple[networks.Standardise, nn.Module, nn.Module]:
    """What standardises rows of ``shape``, an encoder of the standardised, and a decoder."""
    one_scale = isinstance(likelihood, _BOUNDED) or len(shape) > 1
    standardise = networks.Standardise(() if one_scale else shape, log1p=isinstance(likelihood, COUNTS))
    out_shape = shape if likelihood.n_parameters == 1 else (likelihood.n_parameters, *shape)
    encoder: nn.Module
    decoder: nn.Module
    if network == "mlp":
        encoder = networks.MLP(shape, (2 * latent_dim,), hidden, nn.SiLU)
        decoder = networks.MLP((latent_dim,), out_shape, tuple(hidden)[::-1], nn.SiLU)
    elif network == "conv":
        encoder = networks.ConvEncoder(shape, 2 * latent_dim)
        decoder = networks.ConvDecoder(latent_dim, out_shape)
    else:
        raise ValueError(f'network must be "mlp" or "conv", not {network!r}.')
    return standardise, encoder, decoder


def check_support(likelihood: Likelihood, x: NDArray[Any], name: str) -> None:
    """Refuse values that ``likelihood`` gives no probability, naming the first."""
    for start in range(0, len(x), _CHUNK):
        chunk = arrays.to_tensor(x[start : start + _CHUNK], None, torch.float64)
        allowed = likelihood.support.check(chunk).numpy()
        if allowed.all():
            continue
        row, *column = arrays.first(~allowed)
        raise DataError(
            f"{name}: {arrays.place((start + row, *column))} is {x[start + row, *column]}, which "
            f"{type(likelihood).__name__} cannot produce; choose another likelihood"
            + (", or give white, the largest value" if isinstance(likelihood, DiscretizedLogistic) else "")
            + ", or correct the value."
        )


def check_precision(likelihood: Likelihood, x: NDArray[Any], name: str) -> None:
    """Refuse real values that vary by less than single precision, in which models compute, can tell apart."""
    if not isinstance(likelihood, Normal) or x.dtype == np.uint8:
        return
    mean, deviation = np.abs(x.mean(0, dtype=np.float64)), x.std(0, dtype=np.float64)
    blurred = (x != x[:1]).any(0) & (deviation < 1e-5 * mean)
    if blurred.any():
        column = arrays.first(blurred)
        where = f"{name}: column {', '.join(map(str, column))}"
        raise DataError(
            f"{where} varies by {deviation[column]:.3g} around {mean[column]:.3g}, "
            "which single precision cannot tell apart; subtract its mean first."
        )
