"""``lowerbound compare`` and ``score --evidence``: what they print, and how they leave."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lowerbound as lb
from lowerbound import cli, data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, two fits of one model with different seeds, and one of another."""
    there = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 2)) @ random.normal(size=(2, 5)) + 0.3 * random.normal(size=(80, 5))
    frame = pd.DataFrame(x, columns=list("abcde"))
    frame.to_csv(there / "table.csv", index=False)
    for name, seed, epochs in (("a", 0, 1), ("b", 1, 1), ("c", 0, 400)):
        fit = lb.VAE(2, hidden=(8,), epochs=epochs, learning_rate=1e-2, patience=None, random_state=seed)
        fit.fit(frame).save(there / name)
    return there


def run(folder: Path, capsys, monkeypatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    said = capsys.readouterr()
    return int(left.value.code), said.out, said.err


def test_runs_are_compared_and_those_of_other_seeds_are_fits_of_one(folder, capsys, monkeypatch):
    code, out, words = run(folder, capsys, monkeypatch, "compare", "a", "b", "c", "table.csv", "--json")
    assert code == 0
    (found,) = json.loads(out)["differences"]
    assert (found["first"], found["second"], found["fits"]) == ("a b", "c", [2, 1])
    x = pd.read_csv(folder / "table.csv")
    means = [lb.load(folder / name).log_likelihood(x, seed=0).mean for name in "abc"]
    error = found["monte_carlo_error"]  # each fit has draws of its own
    assert found["mean"] == pytest.approx((means[0] + means[1]) / 2 - means[2], abs=6 * error)
    assert found["mean"] < -10 * found["row_error"]
    assert "Lebesgue" in words


@pytest.mark.parametrize(
    ("arguments", "words"), [(("a", "b"), "differ only in their seed"), (("a",), "give at least two runs to compare")]
)
def test_what_cannot_be_compared_is_a_mistake_of_usage(folder, capsys, monkeypatch, arguments, words):
    code, out, said = run(folder, capsys, monkeypatch, "compare", *arguments, "table.csv")
    assert code == 2
    assert not out
    assert words in said


def test_the_number_of_draws_is_told_or_chosen_and_not_both(folder, capsys, monkeypatch):
    for verb in ("score", "report"):
        code, _, said = run(folder, capsys, monkeypatch, verb, "a", "table.csv", "--evidence", "--samples", "7")
        assert code == 2
        assert "leave out --samples" in said
    arguments = ("score", "c", "table.csv", "--standard-error", "0.01", "--budget", "300", "--json")
    code, out, _ = run(folder, capsys, monkeypatch, *arguments)
    due = lb.load(folder / "c").log_likelihood(pd.read_csv(folder / "table.csv"), standard_error=0.01, budget=300)
    assert json.loads(out)["log_likelihood"] == pytest.approx(due.mean)
    assert due.work <= 300 * 80


def test_evidence_begins_with_the_verdict_and_writes_each_row(folder, capsys, monkeypatch):
    options = ("--anneal", "4", "--simulate", "4", "--temperatures", "20", "--chains", "4", "--budget", "400")
    arguments = ("score", "c", "table.csv", "--evidence", *options, "--out", "rows.csv", "--json")
    code, out, words = run(folder, capsys, monkeypatch, *arguments)
    found = json.loads(out)
    assert code == 0
    assert words.startswith("log p(x) = ")
    assert "the sandwich" in words
    rows = data.read(folder / "rows.csv")
    assert rows.names == ("log_likelihood", "standard_error", "ess", "pareto_k", "samples")
    assert rows.x[:, 0].mean() == pytest.approx(found["log_likelihood"], rel=1e-6)
    assert found["annealed"]["settings"]["temperatures"] == 40
    assert found["sandwich"]["rows"] == 4
