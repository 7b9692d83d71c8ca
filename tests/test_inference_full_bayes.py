"""Full variational Bayes and MAP against Bayesian linear regression, whose posterior and evidence are exact."""

from __future__ import annotations

import math
import signal
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from fits import die_at
from folders import tree
from oracles import z_score
from torch import nn

import lowerbound as lb
from lowerbound.inference import NormalWeights, WeightPosterior
from lowerbound.inference.full_bayes import FullVBProcedure
from lowerbound.training import OF_ROWS

ROWS, COLUMNS, NOISE, SPREAD = 45, 3, 0.7, 1.5  # σ of y given the weights, and τ of the weights


class Regression(nn.Module):
    """y = wᵀc of a row's context c; z is not read."""

    context = COLUMNS

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(COLUMNS, 1, bias=False)

    def forward(self, z, c):
        return self.linear(c)


def regression() -> tuple[lb.LatentVariableModel, lb.AEVB, lb.data.Rows]:
    """y | c ~ N(wᵀc, σ²), with a latent that nothing reads and whose q is its prior."""
    random = np.random.default_rng(0)
    c = random.normal(size=(ROWS, COLUMNS)) @ np.array([[1, 0.8, 0], [0, 1, 0.5], [0, 0, 1]])
    y = c @ np.array([1.0, -0.5, 0.3]) + NOISE * random.normal(size=ROWS)
    rows = lb.data.Rows(torch.tensor(y)[:, None], dtype=torch.float64, context=torch.tensor(c))
    with lb.nn.seeded(0):
        model = lb.LatentVariableModel(lb.priors.Normal(1), Regression(), lb.likelihoods.Normal(NOISE)).double()
        posterior = lb.posteriors.DiagonalNormal(1, lb.nn.MLP((1,), (2,), ())).double()
    for parameter in posterior.parameters():
        nn.init.zeros_(parameter).requires_grad_(False)
    return model, lb.AEVB(posterior), rows


def batch_of(rows: lb.data.Rows, index=None, size: int | None = None):
    """Some rows as a batch, padded to ``size`` with rows that have weight 0."""
    index = torch.arange(len(rows)) if index is None else index
    padded = torch.cat([index, index[:1].expand((size or len(index)) - len(index))])
    weight = (torch.arange(len(padded)) < len(index)).double() / len(index)
    return rows.batch(padded, weight)


class Exact:
    """The exact posterior, evidence and ELBO of ``regression``."""

    def __init__(self, rows: lb.data.Rows) -> None:
        self.y, self.c = (value.numpy() for value in (batch_of(rows).x[:, 0], batch_of(rows).context))
        self.precision = self.c.T @ self.c / NOISE**2 + np.eye(COLUMNS) / SPREAD**2
        self.mean = np.linalg.solve(self.precision, self.c.T @ self.y) / NOISE**2
        cov = NOISE**2 * np.eye(ROWS) + SPREAD**2 * self.c @ self.c.T
        self.evidence = -0.5 * (self.y @ np.linalg.solve(cov, self.y) + np.linalg.slogdet(2 * math.pi * cov)[1])

    def elbo(self, mean: np.ndarray, cov: np.ndarray) -> float:
        """log p(y) − KL(N(mean, cov) ‖ posterior)."""
        away = mean - self.mean
        kl = 0.5 * (np.trace(self.precision @ cov) + away @ self.precision @ away - COLUMNS)
        return self.evidence - kl + 0.5 * (np.linalg.slogdet(self.precision)[1] + np.linalg.slogdet(cov)[1])

    @property
    def diagonal_gap(self) -> float:
        """log p(y) − ELBO at the best diagonal q."""
        return 0.5 * (np.log(np.diag(self.precision)).sum() - np.linalg.slogdet(self.precision)[1])


def moments(model: lb.LatentVariableModel, weights: WeightPosterior) -> tuple[np.ndarray, np.ndarray]:
    """The mean and covariance of q(θ)."""
    with torch.no_grad():
        q = weights(model)
        return q.mean()[0].numpy(), q.covariance()[0].numpy()


def normal_as_function(parameters):
    """The prior of ``NormalWeights(SPREAD)``, as a function without a closed form."""
    return NormalWeights(SPREAD)(parameters)


def values(procedure: FullVBProcedure, batch, count: int, what) -> torch.Tensor:
    """``what`` at independent noise, ``[count, …]``."""
    rng = torch.Generator().manual_seed(1)
    torch.manual_seed(1)  # of the local draws
    return torch.stack([what(batch, procedure.noise(len(batch.x), rng)) for _ in range(count)])


def gradient(procedure: FullVBProcedure, batch, noise) -> torch.Tensor:
    """The gradient of the loss in the means and the scales of q."""
    learnt = [procedure.model.decoder.linear.weight, procedure.weights.spread]
    loss, _ = procedure.loss(batch, noise, {})
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, learnt)])


def started(family="diagonal", **settings) -> tuple[FullVBProcedure, lb.data.Rows]:
    model, learning, rows = regression()
    weights = WeightPosterior(model, family, 0.15)
    settings = {"log_prior": NormalWeights(SPREAD)} | settings
    return lb.FullVB(learning, weights, **settings).start(model, rows), rows


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("diagonal", {}),
        ("diagonal", {"local": False}),
        ("diagonal", {"log_prior": normal_as_function, "draws": 2}),
        ("full", {}),
        ("full", {"log_prior": normal_as_function}),
    ],
)
def test_the_objective_is_the_elbo_on_average_for_any_q(family, settings):
    procedure, rows = started(family, **settings)
    with torch.no_grad():
        procedure.weights.spread.add_(torch.linspace(-0.4, 0.4, len(procedure.weights.spread)))
    due = Exact(rows).elbo(*moments(procedure.model, procedure.weights)) / ROWS
    batch = batch_of(rows)
    with torch.no_grad():
        stepped = values(procedure, batch, 2000, lambda *given: procedure.loss(*given, {})[1]["objective"])
        held_out = values(
            procedure, batch, 2000, lambda *given: procedure.evaluate(procedure.state, *given, {})["objective"]
        )
    for found in (stepped, held_out):
        assert abs(z_score(found, due)) < 4
        assert found.std() / math.sqrt(len(found)) < 0.02 * abs(due)
        assert abs(z_score(found, due + abs(due) / 20)) > 4  # an error of 5 % is seen


def test_the_objective_of_each_row_has_the_mean_of_the_objective():
    procedure, rows = started()
    batch = batch_of(rows)
    with torch.no_grad():
        found = procedure.evaluate(procedure.state, batch, procedure.noise(ROWS, torch.Generator()), {})
    torch.testing.assert_close(found[OF_ROWS].mean(), found["objective"])


def test_local_draws_have_the_same_mean_gradient_and_less_variance():
    batches, found = [], []
    for local in (True, False):
        procedure, rows = started(local=local)
        batches.append(batch_of(rows))
        found.append(values(procedure, batches[-1], 1000, partial(gradient, procedure)))
    here, there = found
    error = ((here.var(0) + there.var(0)) / 1000).sqrt()
    assert (((here.mean(0) - there.mean(0)) / error).abs() < 4).all()
    assert (here.var(0)[:COLUMNS] < 0.2 * there.var(0)[:COLUMNS]).all()  # of the means: rows have noise of their own


@pytest.mark.parametrize("local", [False, True])
def test_the_mean_gradient_of_the_minibatches_is_the_full_one(local, monkeypatch):
    procedure, rows = started(local=local)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)  # the same local draw of every row
    whole = batch_of(rows)
    noise = procedure.noise(ROWS, torch.Generator().manual_seed(0))
    theta = noise[-COLUMNS:]
    due = gradient(procedure, whole, noise)
    total, size = torch.zeros_like(due), 20  # of 45 rows: the last batch has 5 and 15 of padding
    for index in torch.arange(ROWS).split(size):
        batch = batch_of(rows, index, size)
        own = torch.cat([noise[:size], theta])
        total += len(index) / ROWS * gradient(procedure, batch, own)
    torch.testing.assert_close(total, due)
    batch = batch_of(rows, torch.arange(size))
    one = gradient(procedure, batch, torch.cat([noise[:size], theta]))
    procedure.rows = size  # the mutant: KL/B
    assert not torch.allclose(gradient(procedure, batch, torch.cat([noise[:size], theta])), one, rtol=0.01)


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_a_fit_reaches_the_evidence_or_stops_at_the_gap_of_a_diagonal_q(family):
    model, learning, rows = regression()
    weights = WeightPosterior(model, family, 0.3)
    steps = 1200
    learning = lb.AEVB(learning.posterior, learning_rate=lb.training.Cosine(0.03, steps))
    inference = lb.FullVB(learning, weights, NormalWeights(SPREAD), draws=2)
    history = lb.fit(model, rows, inference, epochs=steps, batch_size=ROWS, validation=0).history
    exact = Exact(rows)
    due = exact.evidence - (exact.diagonal_gap if family == "diagonal" else 0)
    mean, cov = moments(model, weights)
    assert exact.diagonal_gap > 0.2
    assert exact.elbo(mean, cov) == pytest.approx(due, abs=0.02)
    np.testing.assert_allclose(mean, exact.mean, atol=0.02)
    last = np.mean([record["train_objective"] for record in history.records[-100:]])
    assert last * ROWS == pytest.approx(due, abs=0.5)


def test_draws_of_the_weights_are_of_q():
    procedure, _ = started("full")
    rng = torch.Generator().manual_seed(0)
    model, weights = procedure.model, procedure.weights
    drawn = torch.stack([weights.sample(model, rng)["decoder.linear.weight"].flatten() for _ in range(3000)])
    mean, cov = moments(model, weights)
    error = np.sqrt(np.diag(cov) / len(drawn))
    assert (np.abs(drawn.mean(0).numpy() - mean) < 4 * error).all()


# --- MAP ---


def test_map_of_a_normal_prior_is_ridge():
    model, learning, rows = regression()
    learning = lb.AEVB(learning.posterior, learning_rate=lb.training.Cosine(0.1, 600))
    lb.fit(model, rows, lb.MAP(learning, NormalWeights(SPREAD)), epochs=600, batch_size=ROWS, validation=0)
    found = model.decoder.linear.weight.detach().numpy().ravel()
    np.testing.assert_allclose(found, Exact(rows).mean, atol=1e-5)
    exact = Exact(rows)
    plain = np.linalg.lstsq(exact.c, exact.y, rcond=None)[0]
    assert np.abs(plain - exact.mean).max() > 1e-3  # which the prior does change


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Adagrad])
def test_a_standard_normal_prior_is_a_weight_decay_of_one_over_n(optimizer):
    x = (torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    found = []
    for decay in (0.0, 1 / 50, 1 / 20):
        with lb.nn.seeded(0):
            decoder, encoder = lb.nn.MLP((2,), (4,), (5,)), lb.nn.MLP((4,), (4,), (5,))
        model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Bernoulli()).double()
        posterior = lb.posteriors.DiagonalNormal(2, encoder).double()
        groups = [
            {"params": list(model.parameters()), "weight_decay": decay},
            {"params": list(posterior.parameters()), "weight_decay": 0.0},
        ]
        learning = lb.AEVB(posterior, optimizer=lambda _, groups=groups: optimizer(groups), learning_rate=0.01)
        inference = learning if decay else lb.MAP(learning, NormalWeights(1.0))
        lb.fit(model, x, inference, epochs=10, batch_size=20, validation=0)
        found.append(torch.cat([p.detach().flatten() for p in decoder.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(found[0], found[2], rtol=1e-4)


# --- a whole model: resume, saving, the command line's way ---


def network() -> tuple[lb.LatentVariableModel, lb.posteriors.Posterior]:
    with lb.nn.seeded(0):
        decoder, encoder = lb.nn.MLP((2,), (6,), (8,)), lb.nn.MLP((6,), (4,), (8,))
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Bernoulli())
    return model, lb.posteriors.DiagonalNormal(2, encoder)


def fit_network(name: str, run: Path | None, callbacks=(), **settings) -> lb.Fit:
    x = (torch.rand(143, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    model, posterior = network()
    learning = lb.AEVB(posterior, **settings)
    inference = {"full-vb": lb.FullVB(learning), "map": lb.MAP(learning)}[name]
    return lb.fit(
        model, x, inference, epochs=6, batch_size=20, threads=1, callbacks=callbacks, run_dir=run, checkpoint_every=5
    )


def fit_until_killed(name: str, run: Path, *steps: int) -> None:
    warnings.simplefilter("error")
    fit_network(name, run, [die_at(step) for step in steps])


@pytest.mark.parametrize("name", ["full-vb", "map"])
def test_a_killed_fit_resumes_to_the_same_bytes(name, tmp_path):
    fit_network(name, tmp_path / "whole")
    assert warm.run(fit_until_killed, name, tmp_path / "cut", 12).returncode == -signal.SIGKILL
    done = warm.run(fit_until_killed, name, tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert isinstance(lb.load(tmp_path / "cut"), lb.Fit)


def test_records_and_clipping():
    records = fit_network("full-vb", None, clip_norm=1e-3).history.records
    assert records[-1]["train_kl_weights"] > 0
    assert records[-1]["train_clipped"] == 1
    assert {"valid_objective", "valid_standard_error"} <= records[-1].keys()


class Twice(nn.Module):
    """A decoder that applies one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, z):
        return self.layer(self.layer(z).tanh())


def test_what_does_not_fit_is_refused_in_a_sentence():
    model, posterior = network()
    big = lb.LatentVariableModel(lb.priors.Normal(64), lb.nn.MLP((64,), (64,)), lb.likelihoods.Bernoulli())
    learning = lb.AEVB(posterior)
    with pytest.raises(ValueError, match="family is 'none'; it takes"):
        WeightPosterior(model, "none")
    with pytest.raises(ValueError, match="no trained parameter of the model has such a name"):
        WeightPosterior(model, of=("encoder.",))
    with pytest.raises(ValueError, match="scale must be above 0"):
        WeightPosterior(model, scale=0.0)
    with pytest.raises(ValueError, match='and "full" takes 4096 at most; give "diagonal"'):
        WeightPosterior(big, "full")
    with pytest.raises(ValueError, match="scale of NormalWeights must be above 0"):
        NormalWeights(0.0)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        lb.FullVB(learning, draws=0)
    with pytest.raises(ValueError, match="leave compile out of its AEVB"):
        lb.FullVB(lb.AEVB(posterior, compile=True))
    with pytest.raises(ValueError, match=r"must be a mean over the draws of z, as elbo is; give local=False"):
        lb.FullVB(lb.AEVB(posterior, objective=lb.objectives.iwae, draws=2), local=True)
    with pytest.raises(ValueError, match="weights is of another model"):
        lb.FullVB(learning, WeightPosterior(regression()[0])).start(model, lb.data.Rows(torch.zeros(5, 6)))
    twice = lb.LatentVariableModel(lb.priors.Normal(2), Twice(), lb.likelihoods.Normal(1.0))
    encoder = lb.posteriors.DiagonalNormal(2, lb.nn.MLP((2,), (4,)))
    with pytest.raises(ValueError, match=r"layer decoder.layer does not map each row once.*give local=False"):
        lb.fit(twice, torch.randn(20, 2), lb.FullVB(lb.AEVB(encoder)), epochs=1, validation=0)
    lb.fit(twice, torch.randn(20, 2), lb.FullVB(lb.AEVB(encoder), local=False), epochs=1, validation=0)


def test_settings_are_part_of_the_fit():
    _, posterior = network()
    several = lb.FullVB(lb.AEVB(posterior, objective=lb.objectives.iwae, draws=2))
    assert lb.FullVB(lb.AEVB(posterior)).describe()["local"]
    assert not several.describe()["local"]  # all draws of z need the same θ
    assert lb.FullVB(lb.AEVB(posterior)).describe()["log_prior"] == "NormalWeights(scale=1.0)"
    assert lb.MAP(lb.AEVB(posterior), normal_as_function).describe()["log_prior"] == "normal_as_function"
    assert lb.FullVB(lb.AEVB(posterior)).is_bound
    assert not lb.MAP(lb.AEVB(posterior)).is_bound
