"""Save and load: the same model back, from JSON and safetensors alone."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import forge, reseal, tree
from oracles import PPCA, batch_of, rng

import lowerbound as lb
from lowerbound.errors import FormatError
from lowerbound.inference import KalmanSmoother, Searched
from lowerbound.model import draw
from lowerbound.objectives import iwae
from lowerbound.storage import model as stored
from lowerbound.storage import parts, registry
from lowerbound.topics import DeepLDAModel, LDAModel

SOURCE = Path(lb.__file__).parent


@pytest.fixture(scope="module")
def digits() -> lb.data.Dataset:
    return lb.data.digits()


@pytest.mark.parametrize(
    "settings",
    [
        {"max_value": 16},
        {"network": "conv", "max_value": 16},
        {"likelihood": "poisson"},
        {"likelihood": lb.likelihoods.Normal("entry", shape=(8, 8))},
        {"likelihood": "categorical", "learning_rate": lb.training.Cosine(1e-3, 2), "objective": "iwae", "draws": 3},
        {"binarise": "afresh", "max_value": 16},
    ],
    ids=lambda s: " ".join(s),
)
def test_an_estimator_comes_back_the_same(settings, digits, tmp_path):
    vae = lb.VAE(latent_dim=3, hidden=(16,), epochs=2, random_state=0, **settings).fit(digits.train[:300])
    vae.save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    x = digits.test[:20]
    for method in ("transform", "reconstruct", "score_samples"):
        assert getattr(vae, method)(x).tobytes() == getattr(again, method)(x).tobytes()
    assert vae.sample(5).tobytes() == again.sample(5).tobytes()
    assert again.history_ == vae.history_
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
    ]
    for name, value in vae.get_params().items():
        if isinstance(value, int | float | str | tuple):
            assert again.get_params()[name] == value, name


def test_it_comes_back_the_same_in_a_new_process(digits, tmp_path):
    vae = lb.VAE(latent_dim=3, max_value=16, hidden=(16,), epochs=2, random_state=0).fit(digits.train[:300])
    vae.save(tmp_path)
    code = (
        "import sys, hashlib, lowerbound as lb; x = lb.data.digits().test[:20];"
        "print(hashlib.sha256(lb.load(sys.argv[1]).score_samples(x).tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == hashlib.sha256(vae.score_samples(digits.test[:20]).tobytes()).hexdigest()


def test_feature_names_come_back(tmp_path):
    import pandas

    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(50, 3)), columns=["a", "b", "<c>"])
    lb.VAE(1, epochs=1).fit(frame).save(tmp_path)
    again = lb.load(tmp_path)
    assert list(again.feature_names_in_) == ["a", "b", "<c>"]
    assert again.transform(frame).shape == (50, 1)


def test_a_model_of_parts_comes_back_in_double_precision(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5)) @ np.diag([5.0, 4, 3, 1, 1])
    oracle = PPCA.of(x, 2)
    model, posterior, rows = oracle.model(), oracle.posterior(), batch_of(torch.tensor(x))
    lb.save(tmp_path, model, posterior)
    again = lb.load(tmp_path)
    assert isinstance(again, lb.Fit)
    for seed in (0, 1):
        before = iwae(draw(model, posterior, rows, rng(seed), K=3))
        assert torch.equal(before, iwae(draw(again.model, again.posterior, rows, rng(seed), K=3)))


def test_networks_of_ones_own_are_handed_back(digits, tmp_path):
    def own() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Unflatten(1, (8, 8)))

    def own_encoder() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))

    vae = lb.VAE(3, likelihood="poisson", decoder=own(), encoder=own_encoder(), epochs=1, random_state=0)
    vae.fit(digits.train[:200]).save(tmp_path)
    with pytest.raises(FormatError, match="the decoder is your own Sequential: pass it back"):
        lb.load(tmp_path)
    again = lb.load(tmp_path, decoder=own(), encoder=own_encoder())
    assert again.transform(digits.test).tobytes() == vae.transform(digits.test).tobytes()
    assert again.sample(3).tobytes() == vae.sample(3).tobytes()


def test_numbers_of_numpy_are_numbers(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 2))
    lb.VAE(np.int64(1), hidden=np.array([4]), beta=np.float32(1), epochs=1, random_state=0).fit(x).save(tmp_path)
    assert lb.load(tmp_path).transform(x).shape == (20, 1)


def test_loading_leaves_the_global_generator_alone(digits, tmp_path):
    vae = lb.VAE(3, encoder=lb.nn.MLP((8, 8), (6,)), epochs=1, random_state=0).fit(digits.train[:50])
    vae.save(tmp_path)
    before = torch.random.get_rng_state()
    lb.load(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_module_in_the_table_keeps_its_arguments():
    built = {
        "likelihoods.Bernoulli": lb.likelihoods.Bernoulli(),
        "likelihoods.Categorical": lb.likelihoods.Categorical(7),
        "likelihoods.DiscretizedLogistic": lb.likelihoods.DiscretizedLogistic(17),
        "likelihoods.NegativeBinomial": lb.likelihoods.NegativeBinomial(),
        "likelihoods.Normal": lb.likelihoods.Normal("dimension", (4,), 0.1),
        "likelihoods.Poisson": lb.likelihoods.Poisson(),
        "networks.BottomUp": lb.nn.BottomUp((2, 2), (4, 3), (5, 6), torch.nn.ReLU),
        "networks.ConvBottomUp": lb.nn.ConvBottomUp((5, 5), (4, 3), (4, 6), 3),
        "networks.OfContext": lb.nn.OfContext(lb.nn.MLP((2,), (3,)), 2),
        "networks.Chain": lb.nn.Chain(lb.nn.MLP((2,), (3,)), lb.nn.Standardise((3,), log1p=True)),
        "networks.ConvDecoder": lb.nn.ConvDecoder(3, (2, 5, 5), (4, 6)),
        "networks.ConvEncoder": lb.nn.ConvEncoder((5, 5), 3, (4, 6)),
        "networks.MLP": lb.nn.MLP((2, 2), (3,), (5, 6), torch.nn.ReLU),
        "networks.Standardise": lb.nn.Standardise((3,), log1p=True),
        "priors.Normal": lb.priors.Normal(3, 2.0),
        "schedules.Constant": lb.training.Constant(3.0),
        "schedules.Cosine": lb.training.Cosine(1.0, 3, 0.1),
        "schedules.WarmUp": lb.training.WarmUp(3, 2.0, 1.0),
    }
    mlp = built["networks.MLP"]
    built |= {
        "gradients.LearnedBaseline": lb.gradients.LearnedBaseline(mlp, 0.5, True),
        "gradients.Relax": lb.gradients.Relax(mlp, 0.3),
        "gradients.ByNode": lb.gradients.ByNode(("k",), (lb.gradients.rebar,)),
        "networks.Cells": lb.nn.Cells((0, 3), (True, False)),
        "networks.Identity": torch.nn.Identity(),
        "networks.Table": lb.nn.Table(3, (2, 4)),
        "likelihoods.Atoms": lb.likelihoods.Atoms(
            lb.likelihoods.LogNormal("dimension", (4,)), [(0.0, 0.1), (), (1 / 3,), (0.0,)]
        ),
        "likelihoods.Beta": lb.likelihoods.Beta(),
        "likelihoods.BetaBinomial": lb.likelihoods.BetaBinomial(9),
        "likelihoods.DiscretizedLogisticMixture": lb.likelihoods.DiscretizedLogisticMixture(17, 3),
        "likelihoods.FullNormal": lb.likelihoods.FullNormal((4,)),
        "likelihoods.LogNormal": lb.likelihoods.LogNormal("dimension", (4,), resolution=(0.1, 0.0, 1.0, 5.0)),
        "likelihoods.LogitNormal": lb.likelihoods.LogitNormal("dimension", (4,), resolution=0.1),
        "likelihoods.InflatedLogitNormal": lb.likelihoods.InflatedLogitNormal(
            "dimension", (4,), resolution=(0, 1, 2, 5)
        ),
        "likelihoods.CholeskyNormal": lb.likelihoods.CholeskyNormal((4,)),
        "likelihoods.LowRankNormal": lb.likelihoods.LowRankNormal((4,), 2),
        "likelihoods.Ordinal": lb.likelihoods.Ordinal(5, (2,)),
        "likelihoods.Product": lb.likelihoods.Product([lb.likelihoods.Bernoulli(), lb.likelihoods.Poisson()]),
        "likelihoods.SelfMasking": lb.likelihoods.SelfMasking(lb.likelihoods.Product([lb.likelihoods.Normal()])),
        "likelihoods.RoundedLogistic": lb.likelihoods.RoundedLogistic("dimension", (4,)),
        "likelihoods.ZeroInflatedLogNormal": lb.likelihoods.ZeroInflatedLogNormal(
            "dimension", (4,), resolution=(0, 1, 2.0, 5)
        ),
        "likelihoods.Warped": lb.likelihoods.Warped("unit", "dimension", (4,), resolution=(0.1, 0.0, 0.2, 0.5), df=4.0),
        "likelihoods.StudentT": lb.likelihoods.StudentT(scale="dimension", shape=(4,)),
        "likelihoods.ZeroInflatedNegativeBinomial": lb.likelihoods.ZeroInflatedNegativeBinomial(),
        "likelihoods.Multinomial": lb.likelihoods.Multinomial("probabilities"),
        "objectives.Constrained": lb.objectives.Constrained("kl", 3.0, 0.1, 0.5, 2.0),
        "posteriors.Categorical": lb.posteriors.Categorical(2, 3, mlp),
        "posteriors.Flow": lb.posteriors.Flow(2, mlp, "nsf", 3, (5,), 4),
        "posteriors.LowRankNormal": lb.posteriors.LowRankNormal(3, 2, mlp),
        "posteriors.NormalMixture": lb.posteriors.NormalMixture(3, 2, mlp),
        "priors.Categorical": lb.priors.Categorical(2, 3),
        "priors.ConditionalNormal": lb.priors.ConditionalNormal(2, mlp),
        "priors.Flow": lb.priors.Flow(3, "nsf", 2, (5,)),
        "priors.NormalMixture": lb.priors.NormalMixture(2, 4),
        "priors.VampPrior": lb.priors.VampPrior((2,), (4,), 5),
        "schedules.Cyclic": lb.training.Cyclic(3, 2, 0.3, 2.0, 1.0),
    }
    for name in ("Bernoulli", "Beta", "DiagonalNormal", "Dirichlet", "FullNormal", "Gamma", "LogisticNormal"):
        built[f"posteriors.{name}"] = getattr(lb.posteriors, name)(3, mlp)
    for name in ("VonMisesFisher", "Weibull"):
        built[f"posteriors.{name}"] = getattr(lb.posteriors, name)(3, mlp)
    for name in ("Bernoulli", "Beta", "Dirichlet", "Gamma", "HypersphericalUniform", "LearnedNormal"):
        built[f"priors.{name}"] = getattr(lb.priors, name)(3)
    none, reads = torch.nn.Identity(), lb.nn.MLP((4,), (2,), context=2)
    built["posteriors.Latents"] = lb.posteriors.Latents(
        {"parts": lb.posteriors.Bernoulli(2, mlp), "part": lb.posteriors.DiagonalNormal(1, reads)},
        parents={"part": ("parts",)},
    )
    built["posteriors.MergedWeibull"] = lb.posteriors.MergedWeibull(3, mlp)
    built["networks.Topics"] = lb.nn.Topics(3, 4, proportions=False, log=True)
    built["priors.ConditionalGamma"] = lb.priors.ConditionalGamma(4, built["networks.Topics"], 2.0, learned=True)
    built["priors.LaplaceDirichlet"] = lb.priors.LaplaceDirichlet(3, (0.5, 1.0, 2.0))
    built["posteriors.PrecisionWeighted"] = lb.posteriors.PrecisionWeighted(3, mlp)
    built["priors.Given"] = lb.priors.Given(lb.posteriors.Bernoulli(2, mlp))
    built["priors.Latents"] = lb.priors.Latents(
        {"own": lb.priors.Given(lb.posteriors.Bernoulli(2, none)), "name": lb.priors.Normal(2)}, {"own": ("name",)}
    )
    built["model.LatentVariableModel"] = lb.LatentVariableModel(
        built["priors.Normal"], built["networks.MLP"], built["likelihoods.Normal"]
    )
    transition = built["networks.LinearTransition"] = lb.nn.LinearTransition(3)
    recurrent = built["networks.Recurrent"] = lb.nn.Recurrent(
        (4,), 6, 5, "both", lb.nn.Cells([0, 3, 0, 0], [False] * 4)
    )
    built["networks.EachStep"] = lb.nn.EachStep(mlp, 2)
    built["networks.GatedTransition"] = lb.nn.GatedTransition(3, 5)
    built["networks.Summary"] = lb.nn.Summary((4,), 6, 5)
    built["networks.Unrolled"] = lb.nn.Unrolled(3, 7, (4,), hidden=5)
    built["likelihoods.EachStep"] = lb.likelihoods.EachStep(lb.likelihoods.Bernoulli())
    built["posteriors.Markov"] = lb.posteriors.Markov(3, recurrent, 7)
    built["networks.StepReader"] = lb.nn.StepReader((4,), 6, 5)
    built["priors.Recurrent"] = lb.priors.Recurrent(3, 7, (4,), 5)
    read = lb.nn.MLP((5,), (6,), (), context=6)
    built["posteriors.Recurrent"] = lb.posteriors.Recurrent(3, recurrent, 7, 5, read)
    built["priors.Markov"] = lb.priors.Markov(3, 7, transition)
    built["smoothers.KalmanSmoother"] = KalmanSmoother(3, 7)
    built["networks.Constant"] = lb.nn.Constant(6)
    built["topics.LDAModel"] = LDAModel(5, 3, alpha=[0.5, 1.0, 2.0], eta=0.25)
    built["topics.DeepLDAModel"] = DeepLDAModel(5, (3, 2), eta=0.1, burn_in=1, collected=2)
    built["searches.Searched"] = Searched(lb.posteriors.DiagonalNormal(3, lb.nn.Constant(6)), steps=7)
    others = ("activations", "optimizers")
    table = {name: part for name, part in registry.table().items() if not name.startswith(others)}
    classes = {name for name, part in table.items() if isinstance(part, type)}
    assert classes == set(built)
    for name, part in built.items():
        written = json.loads(json.dumps(parts.encode(part)))
        again = parts.decode(written, {})
        assert type(again) is type(part), name
        assert parts.encode(again) == parts.encode(part), name


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("small") / "run"
    lb.VAE(1, epochs=1, hidden=(128,), random_state=0).fit(np.random.default_rng(0).normal(size=(20, 2))).save(path)
    return path


@pytest.fixture
def saved(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "run"))


LARGE = {"part": "networks.MLP", "arguments": {"in_shape": [2], "out_shape": [2], "hidden": [10**6, 10**6]}}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c | {"format": 99}, "newer than this version reads: update lowerbound"),
        (lambda c: c | {"format": True}, "not the configuration of a lowerbound model"),
        (lambda c: c | {"format": 0}, "not the configuration of a lowerbound model"),
        (lambda c: {}, "not the configuration of a lowerbound model"),
        (lambda c: [], "not the configuration of a lowerbound model"),
        (lambda c: {k: v for k, v in c.items() if k != "posterior"}, "lacks 'posterior'"),
        (lambda c: c | {"model": {"part": "os.system", "arguments": {}}}, "names 'os.system', which is no part"),
        (lambda c: c | {"model": {"part": "priors.Normal", "arguments": {"latent_dim": 0}}}, "cannot be built"),
        (lambda c: c | {"model": {"part": "priors.Normal", "arguments": {"no": 0}}}, "cannot be built"),
        (lambda c: c | {"posterior": c["model"]}, "does not describe a model"),
        (lambda c: c | {"model": 5}, "does not describe a model"),
        (lambda c: c | {"dtype": "float8"}, "does not describe a model"),
        (lambda c: c | {"history": {}}, "does not describe a model"),
        (lambda c: c | {"model": {"part": "model.LatentVariableModel"}}, "lacks 'arguments'"),
        (lambda c: c | {"extra": 5}, "does not describe a model"),
        (lambda c: c | {"extra": {"estimator": "VAE"}}, "does not describe a VAE"),
        (lambda c: c | {"extra": {**c["extra"], "parameters": {"no": 1}}}, "does not describe a VAE"),
        (lambda c: json.loads(json.dumps(c).replace("128", "127")), r"is F32 \(128,\), where F32 \(127,\) is due"),
        (lambda c: json.loads(json.dumps(c).replace("128", "1000000000000")), "does not fit config.json"),
        (lambda c: json.loads(json.dumps(c).replace("128", str(10**30))), "cannot be built"),
        (lambda c: json.loads(json.dumps(c).replace("128", "1, " * 10_000 + "1")), "as a list of 10001"),
        (
            lambda c: json.loads(json.dumps(c).replace('"latent_dim": 1', '"latent_dim": 1000000000000')),
            "far more memory",
        ),
        (lambda c: c | {"extra": {**c["extra"], "parameters": {"encoder": LARGE}}}, "more than the model has"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_sentence(spoil, words, saved):
    forge(saved, spoil)
    with pytest.raises(FormatError, match=words) as error:
        lb.load(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' * 100_000, "{", "\xff", '{"format": NaN}', "9" * 10_000])
def test_json_that_is_none_is_refused_in_one_sentence(text, saved):
    (saved / "config.json").write_text(text, encoding="latin-1")
    reseal(saved)
    with pytest.raises(FormatError, match=r"config\.json is not readable JSON") as error:
        lb.load(saved)
    assert "\n" not in str(error.value)


def test_files_that_are_not_what_they_should_be(saved):
    whole = tree(saved)
    for name, data, words in [
        ("model.safetensors", whole["model.safetensors"][:-7], "not a whole safetensors file"),
        ("model.safetensors", b"\xff" * 100, "not a whole safetensors file"),
        ("model.safetensors", b"", "not a whole safetensors file"),
        ("metrics.jsonl", b"{", "not readable JSON"),
        ("metrics.jsonl", b"[1]", "not a list of metrics"),
        ("config.json", b"{", "not readable JSON"),
    ]:
        (saved / name).write_bytes(data)
        with pytest.raises(FormatError, match=rf"{name} does not match its SHA-256 in manifest\.json"):
            lb.load(saved)
        reseal(saved)
        with pytest.raises(FormatError, match=f"{name} is {words}"):
            lb.load(saved)
        (saved / name).write_bytes(whole[name])
        reseal(saved)
        assert tree(saved) == whole
    with pytest.raises(FileNotFoundError, match="holds no model"):
        lb.load(saved / "nowhere")


def test_an_older_format_is_brought_up_to_this_one(saved, monkeypatch):
    forge(saved, lambda c: {("network" if key == "model" else key): value for key, value in c.items()})
    monkeypatch.setattr(stored, "FORMAT", 3)
    monkeypatch.setattr(stored, "MIGRATIONS", {2: lambda c: c | {"model": c["network"]}})
    assert lb.load(saved).latent_dim == 1


def test_nothing_in_the_package_unpickles_or_runs_what_it_reads():
    banned = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & banned, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "torch.save", "compile"}, (path, called)
                if called.endswith("np.load"):
                    assert "allow_pickle=False" in ast.unparse(node), path


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    from lowerbound.storage.files import atomic_write

    file = tmp_path / "f"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(file) as out:
        out.write(bytes([1 // (out.write(b"half") - 4)]))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    with atomic_write(file) as out:
        out.write(b"new")
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o644
