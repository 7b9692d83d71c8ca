"""``LatentImputer``: scikit-learn's checks, exact conditioning of normals, and what users of an imputer expect."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from sklearn.base import clone
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, MissingIndicator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import lowerbound as lb
from lowerbound.errors import DataError

QUICK = {"latent_dim": 2, "passes": 5, "hidden": (16,), "samples": 100, "random_state": 0}


@dataclass(frozen=True)
class Truth:
    """x = Wz + μ + 0.5 ε, with 30 % of its cells hidden, and p(x_missing|x_observed) of each row, exactly."""

    x: np.ndarray
    holes: np.ndarray
    mean: np.ndarray  # E[x|observed]: x itself where it is observed
    covariances: list[np.ndarray]  # of the hidden cells of each row

    @property
    def seen(self) -> np.ndarray:
        return np.where(self.holes, np.nan, self.x)

    def error(self, filled: np.ndarray) -> float:
        """Root mean squared error over the hidden cells."""
        return float(np.sqrt(np.mean((filled - self.x)[self.holes] ** 2)))


@pytest.fixture(scope="module")
def truth() -> Truth:
    rng = np.random.default_rng(0)
    weight, mu = rng.normal(size=(10, 3)), 3 * rng.normal(size=10)
    covariance = weight @ weight.T + 0.25 * np.eye(10)
    x, holes = rng.multivariate_normal(mu, covariance, size=500), rng.random((500, 10)) < 0.3
    mean, covariances = x.copy(), []
    for row, hidden in enumerate(holes):
        seen = ~hidden
        gain = covariance[np.ix_(hidden, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        mean[row, hidden] = mu[hidden] + gain @ (x[row, seen] - mu[seen])
        covariances.append(covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(seen, hidden)])
    return Truth(x, holes, mean, covariances)


@pytest.fixture(scope="module")
def fitted(truth) -> lb.LatentImputer:
    return lb.LatentImputer(random_state=0).fit(truth.seen)


@pytest.fixture(scope="module")
def mixed() -> pandas.DataFrame:
    """A table whose columns tell of each other: size → weight, sex; a key, and a constant."""
    rng = np.random.default_rng(1)
    size = rng.normal(170, 10, 200)
    table = pandas.DataFrame(
        {
            "key": [f"row {i}" for i in range(200)],
            "size": size.round(1),
            "sex": np.where(size + rng.normal(0, 3, 200) > 170, "m", "f"),
            "legs": 2,
            "weight": (size - 100 + rng.normal(0, 5, 200)).round().astype(int),
        },
        index=np.arange(200) + 7,
    )
    for name in ("size", "sex", "weight"):
        table[name] = table[name].mask(rng.random(200) < 0.2)
    return table


def test_it_passes_the_checks_of_scikit_learn():
    results = check_estimator(lb.LatentImputer(**{**QUICK, "hidden": (8,)}), on_fail=None, on_skip=None)
    assert len(results) > 40
    failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert not failed, failed


# --- against the truth ---


def test_holes_of_normals_are_filled_nearly_as_by_exact_conditioning(truth, fitted):
    filled = fitted.transform(truth.seen)
    best, by_means = truth.error(truth.mean), truth.error(np.broadcast_to(np.nanmean(truth.seen, 0), truth.x.shape))
    by_rounds = truth.error(IterativeImputer(random_state=0, max_iter=30, tol=1e-2).fit_transform(truth.seen))
    assert truth.error(filled) < 1.1 * best
    assert truth.error(filled) < 0.6 * by_means
    assert truth.error(filled) < 1.03 * by_rounds
    assert filled[~truth.holes].tobytes() == truth.x[~truth.holes].tobytes()


def test_rows_that_were_not_fitted_are_filled_as_well(truth):
    half = lb.LatentImputer(random_state=0).fit(truth.seen[:250])
    rest = Truth(truth.x[250:], truth.holes[250:], truth.mean[250:], truth.covariances[250:])
    assert rest.error(half.transform(rest.seen)) < 1.2 * rest.error(rest.mean)


def test_draws_spread_as_what_is_missing_does(truth, fitted):
    """The error of a draw about the exact mean, over the exact deviation, has variance 1; best values have far less."""
    drawing = clone(fitted).set_params(sample_posterior=True)
    vars(drawing).update({name: value for name, value in vars(fitted).items() if name.endswith("_") or name[0] == "_"})
    drawing.random_state_ = np.random.default_rng(0)
    completions = np.stack([drawing.transform(truth.seen) for _ in range(10)])
    assert np.ptp(completions[:, truth.holes], axis=0).min() > 0
    spread = np.concatenate([np.sqrt(covariance.diagonal()) for covariance in truth.covariances])
    of = completions.std(0, ddof=1)[truth.holes] / spread
    assert np.mean(of**2) == pytest.approx(1, abs=0.15)
    standard = (completions - truth.mean)[:, truth.holes] / spread
    assert np.mean(standard**2) == pytest.approx(1, abs=0.25)
    both = [np.flatnonzero(row)[:2] for row in truth.holes if row.sum() > 1]
    rows = [i for i, row in enumerate(truth.holes) if row.sum() > 1]
    errors = completions - truth.mean
    products = np.mean([np.mean(errors[:, i, a] * errors[:, i, b]) for i, (a, b) in zip(rows, both, strict=True)])
    assert products == pytest.approx(np.mean([truth.covariances[i][0, 1] for i in rows]), abs=0.15)
