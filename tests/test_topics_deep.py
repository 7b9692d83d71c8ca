"""Deep LDA: kernels against exact laws, local inference, learners through ``fit``, links, bad input, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln

import lowerbound as lb
from lowerbound.data import Counts
from lowerbound.errors import DataError
from lowerbound.process import seeded
from lowerbound.topics import SCIR, SGRLD, TLASGR, TLFSGR, Csr, DeepLDAModel, UpwardDownwardGibbs, perplexity
from lowerbound.topics.deep_lda import Globals
from lowerbound.topics.kernels import gamma_poisson, gamma_poisson_numba, kernel, random_numba
from lowerbound.topics.links import Amount, Occurrence, log_likelihood

KERNELS = pytest.mark.parametrize("kernels", [gamma_poisson, gamma_poisson_numba], ids=["numpy", "numba"])
SEED = np.array([1, 2, 3, 4])
FAST = {"burn_in": 2, "collected": 2}
LEARNERS = [TLASGR(**FAST), TLFSGR(**FAST), SGRLD(**FAST), SCIR(**FAST), UpwardDownwardGibbs(**FAST)]
IDS = [type(learner).__name__ for learner in LEARNERS]


def model_of(n_words: int, layers: tuple[int, ...], **settings: Any) -> DeepLDAModel:
    with seeded(0):
        return DeepLDAModel(n_words, layers, **{"burn_in": 10, "collected": 10, **settings})


def corpus(documents: int, n_words: int = 12, seed: int = 0) -> Counts:
    """Documents of two groups that have different words; one is empty."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(n_words, 0.2), 2)
    x = rng.poisson(20 * topics[rng.integers(0, 2, documents)])
    x[0] = 0
    return Counts.from_sparse(x)


def rows_of(x: np.ndarray) -> Csr:
    return Counts.from_sparse(x).csr


@KERNELS
@pytest.mark.parametrize("topics", [3, 8, 21])
@pytest.mark.parametrize("count", [2, 50_000])
def test_a_split_is_multinomial(kernels, topics: int, count: int) -> None:
    rng, rows = np.random.default_rng(0), 4000
    phi, theta = rng.dirichlet(np.ones(2), topics).T.astype(np.float32), rng.gamma(1.0, size=topics)
    x = Csr(np.arange(rows + 1), np.ones(rows, np.int32), np.full(rows, float(count)))
    n = np.zeros((2, topics))
    m = kernels.split(x, phi, np.tile(theta, (rows, 1)), kernels.streams(SEED, rows), n)
    p = phi[1] * theta / (phi[1] @ theta)
    assert (m.sum(1) == count).all()
    assert n[1] == pytest.approx(m.sum(0))
    assert not n[0].any()
    z = (m.mean(0) - count * p) / np.sqrt(count * p * (1 - p) / rows)
    assert np.abs(z).max() < 4
    assert m.var(0) == pytest.approx(count * p * (1 - p), rel=0.15, abs=0.01)


@KERNELS
@pytest.mark.parametrize(
    ("customers", "shape"), [(1, 0.3), (6, 0.3), (6, 20.0), (3000, 9.0), (3000, 20.0), (1_000_000, 0.05)]
)
def test_the_number_of_tables(kernels, customers: int, shape: float) -> None:
    rows = 20_000 if customers < 1000 or shape < 1 else 4000
    found = kernels.crt(np.full((rows, 1), float(customers)), np.full((rows, 1), shape), kernels.streams(SEED, rows))
    p = shape / (shape + np.arange(customers))
    exact, variance = p.sum(), (p * (1 - p)).sum()
    assert abs(found.mean() - exact) <= 4 * np.sqrt(variance / rows)
    assert found.var() == pytest.approx(variance, rel=5 / np.sqrt(rows) * 3)


@KERNELS
@pytest.mark.parametrize("shape", [0.02, 0.7, 1.0, 30.0])
def test_gamma_numbers(kernels, shape: float) -> None:
    drawn = kernels.gammas(np.full((20_000, 1), shape), kernels.streams(SEED, 20_000)).ravel()
    assert stats.kstest(drawn, stats.gamma(shape).cdf).pvalue > 1e-3
    assert stats.kstest(1.05 * drawn, stats.gamma(shape).cdf).pvalue < 1e-3 or shape < 1


def chi_square(drawn: np.ndarray, p: np.ndarray) -> float:
    """The p-value of whole numbers from 0 on, the rare ones taken together."""
    expected = p * len(drawn)
    common = expected > 10
    counts = np.bincount(drawn.astype(int), minlength=len(p))[: len(p)]
    found, due = np.append(counts[common], len(drawn) - counts[common].sum()), expected[common]
    due = np.append(due, len(drawn) - due.sum())
    return float(stats.chi2.sf(((found - due) ** 2 / np.maximum(due, 1e-9))[due > 1].sum(), (due > 1).sum() - 1))


@pytest.mark.parametrize(("n", "p"), [(10, 0.3), (500, 0.01), (1000, 0.6)])
def test_binomial_numbers(n: int, p: float) -> None:
    stream = gamma_poisson_numba.streams(SEED, 1)[0]
    drawn = np.array([random_numba.binomial(n, p, stream) for _ in range(10_000)])
    assert chi_square(drawn, stats.binom(n, p).pmf(np.arange(n + 1))) > 1e-3


def words(rows: int) -> Csr:
    return Csr(np.arange(rows + 1), np.zeros(rows, np.int32), np.ones(rows))


@KERNELS
@pytest.mark.parametrize("rate", [1e-3, 0.8, 60.0])
def test_poisson_numbers_that_are_not_0(kernels, rate: float) -> None:
    drawn = kernels.at_least_one(words(20_000), np.full(20_000, rate), kernels.streams(SEED, 20_000))
    p = stats.poisson(rate).pmf(np.arange(200)) / -np.expm1(-rate)
    assert drawn.min() >= 1
    assert chi_square(drawn, np.where(np.arange(200) > 0, p, 0)) > 1e-3


@KERNELS
@pytest.mark.parametrize("z", [0.01, 0.5, 30.0, 5000.0])
def test_latent_counts_of_amounts(kernels, z: float) -> None:
    drawn = kernels.bessels(words(20_000), np.full(20_000, z), kernels.streams(SEED, 20_000))
    x = np.arange(1, 400)
    log_p = x * np.log(z) - gammaln(x + 1) - gammaln(x)
    p = np.exp(log_p - log_p.max())
    assert chi_square(drawn, np.append(0, p / p.sum())) > 1e-3


@pytest.mark.parametrize("rate", [0.01, 0.7, 5.0])
def test_links_are_distributions(rate: float) -> None:
    params = torch.full((1, 1, 1, 1), rate, dtype=torch.float64).log()

    def density(link, value: float) -> float:
        return float(link.log_prob_per_value(params, torch.tensor([[value]], dtype=torch.float64)).exp())

    assert density(Occurrence(), 0) + density(Occurrence(), 1) == pytest.approx(1)
    inside = quad(lambda y: density(Amount(), y), 1e-12, 60)[0]
    assert density(Amount(), 0) + inside == pytest.approx(1, abs=1e-6)


@KERNELS
def test_log_likelihood_is_that_of_all_words(kernels) -> None:
    x = np.array([[3, 0, 1], [0, 0, 0], [0, 7, 0]])
    phi, theta = np.array([[0.2, 0.5], [0.3, 0.4], [0.5, 0.1]]), np.array([[1.0, 2], [0.5, 0.1], [3, 3]])
    exact = stats.poisson(theta @ phi.T).logpmf(x).sum(1)
    assert log_likelihood(lb.likelihoods.Poisson(), rows_of(x), phi, theta, kernels) == pytest.approx(exact)


@pytest.mark.parametrize("kind", ["numpy", "numba"])
@pytest.mark.parametrize("link", ["counts", "binary", "positive"])
def test_a_document_does_not_depend_on_its_neighbours(monkeypatch: pytest.MonkeyPatch, kind: str, link: str) -> None:
    monkeypatch.setattr("lowerbound.topics.kernels.KERNELS", kind)
    model = model_of(12, (5, 3), link=link)
    x = corpus(6).csr
    x = Csr(x.indptr, x.indices, np.ones_like(x.counts)) if link == "binary" else x
    theta = model.transform(x, 3)
    assert theta.sum(1) == pytest.approx(1)
    assert theta[0] == pytest.approx(model.weights().numpy())  # of an empty document: the prior's
    order = np.array([4, 2])
    assert (model.transform(x.take(order), 3) == theta[order]).all()
    assert (model.transform(x, 4)[1:] != theta[1:]).any()


def posterior_mean(phi: np.ndarray, x: np.ndarray, r: np.ndarray) -> np.ndarray:
    """E[θ | x] / Σ for one layer with c = 1 by importance sampling, ``[K]``."""
    rng = np.random.default_rng(0)
    theta = rng.gamma(r, size=(400_000, len(r))) / 1.0
    log_w = stats.poisson(theta @ phi.T).logpmf(x).sum(1)
    w = np.exp(log_w - log_w.max())
    mean = w @ theta / w.sum()
    return mean / mean.sum()


@pytest.mark.parametrize("kind", ["numpy", "numba"])
def test_local_inference_has_the_posterior_mean(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("lowerbound.topics.kernels.KERNELS", kind)
    phi, r, x = np.array([[0.7, 0.1], [0.2, 0.3], [0.1, 0.6]]), np.array([1.0, 2.0]), np.array([2, 1, 3])
    model = model_of(3, (2,), a0=1e7, b0=1e7)  # p = ½, so c = 1
    model.phi_1.copy_(torch.from_numpy(phi))
    model.r.copy_(torch.from_numpy(r))
    streams = kernel("gamma_poisson").streams(SEED, 4000)
    theta = Globals.of(model).run(rows_of(np.tile(x, (4000, 1))), streams, 5, 15).theta[0].mean(0)
    assert theta / theta.sum() == pytest.approx(posterior_mean(phi, x, r), rel=0.01)


def test_minibatches_are_the_full_batch_on_average() -> None:
    model, rows = model_of(12, (4, 2)), corpus(30).as_sparse().csr
    common, kernels = Globals.of(model), gamma_poisson_numba

    def counts(part: Csr, seed: int) -> np.ndarray:
        n = [np.zeros(phi.shape) for phi in common.phi]
        common.run(part, kernels.streams(np.array([seed]), part.rows), 8, 2, n)
        return np.concatenate([one.ravel() for one in n])

    rng = np.random.default_rng(0)
    parts = [rng.choice(30, 6, replace=False) for _ in range(400)]
    small = np.array([counts(rows.take(part), seed) for seed, part in enumerate(parts)])
    full = np.array([counts(rows, seed) for seed in range(1000, 1080)])

    def z(small: np.ndarray) -> np.ndarray:
        error = np.sqrt(small.var(0) / len(small) + full.var(0) / len(full))
        return np.abs(small.mean(0) - full.mean(0))[error > 0] / error[error > 0]

    assert z(5 * small).max() < 4.5
    assert z(4.5 * small).max() > 4.5


def test_the_order_of_words_and_topics_changes_nothing_in_distribution() -> None:
    model, x = model_of(6, (4, 3), eta=0.5), np.array([[3, 1, 0, 0, 2, 0]])
    rng, copies = np.random.default_rng(0), 4000
    word, topic, top = rng.permutation(6), rng.permutation(4), rng.permutation(3)
    model.r.copy_(torch.tensor([0.5, 1.0, 2.0]))

    def theta(model: DeepLDAModel, x: np.ndarray, seed: int) -> np.ndarray:
        streams = gamma_poisson_numba.streams(np.array([seed]), copies)
        return Globals.of(model).run(rows_of(np.tile(x, (copies, 1))), streams, 8, 1).theta[0]

    before = theta(model, x, 1)[:, topic]
    model.phi_1.copy_(model.phi_1[word][:, topic])
    model.phi_2.copy_(model.phi_2[topic][:, top])
    model.r.copy_(model.r[top])
    after, wrong = (theta(model, x[:, order], 2) for order in (word, np.roll(word, 1)))
    assert min(stats.ks_2samp(before[:, k], after[:, k]).pvalue for k in range(4)) > 0.001
    assert min(stats.ks_2samp(before[:, k], wrong[:, k]).pvalue for k in range(4)) < 0.001


@pytest.mark.parametrize("learner", LEARNERS, ids=IDS)
def test_learners_find_the_topics_of_a_corpus(learner) -> None:
    rows = corpus(200)
    model = model_of(12, (6, 3))
    fitted = lb.fit(model, rows, learner, epochs=25, batch_size=50, validation=0, seed=1)
    objective = [record["train_objective"] for record in fitted.history.records]
    assert objective[-1] > objective[0] + 1
    for phi in model.phi:
        assert phi.sum(0).numpy() == pytest.approx(1, abs=1e-5)
    assert model.topics(2).sum(1).numpy() == pytest.approx(1, abs=1e-5)
    group = model.transform(rows.csr, 0)[1:] @ model.topics().numpy()
    dense = rows.batch(torch.arange(1, 200), torch.ones(199)).x.numpy()
    assert np.corrcoef(group.ravel(), (dense / dense.sum(1, keepdims=True)).ravel())[0, 1] > 0.8


@pytest.mark.parametrize(("link", "scale"), [("binary", None), ("positive", 0.7)])
@pytest.mark.parametrize("learner", [TLASGR(**FAST), UpwardDownwardGibbs(**FAST)], ids=["TLASGR", "Gibbs"])
def test_links_are_learnt(link: str, scale: float | None, learner) -> None:
    rows = corpus(60)
    values = np.ones_like(rows.csr.counts) if scale is None else scale * rows.csr.counts
    rows = Counts(rows.csr.indptr, rows.csr.indices, values, 12)
    fitted = lb.fit(model_of(12, (4,), link=link), rows, learner, epochs=20, batch_size=20, validation=0)
    objective = [record["train_objective"] for record in fitted.history.records]
    assert objective[-1] > objective[0]
    with pytest.raises(NotImplementedError, match="held out by their tokens"):
        lb.fit(model_of(12, (4,), link=link), rows, learner, epochs=1, validation=0.2)


def test_values_and_words_that_the_model_has_not_are_refused_by_transform() -> None:
    model, empty = model_of(3, (2,)), np.zeros((1, 3))
    for x, message in ((np.array([[0, 0.5, 1]]), "document 1 has the value 0.5"), (np.ones((1, 4)), "the word 3")):
        with pytest.raises(DataError, match=message):
            model.transform(rows_of(np.concatenate([empty[:, : x.shape[1]], x]) if x.shape[1] == 3 else x), 0)


def test_perplexity_is_that_of_the_words_given_the_others() -> None:
    rows = corpus(200)
    model = model_of(12, (4, 2))
    before = perplexity(model, rows.csr, rows.csr, seed=0)
    lb.fit(model, rows, TLASGR(**FAST), epochs=10, batch_size=50, validation=0)
    assert perplexity(model, rows.csr, rows.csr, seed=0) < before - 1


@pytest.mark.parametrize(
    ("link", "x"), [("counts", [[0.5, 1]]), ("binary", [[2, 1]])], ids=["fraction", "two in binary data"]
)
def test_values_that_a_link_has_not_are_refused(link: str, x: list[list[float]]) -> None:
    with pytest.raises(DataError, match="document 0, word 0"):
        lb.fit(model_of(2, (2,), link=link), np.array(x), TLASGR(), epochs=1, validation=0)


@pytest.mark.parametrize("learner", LEARNERS, ids=IDS)
def test_extreme_corpora(learner) -> None:
    for x in ([[1_000_000, 0, 3]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 0]]):
        model = model_of(3, (5, 5, 2))  # more topics than words
        lb.fit(model, np.array(x, np.float32), learner, epochs=5, batch_size=2, validation=0)
        assert all(bool(value.isfinite().all()) for value in model.buffers())
        assert model.transform(rows_of(np.array(x)), 0).sum(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (3, 4)}, "grows upwards"),
        ({"layers": ()}, "at least 1"),
        ({"layers": (0,)}, "at least 1"),
        ({"eta": 0.0}, "eta must be"),
        ({"link": "gaussian"}, "link must be one of"),
        ({"collected": 0}, "collected at least 1"),
    ],
)
def test_settings_of_the_model_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLDAModel(**{"n_words": 5, "layers": (3,), **settings})


def test_settings_of_learners_and_vocabularies_are_checked() -> None:
    for wrong in ({"rate": 0.0}, {"collected": 0}):
        with pytest.raises(ValueError, match="must be"):
            TLASGR(**wrong)
    with pytest.raises(DataError, match="n_words = 5"):
        lb.fit(model_of(5, (2,)), corpus(4), TLASGR(), epochs=1, validation=0)


@pytest.mark.parametrize("learner", LEARNERS, ids=IDS)
def test_a_step_needs_little_more_memory_than_its_counts(learner) -> None:
    """Φ (in the model, not counted here), 2 copies for counts in double precision, and at most 1 more."""
    model, rows = model_of(20_000, (64,)), corpus(20, 20_000).as_sparse()
    procedure = learner.start(model, rows)
    batch, noise = rows.batch(torch.arange(20), torch.full((20,), 0.05)), procedure.noise(20, torch.Generator())
    for _ in range(2):
        tracemalloc.start()
        procedure.step(procedure.state, batch, noise, {})
        if isinstance(learner, UpwardDownwardGibbs):
            procedure.epoch_end(procedure.state)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3 * model.phi_1.numel() * 4


def test_counts_of_a_minibatch_stand_for_all_documents() -> None:
    rows = corpus(40).as_sparse()
    procedure = TLASGR(**FAST).start(model_of(12, (4, 2)), rows)
    batch = rows.batch(torch.arange(10), torch.full((10,), 0.1))
    procedure.step(procedure.state, batch, procedure.noise(10, torch.Generator()), {})
    assert procedure.past.mass(0).sum() == pytest.approx(4 * rows.csr.take(np.arange(10)).counts.sum())
    assert procedure.past.mass(1).sum() < procedure.past.mass(0).sum()
