"""A likelihood of one's own is integrated by its own file and its name in ``likelihoods.__all__``."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.distributions import constraints
from torch.nn import functional

import lowerbound as lb
from lowerbound import likelihoods
from lowerbound.cli import commands
from lowerbound.data import Rows
from lowerbound.errors import DataError
from lowerbound.evidence import Settings
from lowerbound.evidence.baselines import kind_of
from lowerbound.evidence.predictive import predictive_check
from lowerbound.likelihoods import Factorised
from lowerbound.queries.completion import complete
from lowerbound.queries.denoising import Flips, denoise


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


class Binomial(Factorised):
    """x ∈ {0, …, n}, successes among n = ``most`` trials; the parameter is the logit of each."""

    measure = "counting"
    needs = "largest"

    def __init__(self, most):
        super().__init__()
        self.most = most

    @classmethod
    def from_data(cls, given):
        return cls(max(1, given))

    @property
    def support(self):
        return constraints.integer_interval(0, self.most)

    def log_prob_per_value(self, params, x):
        logit, n = params.squeeze(2), torch.tensor(float(self.most))
        choices = torch.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)
        return choices + x * functional.logsigmoid(logit) + (n - x) * functional.logsigmoid(-logit)

    def mean(self, params):
        return self.most * params.squeeze(2).sigmoid()

    def sample(self, params, generator):
        probability = params.squeeze(2).sigmoid()
        return torch.binomial(torch.full_like(probability, self.most), probability, generator=generator)

    def initialise(self, x, mask=None):
        return (x.mean(0, keepdim=True) / self.most).clamp(0.01, 0.99).logit()


PARTS = [Geometric, partial(Binomial, 3)]


def lowerbound(*arguments):
    """Run a command in this process, which knows the new likelihood."""
    return commands([str(each) for each in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def counts():
    return np.random.default_rng(0).geometric(0.3, (60, 3)) - 1


@pytest.fixture
def _integrated(monkeypatch):
    for part in (Geometric, Binomial):
        monkeypatch.setattr(likelihoods, part.__name__, part, raising=False)
    monkeypatch.setattr(likelihoods, "__all__", [*likelihoods.__all__, "Geometric", "Binomial"])


@pytest.mark.usefixtures("_integrated")
def test_it_is_fitted_by_name_saved_and_loaded(tmp_path, counts):
    x = counts
    vae = lb.VAE(2, likelihood="geometric", hidden=(4,), epochs=1, random_state=0).fit(x)
    assert type(vae.model_.likelihood) is Geometric
    vae.save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    assert np.array_equal(again.score_samples(x), vae.score_samples(x))
    assert kind_of(again.model_.likelihood).kind == "count"
    assert vae.sample(2).dtype == np.int64
    with pytest.raises(DataError, match="Geometric cannot produce"):
        vae.score_samples(-x - 1)


@pytest.mark.usefixtures("_integrated")
def test_one_that_is_made_from_data_needs_no_more(tmp_path, counts):
    x = counts.clip(max=5)
    vae = lb.VAE(2, likelihood="binomial", hidden=(4,), epochs=1, random_state=0).fit(x)
    assert vae.model_.likelihood.most == 5
    vae.save(tmp_path / "run")
    assert np.array_equal(lb.load(tmp_path / "run").score_samples(x), vae.score_samples(x))
    assert kind_of(vae.model_.likelihood) == ("levels", 6, "")


@pytest.mark.usefixtures("_integrated")
def test_the_command_line_fits_judges_and_reports_it(tmp_path, counts, capsys):
    data, run = tmp_path / "counts.csv", tmp_path / "run"
    np.savetxt(data, counts, delimiter=",", header="a,b,c", comments="", fmt="%d")
    lowerbound("check", data)
    lowerbound("fit", data, "--likelihood", "geometric", "--out", run, "--epochs", 2, "--hidden", 4, "--latent-dim", 2)
    capsys.readouterr()
    lowerbound("info", run, "--json")
    assert json.loads(capsys.readouterr().out)["likelihood"]["part"] == "likelihoods.Geometric"
    lowerbound("score", run, data, "--json")
    assert json.loads(capsys.readouterr().out)["log_likelihood"] < 0
    lowerbound("report", run, data)
    assert "a Geometric likelihood" in (run / "report.html").read_text()


@pytest.mark.usefixtures("_integrated")
def test_it_has_evidence_baselines_and_predictive_checks(counts):
    vae = lb.VAE(2, likelihood="geometric", hidden=(4,), epochs=2, random_state=0).fit(counts)
    small = Settings(temperatures=5, chains=2, leapfrogs=2)
    found = vae.evidence(
        counts[:10], standard_error=0.5, anneal=2, simulate=2, settings=small, gaps=2, simulations=10, train=counts
    )
    assert "independent negative binomials" in [each.name for each in found.baselines]
    checked = predictive_check(vae.model_, vae.posterior_, torch.from_numpy(counts).float(), replications=19)
    assert (checked.p_values > 0).all()


def product(part: Factorised):
    """A model of two Bernoullis and two columns of ``part``, and its posterior."""
    like = likelihoods.Product([likelihoods.Bernoulli(), part], [[0, 1], [2, 3]])
    with lb.nn.seeded(0):
        posterior = lb.posteriors.DiagonalNormal(2, lb.nn.MLP((4,), (4,), (8,)))
        return lb.LatentVariableModel(lb.priors.Normal(2), lb.nn.MLP((2,), (4,), (8,)), like), posterior


MIXED = torch.tensor([[0.0, 1, 2, 3], [1, 0, 0, 1], [1, 1, 3, 0]])
MASK = torch.tensor([[True, False, True, False], [True, True, False, True], [False, True, True, True]])


@pytest.mark.parametrize("part", PARTS, ids=["Geometric", "Binomial"])
def test_missing_values_of_it_are_imputed(part):
    found = complete(*product(part()), Rows(MIXED, MASK), torch.Generator().manual_seed(0), draws=3)
    assert np.array_equal(found.best[MASK], MIXED[MASK])
    assert (found.draws[:, ~MASK] >= 0).all()
    assert np.array_equal(found.draws, found.draws.round())


@pytest.mark.parametrize("part", PARTS, ids=["Geometric", "Binomial"])
def test_next_to_noisy_columns_it_is_known(part):
    found = denoise(*product(part()), MIXED, Flips(0.1), torch.Generator().manual_seed(0), samples=200)
    assert np.array_equal(found.mean[:, 2:], MIXED[:, 2:])
    assert ((found.mean[:, :2] > 0) & (found.mean[:, :2] < 1)).all()
    model = lb.LatentVariableModel(lb.priors.Normal(2), lb.nn.MLP((2,), (4,), (8,)), part())
    with pytest.raises(ValueError, match=r"supports Bernoulli likelihoods, but .* is (Geometric|Binomial); "):
        denoise(model, product(part())[1], MIXED, Flips(0.1), torch.Generator().manual_seed(0))


def test_missing_by_its_value_it_is_summed_over_or_refused():
    """Of finitely many values the sum needs no code; of others a method ``log_missing``."""
    with pytest.raises(ValueError, match=r"SelfMasking does not support columns of Geometric"):
        likelihoods.SelfMasking(likelihoods.Product([Geometric()]))
    like = likelihoods.SelfMasking(product(Binomial(3))[0].likelihood)
    like.initialise(MIXED, MASK)
    (_, curve), (_, part) = like.curves, like.likelihoods
    with torch.no_grad():
        curve.slope.copy_(torch.tensor([1.5, -0.7]))
    params = torch.randn(5, 3, 1, 4, generator=torch.Generator().manual_seed(0))
    joint = [
        (part.log_prob_per_value(params[..., 2:], level) + functional.logsigmoid(curve.logit(level))).exp()
        for level in torch.arange(4.0).view(4, 1, 1).expand(4, 3, 2)
    ]
    assert torch.allclose(like.log_missing(params)[..., 2:], torch.stack(joint).sum(0).log(), atol=1e-6)
    drawn = like.sample_missing(params, torch.Generator().manual_seed(0))
    assert part.support.check(drawn[..., 2:]).all()


def test_outside_the_table_its_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'geometric'"):
        lb.VAE(2, likelihood="geometric", epochs=1).fit(np.ones((8, 2)))
