"""The scikit-learn face: its checks, its conventions, and what a user of scikit-learn expects."""

from __future__ import annotations

import math

import numpy as np
import pandas
import polars
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import lowerbound as lb
from lowerbound.errors import DataError, DivergedError
from lowerbound.estimators import default_likelihood
from lowerbound.inference import split
from lowerbound.likelihoods import DiscretizedLogistic, Normal

QUICK = {"epochs": 15, "hidden": (32,), "random_state": 0}


@pytest.fixture(scope="module")
def digits() -> lb.data.Dataset:
    return lb.data.digits()


@pytest.fixture(scope="module")
def vae(digits) -> lb.VAE:
    return lb.VAE(latent_dim=4, max_value=16, epochs=80, hidden=(64,), random_state=0).fit(digits.train)


def test_it_passes_the_checks_of_scikit_learn():
    results = check_estimator(lb.VAE(random_state=0), on_fail=None, on_skip=None)
    assert len(results) > 40
    failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert not failed, failed


def test_shapes_and_types(vae, digits):
    x = digits.test[:7]
    assert vae.transform(x).shape == (7, 4)
    assert vae.reconstruct(x).shape == vae.inverse_transform(vae.transform(x)).shape == (7, 8, 8)
    assert vae.sample(5).shape == (5, 8, 8)
    assert vae.sample(5).dtype == np.uint8
    assert vae.score_samples(x).shape == (7,)
    mean, scale = vae.encode(x)
    np.testing.assert_array_equal(mean, vae.transform(x))
    assert (scale > 0).all()
    assert list(vae.get_feature_names_out()) == ["vae0", "vae1", "vae2", "vae3"]
    np.testing.assert_array_equal(vae.reconstruct(x), vae.inverse_transform(mean))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_floating_type_that_comes_in_goes_out(dtype):
    x = load_wine().data.astype(dtype)
    vae = lb.VAE(latent_dim=2, **QUICK).fit(x)
    for out in (vae.transform(x), vae.reconstruct(x), vae.sample(3), vae.score_samples(x)):
        assert out.dtype == dtype


def test_training_raises_held_out_evidence_far_above_independent_pixels(vae, digits):
    # The baseline: each pixel its own discretised logistic, fitted as `initialise` does.
    baseline = DiscretizedLogistic(17)
    train, test = (torch.tensor(part, dtype=torch.float32) for part in (digits.train, digits.test))
    params = baseline.initialise(train).expand(1, 1, -1, -1, -1)
    independent = float(baseline.log_prob(params, test).mean())
    found = vae.log_likelihood(digits.test, samples=200)
    assert found.mean > independent + 20
    assert abs(vae.score(digits.test) - found.mean) < 1


def test_counts_without_a_bound_are_drawn_as_whole_numbers_that_hold_them():
    x = np.random.default_rng(0).integers(104, 128, (200, 3)).astype(np.int8)
    vae = lb.VAE(1, likelihood="RoundedLogistic", epochs=3, random_state=0).fit(x)
    drawn = vae.sample(500)
    assert drawn.dtype == np.int64
    assert drawn.min() > 0
    assert drawn.max() > 127, "beyond the type that the data came in"


def test_each_row_has_the_draws_that_it_needs_unless_their_number_is_told(vae, digits):
    x = digits.test[:60]
    found, plain = vae.log_likelihood(x), vae.log_likelihood(x, samples=1000)
    assert (plain.samples == 1000).all()
    assert not plain.fitted.any()
    assert (~found.reliable).sum() <= 3 < (~plain.reliable).sum()
    assert found.mean_monte_carlo_error < plain.mean_monte_carlo_error
    assert 0 < found.mean - plain.mean < 1, "unreliable estimates are low"
    judged = vae.evidence(x, anneal=0, simulate=0, gaps=0, simulations=0)
    np.testing.assert_array_equal(found.estimate, judged.importance.estimate)


def held_out(vae: lb.VAE, x: np.ndarray) -> np.ndarray:
    """The rows that a fit of ``x`` did not train on."""
    numbers = lb.data.Rows(torch.arange(len(x)).double().unsqueeze(1), dtype=torch.float64)
    return x[split(numbers, vae._settings()["validation"], vae.seed_)[1].x.flatten().long().numpy()]


def test_what_is_scored_is_the_bound_that_was_trained(digits):
    """The ELBO of the held-out rows, of one draw each in the record, and of 200 in what is scored."""
    vae = lb.VAE(latent_dim=4, max_value=16, beta=0.5, free_bits=0.1, warm_up=2, **QUICK).fit(digits.train)
    assert not vae.objective_is_bound
    rows = held_out(vae, digits.train)
    found = vae.log_likelihood(rows, samples=200)
    record = vae.history_.records[vae.history_.best_epoch - 1]
    elbo = record["valid_log_lik"] - record["valid_kl"]
    single = [vae.log_likelihood(rows, samples=2, seed=seed).mean_elbo for seed in range(20)]
    error = math.sqrt(2) * np.std(single)  # of one draw each
    assert error < 0.3
    assert elbo == pytest.approx(found.mean_elbo, abs=4 * error)
    assert record["valid_objective"] > elbo + 12 * error, "β = 0.5 charges half of the KL"
    charged = found.mean_elbo + 0.5 * vae.kl(rows).sum(1).mean()
    assert record["valid_objective"] == pytest.approx(charged, abs=4 * error + 0.4)  # 0.1 nats at most for each latent
    assert found.mean >= found.mean_elbo


def test_the_weight_of_the_kl_and_the_draws_reach_the_fit(digits):
    x = (digits.train[:300] > 8).astype(np.uint8)
    for beta, warm_up in ((2.0, 0), (0.25, 3), (0.25, 0)):
        vae = lb.VAE(3, beta=beta, warm_up=warm_up, **{**QUICK, "epochs": 5}).fit(x)
        for number, record in enumerate(vae.history_.records):
            now = beta * min(1, number / warm_up) if warm_up else beta
            assert record["beta"] == pytest.approx(now)
            due = record["valid_log_lik"] - beta * record["valid_kl"]
            assert record["valid_objective"] == pytest.approx(due, rel=1e-5)
    vae = lb.VAE(3, objective="iwae", draws=50, validation=0.5, **QUICK).fit(x)
    record, rows = vae.history_.records[vae.history_.best_epoch - 1], held_out(vae, x)
    many = vae.log_likelihood(rows, samples=50, seed=1)
    assert record["valid_objective"] == pytest.approx(many.mean, abs=0.1)
    assert many.mean - many.mean_elbo > 0.4, "a bound of one draw is another"


def test_the_same_seed_gives_the_same_bytes_and_leaves_global_generators_alone(digits):
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    runs = []
    for seed in (3, 3, 4, None):
        vae = lb.VAE(latent_dim=2, max_value=16, epochs=3, random_state=seed, binarise="afresh").fit(digits.train)
        runs.append((vae.transform(digits.test), vae.sample(4), vae.score_samples(digits.test[:9])))
        vae.log_likelihood(digits.test[:9], samples=5)
    for first, second in zip(runs[0], runs[1], strict=True):
        assert first.tobytes() == second.tobytes()
    assert runs[0][0].tobytes() != runs[2][0].tobytes()
    assert torch.equal(torch_before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_a_row_scores_the_same_alone_and_in_company(vae, digits):
    x, order = digits.test[:150], np.random.default_rng(0).permutation(150)
    whole = vae.score_samples(x)
    np.testing.assert_allclose(vae.score_samples(x[order]), whole[order], rtol=1e-5)
    np.testing.assert_allclose(vae.score_samples(x[:1]), whole[:1], rtol=1e-5)


# --- the likelihood that data ask for ---


@pytest.mark.parametrize(
    ("x", "name"),
    [
        (np.array([[True, False], [False, False]]), "Bernoulli"),
        (np.array([[0.0, 1.0], [1.0, 1.0]]), "Bernoulli"),
        (np.array([[0, 200], [13, 4]], dtype=np.uint8), "DiscretizedLogistic"),
        (np.array([[0, 3], [1, 9]]), "NegativeBinomial"),
        (np.array([[0.0, 3.0], [1.0, 9.0]]), "NegativeBinomial"),
        (np.array([[0, 3], [1, -9]]), "Normal"),
        (np.array([[0.5, 3.0], [1.0, 9.0]]), "Normal"),
    ],
)
def test_the_likelihood_follows_the_data(x, name):
    assert default_likelihood(x)[0] == name
    assert type(lb.VAE(latent_dim=1, epochs=1, validation=0).fit(x).model_.likelihood).__name__ == name


@pytest.mark.parametrize(
    "name", ["bernoulli", "normal", "Categorical", "discretized-logistic", "poisson", "negative_binomial"]
)
def test_every_likelihood_can_be_asked_for_by_name(name, digits):
    x = (digits.train > 8).astype(np.uint8)
    vae = lb.VAE(latent_dim=2, likelihood=name, **{**QUICK, "epochs": 2}).fit(x)
    assert np.isfinite(vae.score_samples(x[:5])).all()
    assert vae.sample(2).shape == (2, 8, 8)
    assert np.isfinite(vae.reconstruct(x[:5])).all()


def test_densities_are_in_the_units_of_the_data():
    """The same rows in other units: log p(x) of each row falls by the log of the Jacobian, and by nothing else."""
    x = load_wine().data
    units = np.geomspace(1e-2, 1e4, x.shape[1])
    jacobian = np.log(units).sum()
    assert jacobian > 25
    plain = lb.VAE(latent_dim=2, **QUICK).fit(x)
    for u, moved in ((units, jacobian), (1 / units, -jacobian), (np.full(len(units), 100.0), 13 * math.log(100))):
        other = lb.VAE(latent_dim=2, **QUICK).fit(x * u)
        np.testing.assert_allclose(plain.score_samples(x) - other.score_samples(x * u), moved, atol=0.1)
        assert plain.score(x) - other.score(x * u) == pytest.approx(moved, abs=0.02)
        np.testing.assert_allclose(other.reconstruct(x * u) / u, plain.reconstruct(x), rtol=1e-2)
    shifted = lb.VAE(latent_dim=2, **QUICK).fit(x + 100).score(x + 100)
    assert shifted == pytest.approx(plain.score(x), abs=0.1)


def test_counts_are_modelled_better_by_counts_than_by_their_independent_columns():
    random = np.random.default_rng(0)
    rate = np.exp(random.normal(size=(600, 1)) + random.normal(size=(1, 12)))
    x = random.poisson(rate)
    vae = lb.VAE(latent_dim=1, likelihood="poisson", epochs=150, hidden=(32,), random_state=0).fit(x[:500])
    log_factorial = np.array([[math.lgamma(v + 1) for v in row] for row in x[500:]])
    column = x[:500].mean(0)
    independent = (x[500:] * np.log(column) - column - log_factorial).sum(1).mean()
    exact_ceiling = (x[500:] * np.log(rate[500:]) - rate[500:] - log_factorial).sum(1).mean()
    assert independent + 5 < vae.log_likelihood(x[500:]).mean < exact_ceiling


def test_convolutions_and_images_with_channels(digits):
    for x in (digits.train[:200], np.stack([digits.train[:200]] * 3, 1)[:, :, :7]):
        vae = lb.VAE(latent_dim=2, network="conv", max_value=16, **{**QUICK, "epochs": 2}).fit(x)
        assert vae.reconstruct(x[:3]).shape == x[:3].shape
        assert vae.sample(3).shape == x[:3].shape


@pytest.mark.parametrize("binarise", ["fixed", "afresh"])
def test_grey_images_binarised(digits, binarise):
    vae = lb.VAE(latent_dim=4, max_value=16, binarise=binarise, **QUICK).fit(digits.train)
    assert type(vae.model_.likelihood).__name__ == "Bernoulli"
    assert set(np.unique(vae.sample(20))) <= {0, 1}
    assert vae.reconstruct(digits.test).max() <= 1
    assert vae.log_likelihood(digits.test, samples=50).mean > -40


def test_modules_of_ones_own(digits):
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    decoder = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Unflatten(1, (8, 8)))
    before = decoder[0].weight.clone()
    vae = lb.VAE(latent_dim=4, likelihood=Normal("scalar"), encoder=encoder, decoder=decoder, **QUICK)
    vae.fit(digits.train.astype(float))
    assert torch.equal(decoder[0].weight, before)  # what was passed in is copied
    assert not torch.equal(vae.model_.decoder[0].weight, before)
    with pytest.raises(ValueError, match="needs \\(6,\\)"):
        lb.VAE(latent_dim=3, encoder=encoder, **QUICK).fit(digits.train)


# --- in company of scikit-learn ---


def test_in_a_pipeline_and_a_grid_search():
    x, y = load_digits(return_X_y=True)
    likelihood = Normal("dimension", shape=(64,))
    pipeline = make_pipeline(
        lb.VAE(8, likelihood=likelihood, epochs=30, random_state=0), LogisticRegression(max_iter=2000)
    )
    assert pipeline.fit(x[:1200], y[:1200]).score(x[1200:], y[1200:]) > 0.7
    scaled = make_pipeline(StandardScaler(), lb.VAE(2, **QUICK))
    search = GridSearchCV(scaled, {"vae__latent_dim": [1, 6]}, cv=2).fit(load_wine().data)
    fitted, held_out = next(iter(KFold(2).split(load_wine().data)))
    by_hand = clone(scaled).set_params(vae__latent_dim=6).fit(load_wine().data[fitted])
    assert search.cv_results_["split0_test_score"][1] == by_hand.score(load_wine().data[held_out])


def test_set_output_and_feature_names():
    frame = pandas.DataFrame(load_wine().data, columns=load_wine().feature_names)
    for container, frames in ((frame, "pandas"), (polars.from_pandas(frame), "polars")):
        vae = lb.VAE(2, **{**QUICK, "epochs": 2}).set_output(transform=frames).fit(container)
        out = vae.transform(container)
        assert list(out.columns) == ["vae0", "vae1"]
        assert list(vae.feature_names_in_) == load_wine().feature_names
    with pytest.raises(ValueError, match="alcohol"):
        vae.transform(frame.rename(columns={"alcohol": "spirit"}))


def test_clone_keeps_parameters_and_drops_the_fit(vae):
    copied = clone(vae)
    assert copied.get_params()["max_value"] == 16
    with pytest.raises(NotFittedError):
        copied.transform(np.zeros((2, 8, 8)))


def test_partial_fit_goes_on_where_it_stood(digits):
    vae = lb.VAE(latent_dim=4, max_value=16, **QUICK)
    scores = []
    for _ in range(8):
        vae.partial_fit(digits.train[:700])
        vae.partial_fit(digits.train[700:])
        scores.append(vae.score(digits.test))
    assert scores[-1] > scores[0] + 10
    assert len(vae.history_.records) == 16
    whole = lb.VAE(latent_dim=4, max_value=16, **{**QUICK, "epochs": 8}).fit(digits.train)
    assert vae.score(digits.test) == pytest.approx(whole.score(digits.test), abs=6)


# --- bad input ---


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 70, np.inf, x), "row 5, column 5 is infinite"),
        (lambda x: x.astype(complex), "[Cc]omplex"),
        (lambda x: x[:0], "0 sample"),
        (lambda x: x.tolist()[0], "1D array"),
    ],
)
def test_bad_data_are_refused_with_the_place(spoil, words):
    x = load_wine().data
    with pytest.raises(ValueError, match=words):
        lb.VAE(2, **QUICK).fit(spoil(x))


def test_values_outside_the_support_are_refused():
    x = load_wine().data
    with pytest.raises(DataError, match=r"row 0, column 0 is .*14.23.*which Bernoulli cannot produce"):
        lb.VAE(2, likelihood="bernoulli", **QUICK).fit(x)
    vae = lb.VAE(2, likelihood="poisson", **{**QUICK, "epochs": 1}).fit(np.round(x))
    with pytest.raises(DataError, match="Poisson"):
        vae.score_samples(x)
    with pytest.raises(ValueError, match="did you mean 'Poisson'"):
        lb.VAE(2, likelihood="poison").fit(x)


def test_rows_of_another_shape_are_refused(vae):
    with pytest.raises(ValueError, match=r"rows have shape \(8, 7\)"):
        vae.transform(np.zeros((3, 8, 7)))
    with pytest.raises(ValueError, match="latent_dim=4"):
        vae.inverse_transform(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="n_samples"):
        vae.sample(0)


def test_a_fit_that_diverges_keeps_its_best_model(digits):
    vae = lb.VAE(latent_dim=2, max_value=16, learning_rate=1e25, **QUICK)
    with pytest.warns(RuntimeWarning, match="lowered the learning rate"), pytest.raises(DivergedError):
        vae.fit(digits.train)
    assert vae.history_.stopped == "diverged"
    assert np.isfinite(vae.transform(digits.test)).all()


# --- what was once wrong ---


def test_what_is_white_is_what_was_white_when_fitted(digits):
    vae = lb.VAE(latent_dim=3, binarise="afresh", max_value=None, **{**QUICK, "epochs": 3}).fit(digits.train * 15)
    x = digits.test[:30] * 15
    for same in (x.astype(float), x.astype(np.int64)):
        np.testing.assert_allclose(vae.score_samples(same), vae.score_samples(x), rtol=1e-6)
        np.testing.assert_allclose(vae.transform(same), vae.transform(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match=r"outside \[0, 255\]"):
        vae.transform(x.astype(float) * 2)


def test_partial_fit_follows_the_schedules(digits):
    vae = lb.VAE(latent_dim=3, max_value=16, warm_up=4, learning_rate=lb.training.Cosine(1e-3, 6), **QUICK)
    for _ in range(6):
        vae.partial_fit(digits.train[:200])
    records = vae.history_.records
    assert [record["beta"] for record in records] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["learning_rate"] == pytest.approx(lb.training.Cosine(1e-3, 6)(5))
    assert vae.history_.best_epoch == 6


def test_calls_of_partial_fit_meet_the_rows_in_different_orders(digits, monkeypatch):
    seen, original = [], lb.data.Rows.batch

    def spy(self, index, weight, generator=None):
        seen.append(index.tolist())
        return original(self, index, weight, generator)

    monkeypatch.setattr(lb.data.Rows, "batch", spy)
    vae = lb.VAE(latent_dim=3, max_value=16, **QUICK).partial_fit(digits.train[:100])
    first = seen[-1]
    vae.partial_fit(digits.train[:100])
    assert sorted(seen[-1]) == sorted(first)
    assert seen[-1] != first


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, ">i4", ">f8", np.longdouble, np.float16])
def test_numbers_of_every_type_can_be_fitted(kind):
    x = np.random.default_rng(0).integers(0, 9, (40, 3)).astype(kind)
    vae = lb.VAE(latent_dim=1, **{**QUICK, "epochs": 1}).fit(x[::-1])
    assert np.isfinite(vae.score_samples(x)).all()


def test_values_that_single_precision_blurs_are_refused():
    x = np.random.default_rng(0).normal(size=(50, 2)) + np.array([0, 1.7e9])
    with pytest.raises(DataError, match=r"column 1 varies by .* single precision"):
        lb.VAE(1, **QUICK).fit(x)
    far = np.random.default_rng(0).normal(size=(200, 2)) + np.array([0, 1e4])
    near = far - np.array([0, 1e4])
    scores = [lb.VAE(1, **QUICK).fit(part).score(part) for part in (far, near)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_a_constant_column_adds_no_made_up_precision():
    x = np.random.default_rng(0).normal(size=(1000, 3))
    plain = lb.VAE(1, **QUICK).fit(x).score(x)
    x = np.column_stack([x, np.full(1000, 0.1)])
    fixed = lb.VAE(1, **QUICK).fit(x).score(x)
    assert fixed - plain < -math.log(1e-3)  # no more than the floor on the scale allows


def test_an_objective_can_be_a_function_and_free_bits_need_the_elbo(digits):
    lb.VAE(2, objective=lb.objectives.iwae, draws=3, max_value=16, **{**QUICK, "epochs": 1}).fit(digits.train[:100])
    with pytest.raises(ValueError, match="free_bits"):
        lb.VAE(2, objective="iwae", free_bits=0.5).fit(digits.train[:100])


def test_a_refused_fit_leaves_the_fitted_model(vae, digits):
    before = vae.transform(digits.test)
    with pytest.raises(DataError):
        vae.fit(np.full((5, 3), np.nan))
    assert vae.shape_ == (8, 8)
    vae.n_features_in_ = 8
    np.testing.assert_array_equal(vae.transform(digits.test), before)


def test_a_few_rows_are_enough():
    x = np.random.default_rng(0).normal(size=(2, 3))
    for share in (0.1, 0.5, 0.75):
        assert np.isfinite(lb.VAE(1, validation=share, **QUICK).fit(x).score(x))
