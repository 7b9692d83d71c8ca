"""Black-box variational inference against posteriors that are known: normal ones, and one with heavy tails."""

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

import lowerbound as lb
from lowerbound import evidence, gradients
from lowerbound.inference import LogJointModel, RowPosteriors, Settled
from lowerbound.storage.history import History
from lowerbound.training import Event

WEIGHT = torch.tensor([[1.0, 0.4], [0.6, -1.0], [0.8, 0.9]], dtype=torch.float64)
NOISE = 0.5


def linear(z, x):
    """log p(x, z) of z ~ N(0, I), x ~ N(Wz, σ² I)."""
    log_prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    away = (x - z @ WEIGHT.to(z).T) / NOISE
    return log_prior - 0.5 * away.square().sum(-1) - 3 * math.log(NOISE * math.sqrt(2 * math.pi))


def counted(z, x):
    """``linear`` by NumPy, which has no gradient."""
    return torch.tensor(linear(z.detach(), x).numpy())


def data(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(x), the posterior's means and its precision."""
    precision = torch.eye(2).double() + WEIGHT.T @ WEIGHT / NOISE**2
    mean = torch.linalg.solve(precision, WEIGHT.T @ x.T).T / NOISE**2
    cov = WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(3).double()
    log_p = torch.distributions.MultivariateNormal(torch.zeros(3).double(), cov).log_prob(x)
    return log_p.numpy(), mean.numpy(), precision.numpy()


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_normal_posteriors_are_found_or_missed_by_the_gap_of_a_diagonal_q(family):
    x = data()
    found = evidence.black_box(linear, x, (2,), family=family, samples=2000)
    log_p, mean, precision = exact(x)
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert gap > 0.02
    cov = np.linalg.inv(precision) if family == "full" else np.diag(1 / np.diag(precision))
    np.testing.assert_allclose(found.q.mean(), mean, atol=0.01)
    np.testing.assert_allclose(found.q.covariance(), np.broadcast_to(cov, (4, 2, 2)), rtol=0.05, atol=0.003)
    np.testing.assert_allclose(found.evidence.estimate, log_p, atol=0.02)
    due = log_p - (gap if family == "diagonal" else 0)
    np.testing.assert_allclose(found.evidence.elbo, due, atol=0.015)
    assert found.settled
    assert found.evidence.reliable.all()
    records = found.history.records
    assert np.mean([r["train_objective"] for r in records[-50:]]) == pytest.approx(due.mean(), abs=0.02)


@pytest.mark.parametrize(
    "gradient",
    [gradients.reparameterised, gradients.leave_one_out, gradients.doubly_reparameterised],
    ids=lambda each: each.__name__,
)
def test_any_estimator_of_gradients_ends_there(gradient):
    x = data(2)
    found = evidence.black_box(linear, x, (2,), gradient=gradient, draws=20, learning_rate=0.03)
    np.testing.assert_allclose(found.q.mean(), exact(x)[1], atol=0.06)
    np.testing.assert_allclose(found.q.scale, np.broadcast_to(np.diag(exact(x)[2]) ** -0.5, (2, 2)), rtol=0.12)


def test_a_log_joint_without_a_gradient_is_enough_for_the_score_function():
    x = data(2)
    found = evidence.black_box(counted, x, (2,), gradient=gradients.leave_one_out, draws=20, learning_rate=0.03)
    np.testing.assert_allclose(found.q.mean(), exact(x)[1], atol=0.06)


def test_z_of_any_shape_and_rows_that_do_not_interact():
    x = data(3)
    flat = evidence.black_box(linear, x, (2,), most_steps=400, window=100)
    square = evidence.black_box(
        lambda z, x: linear(z.flatten(2), x), x, (2, 1), most_steps=400, window=100
    )  # the same noise
    assert torch.equal(flat.q.mean(), square.q.mean())
    alone = evidence.black_box(linear, x[1:2], (2,))
    np.testing.assert_allclose(alone.q.mean()[0], flat.q.mean()[1], atol=0.02)


def test_k_hat_exposes_a_posterior_with_heavier_tails_than_q():
    def student(z, x):
        return torch.distributions.StudentT(1.5, x, 1.0).log_prob(z).sum(-1)

    found = evidence.black_box(student, torch.tensor([[0.0], [3.0]]), (1,), samples=5000)
    assert (found.evidence.pareto_k > 0.7).all()
    assert not found.evidence.reliable.any()
    assert abs(found.q.mean()[1].item() - 3) < 0.1


def test_a_model_of_the_library_may_be_given_and_stays_as_it_is():
    with lb.nn.seeded(0):
        model = lb.LatentVariableModel(lb.priors.Normal(2), lb.nn.MLP((2,), (3,), (4,)), lb.likelihoods.Normal(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, q = data(5).float(), RowPosteriors(5, 2)
    history = lb.fit(
        model, x, lb.BlackBox(q, gradient=gradients.reparameterised), epochs=150, batch_size=5, validation=0
    ).history
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    values = [record["train_objective"] for record in history.records]
    assert np.mean(values[-20:]) > np.mean(values[:20]) + 0.1


# --- when a fit ends ---


def event(values) -> Event:
    """The event of the last of epochs with these objectives."""
    records = [{"epoch": n + 1, "train_objective": value} for n, value in enumerate(values)]
    return Event(len(values), 1000, records[-1], None, History(records))


def test_a_fit_ends_once_the_mean_of_a_window_rises_no_more():
    noise = np.random.default_rng(0).normal(size=40)
    level = np.concatenate([noise[:20] - noise[:20].mean(), noise[20:] - noise[20:].mean()])  # two means of 0
    error = np.sqrt((level[:20].var(ddof=1) + level[20:].var(ddof=1)) / 20)
    for rise, ends in ((1.1, False), (0.9, True), (-3.0, True)):  # of the second mean, in standard errors
        assert Settled(20)(event(level + rise * error * (np.arange(40) >= 20))) == ends
    assert not Settled(20)(event(np.arange(40) + noise))
    assert Settled(20)(event(np.zeros(40)))
    assert Settled(20)(event(-np.arange(40.0)))
    assert not Settled(20)(event(np.zeros(39)))  # not at the end of a window
    assert not Settled(20)(event(np.zeros(20)))  # of which there must be two


def test_a_fit_that_was_cut_short_is_named():
    with pytest.warns(RuntimeWarning, match="the ELBO still rose after 150 steps; raise most_steps"):
        found = evidence.black_box(linear, data(), (2,), most_steps=150, learning_rate=1e-3)
    assert not found.settled


def test_the_average_is_over_the_steps_of_a_window():
    q, seen = RowPosteriors(1, 1), []
    for step in range(7):
        with torch.no_grad():
            q.outputs.fill_(step)
        q.count_step(5)
        seen.append(float(q.averaged[0, 0]))
    assert seen == pytest.approx([0, 0.5, 1, 1.5, 2, 5, 5.5])


# --- resuming, and what is refused ---


def fit_linear(run: Path, callbacks=()) -> lb.Fit:
    q = RowPosteriors(7, 2, "full")
    inference = lb.BlackBox(q, draws=3, window=8)
    model = LogJointModel(linear, (2,), torch.float64)
    return lb.fit(
        model,
        data(7),
        inference,
        epochs=40,
        batch_size=7,
        validation=0,
        threads=1,
        callbacks=callbacks,
        run_dir=run,
        checkpoint_every=5,
    )


def fit_until_killed(run: Path, *steps: int) -> None:
    warnings.simplefilter("error")
    fit_linear(run, [die_at(step) for step in steps])


def test_a_killed_fit_resumes_to_the_same_bytes(tmp_path):
    fit_linear(tmp_path / "whole")
    assert warm.run(fit_until_killed, tmp_path / "cut", 13).returncode == -signal.SIGKILL
    done = warm.run(fit_until_killed, tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_what_does_not_fit_is_refused_in_a_sentence():
    model, x = LogJointModel(linear, (2,), torch.float64), data()
    fit = partial(lb.fit, model, x, epochs=1)
    with pytest.raises(ValueError, match=r"BlackBox updates all rows in each step: give batch_size=4, not 3"):
        fit(lb.BlackBox(RowPosteriors(4, 2)), validation=0, batch_size=3)
    with pytest.raises(ValueError, match=r"q is of 4 rows of z \[2\], and the fit of 3 training rows.*validation=0"):
        fit(lb.BlackBox(RowPosteriors(4, 2)), validation=0.25)
    with pytest.raises(ValueError, match=r"q is of 4 rows of z \[3\]"):
        fit(lb.BlackBox(RowPosteriors(4, 3)), validation=0)
    with pytest.raises(ValueError, match="rows that are held out have no q: give BlackBox validation=0"):
        fit(lb.BlackBox(RowPosteriors(4, 2)), validation=x)
    with pytest.raises(ValueError, match=r"log_joint .*\[K, B\]"):
        evidence.black_box(lambda z, x: z.sum(), x, (2,))
    with pytest.raises(ValueError, match="log_joint takes rows without missing values"):
        evidence.black_box(linear, torch.where(x > 1, torch.nan, x), (2,))
    with pytest.raises(ValueError, match="which has no prior to draw from"):
        model.sample(3, torch.Generator())
    with pytest.raises(ValueError, match="alone is unknown"):
        model.decode(torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="family is 'none'"):
        RowPosteriors(4, 2, "none")
    with pytest.raises(ValueError, match="scale must be above 0"):
        RowPosteriors(4, 2, scale=0)
    with pytest.raises(ValueError, match="leave_one_out needs draws of at least 2"):
        lb.BlackBox(RowPosteriors(4, 2), gradients.leave_one_out, draws=1)
    with pytest.raises(ValueError, match="window must be at least 2"):
        lb.BlackBox(RowPosteriors(4, 2), window=1)
