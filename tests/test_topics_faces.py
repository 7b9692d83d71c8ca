"""LDA and DeepLDA as scikit-learn estimators: what they take, give, refuse, save and resume."""

from __future__ import annotations

import os
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import warm
from folders import forge, tree
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

import lowerbound as lb
from lowerbound.data import Counts, read_documents
from lowerbound.errors import DataError, FormatError
from lowerbound.estimators.documents import halves
from lowerbound.estimators.topic_words import trees
from lowerbound.training import Event

WORDS = ("tide", "moon", "sand", "goal", "team", "ball")
RNG = np.random.default_rng(0)
X = RNG.poisson(np.repeat([[6, 5, 4, 0, 0, 0], [0, 0, 0, 6, 5, 4]], 30, 0))
SHORT: dict[str, Any] = {"burn_in": 5, "collected": 5}
KINDS = {
    "online": lambda **more: lb.LDA(3, **{"epochs": 4, "random_state": 0} | more),
    "batch": lambda **more: lb.LDA(3, inference="batch", **{"epochs": 4, "random_state": 0} | more),
    "gibbs": lambda **more: lb.LDA(3, inference="gibbs", **{"epochs": 4, "random_state": 0} | more),
    "tlasgr": lambda **more: lb.DeepLDA([3, 2], **SHORT | {"epochs": 4, "random_state": 0} | more),
    "scir": lambda **more: lb.DeepLDA([3, 2], inference="scir", **SHORT | {"epochs": 4, "random_state": 0} | more),
    "deep gibbs": lambda **more: lb.DeepLDA(
        [3, 2], inference="gibbs", **SHORT | {"epochs": 30, "random_state": 0} | more
    ),
}
SAMPLERS = ["gibbs", "tlasgr", "scir", "deep gibbs"]


@pytest.fixture(scope="module", params=KINDS)
def fitted(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]().fit(X, words=WORDS)


@pytest.mark.parametrize("kind", ["online", "batch", "gibbs", "tlasgr", "deep gibbs"])
def test_they_pass_the_checks_of_scikit_learn(kind: str) -> None:
    results = check_estimator(KINDS[kind](epochs=2), on_fail=None, on_skip=None)
    assert len(results) > 40
    failed = [(each["check_name"], each["exception"]) for each in results if each["status"] == "failed"]
    assert not failed, failed


def test_tags_say_what_counts_are_needed() -> None:
    for kind, make in KINDS.items():
        tags = get_tags(make()).input_tags
        assert tags.positive_only
        assert tags.sparse
        assert tags.categorical == (kind in SAMPLERS)


# --- what they give ---


def test_shares_and_topics_sum_to_1(fitted: Any) -> None:
    shares, topics = fitted.transform(X), fitted.components_
    assert shares.shape == (60, 3)
    assert topics.shape == (3, 6)
    assert shares.sum(1) == pytest.approx(np.ones(60), abs=1e-5)
    assert topics.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert fitted.transform(X.astype(np.float32)).dtype == np.float32
    assert list(fitted.get_feature_names_out()) == [f"{type(fitted).__name__.lower()}{k}" for k in range(3)]


def test_the_two_kinds_of_documents_are_told_by_their_topics(fitted: Any) -> None:
    shares = fitted.transform(X)
    first, second = shares[:30].mean(0), shares[30:].mean(0)
    assert np.abs(first - second).sum() > 1.2


def test_top_words_are_the_most_probable(fitted: Any) -> None:
    for topic, words in zip(fitted.components_, fitted.top_words(4), strict=True):
        best = np.argsort(-topic)[:4]
        assert list(words) == [WORDS[v] for v in best]
        assert list(words.values()) == pytest.approx(topic[best])
    assert len(fitted.top_words(99)[0]) == 6
    with pytest.raises(ValueError, match=r"layer is 5; the model has the layers 1 to"):
        fitted.top_words(layer=5)


def test_the_tree_leads_from_the_last_layer_to_words(fitted: Any) -> None:
    tops = fitted.topic_tree(n=3, children=3)
    assert len(tops) == fitted.n_topics_[-1]
    assert sum(top.weight for top in tops) == pytest.approx(1, abs=1e-5)
    assert [top.weight for top in tops] == sorted((top.weight for top in tops), reverse=True)
    depth = len(fitted.n_topics_)
    for top in tops:
        assert (top.layer, len(top.words)) == (depth, 3)
        assert list(top.words) == list(fitted.top_words(3, layer=depth)[top.number])
        if depth == 2:
            assert sum(child.weight for child in top.children) == pytest.approx(1, abs=1e-5)
            assert all(list(child.words) == list(fitted.top_words(3)[child.number]) for child in top.children)
        assert str(top).count("\n") == len(top.children)


def test_words_of_a_tree_are_those_of_the_product_of_its_layers() -> None:
    one, two = np.array([[0.9, 0.0], [0.1, 0.3], [0.0, 0.7]]), np.array([[0.2, 1.0], [0.8, 0.0]])
    top, other = trees([one, two], np.array([0.6, 0.4]), "abc", 3, 2)
    assert top.words == pytest.approx({"c": 0.56, "b": 0.26, "a": 0.18})
    assert [(child.number, child.weight) for child in top.children] == [(1, 0.8), (0, 0.2)]
    assert top.children[0].words == pytest.approx({"c": 0.7, "b": 0.3, "a": 0.0})
    assert (other.number, other.weight) == (1, 0.4)
    assert [(child.number, child.weight) for child in other.children] == [(0, 1.0), (1, 0.0)]


def test_perplexity_is_that_of_the_words_left_out(fitted: Any) -> None:
    seen, held = X // 2, X - X // 2
    csr = Counts.from_sparse(sparse.csr_matrix(seen)).csr
    chain = fitted.model_.each_sample()
    p = np.mean([each.transform(csr, fitted.seed_) @ each.topics().numpy() for each in chain], 0)
    expected = np.exp(-(held * np.log(p)).sum() / held.sum())
    assert fitted.perplexity(seen, held) == pytest.approx(expected, rel=1e-4)
    assert 2 < fitted.perplexity(X) < 6
    with pytest.raises(ValueError, match="seen has 60 documents and held 59; give two parts of the same documents"):
        fitted.perplexity(seen, held[1:])


def test_score_is_per_word_and_says_what_it_is(fitted: Any) -> None:
    score = fitted.score(X)
    assert np.log(1 / 6) < score < np.log(1 / 2)
    if isinstance(fitted, lb.LDA):
        assert fitted.score_is_ == "lower bound on log p per word"
        assert fitted.score(np.vstack([X, X])) == pytest.approx(score)
        p = fitted.transform(X) @ fitted.components_
        assert score < (X * np.log(p)).sum() / X.sum()  # log p at E[θ], E[β], which no bound on log p(x) reaches
    else:
        assert fitted.score_is_.startswith("estimated log p")
        assert score == pytest.approx(-np.log(fitted.perplexity(X)))


def test_halves_add_up_and_are_halves() -> None:
    counts = Counts.from_sparse(np.vstack([X * 50, 0 * X[:1]]))
    seen, held = halves(counts.csr, 3)
    again = Counts(seen.indptr, seen.indices, seen.counts, 6), Counts(held.indptr, held.indices, held.counts, 6)
    assert (dense(again[0]) + dense(again[1]) == dense(counts)).all()
    share = held.counts.sum() / counts.csr.counts.sum()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(counts.csr.counts.sum())
    fractions = Counts.from_sparse(np.array([[0.5, 2.5]]))
    seen, held = halves(fractions.csr, 0)
    assert seen.counts.sum() + held.counts.sum() == 3
    assert (held.counts == np.floor(held.counts)).all()


def dense(counts: Counts) -> np.ndarray[Any, Any]:
    return counts.batch(*whole(len(counts))).x.numpy()


def whole(rows: int) -> Any:
    import torch

    return torch.arange(rows), torch.ones(rows)


# --- what they take ---


def test_documents_may_come_in_any_form(tmp_path: Path) -> None:
    expected = lb.LDA(3, epochs=2, random_state=0).fit(X).components_
    (tmp_path / "x.ldac").write_text(
        "\n".join(" ".join([str((row > 0).sum()), *(f"{v}:{n}" for v, n in enumerate(row) if n)]) for row in X)
    )
    forms = [
        sparse.csr_matrix(X),
        sparse.coo_array(X),
        X.astype(np.float32),
        X.tolist(),
        Counts.from_sparse(X),
        read_documents(tmp_path / "x.ldac"),
        pd.DataFrame(X, columns=WORDS),
    ]
    for form in forms:
        found = lb.LDA(3, epochs=2, random_state=0).fit(form)
        assert found.components_ == pytest.approx(expected)
        assert found.n_features_in_ == 6
        assert found.words_ == (WORDS if isinstance(form, pd.DataFrame) else None)
    assert next(iter(lb.LDA(2, epochs=1).fit(X).top_words(1)[0])).startswith("x")


def test_they_work_in_a_pipeline_with_frames() -> None:
    texts = ["moon tide moon", "goal team", "tide sand", "team ball goal"] * 5
    lda = lb.LDA(2, epochs=2, random_state=0).set_output(transform="pandas")
    assert make_pipeline(CountVectorizer(), lda).fit_transform(texts).columns.tolist() == ["lda0", "lda1"]


def test_variational_bayes_takes_fractions_and_samplers_refuse_them() -> None:
    for kind, make in KINDS.items():
        if kind in SAMPLERS:
            with pytest.raises(DataError, match=r"not whole numbers, which \w+\(inference=\"\w+\"\) needs; round them"):
                make().fit(X / 2)
        else:
            assert np.isfinite(make().fit(X / 2).components_).all()
    assert np.isfinite(lb.DeepLDA([2], link="positive", epochs=2, **SHORT).fit(X / 2).components_).all()


def test_an_empty_document_has_the_prior(fitted: Any) -> None:
    shares = fitted.transform(np.zeros((2, 6), int))
    assert shares.sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert shares[0] == pytest.approx(shares[1])
    if isinstance(fitted, lb.LDA):
        assert shares[0] == pytest.approx(np.full(3, 1 / 3), abs=1e-5)
    else:
        assert shares[0] == pytest.approx(fitted.model_.weights(1).numpy(), abs=1e-5)
    assert np.isfinite(type(fitted)(**fitted.get_params()).fit(np.vstack([X, 0 * X[:5]])).components_).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "counts",
    [X[:1], np.hstack([X, 0 * X[:, :2]]), X[:, :2], X * 10**5],
    ids=["one document", "words that never occur", "more topics than words", "counts of a million"],
)
def test_unusual_documents_have_finite_topics(kind: str, counts: Any) -> None:
    if counts.max() > 10**5 and kind in SAMPLERS:
        counts = np.eye(2, 6, dtype=int) * 10**6  # fewer, because some draw each token
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = KINDS[kind](epochs=2).fit(counts)
    assert np.isfinite(found.components_).all()
    assert found.components_.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert np.isfinite(found.transform(counts)).all()


BAD = {
    "negative": (np.where(np.arange(6) == 1, -2, X), "Negative values in data: row 0, column 1 is -2", "fit"),
    "NaN": (np.where(np.arange(6) == 2, np.nan, X), "row 0, column 2 is NaN; counts are finite numbers", "fit"),
    "infinite": (np.where(np.arange(6) == 2, np.inf, X), "row 0, column 2 is inf; counts are finite", "fit"),
    "sparse and negative": (
        sparse.csr_matrix(([3, -1], ([1, 2], [0, 4])), (3, 6)),
        "Negative values in data: row 2, column 4 is -1; counts are finite numbers of 0 or more.",
        "fit",
    ),
    "no words": (0 * X, "X holds no words: every count is 0; give documents with words.", "fit"),
    "another vocabulary": (Counts.from_sparse(X[:, :4]), "X counts 4 words, but this", "transform"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_counts_are_refused_in_one_sentence(fitted: Any, case: str) -> None:
    given, message, method = BAD[case]
    estimator = fitted if method == "transform" else type(fitted)(**fitted.get_params())
    before = dict(vars(estimator))
    with pytest.raises(DataError, match=re.escape(message)) as found:
        getattr(estimator, method)(given)
    assert str(found.value).count("\n") == 0
    assert vars(estimator) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lb.LDA(0), "n_topics must be at least 1, got 0"),
        (lambda: lb.LDA(2.5), "n_topics is 2.5; give a whole number"),
        (lambda: lb.LDA(inference="variational"), "inference is 'variational', none of online, batch, gibbs"),
        (lambda: lb.LDA(alpha=-1), "alpha is -1.0; give a finite number, above 0"),
        (lambda: lb.LDA(2, alpha=[1, 1, 1]), "alpha must be a number above 0, or 2 of them, one per topic"),
        (lambda: lb.LDA(eta=0), "eta is 0; give a finite number, above 0"),
        (lambda: lb.LDA(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: lb.LDA(validation=1), r"validation is 1; give a finite number, in [0, 1)"),
        (lambda: lb.LDA(learn_alpha="yes"), "learn_alpha is 'yes'; give True or False"),
        (lambda: lb.DeepLDA([2, 3]), "layers is [2, 3], which grows upwards; give each layer at most the topics below"),
        (lambda: lb.DeepLDA([]), "layers is []; give the number of topics of each layer, such as [64, 32]"),
        (lambda: lb.DeepLDA(7), "layers is 7; give the number of topics of each layer"),
        (lambda: lb.DeepLDA([2, 0]), "layers must be at least 1, got 0"),
        (lambda: lb.DeepLDA(link="counting"), "link is 'counting', none of counts, binary, positive"),
        (lambda: lb.DeepLDA(inference="online"), "inference is 'online', none of tlasgr, tlfsgr, sgrld, scir, gibbs"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as found:
        make().fit(X)
    assert str(found.value).count("\n") == 0


def test_words_that_do_not_fit_are_refused(fitted: Any) -> None:
    with pytest.raises(DataError, match="words has 2 words, but X counts 6; give one per column"):
        lb.LDA(2).fit(X, words=["a", "b"])
    with pytest.raises(DataError, match="words holds 'a' twice"):
        lb.LDA(2).fit(X, words=list("aabcde"))
    from lowerbound.data import Documents

    with pytest.raises(DataError, match="X counts other words than the model was fitted to"):
        fitted.transform(Documents(Counts.from_sparse(X), tuple("abcdef")))
    with pytest.raises(NotFittedError, match="this LDA is not fitted"):
        lb.LDA(2).transform(X)


# --- batches, saving, resuming ---


def test_partial_fit_is_an_epoch_of_fit() -> None:
    whole = lb.LDA(3, epochs=3, random_state=0).fit(X)
    parts = lb.LDA(3, random_state=0)
    parts.partial_fit(X)
    assert parts.components_.tobytes() == lb.LDA(3, epochs=1, random_state=0).fit(X).components_.tobytes()
    for _ in range(2):
        parts.partial_fit(X)
    assert parts.components_ == pytest.approx(whole.components_, abs=0.01)
    assert [record["epoch"] for record in parts.history_.records] == [1, 2, 3]


def test_partial_fit_scales_batches_to_all_documents() -> None:
    """λ of the first batch of many documents is about its share of them: ρ₀ (η + D/B Σ n φ)."""
    few = lb.LDA(3, random_state=0).partial_fit(X)
    many = lb.LDA(3, random_state=0, total_documents=60_000).partial_fit(X)
    ratio = many.model_.word_weights.sum() / few.model_.word_weights.sum()
    assert 500 < float(ratio) < 1000
    with pytest.raises(AttributeError, match="partial_fit"):
        lb.LDA(3, inference="batch").partial_fit(X)
    assert not hasattr(lb.DeepLDA([2], inference="gibbs"), "partial_fit")


def test_they_are_saved_and_loaded(fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    assert type(again) is type(fitted)
    assert repr(again) == repr(fitted)
    assert again.words_ == WORDS
    assert again.transform(X).tobytes() == fitted.transform(X).tobytes()
    assert again.history_ == fitted.history_
    again.save(tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "run")


def test_names_of_columns_are_saved(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=WORDS)
    lb.LDA(2, epochs=1, random_state=np.random.RandomState(3)).fit(frame).save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    assert list(again.feature_names_in_) == list(WORDS)
    with pytest.raises(ValueError, match="feature names should match"):
        again.transform(frame[list(WORDS[::-1])])


FORGED = {
    "a parameter more": lambda config: config["extra"]["parameters"].update(a=1),
    "a bad parameter": lambda config: config["extra"]["parameters"].update(epochs=0),
    "words of another number": lambda config: config["extra"]["fitted"].update(words=["a"]),
    "words that are none": lambda config: config["extra"]["fitted"].update(words=3),
    "another vocabulary": lambda config: config["extra"]["fitted"].update(n_words=7, words=None),
    "another model": lambda config: config["extra"].update(estimator="DeepLDA"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_file_that_does_not_describe_one_is_refused(tmp_path: Path, case: str) -> None:
    lb.LDA(2, epochs=1, random_state=0).fit(X, words=WORDS).save(tmp_path / "run")

    def spoil(config: Any) -> Any:
        FORGED[case](config)
        return config

    forge(tmp_path / "run", spoil)
    with pytest.raises(FormatError, match=r"config.json does not describe a (LDA|DeepLDA)") as found:
        lb.load(tmp_path / "run")
    assert str(found.value).count("\n") == 0


def fit_in(folder: str, kind: str, dies_at: int = 0) -> None:
    """Fit in a folder; the process is killed at a step."""

    def die(event: Event) -> None:
        if event.step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    make = KINDS[kind](validation=0.1, batch_size=20, callbacks=[die])
    make.fit(X, words=WORDS, run_dir=folder, checkpoint_every=1)


@pytest.mark.parametrize("kind", ["online", "gibbs", "tlasgr"])
def test_a_fit_that_is_killed_resumes_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    fit_in(str(tmp_path / "whole"), kind)
    assert warm.run(fit_in, str(tmp_path / "cut"), kind, 7).returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "config.json").exists()
    fit_in(str(tmp_path / "cut"), kind)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    records = lb.load(tmp_path / "cut").history_.records
    assert all(1 < record["valid_perplexity"] < 7 for record in records)
