"""Predictive checks: compare the data set with data sets drawn from the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.evidence.decision import LEVEL, Decision, decide
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.targets import like_of, settled
from lowerbound.evidence.typicality import bonferroni, two_sided
from lowerbound.inference import Data
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import in_order

Array = NDArray[np.float64]
_REJECTED = 0.01
Given = Literal["prior", "posterior"]
Statistic = Callable[[NDArray[Any]], float]
"""A function of a data set ``[N, *X]`` (NaN: missing) that returns a number."""


@dataclass(frozen=True)
class PredictiveCheck:
    """T statistics of a data set, ``observed [T]``, and of R data sets drawn from the model, ``replicated [R, T]``.

    ``given``: whether the latents of the replicated data sets are from the prior or from each row's posterior.
    """

    names: tuple[str, ...]
    observed: Array
    replicated: Array
    given: Given

    @property
    def mean(self) -> Array:
        """Over replicated data sets, ``[T]``."""
        found: Array = self.replicated.mean(0)
        return found

    @property
    def standard_deviation(self) -> Array:
        """Over replicated data sets, ``[T]``."""
        found: Array = self.replicated.std(0, ddof=1)
        return found

    @property
    def p_values(self) -> Array:
        """Two-sided p-values, ``[T]``: twice the share of data sets, the observed one included, that are as extreme.

        They are uniform if latents are from the prior and the model was not fitted to these data. Otherwise, or with
        latents from the posterior, the data are used twice and the p-values are too large; a small p-value is still
        evidence against the model.
        """
        found: Array = two_sided(self.replicated, self.observed[None])[0]
        return found

    @property
    def p_value(self) -> float:
        """Of all statistics together, by Bonferroni's correction."""
        return float(bonferroni(self.p_values))

    @property
    def decision(self) -> Decision:
        """Whether ``p_value`` is at least 0.01. (With R data sets and T statistics it cannot be below 2T/(R + 1).)"""
        from scipy.special import betaincinv

        drawn, tests = len(self.replicated), len(self.names)
        beyond = min(1.0, float(self.p_values.min())) * (drawn + 1) / 2 - 1

        def interval(n: int) -> tuple[float, float]:
            k = beyond * n / drawn
            low = 2 * tests * float(betaincinv(k, n - k + 1, LEVEL / 2)) if k > 0 else 0.0
            return low, max(low, 2 * tests * (k + 1) / (n + 1))

        return decide(interval, drawn, least=_REJECTED, unit="data sets")

    def verdict(self) -> str:
        """Describe the result in a sentence."""
        worst = int(self.p_values.argmin())
        return (
            f"of {len(self.names)} statistics, {self.names[worst]} differs most: "
            f"{self.observed[worst]:.4g} in the data, and {self.mean[worst]:.4g} ± "
            f"{self.standard_deviation[worst]:.2g} in {len(self.replicated):,} data sets "
            f"drawn from the {self.given}; p = {self.p_values[worst]:.2g}, "
            f"{self.p_value:.2g} over all statistics, rejected below {_REJECTED:g}: {self.decision}."
        )


@read_only
def predictive_check(
    model: LatentVariableModel,
    posterior: Posterior,
    x: Data,
    *,
    statistics: Mapping[str, Statistic] | None = None,
    replications: int = 200,
    given: Given = "prior",
    seed: int = 0,
) -> PredictiveCheck:
    """Compare ``statistics`` of the data set ``x [N, *X]`` with those of ``replications`` data sets from the model.

    ``given="prior"``: new rows, z ~ p(z), x ~ p(x|z). ``"posterior"``: each row is replicated, z_i ~ q(z|x_i),
    x ~ p(x|z_i), which checks p(x|z) for latents of the data. Values that are missing in the data are missing in the
    replicated data sets too. ``statistics``: functions of an array, by name (default: ``STATISTICS``). Box 1980; Rubin
    1984; Gelman, Meng & Stern 1996.
    """
    if given not in get_args(Given):
        raise ValueError(f'given must be "prior" or "posterior", got {given!r}.')
    if replications < 2:
        raise ValueError(f"replications must be at least 2, got {replications}.")
    like = like_of(model)
    rng = generator(seed, "predictive check", device=like.device)
    rows = settled(x, model, rng)
    wanted = STATISTICS if statistics is None else statistics
    data = np.concatenate([_values(batch.x, batch.mask, real) for batch, real in in_order(rows, len(rows))])
    observed = _computed(wanted, data)
    replicated = [_computed(wanted, _replicated(model, posterior, rows, given, rng)) for _ in range(replications)]
    return PredictiveCheck(tuple(wanted), observed, np.stack(replicated), given)


def share_of_zeros(x: NDArray[Any]) -> float:
    """The share of zeros among observed values."""
    return float((x == 0).sum() / (~np.isnan(x)).sum())


def neighbour_correlation(x: NDArray[Any]) -> float:
    """Mean absolute correlation of neighbouring values of the flattened rows.

    Each correlation is over rows in which both values are observed. It is 0 if a value varies by less than 10⁻⁶ of its
    size.
    """
    flat = x.reshape(len(x), -1)
    seen = ~np.isnan(flat)
    known = flat if seen.all() else np.where(seen, flat, 0)
    least = 1e-12 * _sums(known, known)
    # Any centre is valid for values with missing ones; subtracting it avoids cancellation.
    centred = known - known.mean(0, dtype=np.float64).astype(x.dtype)
    if seen.all():
        product, squares = _sums(centred[:, :-1], centred[:, 1:]), _sums(centred, centred)
        left, right = squares[:-1], squares[1:]
    else:
        product, left, right = _of_pairs(np.where(seen, centred, 0), seen.astype(x.dtype))
    varies = (left > least[:-1]) & (right > least[1:])
    found = np.abs(product[varies]) / np.sqrt(left[varies] * right[varies])
    return float(found.mean()) if varies.any() else 0.0


def _of_pairs(x: NDArray[Any], seen: NDArray[Any]) -> tuple[Array, Array, Array]:
    """For neighbouring columns of ``x [N, D]``: sums of their centred products and squares, ``[D − 1]`` each.

    Only rows in which both are observed count; ``seen`` is 1 for observed values, else 0, and x is 0 there.
    """
    (left, right), (of_left, of_right) = ((each[:, :-1], each[:, 1:]) for each in (x, seen))
    count = np.maximum(_sums(of_left, of_right), 1)
    first, second = _sums(left, of_right), _sums(of_left, right)
    squares = (_sums(left, left, of_right) - first**2 / count, _sums(right, right, of_left) - second**2 / count)
    return _sums(left, right) - first * second / count, *squares


def _sums(*factors: NDArray[Any]) -> Array:
    """The sum over rows of the product of ``factors [N, D]``, ``[D]``."""
    letters = ",".join(["nd"] * len(factors))
    found: Array = np.einsum(f"{letters}->d", *factors, dtype=np.float64)
    return found


STATISTICS: Mapping[str, Statistic] = {
    "mean": lambda x: float(np.nanmean(x, dtype=np.float64)),
    "standard deviation": lambda x: float(np.nanstd(x, dtype=np.float64)),
    "share of zeros": share_of_zeros,
    "smallest": lambda x: float(np.nanmin(x)),
    "largest": lambda x: float(np.nanmax(x)),
    "correlation of neighbours": neighbour_correlation,
}
"""The default statistics; all but the last are of all values of a data set pooled."""


def _replicated(
    model: LatentVariableModel, posterior: Posterior, rows: RowSource, given: Given, rng: torch.Generator
) -> NDArray[Any]:
    """A replicated data set with the shape of ``rows``, ``[N, *X]``."""
    at_once = next(chunks(len(rows), 1, math.prod(rows.shape) * model.likelihood.n_parameters))
    parts = []
    for batch, real in in_order(rows, at_once):
        z = _latents(model, posterior, batch, given, rng)
        x = model.likelihood.sample(model.decode(z, batch.context), rng).squeeze(0)
        if x.shape != batch.x.shape:
            raise DataError(
                f"rows of the model have shape {tuple(x.shape[1:])} and those of the data {rows.shape}; match them."
            )
        parts.append(_values(x, batch.mask, real))
    return np.concatenate(parts)


def _latents(
    model: LatentVariableModel, posterior: Posterior, batch: Batch, given: Given, rng: torch.Generator
) -> Tensor:
    """Draw one z per row, ``[1, B, *E]``."""
    if given == "prior":
        return model.sample_latents(len(batch.x), rng, batch.context, posterior).unsqueeze(0)
    q, _ = distributions_of(model, posterior, batch.x, batch.mask, batch.context)
    z: Tensor = q.sample(posterior.noise(1, len(batch.x), rng, batch.x.dtype))
    return z


def _values(x: Tensor, mask: Tensor | None, real: int) -> NDArray[Any]:
    """The values of the first ``real`` rows, NaN where missing."""
    found: NDArray[Any] = (x if mask is None else torch.where(mask, x, torch.nan))[:real].cpu().numpy()
    return found


def _computed(statistics: Mapping[str, Statistic], data: NDArray[Any]) -> Array:
    found = np.array([statistic(data) for statistic in statistics.values()], dtype=np.float64)
    if not np.isfinite(found).all():
        name = list(statistics)[int(np.flatnonzero(~np.isfinite(found))[0])]
        raise ValueError(
            f"the statistic {name!r} is not a finite number for data of shape {data.shape}; missing values are NaN."
        )
    return found
