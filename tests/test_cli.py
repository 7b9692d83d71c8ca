"""The command line, run as a user runs it: real processes, real files, exit codes."""

from __future__ import annotations

import fcntl
import inspect
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import warm
from folders import tree
from sklearn.datasets import load_wine

import lowerbound as lb
from lowerbound.cli import fit as fit_command

LOWERBOUND = Path(sys.executable).parent / "lowerbound"
QUICK = ["--epochs", "3", "--hidden", "16", "--latent-dim", "3"]
Done = subprocess.CompletedProcess[str]
Start = Callable[..., Done]


def cold(*arguments: object) -> Done:
    """Start the script that is installed, in a new interpreter."""
    return subprocess.run([LOWERBOUND, *map(str, arguments)], capture_output=True, text=True)


def run(*arguments: object, code: int = 0, start: Start = warm.lowerbound, **environment: str) -> Done:
    done = start(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run("fit", "digits", "--out", folder, *QUICK, start=cold)
    return folder


@pytest.fixture(scope="module")
def wine(tmp_path_factory) -> Path:
    data = load_wine()
    path = tmp_path_factory.mktemp("data") / "wine.csv"
    header = ",".join(f'"{name}"' for name in data.feature_names)
    np.savetxt(path, data.data, delimiter=",", header=header, comments="", fmt="%.6g")
    return path


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_at_once():
    times = []
    for _ in range(7):
        start = cpu_of_children()
        out = run("--help", start=cold).stdout
        times.append(cpu_of_children() - start)
    assert min(times) < 0.3, times  # seconds of CPU: other processes share the machine
    for verb in ("fit", "encode", "impute", "sample", "score", "report", "check", "info"):
        assert re.search(rf"^  {verb} ", out, re.M), verb
        assert run(verb, "--help", start=cold).stdout.startswith(f"Usage: lowerbound {verb}")


def test_import_costs_next_to_nothing():
    code = (
        "import sys, lowerbound; print(sorted(m for m in ('torch', 'numpy', 'sklearn', 'click') if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_options_of_fit_are_those_of_the_estimator():
    parameters = inspect.signature(lb.VAE).parameters
    for option in fit_command.params:
        if option.name in parameters and option.name not in ("hidden", "max_value", "threads"):
            assert option.default == parameters[option.name].default, option.name
    assert ",".join(map(str, parameters["hidden"].default)) == next(
        option.default for option in fit_command.params if option.name == "hidden"
    )


def test_fit_score_and_info_on_digits(fitted):
    done = run("score", fitted, "digits", "--samples", 50, "--json")
    result = json.loads(done.stdout)
    direct = lb.load(fitted).log_likelihood(lb.data.digits().test, samples=50)
    assert result["log_likelihood"] == pytest.approx(direct.mean, rel=1e-6)
    assert result["standard_error"] == pytest.approx(direct.mean_standard_error, rel=1e-6)
    assert result["bound"] == "lower, in expectation"
    assert result["measure"] == "counting"
    assert f"{direct.mean:.2f} ± {direct.mean_standard_error:.2f} nats per row" in done.stderr
    held = json.loads(run("info", fitted, "--json").stdout)
    assert held["likelihood"] == {"part": "likelihoods.DiscretizedLogistic", "arguments": {"levels": 17}}
    assert set(held["files"]) == {"config.json", "manifest.json", "metrics.jsonl", "model.safetensors"}
    assert (held["unfinished"], held["problems"], held["history"]["stopped"]) == (False, [], "epochs")
    words = run("info", fitted).stderr
    assert "DiscretizedLogistic" in words
    assert "whole: every file is as it was written" in words


def test_a_recipe_and_any_argument(tmp_path):
    out = tmp_path / "run"
    more = ("--recipe", "iwae", "--set", "draws=2", "--set", "hidden=[16]", "--latent-dim", 3, "--epochs", 2)
    run("fit", "digits", "--out", out, "--max-value", 16, *more)
    vae = lb.load(out)
    assert (vae.latent_dim, vae.draws, tuple(vae.hidden), vae.epochs) == (3, 2, (16,), 2)  # as told
    assert (vae.objective, vae.activation, vae.binarise, vae.batch_size) == (
        "iwae",
        "Tanh",
        "afresh",
        20,
    )  # the paper's
    wrong = {
        ("--recipe", "iwea"): "did you mean 'iwae'",
        ("--set", "latentdim=3"): "did you mean 'latent_dim'",
        ("--set", "latent_dim"): "is not NAME=VALUE",
        ("--gradient", "rebra"): "did you mean 'rebar'",
    }
    for arguments, words in wrong.items():
        done = run("fit", "digits", "--out", tmp_path / "other", *arguments, code=2)
        assert words in " ".join(done.stderr.split())


def test_words_go_to_stderr_and_only_json_to_stdout(fitted):
    assert run("info", fitted).stdout == ""
    assert "\x1b[" not in run("info", fitted / "nowhere", code=66, NO_COLOR="1").stderr


def test_encode_and_sample_write_files(fitted, tmp_path):
    vae, digits = lb.load(fitted), lb.data.digits()
    run("encode", fitted, "digits", "--out", tmp_path / "z.csv")
    table = lb.data.read(tmp_path / "z.csv")
    np.testing.assert_allclose(table.x, np.hstack(vae.encode(digits.test)), rtol=1e-6)
    assert table.names == ("mean0", "mean1", "mean2", "sd0", "sd1", "sd2")
    run("sample", fitted, "-n", 5, "--seed", 3, "--out", tmp_path / "s.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), vae.sample(5, random_state=3))
    run("score", fitted, "digits", "--samples", 10, "--out", tmp_path / "scores.parquet")
    assert lb.data.read(tmp_path / "scores.parquet").names == (
        "log_likelihood",
        "standard_error",
        "ess",
        "pareto_k",
        "samples",
    )


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet"])
def test_every_kind_of_file_can_be_fitted(suffix, wine, tmp_path):
    table = lb.data.read(wine)
    path = tmp_path / f"wine{suffix}"
    if suffix == ".npz":
        np.savez(path, x=table.x)
    else:
        lb.data.write(path, table.x, table.names if suffix != ".npy" else None)
    done = run("fit", path, "--out", tmp_path / "run", *QUICK, "--json")
    result = json.loads(done.stdout)
    assert result["likelihood"] == ("Product" if suffix in (".csv", ".parquet") else "Normal")  # a table, or a matrix
    assert result["objective_is_bound"] is True
    scored = json.loads(run("score", tmp_path / "run", path, "--samples", 20, "--json").stdout)
    assert scored["rows"] == 178
    assert scored["bits_per_dimension"] is None  # a density has none
    if suffix == ".csv":
        run("sample", tmp_path / "run", "-n", 4, "--out", tmp_path / "new.csv")
        assert lb.data.read(tmp_path / "new.csv").names == table.names


def test_check_says_what_a_fit_would_do(wine, tmp_path):
    said = json.loads(run("check", wine, "--json").stdout)
    assert (said["rows"], said["shape"], said["likelihood"]) == (178, [13], "Product")
    assert {each["name"]: each["likelihood"] for each in said["columns"]}["proline"] == "LogNormal"
    x = load_wine().data
    x[17, 3] = np.inf
    np.save(tmp_path / "infinite.npy", x)
    done = run("check", tmp_path / "infinite.npy", "--json", code=65)
    assert "row 17, column 3" in json.loads(done.stdout)["problems"][0]
    np.save(tmp_path / "blurred.npy", load_wine().data + np.array([1e9] + [0] * 12))
    refused = json.loads(run("check", tmp_path / "blurred.npy", "--json", code=65).stdout)["problems"][0]
    assert "column 0 varies by" in refused
    assert "column 0 varies by" in run("fit", tmp_path / "blurred.npy", "--out", tmp_path / "r", code=65).stderr
    refused = run("fit", tmp_path / "infinite.npy", "--out", tmp_path / "r", code=65).stderr
    assert "row 17, column 3 is infinite" in refused
    assert not (tmp_path / "r" / "config.json").exists()


def test_the_same_seed_gives_the_same_files(wine, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("fit", wine, "--out", tmp_path / name, *QUICK, "--seed", seed)
    same, other = [
        (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("b", "c")
    ]
    assert same
    assert not other
    assert (tmp_path / "a" / "metrics.jsonl").read_text() == (tmp_path / "b" / "metrics.jsonl").read_text()


def test_exit_codes(fitted, wine, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"rubbish")
    (tmp_path / "file").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text('{"format": 1}')
    for arguments, code, words in [
        (["fit"], 2, "Missing argument"),
        (["fit", "digits", "--out", tmp_path / "r", "--latent-dim", "0"], 2, "latent-dim"),
        (["fit", "digits", "--out", tmp_path / "r", "--hidden", "a"], 2, "--hidden"),
        (["fit", "digits", "--out", fitted], 2, "--force"),
        (["fit", tmp_path / "bad.npy", "--out", tmp_path / "r"], 65, "bad.npy"),
        (["fit", "digits", "--out", tmp_path / "r", "--likelihood", "poison"], 2, "did you mean 'Poisson'"),
        (["fit", "digits", "--out", tmp_path / "r", "--device", "cud"], 2, "cud"),
        (["fit", "digits", "--out", tmp_path / "r", "--seed", "-1"], 2, "seed"),
        (["info", tmp_path / "damaged"], 65, "manifest.json is missing"),
        (["score", tmp_path / "damaged", "digits"], 65, "manifest.json is missing"),
        (["fit", "digits", "--out", fitted, "--resume", "--force"], 2, "give only one of them"),
        (["fit", "digits", "--out", fitted, "--resume", *QUICK, "--seed", "3"], 65, "seed is 0 there and 3 here"),
        (["fit", "digit", "--out", tmp_path / "r"], 66, "digits"),
        (["score", tmp_path / "nowhere", "digits"], 66, "holds no model"),
        (["score", fitted, wine], 65, "expecting 8 features"),
        (["fit", "digits", "--out", tmp_path / "file" / "r", *QUICK], 74, "file"),
    ]:
        done = run(*arguments, code=code)
        assert words in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) <= 4, done.stderr
        assert done.stdout == ""


def test_a_folder_that_is_being_written_is_left_alone(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process" in run("fit", "digits", "--out", tmp_path, *QUICK, code=75).stderr
    run("fit", "digits", "--out", tmp_path, *QUICK)


def test_ctrl_c_saves_what_there_is_and_leaves_with_130(tmp_path):
    process = subprocess.Popen(
        [LOWERBOUND, "fit", "digits", "--out", tmp_path, "--epochs", "100000", "--patience", "100000"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    metrics = tmp_path / "checkpoints" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (metrics.exists() and metrics.stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    vae = lb.load(tmp_path)
    assert vae.history_.stopped == "interrupted"
    assert vae.history_.best_epoch >= 1
    assert np.isfinite(vae.score(lb.data.digits().test[:20]))
    assert json.loads(run("info", tmp_path, "--json").stdout)["problems"] == []


def test_a_fit_that_was_killed_goes_on_when_told_to(tmp_path):
    fit = ["fit", "digits", *QUICK, "--epochs", "100000", "--threads", "1", "--checkpoint-every", "10"]
    process = subprocess.Popen([LOWERBOUND, *fit, "--out", tmp_path / "run"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(list(tmp_path.glob("run/checkpoints/*/manifest.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "has not ended" in run("info", tmp_path / "run").stderr
    assert "--resume to continue it, or --force" in run(*fit, "--out", tmp_path / "run", code=2).stderr
    epochs = (tmp_path / "run/checkpoints/metrics.jsonl").read_text().count("\n")
    short = ["--epochs", str(epochs + 5)]  # it may have gone on for long before the signal came
    run(*fit, "--out", tmp_path / "run", "--resume", *short)
    run(*fit, "--out", tmp_path / "whole", *short)
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_row_far_out_scores_minus_infinity_and_json_stays_json(tmp_path):
    x = load_wine().data
    np.save(tmp_path / "wine.npy", x)
    run("fit", tmp_path / "wine.npy", "--out", tmp_path / "run", *QUICK)
    x[3, 0] = 1e30
    np.save(tmp_path / "far.npy", x)
    run("score", tmp_path / "run", tmp_path / "far.npy", "--samples", 5, "--out", tmp_path / "s.npy")
    scores = np.load(tmp_path / "s.npy")[:, 0]
    assert scores[3] == -np.inf
    assert np.isfinite(np.delete(scores, 3)).all()
    done = run("score", tmp_path / "run", tmp_path / "far.npy", "--samples", 5, "--json")
    assert json.loads(done.stdout)["log_likelihood"] is None


def test_a_refused_fit_leaves_the_model_that_was_there(wine, tmp_path):
    run("fit", wine, "--out", tmp_path, *QUICK)
    before = tree(tmp_path)
    x = load_wine().data
    x[0, 0] = np.inf
    np.save(tmp_path.parent / "bad.npy", x)
    run("fit", tmp_path.parent / "bad.npy", "--out", tmp_path, *QUICK, "--force", code=65)
    assert tree(tmp_path) == before


def test_it_runs_as_a_module():
    out = subprocess.run([sys.executable, "-m", "lowerbound", "--version"], capture_output=True, text=True, check=True)
    assert lb.__version__ in out.stdout
