"""Local variational inference: one q per row against closed forms, and every way through the house."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from fits import Stop, stop_at
from folders import tree
from oracles import PPCA, batch_of, sigma_points

import lowerbound as lb
from lowerbound.cli import commands
from lowerbound.draw import Batch
from lowerbound.inference import Searched
from lowerbound.inference.row_family import RowFamily
from lowerbound.model import draw_from
from lowerbound.objectives import elbo
from lowerbound.training.bookkeeping import Progress, Snapshot
from lowerbound.training.cursor import Cursor

LATENTS = 3


def linear(rotated: bool) -> tuple[PPCA, torch.Tensor]:
    random = np.random.default_rng(1)
    x = random.normal(size=(50, LATENTS)) @ random.normal(size=(LATENTS, 6)) + 0.5 * random.normal(size=(50, 6))
    turn = np.linalg.qr(random.normal(size=(LATENTS, LATENTS)))[0] if rotated else None
    return PPCA.of(x, LATENTS, turn), torch.tensor(x)


def local(family=lb.posteriors.DiagonalNormal, **settings) -> lb.Local:
    return lb.Local(family(LATENTS, lb.nn.Identity()).double(), **settings)


def learnt(oracle: PPCA, x: torch.Tensor, epochs: int, **settings):
    """The q of each row, by visits to all rows with the model held fixed, in batches of which the last is padded."""
    inference = local(
        gradient=lb.gradients.sticking_the_landing,
        draws=4,
        learning_rate=lb.training.Constant(0.0),
        local_rate=lb.training.Cosine(0.1, epochs=epochs),
        **settings,
    )
    model = oracle.model()
    rows = lb.data.Rows(x, dtype=torch.float64)
    procedure = inference.start(model, rows)
    lb.training.train(procedure, rows, epochs=epochs, batch_size=20, seed=0)
    return inference.posterior.posterior.distribution(procedure.table.value), procedure


@pytest.mark.parametrize("rotated", [False, True])
def test_the_q_of_each_row_is_the_best_diagonal_one(rotated):
    oracle, x = linear(rotated)
    q, _ = learnt(oracle, x, 400)
    best = oracle.posterior()(x)
    torch.testing.assert_close(q.loc, best.loc, atol=0.04 if rotated else 4e-3, rtol=0)
    torch.testing.assert_close(q.scale, best.scale, atol=0.04 if rotated else 4e-3, rtol=0)


def test_a_full_covariance_is_that_of_the_exact_posterior():
    oracle, x = linear(rotated=True)
    q, _ = learnt(oracle, x, 450, family=lb.posteriors.FullNormal)
    torch.testing.assert_close(q.loc, oracle.posterior()(x).loc, atol=2e-3, rtol=0)
    exact = torch.linalg.inv(oracle.precision).expand(len(x), -1, -1)
    torch.testing.assert_close(q.scale_tril @ q.scale_tril.mT, exact, atol=2e-3, rtol=0)


def bound(oracle: PPCA, x: torch.Tensor, posterior: lb.posteriors.Posterior) -> torch.Tensor:
    """The ELBO of each row, without Monte Carlo error."""
    model, batch = oracle.model(), batch_of(x)
    q, p = lb.model.distributions_of(model, posterior, x)
    with torch.no_grad():
        return elbo(draw_from(q, p, model, batch, sigma_points(LATENTS)))


def test_a_search_for_new_rows_ends_at_the_best_q():
    oracle, x = linear(rotated=True)
    inference = local(search_steps=300)
    found = bound(oracle, x, inference.posterior.double())
    best = oracle.log_prob(x) - oracle.diagonal_gap
    torch.testing.assert_close(found, best, atol=0.03, rtol=0)
    assert abs(float((best - found).mean())) < 3e-3
    some = bound(oracle, x[:7].flip(0), inference.posterior.double())
    torch.testing.assert_close(some.flip(0), found[:7], atol=1e-9, rtol=0)  # whatever rows are next to it


# --- which rows a step touches ---


def test_a_step_touches_the_rows_of_its_batch_and_no_padding():
    oracle, x = linear(rotated=True)
    inference, model = local(draws=2), oracle.model()
    procedure = inference.start(model, lb.data.Rows(x, dtype=torch.float64))
    index, weight = torch.tensor([4, 9, 30, 2]), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]).double()
    procedure.table.square.fill_(0.5)
    before = {name: value.clone() for name, value in procedure.table.state_dict().items()}
    noise = procedure.noise(4, torch.Generator().manual_seed(0))
    scalars = {name: torch.tensor(float(at(0.0))) for name, at in procedure.schedules.items()}
    procedure.step(procedure.state, Batch(x[index], None, index, weight), noise, scalars)
    assert set(before) == {"value", "square"}
    for name, value in procedure.table.state_dict().items():
        moved = (value != before[name]).reshape(len(x), -1).any(1).nonzero().flatten()
        assert moved.tolist() == [4, 9, 30], name


def test_the_mean_gradient_over_batches_is_that_of_all_rows():
    """With the same noise for all rows: of each row's objective for its q, and of their mean for the model."""
    oracle, x = linear(rotated=True)
    found, rows = [], lb.data.Rows(x, dtype=torch.float64)
    for size in (50, 20):
        likelihood = lb.likelihoods.Normal("dimension", shape=(6,)).double()
        model = lb.LatentVariableModel(lb.priors.Normal(LATENTS), oracle.model().decoder, likelihood)
        procedure = local(learning_rate=lb.training.Constant(0.0)).start(model, rows)
        scalars = {name: torch.tensor(float(at(0.0))).double() for name, at in procedure.schedules.items()}
        cursor, mean = Cursor(rows, size, seed=0), torch.zeros(())
        for _ in range(cursor.steps_per_epoch):
            batch, real = cursor.next()
            procedure.step(procedure.state, batch, torch.full((1, size, LATENTS), 0.3).double(), scalars)
            mean = mean + real / 50 * torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((mean, procedure.table.square, procedure.table.value))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1].all()
    torch.testing.assert_close(found[0][2].abs(), torch.full_like(found[0][2], 0.1), rtol=1e-4, atol=0)  # first steps


def test_the_table_and_all_copies_of_it_take_six_times_the_numbers_of_q():
    """Number, squared gradient, the last good state and the best one: 6 · 2dN numbers."""
    oracle, x = linear(rotated=True)
    rows = lb.data.Rows(x, dtype=torch.float64)
    procedure = local().start(oracle.model(), rows)
    progress = Progress(procedure, rows, 20, 0)
    good = Snapshot(progress)
    progress.best.offer(0.0, 1, progress.state)
    first = {name: value.data_ptr() for name, value in (good._tensors | progress.best.tensors).items()}
    good.take()
    progress.best.offer(1.0, 2, progress.state)
    assert {name: value.data_ptr() for name, value in (good._tensors | progress.best.tensors).items()} == first
    held = [progress.state.tensors(), good._tensors, progress.best.tensors]
    sizes = [value.numel() for tensors in held for name, value in tensors.items() if name.startswith("table.")]
    assert sum(sizes) == 6 * 2 * LATENTS * len(x)


# --- the whole house ---


def table() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(143, 2)) @ random.normal(size=(2, 5)) + 0.3 * random.normal(size=(143, 5))


SETTINGS = {"hidden": (8,), "epochs": 6, "batch_size": 20, "random_state": 0, "threads": 1}


def test_an_estimator_without_an_encoder_encodes_scores_imputes_and_is_saved(tmp_path):
    x = table()
    vae = lb.VAE(2, inference="Local", learning_rate=0.01, **SETTINGS).fit(x)
    assert vae.inference_ == "local"
    assert vae.objective_is_bound
    assert isinstance(vae.posterior_, Searched)
    assert all(parameter.numel() == 0 for parameter in vae.posterior_.parameters())
    holed = np.where(np.random.default_rng(1).random(x.shape) < 0.2, np.nan, x)
    filled = vae.impute(holed)
    assert np.isfinite(filled).all()
    vae.save(tmp_path)
    again = lb.load(tmp_path)
    for method in ("transform", "score_samples", "reconstruct", "impute"):
        np.testing.assert_array_equal(getattr(again, method)(x), getattr(vae, method)(x))
    np.testing.assert_array_equal(vae.transform(x)[:20], vae.transform(x[:20]))
    assert again.objective_is_bound
    assert np.isfinite(again.fit(x).score(x))


@pytest.mark.parametrize("posterior", ["FullNormal", "Flow", "Bernoulli", "Gamma"])
def test_every_kind_of_latent_is_learnt_locally(posterior):
    x = table()
    if posterior == "Gamma":
        x = np.abs(x)
    draws = 2 if posterior == "Bernoulli" else None
    vae = lb.VAE(2, inference="local", posterior=posterior, draws=draws, **SETTINGS).fit(x)
    assert np.isfinite(vae.score(x[:30]))
    assert np.isfinite(vae.transform(x[:30])).all()


def test_several_latents_are_learnt_locally():
    parts = {"y": lb.posteriors.DiagonalNormal(1, lb.nn.Identity()), "z": lb.posteriors.Gamma(2, lb.nn.Identity())}
    vae = lb.VAE(3, inference="local", posterior=partial(joined, parts), **SETTINGS).fit(table())
    assert np.isfinite(vae.score(table()[:30]))
    assert set(vae.kl_of_latents(table()[:5])) == {"y", "z"}


def joined(parts, latent_dim, encoder):
    return lb.posteriors.Latents(parts, encoder=encoder)


def fit_into(run, callbacks=(), **more):
    vae = lb.VAE(2, inference="local", learning_rate=0.01, callbacks=callbacks, **SETTINGS, **more)
    return vae.fit(table(), run_dir=run, checkpoint_every=5)


@pytest.mark.parametrize("step", [8, 12, 24])
def test_a_fit_cut_short_resumes_to_the_same_bytes(step, tmp_path):
    fit_into(tmp_path / "whole")
    with pytest.raises(Stop):
        fit_into(tmp_path / "cut", [stop_at(step)])
    fit_into(tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_a_last_phase_on_all_rows_moves_those_that_were_held_out(tmp_path):
    def fit(run, callbacks=()):
        x = torch.tensor(table()).float()
        with lb.nn.seeded(0):
            likelihood = lb.likelihoods.Normal("dimension", (5,))
            model = lb.LatentVariableModel(lb.priors.Normal(2), lb.nn.MLP((2,), (5,), (8,)), likelihood)
        inference = lb.Local(lb.posteriors.DiagonalNormal(2, lb.nn.Identity()))
        options = {"epochs": 3, "batch_size": 20, "finish": 20, "run_dir": run, "checkpoint_every": 5}
        return lb.fit(model, x, inference, callbacks=callbacks, **options)

    visited = []
    fit(tmp_path / "whole", [lambda event: visited.append(int(event.state.modules["table"].square.any(1).sum()))])
    assert 129 in visited  # of 143 rows, after 14 are held out
    assert visited[-1] == 143
    with pytest.raises(Stop):
        fit(tmp_path / "cut", [stop_at(27)])
    fit(tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_a_batch_split_to_fit_in_memory_moves_the_same_rows():
    x = table().astype(np.float32)
    found = []
    for parts in (1, 3):
        with lb.nn.seeded(0):
            model = lb.LatentVariableModel(
                lb.priors.Normal(2), lb.nn.MLP((2,), (5,), (8,)), lb.likelihoods.Normal("dimension", (5,))
            )
        procedure = lb.Local(lb.posteriors.DiagonalNormal(2, lb.nn.Identity())).start(model, lb.data.Rows.from_array(x))
        procedure.state.parts = parts
        lb.training.train(procedure, lb.data.Rows.from_array(x), epochs=3, batch_size=20, seed=0)
        found.append(procedure.table.value)
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_the_command_line_fits_and_the_report_says_which_inference_it_was(tmp_path, capsys):
    data, run = tmp_path / "rows.npy", tmp_path / "run"
    np.save(data, table())
    fit = ["fit", str(data), "--out", str(run), "--inference", "local", "--latent-dim", "2", "--epochs", "2"]
    commands([*fit, "--hidden", "8", "--likelihood", "Normal"], standalone_mode=False)
    assert json.loads((run / "config.json").read_text())["extra"]["parameters"]["inference"] == "local"
    out = tmp_path / "z.npy"
    commands(["encode", str(run), str(data), "--out", str(out)], standalone_mode=False)
    assert "q(z|x) is found for each row by a local search of 100 steps, which starts at" in capsys.readouterr().err
    assert np.load(out).shape == (143, 4)
    commands(["report", str(run), str(data)], standalone_mode=False)
    page = (run / "report.html").read_text()
    assert "<dt>Inference</dt><dd>local</dd>" in page.replace("\n", "")
    assert "found for each row by a local search of 100 steps" in page


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"compile": True}, "compile is True, a setting of AEVB, but the inference local has no argument of that name"),
        ({"prior": "VampPrior"}, "VampPrior is made of an encoder, and Local has none"),
        ({"search": 5}, "search compares fits by AEVB, and inference is local"),
    ],
)
def test_what_local_cannot_do_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        lb.VAE(2, inference="local", hidden=(4,), epochs=1, **settings).fit(table())
    with pytest.raises(ValueError, match="local needs all rows, which partial_fit does not have"):
        lb.VAE(2, inference="local").partial_fit(table())


def test_latents_with_encoders_of_their_own_are_refused():
    family = lb.posteriors.Latents({"y": lb.posteriors.DiagonalNormal(1, lb.nn.MLP((5,), (2,)))})
    with pytest.raises(ValueError, match=r"the latents of Local have no encoders.*give each part"):
        lb.Local(family)


# --- semi-amortised ---


def refined(oracle: PPCA, widen: float, **settings) -> Searched:
    return lb.SemiAmortised(oracle.posterior(widen), step_rate=0.5, **settings).posterior


@pytest.mark.parametrize("unrolled", [False, True])
def test_refinement_never_lowers_the_bound_of_a_row(unrolled):
    """Analytic bounds of pPCA, from an encoder that is too wide, and from the exact posterior."""
    for rotated, widen, least in ((False, 1.3, 0.1), (False, 1.0, 0.0), (True, 0.6, 0.4), (True, 1.0, 0.0)):
        oracle, x = linear(rotated)
        posterior = refined(oracle, widen, unrolled=unrolled)
        gain = bound(oracle, x, posterior) - bound(oracle, x, oracle.posterior(widen))
        assert float(gain.min()) >= -1e-9, (rotated, widen)
        assert float(gain.mean()) > least - 1e-9, (rotated, widen)


def test_refinement_raises_the_bound_of_a_network_by_more_than_its_error():
    x = (torch.tensor(lb.data.digits().train[:400]) > 8).float()
    with lb.nn.seeded(0):
        encoder, decoder = lb.nn.MLP((8, 8), (10,), (16,)), lb.nn.MLP((5,), (8, 8), (16,))
    model = lb.LatentVariableModel(lb.priors.Normal(5), decoder, lb.likelihoods.Bernoulli())
    model.initialise(x)
    posterior = lb.posteriors.DiagonalNormal(5, encoder)
    inference = lb.SemiAmortised(posterior, learning_rate=0.01)
    fitted = lb.fit(model, x, inference, epochs=15, validation=0, seed=0)
    own, better = (lb.log_likelihood(model, q, x, samples=100).elbo for q in (posterior, fitted.posterior))
    gain = better - own
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5 > 0


def test_the_encoder_learns_by_its_own_bound_and_the_model_by_that_of_the_refined_q():
    oracle, x = linear(rotated=True)
    likelihood = lb.likelihoods.Normal("dimension", shape=(6,)).double()
    model = lb.LatentVariableModel(lb.priors.Normal(LATENTS), oracle.model().decoder, likelihood)
    posterior, batch, noise = oracle.posterior(1.5), batch_of(x), sigma_points(LATENTS).expand(-1, len(x), -1)

    def gradients(q, parts) -> list[torch.Tensor]:
        p = model.prior_given()
        loss = -elbo(draw_from(q, p, model, batch, noise)).mean()
        return torch.autograd.grad(loss, [p for part in parts for p in part.parameters()], allow_unused=True)

    inference = lb.SemiAmortised(posterior, draws=2 * LATENTS, gradient=lb.gradients.reparameterised)
    family, end = inference.posterior.found(model, batch)
    due = gradients(posterior(x), [posterior]), gradients(family.distribution(end), [model])
    procedure = inference.start(model)
    procedure._backward(batch, noise, {}, True)
    for found, expected in zip((posterior, model), due, strict=True):
        for parameter, gradient in zip(found.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
    assert not torch.allclose(posterior(x).loc, family.distribution(end).loc) or not torch.allclose(
        posterior(x).scale, family.distribution(end).scale
    )


def test_unrolled_steps_have_the_gradient_of_finite_differences():
    oracle, x = linear(rotated=True)
    model, posterior, batch = oracle.model(), oracle.posterior(1.5), batch_of(x[:4])
    searched = refined(oracle, 1.5, unrolled=True, steps=3)
    searched.posterior = posterior
    bias = posterior.encoder.second.layers[-1].bias
    noise = sigma_points(LATENTS).expand(-1, 4, -1)

    def value() -> torch.Tensor:
        family, out = searched.found(model, batch)
        return elbo(draw_from(family.distribution(out), family.prior, model, batch, noise)).sum()

    (found,) = torch.autograd.grad(value(), bias)
    for i in range(0, len(bias), 2):
        with torch.no_grad():
            values = []
            for step in (1e-5, -2e-5):
                bias[i] += step
                values.append(float(value()))
            bias[i] += 1e-5
        assert float(found[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("unrolled", [False, True])
def test_a_semi_amortised_fit_cut_short_resumes_to_the_same_bytes(unrolled, tmp_path):
    def fit(run, callbacks=()):
        vae = lb.VAE(2, inference=partial(semi, unrolled), callbacks=callbacks, **SETTINGS)
        return vae.fit(table(), run_dir=run, checkpoint_every=5)

    fit(tmp_path / "whole")
    with pytest.raises(Stop):
        fit(tmp_path / "cut", [stop_at(12)])
    fit(tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def semi(unrolled, model, posterior):
    return lb.SemiAmortised(posterior, unrolled=unrolled)


def test_unrolled_steps_need_differentiable_draws():
    with pytest.raises(ValueError, match=r"unrolled steps need draws .* those of Bernoulli"):
        lb.SemiAmortised(lb.posteriors.Bernoulli(2, lb.nn.MLP((5,), (2,))), unrolled=True)
    with pytest.raises(ValueError, match="method is 'sgd'"):
        Searched(lb.posteriors.DiagonalNormal(2, lb.nn.Identity()), method="sgd")
    vae = lb.VAE(2, inference="semi-amortised", posterior="Bernoulli", draws=2, **SETTINGS).fit(table())
    assert np.isfinite(vae.score(table()[:20]))


def test_the_family_is_that_of_the_rows():
    oracle, x = linear(rotated=False)
    q = RowFamily(local().posterior.posterior, batch_of(x), oracle.model().prior_given())
    assert q.start.shape == (len(x), 2 * LATENTS)
    assert not q.start.any()
