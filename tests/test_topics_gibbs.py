"""Collapsed Gibbs sampling of LDA against posteriors that are enumerated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import gammaln, psi

import lowerbound as lb
from lowerbound.errors import DataError
from lowerbound.topics import CollapsedGibbs, LDAModel, collapsed_gibbs
from lowerbound.topics.kernels.collapsed_numba import NONE, _choose, _weigh, sweep

ALPHA, ETA = np.array([0.5, 1.4], np.float32), 0.3
X = np.array([[2, 1, 0], [0, 1, 2]])  # six tokens of three words
TOKENS = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]])  # document and word of each
STATES = np.array(list(itertools.product(range(2), repeat=6)), np.int32)
CHAINS = 20_000


def posterior(alpha: np.ndarray = ALPHA, eta: float = ETA) -> np.ndarray:
    """p(z|w) of each state."""
    found = []
    for z in STATES:
        n_dk, n_kw = np.zeros((2, 2)), np.zeros((2, 3))
        np.add.at(n_dk, (TOKENS[0], z), 1)
        np.add.at(n_kw, (z, TOKENS[1]), 1)
        found.append(gammaln(n_dk + alpha).sum() + gammaln(n_kw + eta).sum() - gammaln(n_kw.sum(1) + 3 * eta).sum())
    p = np.exp(np.array(found) - max(found))
    return p / p.sum()


def run(z: np.ndarray, sweeps: int, seed: int, alpha: np.ndarray = ALPHA, eta: float = ETA) -> np.ndarray:
    """The states after some sweeps of independent chains, which begin at ``z [C, 6]``."""
    csr, z = lb.data.Counts.from_sparse(X).csr, z.copy()
    seeds = np.random.default_rng(seed).integers(2**63, size=(len(z), 4), dtype=np.uint64)
    starts, n_dk = np.array([0, 3]), np.empty((2, 2), np.int32)
    for chain, random in zip(z, seeds, strict=True):
        words = np.zeros((3, 2), np.int32)
        there = chain != NONE
        np.add.at(words, (TOKENS[1][there], chain[there]), 1)
        totals = words.sum(0, dtype=np.int64)
        for _ in range(sweeps):
            sweep(csr.indptr, csr.indices, csr.counts, starts, chain, words, totals, alpha, eta, random, n_dk)
        assert (words.sum(1) == X.sum(0)).all()
        assert (totals == words.sum(0)).all()
    return z


def p_value(z: np.ndarray) -> float:
    """Of χ² of the states of independent chains under the exact posterior."""
    found = np.bincount(z @ (2 ** np.arange(5, -1, -1)), minlength=64)
    return float(scipy.stats.chisquare(found, posterior() * len(z)).pvalue)


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return STATES[np.random.default_rng(0).choice(64, CHAINS, p=posterior())]


def test_a_sweep_keeps_the_exact_posterior(exact):
    assert p_value(exact) > 0.01
    assert p_value(run(exact, 1, 1)) > 0.01


def test_sweeps_reach_the_exact_posterior():
    assert p_value(run(np.full((CHAINS, 6), NONE, np.int32), 1, 2)) < 1e-6  # not yet
    assert p_value(run(np.full((CHAINS, 6), NONE, np.int32), 12, 2)) > 0.01


@pytest.mark.parametrize(
    ("alpha", "eta"), [(np.full(2, ALPHA.mean()), ETA), (ALPHA * np.float32(1.3), ETA), (ALPHA, ETA * 1.3)]
)
def test_other_priors_leave_the_exact_posterior(exact, alpha, eta):
    assert p_value(run(exact, 2, 3, alpha.astype(np.float32), eta)) < 1e-4


def test_objective_is_the_probability_of_each_word_given_the_others():
    csr = lb.data.Counts.from_sparse(X).csr
    words, z = X.sum(0)[:, None].astype(np.int32), np.zeros(6, np.int32)
    random, n_dk = np.arange(1, 5, dtype=np.uint64), np.empty((2, 1), np.int32)
    one = np.ones(1, np.float32)
    starts, totals = np.array([0, 3]), np.array([6])
    found = sweep(csr.indptr, csr.indices, csr.counts, starts, z, words, totals, one, ETA, random, n_dk)
    due = np.log((X.sum(0) - 1 + ETA) / (5 + 3 * ETA))
    np.testing.assert_allclose(found, X @ due, rtol=1e-6)


@pytest.mark.parametrize("topics", [3, 11, 50])
def test_each_topic_is_chosen_with_its_probability(topics):
    rng = np.random.default_rng(0)
    size, lanes = -(-topics // 8) * 8, np.empty(8, np.float32)
    alpha, row, inverse = (rng.gamma(1, 1, topics).astype(np.float32) for _ in range(3))
    mine = rng.integers(3, size=topics, dtype=np.int32)
    p = np.zeros(size, np.float32)
    _weigh(mine, alpha, row, np.float32(ETA), inverse, p, lanes)
    due = (mine + alpha) * (row + np.float32(ETA)) * inverse
    chosen = [_choose(p, lanes, u) for u in np.linspace(0, due.sum(), 20_001)[:-1]]
    np.testing.assert_allclose(np.bincount(chosen, minlength=topics) / 20_000, due / due.sum(), atol=2e-4)


def documents(count: int = 101) -> np.ndarray:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.2] * 3, count) @ rng.dirichlet([0.1] * 20, 3)
    x = rng.multinomial(rng.integers(20, 60, count), p)
    x[4] = 0
    return x


def test_fit_counts_each_token_once():
    x, model = documents(), LDAModel(20, 3, 0.1, 0.05)
    fit = lb.fit(model, lb.data.Counts.from_sparse(x), CollapsedGibbs(), epochs=3, batch_size=20, validation=0.2)
    assert {"train_objective", "valid_objective"} <= fit.history.records[-1].keys()
    n = (model.word_weights - 0.05).double()
    np.testing.assert_allclose(n, n.round(), atol=1e-4)
    lb.fit(model, lb.data.Counts.from_sparse(x), CollapsedGibbs(), epochs=3, batch_size=20, validation=0)
    np.testing.assert_allclose(model.word_weights.sum(0) - 3 * 0.05, x.sum(0), atol=1e-3)


def test_fit_finds_the_topics():
    rng = np.random.default_rng(0)
    beta = np.kron(np.eye(3), np.full((1, 5), 0.2))
    x = np.stack([rng.multinomial(30, p) for p in rng.dirichlet([0.3] * 3, 200) @ beta])
    model = LDAModel(15, 3, 0.3, 0.1)
    lb.fit(model, lb.data.Counts.from_sparse(x), CollapsedGibbs(), epochs=60, batch_size=64, validation=0)
    found = model.topics().numpy()
    order = found.argmax(1) // 5
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found, beta[order], atol=0.03)  # one sample: 3.3 standard deviations


def test_learnt_priors_take_minkas_step():
    x, model = documents(), LDAModel(20, 3, 0.1, 0.05).double()
    inference = CollapsedGibbs(learn_alpha=True, learn_eta=True)
    rows = lb.data.Counts.from_sparse(x).as_sparse().of_dtype(torch.float64)
    procedure = inference.start(model, rows)
    for index in torch.arange(101).split(30):
        batch = rows.batch(index, torch.full((len(index),), 1 / len(index), dtype=torch.float64))
        noise = procedure.noise(len(index), torch.Generator().manual_seed(0))
        procedure.step(procedure.state, batch, noise, {})
    before = model.alpha.numpy().copy()
    procedure.epoch_end(procedure.state)
    document = np.repeat(np.arange(101), x.sum(1))
    n = np.zeros((101, 3))
    np.add.at(n, (document, procedure.sample.z.numpy()), 1)
    gains = (psi(n + before) - psi(before)).sum(0) / (psi(n.sum(1) + before.sum()) - psi(before.sum())).sum()
    np.testing.assert_allclose(model.alpha, before * gains, rtol=1e-5)
    words = procedure.sample.words.numpy()
    assert log_p(words, float(model.eta)) > log_p(words, 0.05) + 0.1
    np.testing.assert_allclose(model.word_weights, words.T + float(model.eta))


def log_p(words: np.ndarray, eta: float) -> float:
    """log p(w|z)."""
    size = len(words)
    gain = gammaln(words + eta).sum() - words.size * gammaln(eta)
    return float(gain - gammaln(words.sum(0) + size * eta).sum() + words.shape[1] * gammaln(size * eta))


def test_fractions_are_refused():
    with pytest.raises(DataError, match=r"the count of document 0, word 1 is 0.5"):
        lb.fit(LDAModel(3, 2), lb.data.Counts.from_sparse(np.array([[1, 0.5, 0], [1, 2, 3]])), CollapsedGibbs())


def test_without_numba_it_is_refused(monkeypatch):
    monkeypatch.setattr(collapsed_gibbs, "KERNELS", "numpy")
    with pytest.raises(ImportError, match="CollapsedGibbs needs numba"):
        CollapsedGibbs().start(LDAModel(3, 2), lb.data.Counts.from_sparse(X))
