"""Monte Carlo EM against probabilistic PCA, whose p(z|x), log p(x) and its gradient are known exactly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import PPCA

import lowerbound as lb
from lowerbound.cli import commands
from lowerbound.draw import Batch
from lowerbound.inference import mcem
from lowerbound.likelihoods import Bernoulli, Normal
from lowerbound.nn import MLP

ROWS, WIDTH, LATENTS = 23, 4, 2


def values() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(ROWS, LATENTS)) @ random.normal(size=(LATENTS, WIDTH)) + random.normal(
        size=(ROWS, WIDTH)
    )


def exact() -> tuple[PPCA, lb.LatentVariableModel]:
    """pPCA of the rows, rotated, and its model with a learned σ."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(LATENTS, LATENTS)))[0]
    oracle = PPCA.of(values(), LATENTS, turn)
    model = oracle.model()
    likelihood = Normal("scalar", shape=(WIDTH,), min_scale=0.0).double()
    likelihood.shift.copy_(oracle.mean)
    likelihood.raw_scale.data.copy_(lb.distributions.inverse_positive(torch.tensor(oracle.variance).double().sqrt()))
    model.likelihood = likelihood
    return oracle, model


def batch_of(x: np.ndarray, weight: torch.Tensor | None = None) -> Batch:
    rows = torch.tensor(x)
    weight = torch.full((len(x),), 1 / len(x)).double() if weight is None else weight
    return Batch(rows, None, torch.arange(len(x)), weight)


def procedure_of(model: lb.LatentVariableModel, x: np.ndarray, **settings) -> mcem.MonteCarloProcedure:
    rows = lb.data.Rows.from_array(x, dtype=torch.float64)
    return lb.MonteCarloEM(**settings).start(model, rows)


def seed(number: int) -> torch.Tensor:
    return torch.tensor([number])


def moments_off(point: torch.Tensor, oracle: PPCA, x: np.ndarray) -> float:
    """The least p-value of a comparison of the draws ``[C, B, d]`` with p(z|x), in each dimension of each row."""
    weight, variance = oracle.weight, oracle.variance
    precision = torch.eye(LATENTS).double() + weight.T @ weight / variance
    mean = torch.linalg.solve(precision, weight.T @ (torch.tensor(x) - oracle.mean).T / variance).T
    scale = torch.linalg.inv(precision).diagonal().sqrt()
    standard = ((point - mean) / scale).numpy()
    return min(scipy.stats.kstest(standard[:, b, i], "norm").pvalue for b in range(len(x)) for i in range(LATENTS))


def test_the_sample_is_of_the_exact_posterior_at_the_acceptance_that_is_asked_for():
    # 6 tests: a false alarm once in 17,000 runs
    (oracle, model), x = exact(), values()[:3]
    procedure = procedure_of(model, x, chains=1000, pilot=60, transitions=5)
    point, accepted = procedure._sample(batch_of(x), mcem._generator(seed(0)))
    assert moments_off(point.z, oracle, x) > 1e-5
    assert float((accepted - 0.9).abs().max()) < 0.03
    assert torch.equal(procedure.chains.z.transpose(0, 1), point.z)


def test_the_step_is_frozen_after_the_pilot(monkeypatch):
    (_, model), x = exact(), values()[:3]
    procedure, steps = procedure_of(model, x, chains=3, pilot=4, transitions=6), []
    real = mcem.transition

    def noted(path, point, beta, step, leapfrogs, rng):
        steps.append(step.clone())
        assert leapfrogs == 10
        return real(path, point, beta, step, leapfrogs, rng)

    monkeypatch.setattr(mcem, "transition", noted)
    monkeypatch.setattr("lowerbound.mcmc.step_size.transition", noted)
    procedure._sample(batch_of(x), mcem._generator(seed(0)))
    assert len(steps) == 10
    assert all(torch.equal(step, steps[4]) for step in steps[5:])
    assert not torch.equal(steps[0], steps[4])
    torch.testing.assert_close(procedure.chains.log_step.exp(), steps[-1])
    procedure._sample(batch_of(x), mcem._generator(seed(1)))
    torch.testing.assert_close(steps[10], steps[4])  # the next pilot starts from this row's step


def test_the_update_is_the_gradient_of_log_p():
    """Fisher's identity: the mean over p(z|x) of ∂ log p(x, z)/∂θ is ∂ log p(x)/∂θ, from 8 independent samples."""
    (_, model), x = exact(), values()[:5] + 1.0  # not at the maximum
    weight, layer = torch.full((5,), 0.2).double(), model.decoder.layers[0]
    centred = torch.tensor(x) - model.likelihood.shift - model.likelihood.spread * layer.bias
    covariance = layer.weight @ layer.weight.T + model.likelihood.sigma() ** 2 * torch.eye(WIDTH).double()
    log_p = torch.distributions.MultivariateNormal(torch.zeros(WIDTH).double(), covariance).log_prob(centred)
    due = torch.cat([g.flatten() for g in torch.autograd.grad(weight @ log_p, list(model.parameters()))])
    found = []
    for number in range(8):
        own = copy.deepcopy(model)
        settings = {"chains": 400, "pilot": 40, "transitions": 10, "updates": 1, "optimizer": torch.optim.SGD}
        procedure = procedure_of(own, x, learning_rate=1.0, **settings)
        procedure.step(procedure.state, batch_of(x), seed(number), {"learning_rate": torch.tensor(1.0)})
        pairs = zip(own.parameters(), model.parameters(), strict=True)
        found.append(torch.cat([(new - old).detach().flatten() for new, old in pairs]))
    each = torch.stack(found)
    error = each.std(0) / len(each) ** 0.5
    assert float(error.max()) < 0.02 * float(due.norm())
    assert float(((each.mean(0) - due) / error).abs().max()) < 8  # Student's t with 7 degrees of freedom, 13 values
    assert float((each.mean(0) - due).norm()) < 0.03 * float(due.norm())


def test_rows_of_weight_0_are_left_as_they_are():
    (_, model), x = exact(), values()[:4]
    procedure = procedure_of(model, x)
    procedure.step(procedure.state, batch_of(x), seed(0), {"learning_rate": torch.tensor(0.0)})
    before = copy.deepcopy(procedure.chains.state_dict())
    weight = torch.tensor([0.5, 0.5, 0, 0]).double()
    procedure.step(procedure.state, batch_of(x, weight), seed(1), {"learning_rate": torch.tensor(0.0)})
    for name in ("z", "log_step"):
        after = procedure.chains.state_dict()[name]
        assert torch.equal(after[2:], before[name][2:])
        assert bool((after[:2] != before[name][:2]).view(2, -1).all())


def test_an_epoch_begins_the_chains_of_its_rows_and_no_others():
    x = values()
    with lb.nn.seeded(0):
        model = lb.LatentVariableModel(lb.priors.Normal(LATENTS), MLP((LATENTS,), (WIDTH,)), Normal(1.0))
    seen = []
    note = lambda event: seen.append(event.state.modules["chains"].begun.clone())  # noqa: E731
    lb.fit(model, x, lb.MonteCarloEM(), epochs=1, batch_size=10, validation=0.2, callbacks=[note])
    assert int(seen[-1].sum()) == ROWS - round(0.2 * ROWS)
    assert len(seen[-1]) == ROWS


def test_the_bound_of_held_out_rows_is_close_below_log_p():
    (oracle, model), x = exact(), values()
    procedure = procedure_of(model, x)
    with torch.no_grad():
        found = procedure.evaluate(procedure.state, batch_of(x), seed(0), {})
    gap = oracle.log_prob(torch.tensor(x)) - found["objective_of_rows"]
    assert float(gap.mean()) < 0.05
    assert float(gap.mean()) > -0.02
    assert float(found["objective"]) == pytest.approx(float(found["objective_of_rows"].mean()))


def test_it_learns_a_linear_model():
    random = np.random.default_rng(2)
    x = random.normal(size=(203, 1)) @ random.normal(size=(1, WIDTH)) * 2 + 0.7 * random.normal(size=(203, WIDTH))
    with lb.nn.seeded(0):
        decoder = MLP((1,), (WIDTH,), hidden=())
    model = lb.LatentVariableModel(lb.priors.Normal(1), decoder, Normal("scalar", shape=(WIDTH,))).double()
    model.initialise(torch.tensor(x))
    rows = lb.data.Rows.from_array(x, dtype=torch.float64)
    inference = lb.MonteCarloEM(pilot=4, transitions=2, learning_rate=lb.training.Cosine(0.1, 12))
    history = lb.fit(model, rows, inference, epochs=12, batch_size=30, validation=x).history
    best = float(PPCA.of(x, 1, ddof=0).log_prob(torch.tensor(x)).mean())
    assert history.records[0]["valid_objective"] < best - 0.1
    assert best - 0.05 < history.records[-1]["valid_objective"] < best + 0.01
    assert history.records[-1]["train_acceptance"] == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"leapfrogs": 0}, "leapfrogs must be at least 1, got 0"),
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"acceptance": 1.0}, r"acceptance must be between 0 and 1, got 1\.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        lb.MonteCarloEM(**settings)


def test_latents_that_are_not_real_are_refused():
    model = lb.LatentVariableModel(lb.priors.Bernoulli(2), MLP((2,), (3,)), Bernoulli())
    with pytest.raises(ValueError, match="needs real-valued latents, but latent 'z' is a Bernoulli; use EM"):
        lb.fit(model, np.zeros((20, 3)), lb.MonteCarloEM())


def test_an_estimator_learns_scores_saves_and_reports(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2)) @ np.ones((2, WIDTH)) + values()[:1]
    data, run = tmp_path / "rows.npy", tmp_path / "run"
    np.save(data, x)
    fit = ["fit", str(data), "--out", str(run), "--inference", "mcem", "--latent-dim", "2", "--epochs", "2"]
    commands([*fit, "--hidden", "8", "--likelihood", "Normal"], standalone_mode=False)
    commands(["report", str(run), str(data)], standalone_mode=False)
    page = (run / "report.html").read_text().replace("\n", "")
    assert "<dt>Inference</dt><dd>mcem</dd>" in page
    assert "found for each row by a local search of 100 steps, which starts at zeros" in page
    vae = lb.load(run)
    assert vae.inference == "mcem"
    assert not vae.objective_is_bound
    assert all(parameter.numel() == 0 for parameter in vae.posterior_.parameters())
    assert np.isfinite(vae.transform(x)).all()
    assert np.isfinite(vae.score_samples(x)).all()
    with pytest.raises(ValueError, match=r"beta is 2\.0, a setting of AEVB, but the inference mcem has no argument of"):
        lb.VAE(2, inference="mcem", beta=2.0).fit(x)
