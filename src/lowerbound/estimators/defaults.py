"""Defaults that depend on the data: the likelihood, the prior, and networks of the right shape."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.distributions import constraints

from lowerbound import nn as networks
from lowerbound import posteriors, priors
from lowerbound.data import arrays
from lowerbound.distributions.family import Domain
from lowerbound.errors import DataError
from lowerbound.estimators.summary import Summary
from lowerbound.likelihoods import Likelihood
from lowerbound.model import check_domains
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior
from lowerbound.storage.registry import find, names

_WHOLE_BELOW = 2**53  # above this, every double is a whole number
_EXACT_BELOW = 2**24  # below this, whole numbers are exact in single precision
_SMALLEST_SPREAD = 1e-35  # the reciprocal of a smaller number overflows in single precision
_MOST_CLASSES = 2**16
_CHANNELS = (1, 3, 4)  # of images: grey, RGB, RGBA


def default_likelihood(x: NDArray[Any] | Summary, binarised: bool = False) -> tuple[str, str]:
    """Choose the likelihood of ``x [N, *X]``, or of rows like its summary: its name, and the reason."""
    if binarised:
        return "Bernoulli", "values are binarised"
    x = x if isinstance(x, Summary) else Summary.of(x)
    low, high = x.range
    if x.whole and low >= 0 and high <= 1:
        return "Bernoulli", "every value is 0 or 1"
    if x.dtype == np.uint8:
        return "DiscretizedLogistic", "values are 8-bit"
    if x.whole and low >= 0 and (x.dtype.kind != "f" or float(high) < _WHOLE_BELOW):
        return "NegativeBinomial", "every value is a whole number, 0 or more"
    if x.whole and low >= 0:
        return "Normal", "values are whole, but some are too large to distinguish from real numbers"
    return "Normal", "values are real numbers"


def build_likelihood(name: str, x: Summary, max_value: float) -> Likelihood:
    """Make a likelihood by name, with arguments from the rows ``x`` and the largest possible value."""
    part = cast(type[Likelihood], find("likelihoods", name))
    if part.needs == "shape":
        return part.from_data(x.mean.shape)
    if part.needs == "largest":
        largest = x.range[1]
        if float(largest) >= _MOST_CLASSES:
            raise DataError(
                f"{arrays.place(x.top)} is {largest:g}, and {part.__name__} takes classes from 0 to "
                f"{_MOST_CLASSES - 1}; number the classes from 0, or choose another likelihood."
            )
        return part.from_data(int(largest))
    if part.needs == "max_value":
        if not 1 <= max_value < _MOST_CLASSES or max_value != int(max_value):
            raise ValueError(
                f"max_value is {max_value:g}; {part.__name__} takes a whole number from 1 to {_MOST_CLASSES - 1}: "
                "round the values and max_value, or choose another likelihood."
            )
        return part.from_data(int(max_value))
    return part()


def part_of(kind: str, part: Any) -> Any:
    """Look up a part of a kind ("objectives", "posteriors", …) by name; return anything else as it is."""
    return find(kind, part) if isinstance(part, str) else part


def build_prior(prior: str | Prior | None, posterior: Posterior, shape: tuple[int, ...], context: int | None) -> Prior:
    """Make a prior by name for the latents of ``posterior`` and rows of ``shape``; None: the one that suits them."""
    if isinstance(prior, Prior):
        return copy.deepcopy(prior)
    domain = posterior.family.domain
    if prior is None and isinstance(posterior, posteriors.Latents):
        return priors.Latents({name: build_prior(None, one, shape, context) for name, one in posterior.parts.items()})
    part: Any = _default_prior(domain) if prior is None else find("priors", prior)
    check_domains(domain, part.family and part.family.domain, type(posterior).__name__, part.__name__)
    if part.needs_context and context is None:
        raise ValueError(f'prior="{part.__name__}" is p(z|context): give fit a context.')
    made: Prior = part.from_data(posterior.event, shape, context or 0)
    return made


def takes_flow(posterior: Any) -> bool:
    """Whether a posterior is one of the library's, over real numbers, so that its prior may be a ``Flow``."""
    family = getattr(find("posteriors", posterior), "family", None) if isinstance(posterior, str) else None
    return family is not None and family.domain == priors.Flow.family.domain


def _default_prior(domain: Domain | None) -> type[Prior]:
    """The prior that says it is the default for latents of these values, or N(0, I)."""
    for name in names("priors"):
        part: type[Prior] = getattr(priors, name)
        if part.default and part.family and part.family.domain == domain:
            return part
    return priors.Normal


def check_channels(shape: tuple[int, ...]) -> None:
    """Raise an error for rows that are, or could be, images of shape (H, W, C), where (C, H, W) is expected."""
    if len(shape) != 3 or shape[2] not in _CHANNELS or shape[0] == 1:
        return
    if shape[0] in _CHANNELS and shape[1] == shape[2] != shape[0]:  # a square image of C channels
        return
    seems = "could be images (H, W, C) or (C, H, W)" if shape[0] in _CHANNELS else "look like images (H, W, C)"
    raise ValueError(
        f'rows of shape {shape} {seems}, but network="conv" takes (C, H, W); give X.transpose(0, 3, 1, 2) if the last '
        "axis is the channels. If the first axis is the channels, give your own networks, encoder="
        f"lowerbound.nn.ConvEncoder({shape}, …) and decoder=lowerbound.nn.ConvDecoder(…)."
    )


def build_networks(
    network: str,
    n_outputs: int,
    event: tuple[int, ...],
    hidden: Sequence[int],
    activation: type[nn.Module],
    shape: tuple[int, ...],
    likelihood: Likelihood,
    context: int,
) -> tuple[networks.Standardise, nn.Module, nn.Module]:
    """Build a module that standardises rows of ``shape``, an encoder of its output, and a decoder of latents."""
    one_scale = likelihood.one_scale or len(shape) > 1
    standardise = networks.Standardise(() if one_scale else shape, log1p=likelihood.counts)
    out_shape = shape if likelihood.n_parameters == 1 else (likelihood.n_parameters, *shape)
    encoder: nn.Module
    decoder: nn.Module
    if network == "mlp":
        encoder = networks.MLP(shape, (n_outputs,), hidden, activation, context)
        decoder = networks.MLP(event, out_shape, tuple(hidden)[::-1], activation, context)
    elif len(shape) not in (2, 3):
        raise ValueError(
            f'network="conv" needs rows of shape (H, W) or (C, H, W), but got {shape}; reshape X, or use network="mlp".'
        )
    elif context or len(event) > 1:
        raise ValueError('network="conv" supports neither a context nor latents of several axes; use network="mlp".')
    else:
        encoder = networks.ConvEncoder(shape, n_outputs)
        decoder = networks.ConvDecoder(event[0], out_shape)
    return standardise, encoder, decoder


def check_precision(likelihood: Likelihood, x: Summary, source: str, names: Sequence[str] | None = None) -> None:
    """Raise ``DataError`` for columns whose variation is too small for single precision, in which models compute."""
    if not (_is_real(likelihood) or likelihood.counts) or x.dtype == np.uint8:
        return
    mean, deviation, varies = x.mean, x.deviation, x.varies
    blurred = varies & (deviation < 1e-5 * np.abs(mean))
    if likelihood.counts:
        blurred &= mean > _EXACT_BELOW
    small = varies & (deviation < _SMALLEST_SPREAD) if _is_real(likelihood) else np.zeros_like(varies)
    if not (blurred | small).any():
        return
    at = arrays.first(small if small.any() else blurred)
    where = f"{source}: {arrays.column(at, names)} varies by {deviation[at]:.3g} around {mean[at]:.3g}"
    if (more := int((blurred | small).sum()) - 1) > 0:
        where += f" (and {more} more like it)"
    if small.any():
        raise DataError(f"{where}, too little for single precision; rescale it first.")
    base = "smallest value" if likelihood.counts else "mean"
    raise DataError(f"{where}, too little for single precision at that size; subtract its {base} first.")


def _is_real(likelihood: Likelihood) -> bool:
    return getattr(likelihood, "support", None) is constraints.real


def sample_dtype(dtype: np.dtype[Any], likelihood: Likelihood) -> np.dtype[Any]:
    """The type of samples: that of the data, or a larger one if that cannot hold the whole support."""
    if dtype.kind == "f" or likelihood.measure != "counting":
        return dtype if dtype.kind == "f" else np.dtype(np.float32)
    return np.dtype(np.int64) if likelihood.counts else dtype
