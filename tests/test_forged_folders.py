"""Folders from a stranger, sealed again: every value of their JSON, and their weights, that chooses code or size."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from folders import forge, reseal
from forgeries import forged
from messages import assert_one_sentence

import lowerbound as lb
from lowerbound.errors import FormatError, LowerboundError
from lowerbound.storage import checkpoints, tensor_data
from lowerbound.storage.contents import contents

N = 60
DRAW = np.random.default_rng(0)
ARRAY = DRAW.normal(size=(N, 3))
TABLE = pa.table(
    {
        "a": pa.array([None if row % 7 == 0 else value for row, value in enumerate(DRAW.normal(size=N).round(1))]),
        "city": DRAW.choice(["Bonn", "Ulm", "Köln"], N),
        "day": pa.array(np.datetime64("2020-01-01") + DRAW.integers(0, 900, N).astype("m8[D]")),
        "flag": DRAW.random(N) < 0.5,
        "k": [1.5] * N,
    }
)
OPTIONS: dict[str, Any] = {"hidden": (4,), "epochs": 2, "batch_size": 20, "threads": 1, "random_state": 0}
EACH = 23  # of the forgeries one in so many is done here, all of them in ``benchmarks/faults.py``


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole folders: of an array, with checkpoints; of a table; and of parts."""
    base = tmp_path_factory.mktemp("runs")
    lb.VAE(2, **OPTIONS).fit(ARRAY, run_dir=base / "array", checkpoint_every=2)
    lb.VAE(2, missing="self_masking", **OPTIONS).fit(TABLE).save(base / "table")
    fitted = lb.load(base / "array")
    lb.save(base / "parts", fitted.model_, fitted.posterior_, {"note": "one's own"})
    return {name: base / name for name in ("array", "table", "parts")}


def _use(found: Any, rows: Any) -> None:
    """What a user does with a model."""
    if not isinstance(found, lb.VAE):
        return
    found.sample(2)
    assert np.isfinite(found.transform(rows)).all()
    found.reconstruct(rows)
    if found.schema_ is not None:
        found.impute(rows)


@pytest.mark.parametrize(("name", "first"), [("array", 0), ("table", 7), ("parts", 3)])
def test_a_forged_configuration_is_refused_by_name_or_does_no_harm(
    name: str, first: int, runs: dict[str, Path], tmp_path: Path
) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(runs[name], run, ignore=shutil.ignore_patterns("checkpoints"))
    outside.mkdir()
    rows: Any = TABLE[:3] if name == "table" else ARRAY[:3]
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good = json.loads((run / "config.json").read_bytes())
        _use(lb.load(run), rows)
        for done, config in itertools.islice(forged(good), first, None, EACH * (3 if name == "table" else 1)):
            (run / "config.json").write_text(json.dumps(config).replace("Infinity", "1e400"))
            reseal(run)
            start = time.process_time()
            try:
                contents(run)
                _use(lb.load(run), rows)
            except LowerboundError as error:
                assert_one_sentence(str(error), (str(run),) if isinstance(error, FormatError) else ())
                refused += 1
            except Exception as error:
                raise AssertionError(f"{done}: {type(error).__name__}: {error}") from error
            assert time.process_time() - start < 5, done
    assert refused > 50
    assert {path.name for path in tmp_path.iterdir()} == {"run", "outside"}
    assert not any(outside.iterdir())


def _column(at: int, **changes: Any) -> Callable[[Any], Any]:
    def spoil(config: Any) -> Any:
        config["extra"]["fitted"]["schema"]["columns"][at].update(changes)
        return config

    return spoil


def _fitted(**changes: Any) -> Callable[[Any], Any]:
    def spoil(config: Any) -> Any:
        config["extra"]["fitted"].update(changes)
        return config

    return spoil


def _parameters(**changes: Any) -> Callable[[Any], Any]:
    def spoil(config: Any) -> Any:
        config["extra"]["parameters"].update(changes)
        return config

    return spoil


CONTRADICTIONS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a column fewer than the network": ("table", _column(0, kind="identifier"), "schema is not that of the table"),
    "a class more than the likelihood": ("table", _column(1, levels=["Bonn", "Ulm", "Köln", "Rom"]), "of 4 classes"),
    "a class fewer than the likelihood": ("table", _column(1, levels=["Bonn", "Ulm"]), "of 2 classes"),
    "numbers for classes": ("table", _column(3, kind="count", levels=[]), "is count of 0 classes"),
    "rows of another shape than the network's": ("array", _fitted(shape=[4], n_features_in=4), "do not fit"),
    "rows of 4 TB": ("array", _fitted(shape=[10**12], n_features_in=10**12), "do not fit"),
    "a context that no part takes": ("array", _fitted(n_context=10**12), "do not fit"),
    "features that are not those of the rows": ("array", _fitted(n_features_in=4), "does not fit 4 features"),
    "names of no columns": ("array", _fitted(feature_names_in=["a"]), "features of 1 names"),
    "a schema of an array": ("array", _fitted(schema={}), "lacks 'backend'"),
    "a device of a file": ("array", _parameters(device="cuda:99"), "the parameters have 'device'"),
    "threads of a file": ("array", _parameters(threads=10**9), "the parameters have 'threads'"),
    "a parameter of another kind": ("array", _parameters(batch_size=-1), "batch_size must be at least 1"),
    "an objective of another kind": ("array", _parameters(objective={"name": "os.system"}), "names 'os.system'"),
    "an objective's setting": (
        "array",
        _parameters(objective={"name": "objectives.renyi", "given": {"alpha": "x"}}),
        "its alpha is 'x'",
    ),
    "a setting that an objective is given by the fit": (
        "array",
        _parameters(objective={"name": "objectives.renyi", "given": {"draw": 1}}),
        "it takes no 'draw'",
    ),
}
"""What could be by itself, but not of this model; and what its refusal says."""


@pytest.mark.parametrize("done", CONTRADICTIONS)
def test_a_configuration_that_contradicts_its_model_is_refused(
    done: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    name, spoil, words = CONTRADICTIONS[done]
    run = tmp_path / "run"
    shutil.copytree(runs[name], run)
    forge(run, spoil)
    with pytest.raises(FormatError, match=words) as refusal:
        lb.load(run)
    assert_one_sentence(str(refusal.value), (str(run / "config.json"),))


def _weights(run: Path, name: str, spoil: Callable[[torch.Tensor], object], file: str = "model.safetensors") -> None:
    tensors = tensor_data.parse_tensors((run / file).read_bytes(), run / file)
    spoil(tensors[name])
    (run / file).write_bytes(tensor_data.tensor_bytes(tensors))
    reseal(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["table", "array", "parts"])
def test_weights_that_are_not_finite_are_refused_by_name(
    name: str, value: float, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[name], run)
    tensors = tensor_data.parse_tensors((run / "model.safetensors").read_bytes(), run)
    for tensor in [each for each, values in tensors.items() if values.is_floating_point() and values.numel()][::4]:
        before = (run / "model.safetensors").read_bytes()
        _weights(run, tensor, lambda values: values.view(-1)[-1:].fill_(value))
        with pytest.raises(FormatError, match=rf"model\.safetensors: 1 of the \d+ numbers of {tensor} are NaN or inf"):
            lb.load(run)
        (run / "model.safetensors").write_bytes(before)


def test_weights_that_overflow_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    """Finite ones, with which nothing finite can be computed; and a spread of 0, by which rows are divided."""
    run = tmp_path / "run"
    shutil.copytree(runs["array"], run)
    _weights(run, "posterior.encoder.first.spread", lambda values: values.zero_())
    with pytest.raises(FormatError, match="the results are not finite"):
        lb.load(run)


def test_what_hides_values_in_a_network_of_ones_own_may_be_infinite(tmp_path: Path) -> None:
    class Hiding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 3)
            self.register_buffer("hidden", torch.tensor([0.0, -torch.inf, 0.0]))

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.where(self.hidden.isinf(), 0.0, self.linear(z))

    fitted = lb.VAE(2, **OPTIONS).fit(ARRAY)
    model = lb.LatentVariableModel(fitted.model_.prior, Hiding(), copy.deepcopy(fitted.model_.likelihood))
    lb.save(tmp_path / "run", model, fitted.posterior_)
    assert lb.load(tmp_path / "run", decoder=Hiding()).model.decoder.hidden.isinf().sum() == 1
    _weights(tmp_path / "run", "model.decoder.hidden", lambda values: values.fill_(torch.nan))
    with pytest.raises(FormatError, match=r"3 of the 3 numbers of model\.decoder\.hidden"):
        lb.load(tmp_path / "run", decoder=Hiding())


def _resume(run: Path) -> None:
    lb.VAE(2, **OPTIONS).fit(ARRAY, run_dir=run, checkpoint_every=2)


def _newest(run: Path) -> Path:
    return checkpoints.listed(run)[-1]


def test_a_forged_state_is_refused_or_goes_on(runs: dict[str, Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(runs["array"], whole)
    state = json.loads((_newest(whole) / "state.json").read_bytes())
    inner = {key: of for key, of in state.items() if key != "identity"}
    ended: dict[str, int] = {}
    for done, found in itertools.islice(forged(inner), 5, None, EACH):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        for path in checkpoints.listed(run)[:-1]:
            shutil.rmtree(path)
        text = json.dumps({**found, "identity": state["identity"]}).replace("Infinity", "1e400")
        (_newest(run) / "state.json").write_text(text)
        reseal(_newest(run))
        start, end = time.process_time(), "went on"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _resume(run)
            except LowerboundError as error:
                end = "refused"
                assert_one_sentence(str(error), ("anew|update",))
            except Exception as error:
                raise AssertionError(f"{done}: {type(error).__name__}: {error}") from error
        assert time.process_time() - start < 5, done
        ended[end] = ended.get(end, 0) + 1
    assert ended["refused"] > 10


@pytest.mark.parametrize("file", ["state.safetensors", "model.safetensors"])
def test_a_checkpoint_of_weights_that_are_not_finite_is_passed_over(
    file: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["array"], run)
    tensors = tensor_data.parse_tensors((_newest(run) / file).read_bytes(), run)
    name = next(each for each in tensors if each.startswith(("optimizer.", "posterior.")) and tensors[each].dim())
    _weights(_newest(run), name, lambda values: values.fill_(torch.nan), file)
    with pytest.warns(RuntimeWarning, match=rf"{file}: .* numbers of {name} are NaN or infinite"):
        _resume(run)
