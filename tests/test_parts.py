"""Parts by name: what each needs, which go together, and which numbers are too large; refused before data are read."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import assert_one_sentence
from torch import nn

import lowerbound as lb
from lowerbound import cli, likelihoods, posteriors, priors
from lowerbound.errors import DataError
from lowerbound.estimators.parameters import check_parameters
from lowerbound.storage import registry

X = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
QUICK: dict[str, Any] = {"latent_dim": 3, "hidden": (4,), "epochs": 1, "random_state": 0, "threads": 1}
KINDS = ("posterior", "prior", "likelihood", "objective", "gradient", "activation")


def names(kind: str) -> list[str]:
    plural = "activations" if kind == "activation" else f"{kind}s"
    return registry.names(plural)


# --- what a part needs beside its name ---

NEEDS = {
    "posterior": {
        "Categorical": "n_classes",
        "Latents": "parts=…",
        "LowRankNormal": "rank",
        "Markov": "steps",
        "NormalMixture": "components",
        "Recurrent": "steps=…, hidden=…, network",
    },
    "prior": {
        "ConditionalGamma": "network",
        "Given": "of=…",
        "Latents": "parts=…",
        "Markov": "steps=…, network",
        "Recurrent": "steps=…, in_shape",
    },
    "likelihood": {
        "Atoms": "base=…, values",
        "EachStep": "of=…",
        "Product": "likelihoods",
        "SelfMasking": "likelihood",
    },
    "objective": {
        "Constrained": "of=…, target",
        "capacity": "nats=…, strength",
        "combined_iwae": "share",
        "multi_iwae": "groups",
        "renyi": "alpha",
    },
    "gradient": {
        "ByNode": "names=…, estimators",
        "LearnedBaseline": "network",
        "Relax": "network",
        "bounded": "control",
        "partially_importance_weighted": "groups",
    },
    "activation": {},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in names(kind)])
def test_a_part_by_name_is_whole_or_says_what_it_needs(kind: str, name: str) -> None:
    given = lb.VAE(**QUICK, draws=2).get_params(deep=False) | {kind: name}
    if kind == "prior":
        given["posterior"] = next(
            one for one, allowed in ALLOWED.items() if name in (*allowed, *NEEDS["prior"], "VampPrior")
        )
    if kind == "gradient" or kind == "posterior":
        given |= {"objective": "iwae" if name == "doubly_reparameterised" else "auto"}
    needs = NEEDS[kind].get(name)
    if needs is None:
        check_parameters(given)
        return
    with pytest.raises(ValueError, match="needs more than its name") as caught:
        check_parameters(given)
    assert_one_sentence(str(caught.value), (f"^{name} needs more than its name", f"lowerbound.{kind}s.{name}", needs))


# --- which go together ---

REAL = ("ConditionalNormal", "Flow", "LaplaceDirichlet", "LearnedNormal", "Normal", "NormalMixture")
ALLOWED: dict[Any, tuple[str, ...]] = {
    "Bernoulli": ("Bernoulli",),
    "Beta": ("Beta", "Gamma", *REAL),
    partial(posteriors.Categorical, n_classes=4): ("Categorical",),
    "DiagonalNormal": REAL,
    "Dirichlet": ("Dirichlet",),
    "Flow": REAL,
    "FullNormal": REAL,
    "Gamma": ("Gamma", *REAL),
    "LogisticNormal": ("Dirichlet",),
    partial(posteriors.LowRankNormal, rank=2): REAL,
    partial(posteriors.NormalMixture, components=2): REAL,
    "VonMisesFisher": ("HypersphericalUniform",),
    "Weibull": ("Gamma", *REAL),
}
"""Priors that give every value of a posterior a density of the same measure; VampPrior does for each."""


@pytest.mark.parametrize("posterior", ALLOWED, ids=str)
def test_priors_go_with_posteriors_of_the_same_values(posterior: Any) -> None:
    for prior in names("prior"):
        given = lb.VAE(**QUICK, draws=2, prior=prior, posterior=posterior).get_params(deep=False)
        if prior in (*ALLOWED[posterior], "VampPrior"):
            check_parameters(given)
        elif prior not in NEEDS["prior"]:
            with pytest.raises(ValueError, match=r"the posterior .* is of .* and the prior .* of") as caught:
                check_parameters(given)
            assert_one_sentence(str(caught.value), (f"the prior {prior} of", "choose a prior of the same values"))


@pytest.mark.parametrize("posterior", ALLOWED, ids=str)
@pytest.mark.parametrize("prior", [None, "VampPrior"])
def test_each_posterior_is_learnt_with_the_prior_that_suits(posterior: Any, prior: str | None) -> None:
    vae = lb.VAE(**QUICK, draws=2, prior=prior, posterior=posterior).fit(X)
    assert math.isfinite(vae.history_.records[-1]["valid_objective"])
    assert np.isfinite(vae.transform(X)).all()
    if prior is None:  # not every mixture of posteriors can be drawn from
        assert vae.sample(2).shape == (2, 4)


def test_several_latents_have_the_priors_that_suit_them() -> None:
    def both(latent_dim: int, encoder: nn.Module) -> posteriors.Posterior:
        sphere = posteriors.VonMisesFisher(latent_dim, nn.Identity())
        return posteriors.Latents({"k": posteriors.Categorical(1, 4, nn.Identity()), "z": sphere}, encoder)

    vae = lb.VAE(**QUICK, draws=2, posterior=both).fit(X)
    assert [type(part) for part in vae.model_.prior.parts.values()] == [
        priors.Categorical,
        priors.HypersphericalUniform,
    ]


def made(prior: priors.Prior, posterior: posteriors.Posterior) -> tuple[lb.LatentVariableModel, lb.AEVB]:
    return lb.LatentVariableModel(prior, lb.nn.MLP((3,), (4,)), likelihoods.Normal(1.0)), lb.AEVB(posterior, draws=2)


@pytest.mark.parametrize(
    ("prior", "posterior", "words"),
    [
        (priors.Normal(4), posteriors.DiagonalNormal(3, nn.Linear(4, 6)), r"has shape \[3\] and of the prior .* \[4\]"),
        (
            priors.Gamma(3),
            posteriors.DiagonalNormal(3, nn.Linear(4, 6)),
            "real numbers and the prior Gamma of positive",
        ),
        (priors.Normal(3), posteriors.Bernoulli(3, nn.Linear(4, 3)), "zeros and ones and the prior Normal of real"),
        (priors.Categorical(3, 2), posteriors.Categorical(3, 4, nn.Linear(4, 12)), r"shape \[3, 4\] .* \[3, 2\]"),
        (priors.Normal(3), posteriors.VonMisesFisher(3, nn.Linear(4, 4)), "unit vectors and the prior Normal of real"),
        (
            priors.Latents({"a": priors.Normal(3)}),
            posteriors.DiagonalNormal(3, nn.Linear(4, 6)),
            "of the latents z and the prior of a; name them alike",
        ),
        (
            priors.Latents({"a": priors.Normal(2), "b": priors.Normal(1)}),
            posteriors.Latents(
                {"a": posteriors.DiagonalNormal(2, nn.Identity()), "b": posteriors.Bernoulli(1, nn.Identity())},
                nn.Linear(4, 5),
            ),
            "latent 'b' of the posterior Latents is of zeros and ones",
        ),
    ],
)
def test_a_pair_made_by_hand_is_refused_before_the_first_step(
    prior: priors.Prior, posterior: posteriors.Posterior, words: str, tmp_path: Path
) -> None:
    model, inference = made(prior, posterior)
    with pytest.raises(ValueError, match=words):
        lb.fit(model, X, inference, epochs=1, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=words):
        lb.log_likelihood(model, posterior, X, samples=5)


def test_a_prior_on_the_sphere_is_uniform() -> None:
    prior = priors.HypersphericalUniform(3)
    z = prior.sample(4000, torch.Generator().manual_seed(0))
    assert torch.allclose(z.norm(dim=1), torch.ones(4000))
    assert float((z.mean(0).abs() * math.sqrt(3 * 4000)).max()) < 4
    assert float(prior().log_prob(z[None])[0, 0]) == pytest.approx(-math.log(4 * math.pi))


@pytest.mark.parametrize(
    "posterior", [posteriors.NormalMixture, lambda latent_dim: None, partial(posteriors.Categorical, classes=2)]
)
def test_what_makes_no_posterior_is_refused(posterior: Any) -> None:
    with pytest.raises(ValueError, match=r"posterior is called as .*encoder=") as caught:
        lb.VAE(**QUICK, posterior=posterior).fit(X)
    assert_one_sentence(str(caught.value), ("functools.partial",))


# --- the command line ---


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with data; the command line leaves the interpreter's limit as it was."""
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    limit = sys.getrecursionlimit()
    yield tmp_path
    assert sys.getrecursionlimit() == limit


def fit(*options: object) -> int:
    quick = {"--epochs": 1, "--hidden": 4, "--latent-dim": 3}
    more = [part for name, value in quick.items() if name not in options for part in (name, value)]
    with pytest.raises(SystemExit) as left:
        cli.main([str(each) for each in ("fit", "x.npy", "--out", "run", *more, *options)])
    assert isinstance(left.value.code, int)
    return left.value.code


CORES = os.cpu_count() or 1
DEEP = "[" * 100_000
REFUSED = [
    *[(f"--{kind}", name) for kind in KINDS for name in NEEDS[kind]],
    ("--prior", "ConditionalNormal"),
    ("--recipe", "conditional_vae"),
    ("--prior", "Gamma"),
    ("--posterior", "Bernoulli", "--prior", "Normal"),
    ("--posterior", "Bernoulli", "--draws", 1),
    ("--posterior", "Dirichlet", "--latent-dim", 1),
    ("--gradient", "leave_one_out", "--draws", 1),
    ("--threads", 10 * CORES + 1),
    ("--threads", 10**6),
    ("--set", f"threads={10 * CORES + 1}"),
    *[
        (option, value)
        for option in ("--learning-rate", "--beta", "--warm-up", "--free-bits", "--max-value")
        for value in ("1e308", "1e39", "nan", "inf", "-1", "1" * 40, "x")
    ],
    *[
        (option, value)
        for option in ("--hidden", "--draws", "--batch-size", "--epochs", "--patience", "--seed", "--checkpoint-every")
        for value in ("1e308", "-1", "1" * 21, "1" * 5000, "nan", "x")
    ],
    *[
        ("--set", f"{name}={value}")
        for name in (
            "latent_dim",
            "hidden",
            "draws",
            "beta",
            "learning_rate",
            "max_value",
            "epochs",
            "validation",
            "prior",
        )
        for value in ("1e400", "NaN", "-5", '{"a": 1}', "true", "1" * 5000, DEEP, "[" * 900 + "]" * 900)
    ],
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: " ".join(str(each)[:30] for each in options))
def test_options_that_cannot_be_are_refused_as_usage(
    options: tuple[object, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert len(last) < 6000
    assert not (here / "run").exists()


def test_more_threads_than_processors_are_allowed_in_reason(here: Path) -> None:
    assert fit("--threads", 2 * CORES) == 0


# --- every network, likelihood, shape and type ---

SHAPES = (("mlp", (3, 4, 4)), ("conv", (4, 4)), ("conv", (3, 4, 5)), ("conv", (1, 1)))
TYPES = ("float", "binary", "bool", "8-bit", "counts")


def images(shape: tuple[int, ...], kind: str) -> np.ndarray[Any, Any]:
    grey = np.random.default_rng(0).uniform(0.01, 0.99, size=(12, *shape))
    return {
        "float": grey.astype(np.float32),
        "binary": (grey > 0.5).astype(np.float64),
        "bool": grey > 0.5,
        "8-bit": (255 * grey).astype(np.uint8),
        "counts": (9 * grey).astype(np.int64),
    }[kind]


@pytest.mark.parametrize(("network", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize(
    "likelihood", ["auto", *(name for name in names("likelihood") if name not in NEEDS["likelihood"])]
)
def test_every_network_has_every_likelihood(network: str, likelihood: str, shape: tuple[int, ...]) -> None:
    fits = 0
    for kind in TYPES:
        x = images(shape, kind)
        for binarise in ("none", "fixed", "afresh") if likelihood in ("auto", "Bernoulli") else ("none",):
            if binarise != "none" and kind == "counts":
                continue
            vae = lb.VAE(**QUICK, network=network, likelihood=likelihood, binarise=binarise)
            try:
                vae.fit(x)
            except DataError as error:
                assert likelihood != "auto"
                assert_one_sentence(str(error), (f"which {likelihood} cannot produce",))
                continue
            fits += 1
            assert all(map(math.isfinite, vae.history_.records[-1].values())), (kind, binarise)
            assert vae.reconstruct(x).shape == x.shape
            assert vae.sample(2).shape == (2, *shape)
    assert fits
