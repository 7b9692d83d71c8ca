"""Variational Bayes of LDA against scikit-learn and exact evidence; perplexity and coherence against their formulas."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy.special import gammaln, psi
from sklearn.decomposition import LatentDirichletAllocation

import lowerbound as lb
from lowerbound.errors import DataError
from lowerbound.topics import BatchVB, Csr, DeepLDAModel, LDAModel, OnlineVB, dirichlet, kernels
from lowerbound.topics.coherence import diversity, npmi, top_words
from lowerbound.topics.kernels import variational, variational_numba
from lowerbound.topics.lda import infer
from lowerbound.topics.perplexity import perplexity
from lowerbound.topics.steps import on_cpu

DOCUMENTS, WORDS, TOPICS = 53, 30, 4


def counts(documents: int = DOCUMENTS, words: int = WORDS, seed: int = 0) -> np.ndarray:
    """Counts of documents that mix three topics; the second document is empty."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.dirichlet([0.2] * 3, documents) @ rng.dirichlet([0.1] * words, 3) * 40)
    x[1] = 0
    return x


def csr(x: np.ndarray) -> Csr:
    return lb.data.Counts.from_sparse(x).csr


def fit(model: LDAModel, x: np.ndarray, inference, **settings) -> list[float]:
    settings = {"epochs": 5, "batch_size": 10, "validation": 0} | settings
    history = lb.fit(model, lb.data.Counts.from_sparse(x), inference, **settings).history
    return [record["train_objective"] for record in history.records]


@pytest.fixture(params=["numpy", "numba"])
def either_kernel(request, monkeypatch):
    monkeypatch.setattr(kernels, "KERNELS", request.param)


# --- kernels ---


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-5)])
@pytest.mark.parametrize("alpha", [0.01, 0.7])
def test_compiled_kernel_has_the_results_of_numpy(kind, tolerance, alpha):
    rng = np.random.default_rng(1)
    documents, weights = csr(counts()), rng.gamma(1, 1, (TOPICS, WORDS)).astype(kind)
    start, found = rng.gamma(100, 0.01, (DOCUMENTS, TOPICS)), []
    for run in (variational, variational_numba):
        topics = run.exp_log_topics(weights, np.arange(WORDS), weights.sum(1, dtype=np.float64))
        gamma, totals = start.astype(kind), np.zeros_like(topics)
        arrays = (documents.indptr, documents.indices, documents.counts.astype(kind))
        shapes = np.full(TOPICS, alpha, kind)
        found.append((run.infer(*arrays, topics, shapes, gamma, totals, 1e-3, 100), topics, gamma, totals))
    for ours, due in zip(*found, strict=True):
        np.testing.assert_allclose(ours, due, rtol=tolerance, atol=tolerance * np.abs(due).max())


def test_series_of_exp_digamma():
    x = np.geomspace(0.025, 1e7, 200)
    found = [variational_numba.exp_digamma(value) for value in x]
    np.testing.assert_allclose(found, np.exp(psi(x)), rtol=1e-8)
    assert variational_numba.exp_digamma(0.02) == variational_numba.FLOOR > math.exp(psi(0.0243))


# --- scikit-learn ---


@pytest.mark.usefixtures("either_kernel")
@pytest.mark.parametrize("alpha", [0.1, 0.02])
def test_online_vb_has_scikit_learns_topics(alpha):
    x, batch, passes = counts().astype(float), 20, 3
    peer = LatentDirichletAllocation(
        TOPICS, doc_topic_prior=alpha, topic_word_prior=0.3, total_samples=DOCUMENTS, batch_size=batch, random_state=0
    )
    random = np.random.RandomState(0)  # as scikit-learn draws its starts
    model = LDAModel(WORDS, TOPICS, alpha, 0.3).double()
    model.word_weights.copy_(torch.from_numpy(random.gamma(100, 0.01, (TOPICS, WORDS))))
    procedure = OnlineVB(delay=11).start(model, lb.data.Counts.from_sparse(x))  # scikit-learn counts steps from 1
    for _ in range(passes):
        peer.partial_fit(x)
        for rows in np.split(x, range(batch, DOCUMENTS, batch)):
            procedure.update(csr(rows), random.gamma(100, 0.01, (len(rows), TOPICS)), torch.arange(len(rows)))
        np.testing.assert_allclose(model.word_weights, peer.components_, rtol=1e-5)
    np.testing.assert_allclose(model.transform(csr(x)), peer.transform(x), rtol=1e-5)


@pytest.mark.usefixtures("either_kernel")
def test_batch_vb_has_scikit_learns_topics_and_bound():
    x, passes = counts().astype(float), 4
    peer = LatentDirichletAllocation(TOPICS, max_iter=passes, random_state=0).fit(x)
    random = np.random.RandomState(0)
    model = LDAModel(WORDS, TOPICS).double()
    model.word_weights.copy_(torch.from_numpy(random.gamma(100, 0.01, (TOPICS, WORDS))))
    procedure = BatchVB().start(model, lb.data.Counts.from_sparse(x))
    for _ in range(passes):
        start = random.gamma(100, 0.01, (DOCUMENTS, TOPICS))
        for index in torch.arange(DOCUMENTS).split(20):  # sums do not depend on the batches
            procedure.update(csr(x[index]), start[index], index)
        procedure.epoch_end(procedure.state)
    np.testing.assert_allclose(model.word_weights, peer.components_, rtol=1e-5)
    found = infer(model, csr(x))
    bound = found.bound.sum() - dirichlet.kl(model.word_weights.numpy(), 1 / TOPICS)
    due = peer._approx_bound(x, found.gamma, False)
    np.testing.assert_allclose(bound, due, rtol=1e-7)
    np.testing.assert_allclose(
        (model.bound(csr(x)) - found.bound)[0], gammaln(x[0].sum() + 1) - gammaln(x[0] + 1).sum()
    )


# --- the bound ---


@pytest.mark.parametrize("learn", [False, True])
def test_bound_never_falls_with_warm_starts(learn):
    torch.manual_seed(0)
    model = LDAModel(WORDS, TOPICS).double()
    inference = BatchVB(warm=True, learn_alpha=learn, learn_eta=learn)
    bounds = fit(model, counts(), inference, epochs=60)
    assert min(np.diff(bounds)) > -1e-10 * abs(bounds[0])
    assert bounds[-1] > bounds[0] + 10
    assert (model.alpha.unique().numel() > 1) is learn


def test_learnt_priors_raise_the_bound():
    bounds = []
    for learn in (False, True):
        torch.manual_seed(0)
        inference = BatchVB(warm=True, learn_alpha=learn, learn_eta=learn)
        bounds.append(fit(LDAModel(WORDS, TOPICS, 5.0, 3.0), counts(), inference, epochs=20)[-1])
    assert bounds[1] > bounds[0] + 5


def log_evidence(document: list[int], words: int, alpha: np.ndarray, eta: float) -> float:
    """log p of the counts of one document, by the sum over all assignments of its tokens to topics."""
    found = []
    for z in itertools.product(range(len(alpha)), repeat=len(document)):
        n_k = np.bincount(z, minlength=len(alpha))
        n_kw = np.zeros((len(alpha), words))
        np.add.at(n_kw, (list(z), document), 1)
        log_p = (gammaln(n_k + alpha) - gammaln(alpha)).sum() + gammaln(alpha.sum())
        log_p += (gammaln(n_kw + eta) - gammaln(eta)).sum() - gammaln(alpha.sum() + len(document))
        found.append(log_p + (gammaln(words * eta) - gammaln(words * eta + n_k)).sum())
    tokens = np.bincount(document, minlength=words)
    return float(np.logaddexp.reduce(found) + gammaln(len(document) + 1) - gammaln(tokens + 1).sum())


@pytest.mark.parametrize("document", [[0, 0, 1, 2], [0, 0, 0, 0, 0, 1], [2]])
def test_bound_is_below_the_evidence_of_one_document(document):
    alpha, eta = np.array([0.4, 1.3]), 0.6
    model = LDAModel(3, 2, alpha.tolist(), eta).double()
    x = np.bincount(document, minlength=3)[None]
    bound = fit(model, x, BatchVB(warm=True, tolerance=0.0), epochs=50)[-1]
    evidence = log_evidence(document, 3, alpha, eta)
    assert evidence - 1 < bound < evidence


def test_held_out_documents_have_the_bound_of_the_model():
    model, x = LDAModel(WORDS, TOPICS).double(), counts()
    held = lb.data.Counts.from_sparse(counts(7, seed=1))
    history = lb.fit(model, lb.data.Counts.from_sparse(x), OnlineVB(), epochs=1, batch_size=3, validation=held).history
    due = model.bound(held.csr).mean() - dirichlet.kl(model.word_weights.numpy(), 1 / TOPICS) / DOCUMENTS
    np.testing.assert_allclose(history.records[-1]["valid_objective"], due, rtol=1e-9)


# --- priors ---


def test_kl_of_dirichlets():
    rng = np.random.default_rng(0)
    weights, prior = rng.gamma(1, 1, (3, 5)), np.full((3, 5), 0.4)
    q, p = (torch.distributions.Dirichlet(torch.from_numpy(each)) for each in (weights, prior))
    np.testing.assert_allclose(dirichlet.kl(weights, 0.4), torch.distributions.kl_divergence(q, p).sum())


def test_learnt_dirichlets_are_the_most_likely():
    due = np.array([0.05, 0.4, 3.0])
    logs = psi(due) - psi(due.sum())
    np.testing.assert_allclose(dirichlet.of_logs(np.ones(3), logs, 10_000), due, rtol=1e-3)
    found = dirichlet.of_symmetric_logs(1.0, 40, psi(0.07) - psi(40 * 0.07), 10_000)
    np.testing.assert_allclose(found, 0.07, rtol=1e-3)


def test_online_vb_learns_an_uneven_alpha():
    rng = np.random.default_rng(0)
    alpha, beta = np.array([2.0, 0.2, 0.2]), np.kron(np.eye(3), np.full((1, 5), 0.2))
    x = np.stack([rng.multinomial(100, theta @ beta) for theta in rng.dirichlet(alpha, 400)])
    torch.manual_seed(1)
    model = LDAModel(15, 3, 0.3, 0.1)
    fit(model, x, OnlineVB(learn_alpha=True), epochs=20, batch_size=50)
    largest = int(model.alpha.argmax())
    assert int(model.topics()[largest].argmax()) < 5  # of the first topic
    gamma = infer(model, csr(x)).gamma
    logs = (psi(gamma) - psi(gamma.sum(1, keepdims=True))).mean(0)
    np.testing.assert_allclose(model.alpha, dirichlet.of_logs(np.ones(3), logs), rtol=0.1)  # a running mean lags
    assert float(model.alpha[largest]) > 5 * float(model.alpha.median())


# --- the model ---


def test_shares_of_topics_do_not_depend_on_other_documents():
    model, x = LDAModel(WORDS, TOPICS, [0.1, 0.2, 0.3, 0.4]), counts()
    fit(model, x, OnlineVB())
    theta = model.transform(csr(x))
    np.testing.assert_allclose(theta.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(model.transform(csr(x[5:9])), theta[5:9])
    np.testing.assert_allclose(theta[1], [0.1, 0.2, 0.3, 0.4], rtol=1e-5)  # an empty document: the prior
    np.testing.assert_allclose(model.topics().sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(model.word_probabilities(torch.from_numpy(theta)).sum(1), 1, rtol=1e-5)


def test_padding_of_the_last_batch_adds_nothing():
    model, x = LDAModel(WORDS, TOPICS), counts()
    fit(model, x, BatchVB(), epochs=1, batch_size=20)
    np.testing.assert_allclose((model.word_weights - model.eta).sum(), x.sum(), rtol=1e-5)


def test_counts_may_be_fractions_and_large():
    x = counts() * 1e6 + 0.5 * (counts() > 0)
    model = LDAModel(WORDS, TOPICS)
    bounds = fit(model, x, OnlineVB())
    assert np.isfinite(bounds).all()
    assert bool(model.word_weights.isfinite().all())


def test_more_topics_than_words_and_one_document():
    model = LDAModel(3, 10)
    assert np.isfinite(fit(model, np.array([[2, 0, 1]]), OnlineVB())).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LDAModel(0, 2), "n_words and n_topics must be at least 1, got 0 and 2."),
        (lambda: LDAModel(3, 2, -1.0), "alpha must be a number above 0"),
        (lambda: LDAModel(3, 2, [0.1] * 3), "alpha must be a number above 0, or 2 of them"),
        (lambda: LDAModel(3, 2, eta=0.0), "eta must be above 0, got 0.0."),
        (lambda: OnlineVB(forgetting=0.5), "forgetting must be above 0.5"),
        (lambda: OnlineVB(delay=0), "delay must be at least 1"),
        (lambda: BatchVB(iterations=0), "iterations at least 1"),
        (lambda: fit(LDAModel(7, 2), counts(), OnlineVB()), "the model has n_words = 7"),
        (lambda: LDAModel(7, 2).transform(csr(counts())), "the model knows 7 words"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_a_model_on_another_device_is_refused():
    with pytest.raises(ValueError, match="on the CPU, and this one is on meta"):
        on_cpu(torch.zeros(1, device="meta"))


# --- perplexity and coherence ---


def test_perplexity_of_known_topics():
    model = LDAModel(4, 2, 1e-3)
    model.word_weights.copy_(torch.tensor([[50, 50, 1e-3, 1e-3], [1e-3, 1e-3, 75, 25]]))
    seen, held = csr(np.array([[5, 5, 0, 0], [0, 0, 6, 2]])), csr(np.array([[1, 1, 0, 0], [0, 0, 0, 1]]))
    due = math.exp(-(2 * math.log(0.5) + math.log(0.25)) / 3)
    assert abs(perplexity(model, seen, held) / due - 1) < 1e-2
    model.word_weights.fill_(1)
    assert abs(perplexity(model, seen, held) - 4) < 1e-5  # a uniform guess


def test_perplexity_of_deep_lda():
    model = DeepLDAModel(4, (2,))
    model.phi[0].copy_(torch.tensor([[0.5, 0], [0.5, 0], [0, 0.75], [0, 0.25]]).clamp(min=1e-9))
    seen, held = csr(np.array([[90, 90, 0, 0], [0, 0, 90, 30]])), csr(np.array([[1, 1, 0, 0], [0, 0, 0, 1]]))
    due = math.exp(-(2 * math.log(0.5) + math.log(0.25)) / 3)
    assert abs(perplexity(model, seen, held) / due - 1) < 2e-2


def test_perplexity_refuses_parts_that_do_not_match():
    model, three = LDAModel(4, 2), csr(np.ones((3, 4)))
    with pytest.raises(DataError, match="seen has 2 documents and held 3"):
        perplexity(model, csr(np.ones((2, 4))), three)
    with pytest.raises(DataError, match="held has no words"):
        perplexity(model, three, csr(np.zeros((3, 4))))
    with pytest.raises(DataError, match="held has the word 4"):
        perplexity(model, three, csr(np.ones((3, 5))))


def test_npmi_of_pairs():
    documents = csr(np.array([[1, 1, 0, 0], [3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]))
    topics = np.array([[0.6, 0.4, 0, 0], [0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]])
    both = math.log(0.5 / (0.5 * 0.75)) / -math.log(0.5)
    np.testing.assert_allclose(npmi(topics, documents, 2), [both, -1, math.log(0.25 / (0.75 * 0.25)) / math.log(4)])
    assert npmi(np.array([[0.5, 0.5]]), csr(np.ones((3, 2))), 2) == 1  # in every document
    np.testing.assert_array_equal(top_words(topics, 2), [[0, 1], [0, 3], [1, 2]])
    assert diversity(topics, 2) == 4 / 6
