"""``lowerbound fit --labels``, ``predict`` and ``sample --label``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import warm


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = warm.lowerbound(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two classes, of which 20 of 120 rows have a label, and a model of it."""
    path = tmp_path_factory.mktemp("labels")
    rng, true = np.random.default_rng(0), np.arange(120) % 2
    frame = pd.DataFrame((rng.normal(size=(120, 3)) + 3 * true[:, None]).round(2), columns=["a", "b", "c"])
    frame["key"], frame["true"] = np.arange(120), np.array(["no", "yes"])[true]
    frame.drop(columns=["key", "true"]).assign(label=frame["true"].where(np.arange(120) < 20)).to_csv(
        path / "train.csv", index=False
    )
    frame.to_csv(path / "new.csv", index=False)
    few = ("--latent-dim", 2, "--hidden", "16", "--epochs", 40, "--label-weight", 1, "--threads", 1)
    run("fit", path / "train.csv", "--labels", "label", "--out", path / "run", *few)
    return path


def test_predicted_classes_are_written_with_their_probabilities(folder: Path) -> None:
    out = folder / "found.csv"
    done = run("predict", folder / "run", folder / "new.csv", "--keep", "key,true", "--out", out, "--json")
    assert json.loads(done.stdout) == {"rows": 120, "classes": ["no", "yes"], "out": str(out)}
    found = pd.read_csv(out)
    assert found.columns.tolist() == ["key", "true", "class", "p_no", "p_yes"]
    assert (found["class"] == found["true"]).mean() > 0.9
    assert np.allclose(found["p_no"] + found["p_yes"], 1, atol=1e-5)


def test_rows_of_a_class(folder: Path) -> None:
    means = []
    for label in ("no", "yes"):
        run("sample", folder / "run", "--label", label, "-n", 200, "--out", folder / "drawn.csv")
        means.append(pd.read_csv(folder / "drawn.csv")["a"].mean())
    assert means[1] - means[0] > 1.5
    done = run("sample", folder / "run", "--label", "maybe", "--out", folder / "drawn.csv", code=65)
    assert "label is 'maybe', which is not a class of this model; the classes are 'no', 'yes'." in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--labels", "labels"), 65, "--labels names 'labels', which is not a column of DATA"),
        (("--labels", "label", "--classes", 3), 2, "give only one of them"),
        (("--labels", "a"), 65, "labels are whole numbers or text"),
    ],
    ids=["no column", "clusters, too", "numbers"],
)
def test_labels_that_are_none_are_refused(folder: Path, options: tuple, code: int, says: str) -> None:
    assert says in run("fit", folder / "train.csv", "--out", folder / "other", *options, code=code).stderr
    assert not (folder / "other" / "config.json").exists()


def test_a_model_without_classes_predicts_nothing(folder: Path) -> None:
    run("fit", folder / "new.csv", "--out", folder / "plain", "--epochs", 1, "--hidden", 4)
    done = run("predict", folder / "plain", folder / "new.csv", "--out", folder / "none.csv", code=65)
    assert "predict needs a model with classes" in done.stderr


def test_clusters_of_a_table(folder: Path) -> None:
    few = ("--latent-dim", 2, "--hidden", "8", "--epochs", 2, "--threads", 1)
    run("fit", folder / "new.csv", "--classes", 3, "--prior", "ConditionalNormal", "--out", folder / "clusters", *few)
    run("predict", folder / "clusters", folder / "new.csv", "--out", folder / "clusters.csv")
    assert pd.read_csv(folder / "clusters.csv").columns.tolist() == ["class", "p_0", "p_1", "p_2"]
