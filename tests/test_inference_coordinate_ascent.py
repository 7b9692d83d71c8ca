"""Coordinate ascent of conjugate nodes against scikit-learn, exact posteriors and exact evidence."""

from __future__ import annotations

import itertools
import math
import re
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import warm
from fits import die_at
from folders import tree
from scipy.special import digamma, gammaln
from sklearn.linear_model import BayesianRidge
from sklearn.mixture import BayesianGaussianMixture

import lowerbound as lb
from lowerbound.inference import (
    BayesianMixture,
    BayesianRegression,
    Component,
    Dirichlet,
    Gamma,
    NormalGamma,
    NormalVector,
    NormalWishart,
)
from lowerbound.inference.coordinate_ascent import CoordinateAscentProcedure

ROWS, BATCH = 143, 20


def groups(count: int = ROWS) -> np.ndarray:
    """Two columns, of three groups that overlap."""
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    return centres[random.integers(3, size=count)] + random.normal(size=(count, 2)) @ np.array([[1, 0.5], [0, 0.8]])


def fit(nodes, x, epochs: int, context=None, batch_size: int = BATCH, **settings) -> list[float]:
    """Fit to all rows; the objective of each epoch."""
    rows = lb.data.Rows(torch.as_tensor(x), dtype=torch.float64, context=context)
    inference = lb.CoordinateAscent(nodes, **settings)
    history = lb.fit(nodes.model(), rows, inference, epochs=epochs, batch_size=batch_size, validation=0).history
    return [record["train_objective"] for record in history.records]


# --- nodes ---


def normal_gamma(copies: int = 1) -> NormalGamma:
    return NormalGamma(torch.tensor([0.3, -1.0]), torch.tensor([2.0, 0.7]), 0.5, 1.7, copies)


def normal_wishart(copies: int = 1) -> NormalWishart:
    return NormalWishart(torch.tensor([0.3, -1.0]), torch.tensor([[2.0, 0.4], [0.4, 0.9]]), 0.5, 3.2, copies)


def test_expectations_of_nodes_are_the_known_ones():
    node = Gamma(2.5, 0.7)
    node.natural.copy_(node.prior)
    np.testing.assert_allclose(node.expected()[0], [digamma(2.5) - math.log(0.7), 2.5 / 0.7])
    concentration = np.array([0.3, 2.0, 5.0])
    due = digamma(concentration) - digamma(concentration.sum())
    np.testing.assert_allclose(Dirichlet(torch.tensor(concentration)).expected()[0], due)
    precision, mean = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([1.0, -2.0]).double()
    vector = NormalVector(2)
    vector.natural.copy_(torch.cat([precision @ mean, -0.5 * precision.flatten()])[None])
    second = precision.inverse() + mean.outer(mean)
    np.testing.assert_allclose(vector.expected()[0], torch.cat([mean, second.flatten()]))
    a, b, m, k = 1.7, np.array([2.0, 0.7]), np.array([0.3, -1.0]), 0.5
    due = np.stack([digamma(a) - np.log(b), a / b, m * a / b, 1 / k + m**2 * a / b], 1)
    np.testing.assert_allclose(normal_gamma().expected()[0], due.ravel(), rtol=1e-6)
    scale, v = np.linalg.inv([[2.0, 0.4], [0.4, 0.9]]), 3.2
    log_det = digamma(v / 2) + digamma((v - 1) / 2) + 2 * math.log(2) + np.linalg.slogdet(scale)[1]
    due = np.concatenate([[log_det], v * scale.ravel(), v * scale @ m, [2 / k + v * m @ scale @ m]])
    np.testing.assert_allclose(normal_wishart().expected()[0], due, rtol=1e-6)


def test_the_kl_of_nodes_is_the_known_one():
    gamma = Gamma(2.5, 0.7)
    gamma.natural.copy_(torch.tensor([[0.5, -2.0]]))
    wide = torch.distributions.kl_divergence
    due = wide(torch.distributions.Gamma(1.5, 2.0), torch.distributions.Gamma(2.5, 0.7))
    assert float(gamma.kl()) == pytest.approx(float(due), rel=1e-5)
    weights = Dirichlet(torch.tensor([0.3, 2.0]))
    weights.natural.copy_(torch.tensor([[3.0, 0.5]]))
    due = wide(
        torch.distributions.Dirichlet(torch.tensor([4.0, 1.5])), torch.distributions.Dirichlet(torch.tensor([0.3, 2.0]))
    )
    assert float(weights.kl()) == pytest.approx(float(due), rel=1e-5)
    vector = NormalVector(1)
    vector.natural.copy_(torch.tensor([[2.0, -1.0]]))  # N(1, ½)
    due = wide(torch.distributions.Normal(1.0, 0.5**0.5), torch.distributions.Normal(0.0, 1.0))
    assert float(vector.kl()) == pytest.approx(float(due), rel=1e-5)


def log_evidence(component: str, x: np.ndarray) -> float:
    """log p(x_1, …, x_N), as the product of each row's predictive Student's t given those before it."""
    total = 0.0
    for n in range(len(x)):
        seen, m0, k0 = x[:n], np.array([0.3, -1.0]), 0.5
        k = k0 + n
        m = (k0 * m0 + seen.sum(0)) / k
        square = seen.T @ seen + k0 * np.outer(m0, m0) - k * np.outer(m, m)
        if component == "wishart":
            inverse, v = np.array([[2.0, 0.4], [0.4, 0.9]]) + square, 3.2 + n
            shape = inverse * (k + 1) / (k * (v - 1))
            total += scipy.stats.multivariate_t.logpdf(x[n], m, shape, df=v - 1)
        else:
            a, b = 1.7 + n / 2, np.array([2.0, 0.7]) + np.diag(square) / 2
            total += scipy.stats.t.logpdf(x[n], 2 * a, m, np.sqrt(b * (k + 1) / (a * k))).sum()
    return total


@pytest.mark.parametrize(("name", "make"), [("gamma", normal_gamma), ("wishart", normal_wishart)])
def test_one_component_has_its_exact_evidence_after_one_epoch(name, make):
    x = groups()
    nodes = BayesianMixture(make())
    objectives = fit(nodes, x, 3)
    assert objectives[1] * ROWS == pytest.approx(log_evidence(name, x), rel=1e-9)
    assert objectives[2] == pytest.approx(objectives[1], rel=1e-12)
    assert objectives[0] < objectives[1]


# --- mixtures ---


class Started(BayesianGaussianMixture):
    """scikit-learn's mixture from given responsibilities."""

    shares = None

    def _initialize_parameters(self, X, *rest, **more):
        self._initialize(X, self.shares)


def test_the_parameters_of_a_mixture_are_those_of_scikit_learn():
    x, random = groups(), np.random.default_rng(1)
    shares = random.dirichlet(np.ones(3), ROWS)
    steps = 40
    oracle = Started(
        n_components=3, reg_covar=0.0, tol=0.0, max_iter=steps, weight_concentration_prior_type="dirichlet_distribution"
    )
    oracle.shares = shares
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        oracle.fit(x)
    nodes = BayesianMixture(NormalWishart.from_data(torch.tensor(x), 3))
    nodes.assign(torch.tensor(x), torch.tensor(shares))
    objectives = fit(nodes, x, steps)
    freedom, inverse, mean, precision = nodes.components._read(nodes.components.natural)
    np.testing.assert_allclose(nodes.node("weights").natural[0] + 1, oracle.weight_concentration_, rtol=1e-7)
    np.testing.assert_allclose(precision, oracle.mean_precision_, rtol=1e-7)
    np.testing.assert_allclose(mean, oracle.means_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(freedom, oracle.degrees_of_freedom_, rtol=1e-7)
    np.testing.assert_allclose(inverse / freedom[:, None, None], oracle.covariances_, rtol=1e-7, atol=1e-9)
    assert (np.diff(objectives) > -1e-9).all()
    assert objectives[-1] > objectives[0] + 0.01
    np.testing.assert_allclose(nodes.shares(torch.tensor(x))[0], oracle.predict_proba(x), atol=1e-7)


@pytest.mark.parametrize("make", [normal_gamma, normal_wishart])
def test_the_bound_of_a_mixture_is_below_its_enumerated_evidence(make):
    """Of six rows and two components; the bound is less than a nat below."""
    x = groups(6)
    nodes = BayesianMixture(make(2), 0.8)
    nodes.assign(torch.tensor(x))
    bound = 6 * fit(nodes, x, 60)[-1]
    name = "gamma" if make is normal_gamma else "wishart"
    terms = []
    for labels in itertools.product((0, 1), repeat=6):
        labels, counts = np.array(labels), np.bincount(labels, minlength=2)
        log_labels = gammaln(1.6) - gammaln(1.6 + 6) + (gammaln(0.8 + counts) - gammaln(0.8)).sum()
        terms.append(log_labels + sum(log_evidence(name, x[labels == k]) for k in (0, 1)))
    exact = np.logaddexp.reduce(terms)
    assert exact - 3 < bound < exact


def test_the_model_of_a_mixture_has_the_expectation_of_its_nodes():
    x = torch.tensor(groups())
    for make in (NormalGamma, NormalWishart):
        nodes = BayesianMixture(make.from_data(x, 3))
        nodes.assign(x, seed=1)
        model = nodes.model()
        inference = lb.CoordinateAscent(nodes)
        lb.fit(model, x, inference, epochs=30, validation=0)
        weights = nodes.node("weights").mean().numpy()
        np.testing.assert_allclose(model.prior.logits.softmax(-1).detach().flatten(), weights)
        moments = nodes.components.moments().numpy()
        mean = moments[:, 1]
        if make is NormalWishart:
            covariance = moments[:, 2:] - mean[:, :, None] * mean[:, None]
        else:
            covariance = [np.diag(each) for each in moments[:, 2] - mean**2]
        due = [scipy.stats.multivariate_normal.logpdf(x, m, c) for m, c in zip(mean, covariance, strict=True)]
        states = torch.eye(3).double().view(3, 1, 1, 3).expand(3, ROWS, 1, 3)
        with torch.no_grad():
            np.testing.assert_allclose(model.log_lik(states, x), due, atol=1e-5)
        assert model.sample(5, torch.Generator()).shape == (5, 2)


# --- regression ---


def regression() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    c = random.normal(size=(ROWS, 3)) @ np.array([[1, 0.8, 0], [0, 1, 0.5], [0, 0, 1]])
    return c, c @ np.array([1.0, -0.5, 0.0]) + 0.7 * random.normal(size=ROWS)


def test_a_regression_ends_where_bayesian_ridge_does():
    c, y = regression()
    priors = {"alpha_1": 0.3, "alpha_2": 0.2, "lambda_1": 0.4, "lambda_2": 0.1}
    oracle = BayesianRidge(fit_intercept=False, tol=1e-12, max_iter=1000, **priors).fit(c, y)
    nodes = BayesianRegression(3, (0.3, 0.2), (0.4, 0.1))
    objectives = fit(nodes, y[:, None], 60, torch.tensor(c))
    mean, second = nodes._coefficients()
    np.testing.assert_allclose(mean, oracle.coef_, rtol=1e-6)
    np.testing.assert_allclose(second - mean.outer(mean), oracle.sigma_, rtol=1e-6)
    assert float(nodes.node("noise").expected()[0, 1]) == pytest.approx(oracle.alpha_, rel=1e-6)
    assert float(nodes.node("precision").expected()[0, 1]) == pytest.approx(oracle.lambda_, rel=1e-6)
    assert (np.diff(objectives) > -1e-9).all()


def test_the_bound_of_a_regression_with_known_precisions_is_its_evidence():
    c, y = regression()
    sure = 1e9
    nodes = BayesianRegression(3, (2 * sure, sure), (0.5 * sure, sure))  # α = 2, λ = ½
    found = ROWS * fit(nodes, y[:, None], 3, torch.tensor(c))[-1]
    cov = np.eye(ROWS) / 2 + c @ c.T / 0.5
    assert found == pytest.approx(scipy.stats.multivariate_normal.logpdf(y, np.zeros(ROWS), cov), abs=1e-3)


def test_the_model_of_a_regression_predicts_by_its_expectation():
    c, y = regression()
    nodes = BayesianRegression(3)
    model, rows = nodes.model(), lb.data.Rows(torch.tensor(y[:, None]), dtype=torch.float64, context=torch.tensor(c))
    lb.fit(model, rows, lb.CoordinateAscent(nodes), epochs=20, validation=0)
    with torch.no_grad():
        params = model.decode(torch.randn(1, ROWS, 1).double(), torch.tensor(c))
        np.testing.assert_allclose(model.likelihood.mean(params)[0, :, 0], c @ nodes._coefficients()[0].numpy())
        noise = float(nodes.node("noise").expected()[0, 1])
        assert float(model.likelihood.sigma()) == pytest.approx(noise**-0.5, rel=1e-6)


# --- minibatches ---


def test_the_stochastic_form_with_all_rows_and_a_step_of_1_is_the_batch_form():
    x = torch.tensor(groups())
    found = []
    for settings in ({"batch_size": 50}, {"batch_size": ROWS, "forgetting": 0.7, "delay": 1.0}):
        nodes = BayesianMixture(NormalWishart.from_data(x, 3))
        nodes.assign(x)
        fit(nodes, x, 1, **settings)
        found.append(nodes.components.natural)
    torch.testing.assert_close(*found)


def step_of(nodes, rows, index) -> torch.Tensor:
    """The natural gradient of a batch, padded to 20 rows with rows of weight 0."""
    procedure = CoordinateAscentProcedure(lb.CoordinateAscent(nodes, 0.7), nodes.model(), len(rows))
    before = nodes.components.natural.clone()
    padded = torch.cat([index, index[:1].expand(BATCH - len(index))])
    weight = (torch.arange(BATCH) < len(index)).double() / len(index)
    procedure.step(procedure.state, rows.batch(padded, weight), torch.empty(0), {})
    step = nodes.components.natural - before
    nodes.components.natural.copy_(before)
    return step


def test_the_mean_step_of_the_minibatches_is_the_full_one():
    x = torch.tensor(groups())
    nodes = BayesianMixture(NormalWishart.from_data(x, 3))
    nodes.assign(x)
    weights = nodes.node("weights").natural.clone()
    total = torch.zeros_like(nodes.components.natural)
    for index in torch.arange(ROWS).split(BATCH):
        nodes.node("weights").natural.copy_(weights)
        total += len(index) / ROWS * step_of(nodes, lb.data.Rows(x, dtype=torch.float64), index)
    nodes.node("weights").natural.copy_(weights)
    before = nodes.components.natural.clone()
    fit(nodes, x, 1)
    torch.testing.assert_close(nodes.components.natural - before, total)


def test_the_stochastic_form_comes_near_the_batch_form():
    c, y = regression()
    batch, stochastic = BayesianRegression(3), BayesianRegression(3)
    fit(batch, y[:, None], 30, torch.tensor(c))
    fit(stochastic, y[:, None], 150, torch.tensor(c), forgetting=0.9, delay=5.0)
    np.testing.assert_allclose(stochastic._coefficients()[0], batch._coefficients()[0], atol=0.02)
    noises = [float(nodes.node("noise").expected()[0, 1]) for nodes in (batch, stochastic)]
    assert noises[1] == pytest.approx(noises[0], rel=0.05)


# --- a node of one's own, resuming, and what is refused ---


class GammaPoisson(Component):
    """Counts x ~ Poisson(τ), τ ~ Gamma(a, rate b): t = (log τ, τ), η = (a − 1, −b), T(x) = (x, −1)."""

    def log_normaliser(self, natural):
        return torch.lgamma(natural[:, 0] + 1) - (natural[:, 0] + 1) * (-natural[:, 1]).log()

    def statistics(self, x):
        return torch.cat([x, -torch.ones_like(x)], 1)

    def log_base(self, x):
        return -torch.lgamma(x + 1).sum(1)


def test_a_node_of_ones_own_says_its_parameters_and_statistics():
    x = np.random.default_rng(0).poisson(3.0, size=(30, 1)).astype(float)
    nodes = BayesianMixture(GammaPoisson(torch.tensor([[1.0, -0.5]])))  # a = 2, b = ½
    rows = lb.data.Rows(torch.tensor(x), dtype=torch.float64)
    model = lb.LatentVariableModel(lb.priors.Categorical(1, 1), lb.nn.Table(1, (1,)), lb.likelihoods.Poisson()).double()
    with pytest.raises(NotImplementedError, match="GammaPoisson defines no likelihood: give fit a model of your own"):
        nodes.model()
    records = lb.fit(model, rows, lb.CoordinateAscent(nodes), epochs=2, validation=0).history.records
    natural = nodes.components.natural[0]
    np.testing.assert_allclose(natural, [1 + x.sum(), -30.5])
    a, b = 2 + x.sum(), 30.5
    exact = gammaln(a) - a * math.log(b) - gammaln(2) + 2 * math.log(0.5) - gammaln(x + 1).sum()
    assert records[1]["train_objective"] * 30 == pytest.approx(exact, rel=1e-9)


def fit_mixture(run: Path, forgetting: float | None, callbacks=()) -> lb.Fit:
    x = torch.tensor(groups())
    nodes = BayesianMixture(NormalGamma.from_data(x, 3))
    nodes.assign(x)
    return lb.fit(
        nodes.model(),
        x,
        lb.CoordinateAscent(nodes, forgetting),
        epochs=6,
        batch_size=BATCH,
        threads=1,
        callbacks=callbacks,
        run_dir=run,
        checkpoint_every=5,
    )


def fit_until_killed(run: Path, forgetting: float | None, *steps: int) -> None:
    warnings.simplefilter("error")
    fit_mixture(run, forgetting, [die_at(step) for step in steps])


@pytest.mark.parametrize("forgetting", [None, 0.7])
def test_a_killed_fit_resumes_to_the_same_bytes(forgetting, tmp_path):
    fit_mixture(tmp_path / "whole", forgetting)
    assert warm.run(fit_until_killed, tmp_path / "cut", forgetting, 12).returncode == -signal.SIGKILL
    done = warm.run(fit_until_killed, tmp_path / "cut", forgetting)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_what_does_not_fit_is_refused_in_a_sentence():
    x = torch.tensor(groups())
    nodes = BayesianMixture(NormalWishart.from_data(x, 3))
    with pytest.raises(ValueError, match=r"all components are alike.*call assign\(x\) before the fit"):
        lb.fit(nodes.model(), x, lb.CoordinateAscent(nodes), validation=0)
    missing = torch.where(x > 4, torch.nan, x)
    nodes.assign(x)
    with pytest.raises(ValueError, match="CoordinateAscent takes rows without missing values"):
        lb.fit(nodes.model(), missing, lb.CoordinateAscent(nodes), validation=0)
    with pytest.raises(ValueError, match=r"forgetting must be above 0\.5"):
        lb.CoordinateAscent(nodes, 0.5)
    with pytest.raises(ValueError, match="delay must be at least 1"):
        lb.CoordinateAscent(nodes, 0.7, 0.5)
    with pytest.raises(ValueError, match="freedom must be above 1 for rows of 2 values"):
        NormalWishart(torch.zeros(2), torch.eye(2), freedom=1.0)
    regression = BayesianRegression(3)
    with pytest.raises(ValueError, match="rows of one value with a context of 3 numbers"):
        lb.fit(regression.model(), x, lb.CoordinateAscent(regression), validation=0)


def test_the_page_on_ways_to_learn_runs(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "inference.md").read_text()
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.S)))
    done = warm.script(script, tmp_path)
    assert done.returncode == 0, done.stderr
