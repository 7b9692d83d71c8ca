"""Topic models on the command line: documents in files, fits that resume, the report, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import warm
from folders import tree
from messages import assert_one_sentence
from pyarrow import csv
from scipy import sparse

import lowerbound as lb
from lowerbound.training import Event

RNG = np.random.default_rng(0)
SEA, GAME = ["tide", "moon", "sand", "wave", "<b>"], ["goal", "team", "ball", "win", "play"]
LINES = [" ".join(RNG.choice(SEA[:4] if i % 2 else GAME, 12)) for i in range(120)]
Done = subprocess.CompletedProcess[str]


def run(*arguments: object, code: int = 0) -> Done:
    done: Done = warm.lowerbound(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "docs.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "counts.npz"
    sparse.save_npz(path, sparse.csr_matrix(RNG.poisson(np.repeat([[4, 4, 0, 0], [0, 0, 4, 4]], 20, 0))))
    return path


@pytest.fixture(scope="module")
def lda(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lda"
    done = run("fit", texts, "--model", "lda", "--topics", 3, "--epochs", 4, "--out", out)
    assert "120 documents of 9 different words, 3 topics → " in done.stderr
    assert re.search(r"4 epochs of online, ended by epochs; perplexity of held-out documents \d", done.stderr)
    return out


@pytest.fixture(scope="module")
def deep(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "deep"
    quick = ["--epochs", 3, "--set", "burn_in=5", "--set", "collected=5"]
    run("fit", texts, "--model", "deep-lda", "--layers", "4,2", *quick, "--out", out)
    return out


def test_what_was_fitted_is_what_python_fits(lda: Path, texts: Path) -> None:
    documents = lb.data.read_documents(texts)
    expected = lb.LDA(3, epochs=4, validation=0.05, random_state=0).fit(documents)
    found = lb.load(lda)
    assert found.components_.tobytes() == expected.components_.tobytes()
    assert found.words_ == documents.words == tuple(sorted(SEA[:4] + GAME))


def test_the_result_is_printed_as_json(counts: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\nb\nc\nd\n")
    options = ["--vocabulary", tmp_path / "words.txt", "--set", "inference=batch", "--epochs", 2, "--json"]
    done = run("fit", counts, "--model", "lda", "--topics", 2, *options, "--out", tmp_path / "run")
    assert json.loads(done.stdout) == {
        "run": str(tmp_path / "run"),
        "model": "lda",
        "inference": "batch",
        "topics": [2],
        "documents": 40,
        "words": 4,
        "left_out": 0,
        "epochs": 2,
        "stopped": "epochs",
        "valid_perplexity": None,
    }
    assert lb.load(tmp_path / "run").words_ == ("a", "b", "c", "d")


def test_texts_may_be_a_column_of_a_table(tmp_path: Path) -> None:
    csv.write_csv(pa.table({"id": range(120), "body": LINES}), tmp_path / "docs.csv")
    run("fit", tmp_path / "docs.csv", "--text", "body", "--model", "lda", "--epochs", 1, "--out", tmp_path / "run")
    assert lb.load(tmp_path / "run").words_ == tuple(sorted(SEA[:4] + GAME))
    done = run("report", tmp_path / "run", tmp_path / "docs.csv", "--text", "body")
    assert "report → " in done.stderr


def test_info_says_what_it_is_and_which_kernels_are_used(lda: Path) -> None:
    done = run("info", lda, "--json")
    found = json.loads(done.stdout)
    assert (found["estimator"], found["kernels"]) == ("LDA", "numba")
    assert "kernels of topic models: numba" in done.stderr
    assert "whole: every file is as it was written" in done.stderr


def test_a_report_of_lda(lda: Path, texts: Path) -> None:
    run("report", lda, texts)
    page = (lda / "report.html").read_text()
    for heading in ("Topics", "Topic use", "Training", "Documents", "How to read this", "Configuration"):
        assert f"<h2>{heading}</h2>" in page
    assert "Tree of topics" not in page
    assert "Latent Dirichlet allocation: 3 topics" in page
    assert "120 documents of 9 different words" in page
    assert page.count('<article class="topic">') == 3
    assert "perplexity of held-out documents, after each epoch" in page
    assert not re.search(r"https?://|<script", page)
    for words in lb.load(lda).top_words(10):
        for word in words:
            assert f"<span>{word}</span>" in page


def test_a_report_of_deep_lda_has_its_tree(deep: Path, texts: Path) -> None:
    run("report", deep, texts)
    page = (deep / "report.html").read_text()
    assert "<h2>Tree of topics</h2>" in page
    assert "Deep latent Dirichlet allocation in 2 layers: 4–2 topics" in page
    for top in lb.load(deep).topic_tree(6, 4):
        assert f"<strong>2.{top.number}</strong> {' '.join(top.words)}" in page
        assert page.count("<strong>1.") >= len(top.children)


def test_words_of_a_file_cannot_write_html(counts: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("<b>\n</style>\n&amp;\n$x_y$\n")
    options = ["--vocabulary", tmp_path / "words.txt", "--topics", 2, "--epochs", 1]
    run("fit", counts, "--model", "lda", *options, "--out", tmp_path / "run")
    run("report", tmp_path / "run", counts)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<b></span>" not in page
    assert page.count("</style>") == 1
    assert "<span>&lt;b&gt;</span>" in page


def test_a_report_states_that_no_documents_were_held_out(counts: Path, tmp_path: Path) -> None:
    run("fit", counts, "--model", "lda", "--topics", 2, "--epochs", 2, "--out", tmp_path / "run")
    run("report", tmp_path / "run", counts)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No documents were held out" in page
    assert "<span>x0</span>" in page


def killed(texts: str, out: str) -> None:
    """The fit of the command in the test below, killed at step 5."""
    from lowerbound.cli import main
    from lowerbound.estimators import LDA

    def die(event: Event) -> None:
        if event.step >= 5:
            os.kill(os.getpid(), signal.SIGKILL)

    fit = LDA.fit

    def fit_until_killed(self: LDA, *arguments: Any, **named: Any) -> LDA:
        self.callbacks = [die]
        return fit(self, *arguments, **named)

    LDA.fit = fit_until_killed  # type: ignore[method-assign]
    main(command(texts, out))


def command(texts: object, out: object) -> list[str]:
    options = ["--model", "lda", "--topics", 3, "--epochs", 4, "--batch-size", 50, "--checkpoint-every", 2]
    return [*map(str, ("fit", texts, *options, "--out", out))]


def test_a_fit_that_is_killed_is_resumed(texts: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(*command(texts, whole))
    assert warm.run(killed, str(texts), str(cut)).returncode == -signal.SIGKILL
    assert "holds an unfinished fit; give --resume" in run(*command(texts, cut), code=2).stderr
    run(*command(texts, cut), "--resume")
    assert tree(cut) == tree(whole)


USAGE, BAD_DATA, MISSING = 2, 65, 66
REFUSED: dict[str, tuple[list[object], int, str]] = {
    "an option of VAE": (["--model", "lda", "--latent-dim", 3], USAGE, "--latent-dim does not apply to --model lda"),
    "an option of topics": (["--topics", 3], USAGE, "--topics does not apply to --model vae; leave it out."),
    "layers of lda": (["--model", "lda", "--layers", "3,2"], USAGE, "--layers does not apply to --model lda"),
    "topics of deep lda": (
        ["--model", "deep-lda", "--topics", 3],
        USAGE,
        "--topics does not apply to --model deep-lda",
    ),
    "layers that grow": (["--model", "deep-lda", "--layers", "2,3"], USAGE, "layers is [2, 3], which grows upwards"),
    "no layers": (["--model", "deep-lda", "--layers", "a"], USAGE, "'a' is not a list of layer sizes"),
    "an unknown inference": (
        ["--model", "lda", "--inference", "em"],
        USAGE,
        "inference is 'em', none of online, batch",
    ),
    "an unknown setting": (["--model", "lda", "--set", "depth=2"], USAGE, "--set is 'depth', none of"),
    "no word is left": (["--model", "lda", "--min-count", 10**6], BAD_DATA, "no word is left for the vocabulary"),
    "a text column of text": (
        ["--model", "lda", "--text", "body"],
        BAD_DATA,
        "is no table, so it has no column 'body'",
    ),
    "no vocabulary": (["--model", "lda", "--vocabulary", "none.txt"], MISSING, "none.txt does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_is_refused_in_one_sentence(texts: Path, tmp_path: Path, case: str) -> None:
    options, code, message = REFUSED[case]
    done = run("fit", texts, *options, "--out", tmp_path / "run", code=code)
    assert message in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
    if code != USAGE:
        assert_one_sentence(done.stderr.strip(), ())


def test_other_commands_refuse_topic_models(lda: Path, texts: Path, counts: Path) -> None:
    assert "holds a model that is not a VAE estimator" in run("score", lda, texts, code=BAD_DATA).stderr
    done = run("report", lda, counts, code=BAD_DATA)
    assert "counts 4 words, but the vocabulary has 9" in done.stderr
    assert_one_sentence(done.stderr.strip(), ())
