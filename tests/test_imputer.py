"""``LatentImputer``: scikit-learn's checks, exact conditioning of normals, and what users of an imputer expect."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import dataclass

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, MissingIndicator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import lowerbound as lb
from lowerbound.errors import DataError

QUICK = {"latent_dim": 2, "epochs": 5, "hidden": (16,), "samples": 100, "random_state": 0}


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        by_rounds = truth.error(IterativeImputer(random_state=0, max_iter=20).fit_transform(truth.seen))
    assert truth.error(filled) < 1.1 * best
    assert truth.error(filled) < 0.6 * by_means
    assert truth.error(filled) < 1.03 * by_rounds
    assert filled[~truth.holes].tobytes() == truth.x[~truth.holes].tobytes()


def test_rows_that_were_not_fitted_are_filled_as_well(truth):
    half = lb.LatentImputer(random_state=0).fit(truth.seen[:250])
    rest = Truth(truth.x[250:], truth.holes[250:], truth.mean[250:], truth.covariances[250:])
    assert rest.error(half.transform(rest.seen)) < 1.2 * rest.error(rest.mean)


def test_draws_spread_as_what_is_missing_does(truth, fitted):
    """Their variance over the squared error of their mean: 1 where a model knows how far off it is.

    A model that was learnt from 500 rows says up to a third more. Best values would give 0, and draws of p(x|z) at the
    best z 0.6 or less.
    """
    drawing, holes = _drawing(fitted), truth.holes[:400]
    completions = np.stack([drawing.transform(truth.seen[:400]) for _ in range(3)])
    assert (completions[:, ~holes] == truth.x[:400][~holes]).all()
    spread = completions.var(0, ddof=1)[holes].mean()
    error = np.square(completions.mean(0) - truth.x[:400])[holes].mean() - spread / 3  # less that of a mean of three
    assert 0.9 < spread / error < 1.33
    # cells of a row are drawn together: their covariances are the exact ones
    rows = [row for row, hidden in enumerate(holes) if hidden.sum() > 1]
    a, b = np.array([np.flatnonzero(holes[row])[:2] for row in rows]).T
    errors = completions - truth.mean[:400]
    products = (errors[:, rows, a] * errors[:, rows, b]).mean(0)
    slope = np.polyfit([truth.covariances[row][0, 1] for row in rows], products, 1)[0]
    assert 0.5 < slope < 1.5  # 0 of cells that are drawn each on its own


def test_draws_are_fresh_at_each_call_and_the_same_for_the_same_seed(truth, fitted):
    first, second = _drawing(fitted), _drawing(fitted)
    some = truth.seen[:5]
    one, other = first.transform(some), first.transform(some)
    assert (one != other)[truth.holes[:5]].all()
    assert second.transform(some).tobytes() == one.tobytes()


def _drawing(fitted: lb.LatentImputer) -> lb.LatentImputer:
    """The same fit, to draw."""
    return copy.deepcopy(fitted).set_params(sample_posterior=True)


# --- as users of scikit-learn expect ---


def test_a_row_gets_alone_what_it_gets_in_company(truth, fitted):
    whole, order = fitted.transform(truth.seen[:120]), np.random.default_rng(0).permutation(120)
    np.testing.assert_allclose(fitted.transform(truth.seen[:120][order]), whole[order], rtol=1e-5)
    np.testing.assert_allclose(fitted.transform(truth.seen[7:8]), whole[7:8], rtol=1e-5)


def test_an_indicator_adds_the_columns_of_missing_indicator(truth):
    x = truth.seen.copy()
    x[:, 4] = truth.x[:, 4]
    imputer = lb.LatentImputer(add_indicator=True, **QUICK).fit(x)
    out, indicator = imputer.transform(x), MissingIndicator().fit(x)
    np.testing.assert_array_equal(out[:, 10:], indicator.transform(x))
    assert out.shape == (500, 19)
    assert list(imputer.get_feature_names_out()) == [f"x{j}" for j in range(10)] + list(
        indicator.get_feature_names_out()
    )


def test_markers_other_than_nan(truth):
    imputer = lb.LatentImputer(**QUICK)
    marked = np.where(truth.holes, -1, truth.x)
    by_marker = clone(imputer).set_params(missing_values=-1).fit(marked).transform(marked)
    assert by_marker.tobytes() == imputer.fit(truth.seen).transform(truth.seen).tobytes()
    table = pandas.DataFrame({"a": ["u", "?", "v", "u"] * 10, "b": [1.0, 2.0, 3.0, 4.0] * 10})
    out = lb.LatentImputer(missing_values="?", **QUICK).fit_transform(table)
    assert set(out["a"]) == {"u", "v"}
    whole = pandas.DataFrame({"a": [3, -1, 5, 8] * 10, "b": [1.0, 2.5, 3.0, 4.0] * 10})
    out = lb.LatentImputer(missing_values=-1, **QUICK).fit_transform(whole)
    assert out["a"].dtype == np.int64
    assert (out["a"] >= 0).all()


@pytest.mark.parametrize("frame", [False, True])
def test_columns_that_held_nothing(truth, frame):
    x = truth.seen[:60, :4].copy()
    x[:, 2] = np.nan
    data = pandas.DataFrame(x, columns=list("abcd")) if frame else x
    later = data.copy()
    later[3 if not frame else later.index == 3] = truth.x[3, :4]
    imputer = lb.LatentImputer(**QUICK).fit(data)
    with pytest.warns(UserWarning, match="without any observed value"):
        out = imputer.transform(data)
    assert out.shape == (60, 3)
    assert not np.isnan(np.asarray(out)).any()
    assert list(imputer.get_feature_names_out()) == (list("abd") if frame else ["x0", "x1", "x3"])
    kept = lb.LatentImputer(keep_empty_features=True, **QUICK).fit(data)
    assert (np.asarray(kept.transform(data))[:, 2] == 0).all()


def test_a_number_type_of_an_array_comes_back(truth):
    for dtype in (np.float32, np.float64):
        out = lb.LatentImputer(**QUICK).fit_transform(truth.seen[:50].astype(dtype))
        assert out.dtype == dtype
    whole = np.arange(120).reshape(40, 3)  # keys, in a table; an array has none
    assert lb.LatentImputer(**QUICK).fit_transform(whole).tolist() == whole.tolist()
    holes = whole.astype(float)
    holes[::7, 0] = np.nan
    out = lb.LatentImputer(**QUICK).fit(holes).transform(holes)
    assert out.shape == (40, 3)
    assert np.isfinite(out).all()


def test_constant_columns_one_row_and_nothing_observed(truth):
    x = np.column_stack([np.full(40, 0.1), truth.seen[:40, 0]])
    x[3] = np.nan
    out = lb.LatentImputer(**QUICK).fit_transform(x)
    assert (out[:, 0] == 0.1).all()
    assert abs(out[3, 1] - np.nanmean(x[:, 1])) < np.nanstd(x[:, 1])
    with pytest.warns(UserWarning, match="not in the fitted data"):
        assert lb.LatentImputer(**QUICK).fit(x).transform([[5.0, 1.0]])[0, 0] == 5
    one = lb.LatentImputer(**QUICK).fit([[1.5, 2.0]])
    assert one.model_ is None
    assert one.transform([[np.nan, 2.0]]).tolist() == [[1.5, 2.0]]


def test_rows_may_hold_numbers_that_the_fit_never_saw(truth):
    x = np.abs(truth.seen[:100]).round()
    imputer = lb.LatentImputer(**QUICK).fit(x)
    later = -0.5 + np.where(np.arange(10) == 2, np.nan, x[5:6])
    out = imputer.transform(later)
    assert (out == later)[~np.isnan(later)].all()
    assert np.isfinite(out).all()


def test_it_works_in_a_pipeline(truth):
    y = (truth.x[:, 0] > truth.x[:, 0].mean()).astype(int)
    x = np.where(np.random.default_rng(3).random(truth.x.shape) < 0.2, np.nan, truth.x)
    pipeline = make_pipeline(lb.LatentImputer(random_state=0, epochs=30), LogisticRegression())
    assert pipeline.fit(x[:300], y[:300]).score(x[300:], y[300:]) > 0.85


def test_it_is_copied_and_kept_as_it_is(truth, fitted):
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    assert again.transform(truth.seen[:9]).tobytes() == fitted.transform(truth.seen[:9]).tobytes()
    copied = clone(lb.LatentImputer(3, samples=77, schema={"x0": "positive"}, add_indicator=True))
    assert (copied.latent_dim, copied.samples, copied.schema, copied.add_indicator) == (3, 77, {"x0": "positive"}, True)


# --- tables ---


def test_a_table_of_mixed_columns_is_filled_in_its_own_types(mixed):
    imputer = lb.LatentImputer(random_state=0, epochs=60).fit(mixed)
    out = imputer.transform(mixed)
    assert isinstance(out, pandas.DataFrame)
    assert list(out.columns) == list(mixed.columns)
    assert (out.index == mixed.index).all()
    assert (out.dtypes == mixed.dtypes).all()
    assert out.notna().all(axis=None)
    assert out.where(mixed.notna()).equals(mixed)
    assert set(out["sex"]) == {"f", "m"}
    assert imputer.model_.schema_["key"].kind == "identifier"
    filled = mixed["sex"].isna() & mixed["size"].notna() & ((mixed["size"] - 170).abs() > 6)
    assert ((out["sex"] == "m") == (mixed["size"] > 170))[filled].mean() > 0.85
    shuffled = imputer.transform(mixed[list(mixed.columns[::-1])])
    assert shuffled.equals(out)


@pytest.mark.parametrize("library", [polars, pyarrow])
def test_tables_of_other_libraries_come_back_as_theirs(mixed, library):
    table = polars.from_pandas(mixed) if library is polars else pyarrow.Table.from_pandas(mixed, preserve_index=False)
    imputer = lb.LatentImputer(add_indicator=True, **QUICK)
    out = imputer.fit_transform(table)
    assert isinstance(out, type(table))
    names = [*mixed.columns, "missingindicator_size", "missingindicator_sex", "missingindicator_weight"]
    assert list(imputer.get_feature_names_out()) == names
    found = out.to_pandas()
    assert list(found.columns) == names
    assert found.notna().all(axis=None)
    assert (found["missingindicator_sex"].to_numpy() == mixed["sex"].isna().to_numpy()).all()


@pytest.mark.parametrize("form", ["array", "pandas", "polars"])
def test_the_output_is_the_frame_that_is_asked_for(truth, mixed, form):
    x = truth.seen[:50] if form == "array" else mixed if form == "pandas" else polars.from_pandas(mixed)
    imputer = lb.LatentImputer(**QUICK)
    out = imputer.set_output(transform="pandas").fit_transform(x)
    assert isinstance(out, pandas.DataFrame)
    assert list(out.columns) == list(imputer.get_feature_names_out())
    if form != "array":
        plain = clone(imputer).set_output(transform="default").fit(x).transform(x)
        assert out["weight"].tolist() == plain["weight"].to_list()
        assert out["weight"].dtype.kind == "f"


def test_numbers_that_the_kind_of_a_column_does_not_hold_stay_as_they_are():
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"area": rng.lognormal(0, 1, 100), "n": rng.poisson(5, 100).astype(float)})
    imputer = lb.LatentImputer(**QUICK).fit(table)
    later = pandas.DataFrame({"area": [-1.0, 2.0], "n": [np.nan, 2.5]})
    with pytest.warns(UserWarning, match=r"1 of 'area' \(positive\), 1 of 'n' \(count\)"):
        out = imputer.transform(later)
    assert (out["area"].tolist(), out["n"][1]) == ([-1.0, 2.0], 2.5)
    assert out["n"][0] >= 0
    alone = imputer.transform(pandas.DataFrame({"area": [np.nan], "n": [np.nan]}))
    assert out["n"][0] == alone["n"][0]  # what it did not take tells it nothing


def test_an_array_may_follow_a_frame_and_a_frame_an_array(truth):
    table = pandas.DataFrame(truth.seen[:60], columns=[f"c{j}" for j in range(10)])
    of_frame, of_array = lb.LatentImputer(**QUICK).fit(table), lb.LatentImputer(**QUICK).fit(truth.seen[:60])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_array_equal(of_frame.transform(truth.seen[:60]), of_frame.transform(table))
    with pytest.warns(UserWarning, match="fitted without feature names"):
        np.testing.assert_array_equal(of_array.transform(table), of_array.transform(truth.seen[:60]))


# --- refusals ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latent_dim": 0}, "latent_dim must be from 1"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"samples": None}, "samples is None"),
        ({"add_indicator": "yes"}, "add_indicator is 'yes'; give True or False"),
        ({"missing_values": [1]}, r"missing_values is \[1\]; give a number"),
        ({"missing_values": "?"}, "X is an array of numbers"),
        ({"missing_values": -1}, "X contains NaN, but missing_values is -1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"schema": {"height": "real"}}, "schema names 'height', but X has no such column"),
        ({"schema": 3}, "schema is 3"),
        ({"random_state": -1}, "random_state must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(truth, change, said):
    imputer = lb.LatentImputer(**{**QUICK, **change})
    with pytest.raises(ValueError, match=said) as caught:
        imputer.fit(truth.seen)
    assert "\n" not in str(caught.value)
    assert not hasattr(imputer, "schema_")


def test_other_columns_are_refused(mixed):
    imputer = lb.LatentImputer(**QUICK).fit(mixed)
    with pytest.raises(DataError, match="lacks 'sex'"):
        imputer.transform(mixed.drop(columns="sex"))
    with pytest.raises(DataError, match="holds text"):
        imputer.transform(mixed.assign(size="tall"))
