"""Shallow models for the baselines: normals with several covariances, and mixtures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.process import ignored

Array = NDArray[np.float64]
_FLOOR = 1e-6  # least variance relative to a column's; without it, a density can grow without bound
_MANY = 5000  # with more rows, one fifth is held out to choose the regularisation; otherwise each fifth in turn
_ADDED = (_FLOOR, 1e-4, 1e-2, 0.1, 1.0)  # candidates for the variance added to mixture components


@dataclass(frozen=True)
class Gaussian:
    """N(``mean``, C) by a ``root`` A ``[D, D]`` of its precision, AᵀA = C⁻¹."""

    mean: Array
    root: Array

    @classmethod
    def of(cls, mean: Array, covariance: Array) -> Gaussian:
        from scipy.linalg import solve_triangular

        spread = np.sqrt(covariance.diagonal())  # standardised first, because columns may have different units
        lower = np.linalg.cholesky(covariance / np.outer(spread, spread))
        return cls(mean, solve_triangular(lower, np.diag(1 / spread), lower=True))

    def log_prob(self, x: Array) -> Array:
        """log N(x; mean, C) ``[N]``."""
        squares = np.square((x - self.mean) @ self.root.T).sum(1)
        constant = np.log(self.root.diagonal()).sum() - 0.5 * len(self.mean) * np.log(2 * np.pi)
        found: Array = constant - 0.5 * squares
        return found

    def dequantised(self, x: Array) -> Array:
        """E log N(x + u; mean + ½, C) ``[N]``, u uniform on [0, 1)^D: log N(x; mean, C) − tr(C⁻¹)/24.

        By Jensen's inequality, a lower bound on the log of the probability of the unit cube at x.
        """
        found: Array = self.log_prob(x) - np.square(self.root).sum() / 24
        return found


def gaussians(
    train: Array, latent_dim: int, added: float, rng: np.random.Generator
) -> Iterator[tuple[str, Gaussian, str]]:
    """Gaussians for two or more columns, with independent noise of variance ``added`` on each column."""
    rows, columns = train.shape
    if columns == 1:
        return
    mean = train.mean(0)
    centred = train - mean
    spread = np.sqrt(np.square(centred).mean(0) + added)
    extra = added / spread**2
    correlation, units = _correlation(centred / spread, extra), np.outer(spread, spread)
    shrinkage = _shrinkage(centred / spread, extra, rng)
    shrunk = (1 - shrinkage) * correlation + shrinkage * np.eye(columns)
    note = f"covariance (1 − λ)S + λ diag S, λ = {shrinkage:.2g} chosen on training rows held out"
    yield "Gaussian", Gaussian.of(mean, shrunk * units), note
    latents = min(latent_dim, columns - 1, rows - 1)
    if latents:
        covariance, note = _principal(centred, latents, added)
        yield f"probabilistic PCA, {latents} latents", Gaussian.of(mean, covariance), note
        explained, note = _factors(correlation, latents, rng)
        yield f"factor analysis, {latents} latents", Gaussian.of(mean, explained * units), note


def _correlation(z: Array, extra: Array) -> Array:
    return z.T @ z / len(z) + np.diag(extra)


def _shrinkage(z: Array, extra: Array, rng: np.random.Generator) -> float:
    """The λ of a grid for which (1 − λ)R + λI has the highest held-out likelihood; 0 only if R is regular."""
    grid = np.concatenate([[0.0], np.logspace(np.log10(_FLOOR), 0, 25)])
    cost = np.zeros(len(grid))
    for held in _folds(len(z), rng):
        values, vectors = np.linalg.eigh(_correlation(z[~held], extra))
        squares = np.square(z[held] @ vectors).mean(0) + extra @ np.square(vectors)
        regular = (grid > 0) | (values[0] > _FLOOR)
        shrunk = np.maximum(values, _FLOOR)[:, None] * (1 - grid) + grid
        cost += np.where(regular, held.sum() * (squares[:, None] / shrunk + np.log(shrunk)).sum(0), np.inf)
    return float(grid[cost.argmin()])


def _folds(rows: int, rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """The held-out rows of each fold: five folds, or one fold of a fifth if there are many rows."""
    fold = rng.permutation(rows) % 5
    return [fold == i for i in range(min(5, rows) if rows < _MANY else 1)]


def _principal(centred: Array, latents: int, added: float) -> tuple[Array, str]:
    """The covariance of probabilistic PCA; added noise increases σ² and does not change W = U(Λ − σ²)^½."""
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # of explained variances' ratios, where no column varies
        pca = PCA(latents, svd_solver="covariance_eigh").fit(centred)
    floor = _FLOOR * np.square(centred).mean()
    raised = pca.noise_variance_ < floor
    pca.noise_variance_ = max(pca.noise_variance_, floor)
    covariance: Array = pca.get_covariance() + added * np.eye(centred.shape[1])
    return covariance, "σ² raised to 10⁻⁶ of the mean variance" if raised and not added else ""


def _factors(correlation: Array, latents: int, rng: np.random.Generator) -> tuple[Array, str]:
    """The covariance of factor analysis, fitted to 2D artificial rows with the data's correlation matrix."""
    from sklearn.decomposition import FactorAnalysis

    columns = len(correlation)
    values, vectors = np.linalg.eigh(correlation)
    root = (vectors * np.sqrt(columns * np.maximum(values, 0))).T
    method = "lapack" if columns <= 100 else "randomized"
    model = FactorAnalysis(latents, svd_method=method, tol=1e-6 * 2 * columns, random_state=_state(rng))
    stopped = fit_quietly(model, np.concatenate([root, -root]))
    raised = int((model.noise_variance_ < _FLOOR).sum())
    model.noise_variance_ = np.maximum(model.noise_variance_, _FLOOR)
    notes = [stopped, f"variance of the noise of {raised} columns raised to 10⁻⁶ of theirs" if raised else ""]
    return model.get_covariance(), "; ".join(filter(None, notes))


def gaussian_mixture(
    train: Array, test: Array, components: int, shape: str, rng: np.random.Generator
) -> tuple[Array, str]:
    """log p of ``test [M]`` and a note; the variance added to components is chosen on held-out training rows."""
    from sklearn.mixture import GaussianMixture

    some = train[rng.permutation(len(train))[: 2 * _MANY]]
    state, folds = _state(rng), _folds(len(some), rng)

    def fitted(x: Array, floor: float) -> tuple[Any, str]:
        model = GaussianMixture(components, covariance_type=shape, reg_covar=floor, random_state=state)
        return model, fit_quietly(model, x)

    def score(floor: float) -> float:
        return float(sum(fitted(some[~held], floor)[0].score_samples(some[held]).sum() for held in folds))

    chosen = len(train) >= 10  # with fewer rows, none are held out
    added = max(_ADDED, key=score) if chosen else _ADDED[-1]
    model, stopped = fitted(train, added)
    note = f"each variance raised by {added:g} of its column's" + (
        ", chosen on training rows held out" if chosen else ""
    )
    return model.score_samples(test), "; ".join(filter(None, (note, stopped)))


def _state(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def fit_quietly(model: Any, x: Array) -> str:
    """Fit a scikit-learn model; return a note if it did not converge."""
    from sklearn.exceptions import ConvergenceWarning

    with ignored(ConvergenceWarning) as caught:
        model.fit(x)
    early = any("did not converge" in str(one.message) for one in caught)
    return "stopped before it converged" if early else ""


@dataclass(frozen=True)
class BernoulliMixture:
    """P(x) = Σ_k π_k Π_d p_kd^x_d (1 − p_kd)^(1 − x_d): ``weight [K]`` and ``probability [K, D]``.

    ``trace``: the log posterior density after each step of EM, in nats, with priors Beta(3/2, 3/2) and Dirichlet(3/2).
    They add half a count to each outcome, so that no test row has probability 0.
    """

    weight: Array
    probability: Array
    trace: tuple[float, ...] = ()

    @classmethod
    def fit(cls, x: Array, components: int, rng: np.random.Generator, steps: int = 200) -> BernoulliMixture:
        """EM until a step gains less than 10⁻⁴ nats per row, initialised half way between random rows and the mean."""
        some = x[rng.choice(len(x), components, replace=False)]
        mixture = cls(np.full(components, 1 / components), 0.5 * (x.mean(0) + 0.25 + 0.5 * some))
        trace: list[float] = []
        while len(trace) < 2 or (len(trace) < steps and trace[-1] - trace[-2] > 1e-4 * len(x)):
            mixture, value = mixture.step(x)
            trace.append(value)
        return cls(mixture.weight, mixture.probability, tuple(trace))

    def step(self, x: Array) -> tuple[BernoulliMixture, float]:
        """One step of EM, and the log posterior density that it started from."""
        joint = self._log_joint(x)
        total = np.logaddexp.reduce(joint, 1)
        share = np.exp(joint - total[:, None])
        count = share.sum(0)
        p = (share.T @ x + 0.5) / (count[:, None] + 1)
        prior = np.log(self.weight).sum() + np.log(self.probability).sum() + np.log1p(-self.probability).sum()
        weight = (count + 0.5) / (len(x) + 0.5 * len(count))
        return BernoulliMixture(weight, p), float(total.sum() + 0.5 * prior)

    def log_prob(self, x: Array) -> Array:
        """log P(x) ``[N]``."""
        found: Array = np.logaddexp.reduce(self._log_joint(x), 1)
        return found

    def _log_joint(self, x: Array) -> Array:
        off = np.log1p(-self.probability)
        found: Array = x @ (np.log(self.probability) - off).T + off.sum(1) + np.log(self.weight)
        return found
