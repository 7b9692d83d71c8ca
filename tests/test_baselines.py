"""Baselines against closed forms, enumerations and other libraries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from oracles import PPCA
from scipy import stats
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture

from lowerbound import likelihoods
from lowerbound.errors import DataError
from lowerbound.evidence.baselines import baselines, kind_of
from lowerbound.evidence.shallow import BernoulliMixture, Gaussian, fit_quietly

REAL = {
    "independent normals",
    "Gaussian",
    "probabilistic PCA, 2 latents",
    "factor analysis, 2 latents",
    "Gaussian mixture, 3 diag",
    "Gaussian mixture, 3 full",
}


def correlated(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    loadings = np.random.default_rng(100).normal(size=(2, columns))
    return random.normal(size=(rows, 2)) @ loadings + random.normal(size=(rows, columns)) * 0.7 + np.arange(columns)


def by_name(train, test, kind, **settings):
    return {b.name: b for b in baselines(train, test, kind, **settings)}


def grid(levels: int, columns: int) -> np.ndarray:
    return np.array(list(itertools.product(range(levels), repeat=columns)))


@pytest.fixture(scope="module")
def real():
    train, test = correlated(900, 5), correlated(300, 5, seed=1)
    return train, test, by_name(train, test, "real", latent_dim=2, components=3)


# Densities.


def test_densities_are_those_of_scikit_learn_and_scipy(real):
    train, test, found = real
    assert set(found) == REAL
    assert all(b.bound == "exact" and b.measure == "Lebesgue" and b.note.count("left out") == 0 for b in found.values())
    alone = stats.norm.logpdf(test, train.mean(0), train.std(0)).sum(1)
    np.testing.assert_allclose(found["independent normals"].log_prob, alone, rtol=1e-10)
    ppca = found["probabilistic PCA, 2 latents"]
    np.testing.assert_allclose(ppca.log_prob, PCA(2).fit(train).score_samples(test), rtol=1e-9)
    np.testing.assert_allclose(ppca.log_prob, PPCA.of(train, 2).log_prob(torch.tensor(test)), rtol=1e-9)
    spread = train.std(0)
    model = FactorAnalysis(2, svd_method="lapack", tol=1e-6, max_iter=10_000).fit(train / spread)
    factors = model.score_samples(test / spread) - np.log(spread).sum()
    np.testing.assert_allclose(found["factor analysis, 2 latents"].log_prob, factors, atol=0.05)
    assert found["factor analysis, 2 latents"].mean == pytest.approx(factors.mean(), abs=2e-3)
    assert ppca.mean_standard_error == pytest.approx(ppca.log_prob.std(ddof=1) / np.sqrt(300))


def test_the_full_gaussian_is_the_shrunk_one_its_note_names(real):
    train, test, found = real
    steps = np.concatenate([[0], np.logspace(-6, 0, 25)])
    said = float(found["Gaussian"].note.split("λ = ")[1].split()[0])
    shrinkage = steps[np.abs(steps - said).argmin()]
    sample = np.cov(train.T, ddof=0)
    covariance = (1 - shrinkage) * sample + shrinkage * np.diag(sample.diagonal())
    exact = stats.multivariate_normal(train.mean(0), covariance).logpdf(test)
    np.testing.assert_allclose(found["Gaussian"].log_prob, exact, rtol=1e-9)
    assert shrinkage < 0.1


def test_densities_integrate_to_one():
    train = correlated(400, 2) * [1.0, 5.0]
    low, high = train.min(0) - 4 * np.ptp(train, 0), train.max(0) + 4 * np.ptp(train, 0)
    axes = [np.linspace(a, b, 700) for a, b in zip(low, high, strict=True)]
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    points = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    found = by_name(train, points, "real", components=3)
    assert len(found) == 6
    for baseline in found.values():
        assert np.exp(baseline.log_prob).sum() * cell == pytest.approx(1, abs=1e-4), baseline.name


def test_other_units_add_minus_log_of_each_columns_unit(real):
    train, test, found = real
    settings = {"latent_dim": 2, "components": 3}
    for name, scaled in by_name(train * 1000, test * 1000, "real", **settings).items():
        np.testing.assert_allclose(scaled.log_prob, found[name].log_prob - 5 * np.log(1000), rtol=1e-7)
    units = np.array([1e-6, 1.0, 1e3, 1e6, 10.0])
    each = by_name(train * units, test * units, "real", **settings)
    for name in REAL - {"probabilistic PCA, 2 latents"}:  # whose noise is the same in all columns
        np.testing.assert_allclose(each[name].log_prob, found[name].log_prob - np.log(units).sum(), rtol=1e-6)


def test_a_gaussian_fitted_to_many_rows_has_the_entropy_of_the_truth():
    train, test = correlated(20_000, 4, seed=2), correlated(20_000, 4, seed=3)
    loadings = np.random.default_rng(100).normal(size=(2, 4))
    covariance = loadings.T @ loadings + 0.49 * np.eye(4)
    entropy = stats.multivariate_normal(cov=covariance).entropy()
    for name in ("Gaussian", "factor analysis, 2 latents", "probabilistic PCA, 2 latents"):
        baseline = by_name(train, test, "real", latent_dim=2, components=1)[name]
        assert abs(baseline.mean + entropy) < 4 * baseline.mean_standard_error
        assert baseline.mean_standard_error < 0.02


def test_few_rows_are_shrunk_until_others_are_likely():
    # 40 rows of 60 columns: their covariance is singular.
    train, test = correlated(40, 60), correlated(500, 60, seed=1)
    found = by_name(train, test, "real", latent_dim=2)
    mean, sample = train.mean(0), np.cov(train.T, ddof=0)
    barely = Gaussian.of(mean, (1 - 1e-6) * sample + 1e-6 * np.diag(sample.diagonal())).log_prob(test).mean()
    assert barely < -1000
    best = max(
        Gaussian.of(mean, (1 - s) * sample + s * np.diag(sample.diagonal())).log_prob(test).mean()
        for s in np.logspace(-6, 0, 25)
    )
    assert best - 1 < found["Gaussian"].mean <= best
    assert found["Gaussian"].mean > found["independent normals"].mean + 10


def test_columns_that_hardly_vary_do_not_make_a_mixture_worthless():
    # 99 of 100 values are 0: a component whose rows are all 0 there has no variance but what is added.
    random = np.random.default_rng(0)
    train, test = (random.normal(size=(500, 12)) * (random.random((500, 12)) < 0.01) for _ in range(2))
    found = by_name(train, test, "real", components=5)
    barely = GaussianMixture(5, covariance_type="diag", reg_covar=1e-6, random_state=0).fit(train / train.std(0))
    lost = found["Gaussian mixture, 5 diag"].mean - barely.score(test / train.std(0)) + np.log(train.std(0)).sum()
    assert lost > 100
    assert found["Gaussian mixture, 5 diag"].mean > found["independent normals"].mean - 1


def test_columns_that_determine_one_another_have_a_finite_density():
    train, test = correlated(300, 3), correlated(100, 3, seed=1)
    twice = [np.concatenate([x, 2 * x[:, :1]], 1) for x in (train, test)]
    found = by_name(*twice, "real", latent_dim=3)
    assert "λ = 1e-06" in found["Gaussian"].note
    assert "raised" in found["probabilistic PCA, 3 latents"].note
    assert all(np.isfinite(b.log_prob).all() for b in found.values())


def test_constant_columns_are_left_out_and_change_the_measure(real):
    train, test, found = real

    def widened(x):
        return np.insert(x, [1, 5], [[0.1, 1e9]], 1)

    wide = by_name(widened(train), widened(test), "real", latent_dim=2, components=3)
    for name, baseline in wide.items():
        assert baseline.measure == "Lebesgue on 5 of 7 columns"
        assert "2 constant columns (1, 6) are left out" in baseline.note
        np.testing.assert_allclose(baseline.log_prob, found[name].log_prob, rtol=1e-9)
    with pytest.raises(DataError, match="every column of train is constant"):
        baselines(np.ones((5, 2)), test[:, :2], "real")


def test_a_fit_that_stops_early_is_noted():
    train = correlated(100, 5)
    assert fit_quietly(FactorAnalysis(2, max_iter=2, tol=0), train) == "stopped before it converged"
    assert fit_quietly(FactorAnalysis(2, max_iter=1000), train) == ""


# Binary rows.


def two_kinds(rows: int, seed: int) -> tuple[np.ndarray, BernoulliMixture]:
    random = np.random.default_rng(seed)
    truth = BernoulliMixture(np.array([0.3, 0.7]), np.array([[0.9] * 4 + [0.2] * 4, [0.1] * 4 + [0.6] * 4]))
    which = random.choice(2, rows, p=truth.weight)
    return (random.random((rows, 8)) < truth.probability[which]).astype(float), truth


def test_bernoullis_sum_to_one_and_are_their_enumerated_mixture():
    train, _ = two_kinds(300, 0)
    states = grid(2, 8)
    for baseline in baselines(train, states, "binary", components=3):
        assert np.exp(baseline.log_prob).sum() == pytest.approx(1, abs=1e-12)
        assert (baseline.bound, baseline.measure) == ("exact", "counting")
    alone = baselines(train, states, "binary")[0]
    on = (train.sum(0) + 0.5) / 301
    np.testing.assert_allclose(alone.log_prob, stats.bernoulli.logpmf(states, on).sum(1), rtol=1e-10)
    mixture = BernoulliMixture.fit(train, 3, np.random.default_rng(0))
    terms = [
        w * stats.bernoulli.pmf(states, p).prod(1) for w, p in zip(mixture.weight, mixture.probability, strict=True)
    ]
    np.testing.assert_allclose(np.exp(mixture.log_prob(states)), sum(terms), rtol=1e-10)


def test_em_finds_the_mixture_the_rows_are_of():
    train, truth = two_kinds(10_000, 1)
    test, _ = two_kinds(10_000, 2)
    found = by_name(train, test, "binary", components=2)
    lost = truth.log_prob(test) - found["Bernoulli mixture, 2"].log_prob
    # 17 parameters cost 17/2N nats in expectation; the deviation over data sets is of that size
    assert abs(lost.mean()) < 5 * 17 / 20_000
    assert (truth.log_prob(test) - found["independent Bernoullis"].log_prob).mean() > 0.5


def test_em_climbs_and_stays_at_its_fixed_point():
    train, _ = two_kinds(500, 3)
    mixture = BernoulliMixture.fit(train, 4, np.random.default_rng(0))
    assert len(mixture.trace) > 10
    assert np.diff(mixture.trace).min() > -1e-9
    mixture = BernoulliMixture.fit(train, 2, np.random.default_rng(0))
    for _ in range(2000):
        mixture, value = mixture.step(train)
    after, same = mixture.step(train)
    assert same == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(after.probability, mixture.probability, atol=1e-6)
    # a mutant whose M step adds five counts to each outcome, and not a half, falls from there
    count = mixture.weight[:, None] * 501 - 0.5
    on = mixture.probability * (count + 1) - 0.5
    mutant = BernoulliMixture(mixture.weight, (on + 5) / (count + 10))
    assert mutant.step(train)[1] < same - 0.1


# Levels.


def test_histograms_sum_to_one_and_dequantised_bounds_to_less():
    random = np.random.default_rng(0)
    train = (random.binomial(4, 0.3, (200, 3)) + random.integers(0, 2, (200, 1))).clip(0, 4)
    states = grid(5, 3)
    found = by_name(train, states, "levels", levels=5, latent_dim=1)
    exact = found.pop("independent histograms")
    assert exact.bound == "exact"
    assert np.exp(exact.log_prob).sum() == pytest.approx(1, abs=1e-12)
    counted = [(np.bincount(train[:, d], minlength=5) + 0.5) / 202.5 for d in range(3)]
    np.testing.assert_allclose(exact.log_prob, sum(np.log(counted[d][states[:, d]]) for d in range(3)), rtol=1e-12)
    assert len(found) == 3
    for baseline in found.values():
        assert (baseline.bound, baseline.measure) == ("lower bound", "counting")
        assert 0.8 < np.exp(baseline.log_prob).sum() < 1


def violations(bound) -> int:
    """In how many cells ``bound(gaussian, cells)`` exceeds the log of the mass of a correlated normal in the cell."""
    mean, covariance = np.array([2.2, 2.9]), np.array([[1.0, 0.6], [0.6, 0.8]])
    cells = grid(6, 2)
    normal = stats.multivariate_normal(mean, covariance)
    mass = np.array([normal.cdf(cell + 0.5, lower_limit=cell - 0.5) for cell in cells])
    excess = bound(Gaussian.of(mean, covariance), cells.astype(float)) - np.log(mass)
    return int((excess > 1e-4).sum())


def test_the_dequantised_bound_is_below_the_mass_of_every_cell():
    assert violations(Gaussian.dequantised) == 0
    assert violations(Gaussian.log_prob) > 0  # a mutant that takes the density for the mass


def test_the_dequantised_bound_is_the_mean_over_noise():
    mean, cell = np.array([3.2, 5.1, 4.0]), np.array([[3.0, 4.0, 5.0]])
    covariance = np.array([[1.0, 0.7, 0.2], [0.7, 1.2, 0.0], [0.2, 0.0, 0.5]])
    gaussian = Gaussian.of(mean, covariance)
    noise = np.random.default_rng(2).random((100_000, 3))
    drawn = stats.multivariate_normal(mean + 0.5, covariance).logpdf(cell + noise)
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(gaussian.dequantised(cell)[0] - drawn.mean()) < 4 * error
    assert error < 0.02
    assert abs(gaussian.log_prob(cell)[0] - drawn.mean()) > 4 * error  # a mutant without the noise's variance


def test_constant_levels_keep_a_bound():
    train = np.zeros((50, 3), dtype=np.uint8)
    for baseline in baselines(train, train[:2], "levels"):
        assert np.isfinite(baseline.log_prob).all()
        assert baseline.mean < 0


# Counts.


def test_counts_are_those_of_scipy_and_sum_to_one():
    random = np.random.default_rng(0)
    train = np.stack([random.negative_binomial(2, 0.2, 20_000), random.negative_binomial(0.5, 0.1, 20_000)], 1)
    test = np.stack([np.arange(600)] * 2, 1)
    poisson, negative = baselines(train, test, "count")
    mean = train.mean(0) + 0.5 / 20_000
    np.testing.assert_allclose(poisson.log_prob, stats.poisson.logpmf(test, mean).sum(1), rtol=1e-9)
    for column, r in ((0, 2.0), (1, 0.5)):
        x, states = train[:, [column]], test[:, [column]]
        alone, found = baselines(x, states, "count")
        assert np.exp(alone.log_prob).sum() == pytest.approx(1, abs=1e-9)
        assert np.exp(found.log_prob).sum() == pytest.approx(1, abs=1e-9)
        assert np.abs(np.exp(found.log_prob) - stats.nbinom.pmf(states[:, 0], r, r / (r + mean[column]))).sum() < 0.02
        best = baselines(x, x, "count")[1].mean

        def likelihood(r, column=column, x=x):
            return stats.nbinom.logpmf(x[:, 0], r, r / (r + mean[column])).mean()

        # scipy's likelihood, over a grid of r, is no larger; nor at the r of the moments, a mutant
        assert best == pytest.approx(max(likelihood(r * s) for s in np.linspace(0.9, 1.1, 201)), abs=1e-6)
        moments = mean[column] ** 2 / (x.var() - mean[column])
        assert likelihood(moments) < best - 1e-7
    # both columns together are their sum, each at an r of its own
    each = [baselines(train[:, [column]], test[:, [column]], "count")[1].log_prob for column in (0, 1)]
    np.testing.assert_allclose(negative.log_prob, each[0] + each[1], rtol=1e-9)
    assert abs(negative.log_prob - 2 * each[0]).max() > 1, "one r for both is a mutant"


def test_counts_that_vary_less_than_a_poisson_get_one():
    train = np.random.default_rng(0).binomial(10, 0.5, (500, 2))
    train[:, 1] = 0
    poisson, negative = baselines(train, train, "count")
    np.testing.assert_allclose(negative.log_prob, poisson.log_prob, atol=1e-4)


# What suits a likelihood, and what does not.


@pytest.mark.parametrize(
    ("likelihood", "expected"),
    [
        (likelihoods.Bernoulli(), ("binary", 2)),
        (likelihoods.DiscretizedLogistic(16), ("levels", 16)),
        (likelihoods.DiscretizedLogisticMixture(8, 2), ("levels", 8)),
        (likelihoods.Categorical(4), ("levels", 4)),
        (likelihoods.Ordinal(5), ("levels", 5)),
        (likelihoods.BetaBinomial(9), ("levels", 10)),
        (likelihoods.Poisson(), ("count", 0)),
        (likelihoods.NegativeBinomial(), ("count", 0)),
        (likelihoods.ZeroInflatedNegativeBinomial(), ("count", 0)),
        (likelihoods.Normal(), ("real", 0)),
        (likelihoods.StudentT(), ("real", 0)),
        (likelihoods.LogNormal(), ("real", 0)),
        (likelihoods.FullNormal((3,)), ("real", 0)),
        (likelihoods.Beta(), ("real", 0)),
        (likelihoods.Product([likelihoods.Normal(), likelihoods.StudentT()]), ("real", 0)),
    ],
)
def test_each_likelihood_has_baselines_of_its_measure(likelihood, expected):
    kind, levels, reason = kind_of(likelihood)
    assert (kind, levels, reason) == (*expected, "")
    rows = np.random.default_rng(0).integers(0, 2, (30, 3))
    assert {b.measure for b in baselines(rows, rows, kind, levels=max(levels, 2))} == {likelihood.measure}


def test_counts_given_their_sum_have_none():
    kind, _, reason = kind_of(likelihoods.Multinomial())
    assert kind is None
    assert "given their sum" in reason


def test_columns_of_different_kinds_have_none():
    kind, _, reason = kind_of(likelihoods.Product([likelihoods.Normal(), likelihoods.Bernoulli()]))
    assert kind is None
    assert "different kinds" in reason


@pytest.mark.parametrize(
    ("train", "test", "kind", "message"),
    [
        ([[0.0, 1], [0.5, 1]], [[0, 1]], "binary", r"train, row 1, column 0 is 0\.5; .* hold 0 and 1"),
        ([[0, 1], [2, 3]], [[0, 4]], "levels", r"test, row 0, column 1 is 4; .* integers from 0 to 3"),
        ([[0, 1], [2, -1]], [[0, 4]], "count", "train, row 1, column 1 is -1"),
        ([[0, 1], [2, np.inf]], [[0, 4]], "count", "train, row 1, column 1 is inf"),
        ([[0, np.nan]], [[0, 4]], "real", "train, row 0, column 1 is nan"),
        ([[0, 1], [2, 3]], [[0, 4, 1]], "real", "test has 3 columns and train 2"),
        ([["a"]], [[0]], "real", "give numbers"),
        (np.zeros((0, 2)), [[0, 1]], "real", "one row or more"),
        ([[0]], [[0]], "complex", "kind is 'complex'"),
    ],
)
def test_rows_that_the_kind_has_not_are_refused(train, test, kind, message):
    with pytest.raises(ValueError, match=message):
        baselines(train, test, kind, levels=4)
    with pytest.raises(ValueError, match="latent_dim"):
        baselines([[0]], [[0]], "real", latent_dim=0)


@pytest.mark.parametrize("kind", ["real", "binary", "levels", "count"])
def test_few_rows_and_one_column_do(kind):
    rows = np.array([[0], [1], [1]])
    assert all(np.isfinite(b.log_prob).all() for b in baselines(rows, rows, kind))
    rows = np.array([[0, 1, 0, 1], [1, 1, 0, 0]])
    assert all(np.isfinite(b.log_prob).all() for b in baselines(rows, rows, kind))


def test_draws_are_of_the_seed_and_images_are_flattened():
    images = np.random.default_rng(0).integers(0, 2, (60, 2, 2))
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    for kind in ("real", "binary", "levels", "count"):
        once, again = (baselines(x, x, kind, seed=3) for x in (images, images.reshape(60, 4)))
        for a, b in zip(once, again, strict=True):
            np.testing.assert_array_equal(a.log_prob, b.log_prob)
    assert (before[0] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())
