"""Simple models of the same rows under the same base measure, which a deep model should beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.distributions import constraints

from lowerbound.data import arrays
from lowerbound.distributions import generator, negative_binomial_log_prob, poisson_log_prob
from lowerbound.errors import DataError
from lowerbound.evidence.estimates import error_of_mean
from lowerbound.evidence.importance import LogLikelihood
from lowerbound.evidence.shallow import BernoulliMixture, Gaussian, gaussian_mixture, gaussians
from lowerbound.likelihoods import Likelihood, Multinomial, Product

_MOST_FULL = 50  # columns of a mixture of full covariances
Array = NDArray[np.float64]
Kind = Literal["real", "binary", "levels", "count"]
Named = tuple[str, Array, str]  # a model's name, log_prob [N] and note


@dataclass(frozen=True)
class Baseline:
    """log p(x) of test rows under a simple model.

    ``log_prob [N]``: nats per row with respect to ``measure``; exact or a lower bound, as stated by ``bound``.
    """

    name: str
    log_prob: Array
    bound: Literal["exact", "lower bound"]
    measure: str
    note: str

    @property
    def mean(self) -> float:
        """Mean over rows, in nats per row."""
        return float(self.log_prob.mean())

    @property
    def mean_standard_error(self) -> float:
        """Standard error of ``mean`` over rows."""
        return error_of_mean(self.log_prob)

    def log_likelihood(self) -> LogLikelihood:
        """The values as a ``LogLikelihood`` without Monte Carlo error, for comparison with estimates."""
        rows = len(self.log_prob)
        return LogLikelihood(
            estimate=self.log_prob,
            standard_error=np.zeros(rows),
            ess=np.ones(rows),
            elbo=self.log_prob,
            pareto_k=np.full(rows, -np.inf),
            samples=np.ones(rows, dtype=np.int64),
            fitted=np.zeros(rows, dtype=np.bool_),
            work=0,
        )


class Suited(NamedTuple):
    """The ``kind`` of baselines that suit a likelihood, and the number of levels; or None and the ``reason``."""

    kind: Kind | None
    levels: int
    reason: str


def kind_of(likelihood: Likelihood) -> Suited:
    """Which baselines have the same base measure as ``likelihood``."""
    name, levels = type(likelihood).__name__, likelihood.n_values
    if likelihood.informative:
        return Suited(None, 0, f"{name} models which cells are missing, and no baseline does.")
    if isinstance(likelihood, Multinomial):
        return Suited(None, 0, f"{name} is of counts given their sum, and the baselines of counts model the sum too.")
    if isinstance(likelihood, Product):
        parts = {kind_of(part) for part in likelihood.likelihoods}
        mixed = "the columns are of different kinds, and each baseline takes only one; compare columns of one kind."
        return parts.pop() if len(parts) == 1 else Suited(None, 0, mixed)
    if levels is not None:
        return Suited("binary" if likelihood.support is constraints.boolean else "levels", levels, "")
    if likelihood.counts or likelihood.measure == "Lebesgue":
        return Suited("count" if likelihood.counts else "real", 0, "")
    return Suited(None, 0, f"there is no baseline for {name}, whose base measure is {likelihood.measure}.")


def baselines(
    train: ArrayLike,
    test: ArrayLike,
    kind: Kind,
    *,
    levels: int = 256,
    latent_dim: int = 10,
    components: int = 10,
    seed: int = 0,
) -> tuple[Baseline, ...]:
    """Fit simple models to ``train [N, *X]`` and score ``test [M, *X]``, fully observed (masks are not supported).

    ``kind``: "real" gives densities; "binary", "levels" (integers 0 … ``levels`` − 1) and "count" give probabilities.
    ``latent_dim`` and ``components``: the largest number of latents and mixture components; fewer if there are few
    rows. Columns that are constant in ``train`` are omitted from densities, as stated by ``measure``; results are then
    comparable only with models of the other columns. For levels, log P(x) is bounded by E log p(x + u) with u uniform
    on [0, 1)^D, computed exactly (Theis, van den Oord & Bethge 2016). Raises ``DataError`` for values outside the kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f'kind is {kind!r}; it must be "real", "binary", "levels" or "count".')
    if min(latent_dim, components) < 1 or levels < 2:
        raise ValueError("latent_dim and components must be at least 1, and levels at least 2.")
    x, y = _rows(train, "train", kind, levels), _rows(test, "test", kind, levels)
    if x.shape[1] != y.shape[1]:
        raise DataError(f"test has {y.shape[1]} columns and train {x.shape[1]}; give rows of the same columns.")
    rng = np.random.default_rng(generator(seed, "baselines").initial_seed())
    if kind == "real":
        return _of_real(x, y, latent_dim, components, rng)
    if kind == "levels":
        return _of_levels(x, y, levels, latent_dim, rng)
    found = _of_binary(x, y, components, rng) if kind == "binary" else _of_counts(x, y)
    return tuple(Baseline(name, value, "exact", "counting", note) for name, value, note in found)


def _rows(given: ArrayLike, name: str, kind: Kind, levels: int) -> Array:
    """Convert rows to ``[N, D]``. Raises ``DataError`` for values outside the kind."""
    array = np.asarray(given)
    if array.dtype.kind not in arrays.NUMERIC or array.ndim == 0 or array.size == 0:
        raise DataError(f"{name} is {array.dtype} of shape {array.shape}; give numbers, one row or more along axis 0.")
    x = array.astype(np.float64)
    top = {"real": np.inf, "binary": 1, "levels": levels - 1, "count": np.inf}[kind]
    wrong = ~np.isfinite(x) if kind == "real" else ~(np.isfinite(x) & (x >= 0) & (x <= top) & (x == np.floor(x)))
    if wrong.any():
        position = arrays.first(wrong)
        has = {"real": "finite numbers", "binary": "0 and 1", "levels": f"integers from 0 to {top:g}"}
        allowed = has.get(kind, "integers of 0 and more")
        raise DataError(f'{name}, {arrays.place(position)} is {x[position]:g}; rows of kind "{kind}" hold {allowed}.')
    return x.reshape(len(x), -1)


def _of_real(
    train: Array, test: Array, latent_dim: int, components: int, rng: np.random.Generator
) -> tuple[Baseline, ...]:
    varies = np.ptp(train, 0) > np.finfo(np.float64).eps * np.abs(train).max(0)
    constant = np.flatnonzero(~varies)
    if not varies.any():
        raise DataError("every column of train is constant, where a density diverges; give rows that vary.")
    measure, left_out = "Lebesgue", ""
    if len(constant):
        measure = f"Lebesgue on {varies.sum()} of {len(varies)} columns"
        names = ", ".join(map(str, constant[:10])) + (", …" if len(constant) > 10 else "")
        left_out = (
            f"{len(constant)} constant columns ({names}) are left out, where a density diverges: "
            "compare a model of the other columns only"
        )
    found = _densities(train[:, varies], test[:, varies], latent_dim, components, rng)
    notes = [(name, value, "; ".join(filter(None, (note, left_out)))) for name, value, note in found]
    return tuple(Baseline(name, value, "exact", measure, note) for name, value, note in notes)


def _densities(
    train: Array, test: Array, latent_dim: int, components: int, rng: np.random.Generator
) -> Iterator[Named]:
    mean, spread = train.mean(0), train.std(0)
    yield "independent normals", Gaussian.of(mean, np.diag(spread**2)).log_prob(test), ""
    for name, density, note in gaussians(train, latent_dim, 0.0, rng):
        yield name, density.log_prob(test), note
    x, y = (train - mean) / spread, (test - mean) / spread
    count = min(components, max(1, len(x) // 10))
    shapes = ["diag", "full"] if 1 < x.shape[1] <= _MOST_FULL and len(x) >= 10 * count * x.shape[1] else ["diag"]
    for shape in shapes:
        value, note = gaussian_mixture(x, y, count, shape, rng)
        yield f"Gaussian mixture, {count} {shape}", value - np.log(spread).sum(), note


def _of_levels(
    train: Array, test: Array, levels: int, latent_dim: int, rng: np.random.Generator
) -> tuple[Baseline, ...]:
    columns = np.arange(train.shape[1])
    cells = (train.astype(np.int64) + levels * columns).ravel()
    counts = np.bincount(cells, minlength=levels * len(columns)).reshape(-1, levels) + 0.5
    log_mass = np.log(counts / counts.sum(1, keepdims=True))[columns, test.astype(np.int64)].sum(1)
    note = "half a count added at each level"
    found = [Baseline("independent histograms", log_mass, "exact", "counting", note)]
    for name, density, note in gaussians(train, latent_dim, 1 / 12, rng):
        value = density.dequantised(test)
        found.append(Baseline(f"dequantised {name}", value, "lower bound", "counting", note))
    return tuple(found)


def _of_binary(train: Array, test: Array, components: int, rng: np.random.Generator) -> Iterator[Named]:
    note = "half a count added to zeros and to ones"
    alone = BernoulliMixture.fit(train, 1, rng)
    yield "independent Bernoullis", alone.log_prob(test), note
    several = BernoulliMixture.fit(train, min(components, len(train)), rng)
    yield f"Bernoulli mixture, {len(several.weight)}", several.log_prob(test), note + ", in each component"


def _of_counts(train: Array, test: Array) -> Iterator[Named]:
    mean = train.mean(0) + 0.5 / len(train)
    log_r = np.array([_log_dispersion(x) for x in train.T])
    log_mean, x = torch.from_numpy(np.log(mean)), torch.from_numpy(test)
    note = "half a count added to each column"
    yield "independent Poissons", poisson_log_prob(x, log_mean).sum(1).numpy(), note
    value = negative_binomial_log_prob(x, log_mean, torch.from_numpy(log_r)).sum(1).numpy()
    yield "independent negative binomials", value, note + "; dispersions by maximum likelihood, r at most 10⁶"


def _log_dispersion(x: Array) -> float:
    """The maximum-likelihood estimate of log r for counts ``x [N]``, with variance m + m²/r and m their mean."""
    from scipy.optimize import minimize_scalar

    least, most = np.log(1e-4), np.log(1e6)
    if not x.any():
        return float(most)
    values, times = (torch.from_numpy(a.astype(np.float64)) for a in np.unique(x, return_counts=True))
    log_mean = torch.tensor(x.mean()).log()

    def cost(log_r: float) -> float:
        log_prob = negative_binomial_log_prob(values, log_mean, torch.tensor(log_r, dtype=torch.float64))
        return -float(times @ log_prob)

    return float(minimize_scalar(cost, bounds=(least, most), method="bounded").x)
