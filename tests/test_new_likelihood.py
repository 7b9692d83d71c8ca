"""A likelihood of one's own is integrated by its own file and its name in ``likelihoods.__all__``."""

import numpy as np
import pytest
import torch
from torch.distributions import constraints
from torch.nn import functional

import lowerbound as lb
from lowerbound import likelihoods
from lowerbound.errors import DataError
from lowerbound.evidence.baselines import kind_of
from lowerbound.likelihoods import Factorised


class Geometric(Factorised):
    """x ∈ {0, 1, …}: p(x) = σ(l) σ(−l)^x; the parameter is l."""

    measure = "counting"
    support = constraints.nonnegative_integer
    counts = True

    def log_prob_per_value(self, params, x):
        logit = params.squeeze(2)
        return functional.logsigmoid(logit) + x * functional.logsigmoid(-logit)

    def mean(self, params):
        return (-params.squeeze(2)).exp()

    def sample(self, params, generator):
        uniform = torch.rand(params.squeeze(2).shape, generator=generator)
        return (uniform.log() / functional.logsigmoid(-params.squeeze(2))).floor()

    def initialise(self, x, mask=None):
        return -(x.mean(0, keepdim=True) + 1e-2).log()


@pytest.fixture
def _integrated(monkeypatch):
    monkeypatch.setattr(likelihoods, "Geometric", Geometric, raising=False)
    monkeypatch.setattr(likelihoods, "__all__", [*likelihoods.__all__, "Geometric"])


@pytest.mark.usefixtures("_integrated")
def test_it_is_fitted_by_name_saved_and_loaded(tmp_path):
    x = np.random.default_rng(0).geometric(0.3, (60, 3)) - 1
    vae = lb.VAE(2, likelihood="geometric", hidden=(4,), epochs=1, random_state=0).fit(x)
    assert type(vae.model_.likelihood) is Geometric
    vae.save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    assert np.array_equal(again.score_samples(x), vae.score_samples(x))
    assert kind_of(again.model_.likelihood).kind == "count"
    assert vae.sample(2).dtype == np.int64
    with pytest.raises(DataError, match="Geometric cannot produce"):
        vae.score_samples(-x - 1)


def test_outside_the_table_its_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'geometric'"):
        lb.VAE(2, likelihood="geometric", epochs=1).fit(np.ones((8, 2)))
