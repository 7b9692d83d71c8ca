"""Ways to learn: the protocol by inferences that a user would write; groups of parameters, clipping, optimisers."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
import ways
from fits import Stop, stop_at
from folders import tree
from sklearn.mixture import GaussianMixture
from ways import EM, MIXTURE, WAYS, Nothing, Steps, Untouched, fit_by, rows, set_mixture

import lowerbound as lb
from lowerbound.cli import commands
from lowerbound.errors import DivergedError, NoPosteriorError
from lowerbound.estimators.learning import INFERENCES, SETTINGS
from lowerbound.training import Procedure, State
from lowerbound.training.clipping import clip_by_norm

# --- every way through the whole house ---


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_fit_resumes_to_the_same_bytes(way, tmp_path):
    fit_by(way, tmp_path / "whole")
    assert warm.run(ways.fit_until_killed, way, tmp_path / "cut", 12).returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "config.json").exists()
    done = warm.run(ways.fit_until_killed, way, tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


class Forgetful(EM):
    """EM whose sums are not part of the state."""

    def start(self, model, rows):
        procedure = super().start(model, rows)
        sums = procedure.state.modules.pop("sums")
        procedure.state.module_tensors = State({"model": model}).module_tensors
        procedure.state.modules["sums"] = sums
        return procedure


def test_a_resume_without_the_sums_would_be_seen(tmp_path, monkeypatch):
    """What the test above rests on: a state that lacks what a step updates ends with other bytes."""
    monkeypatch.setitem(WAYS, "em", WAYS["em"] | {"inference": Forgetful})
    fit_by("em", tmp_path / "whole")
    with pytest.raises(Stop):
        fit_by("em", tmp_path / "cut", [stop_at(12)])
    fit_by("em", tmp_path / "cut")
    model = "model.safetensors"
    assert tree(tmp_path / "cut")[model] != tree(tmp_path / "whole")[model]


@pytest.mark.parametrize("way", WAYS)
def test_the_command_line_fits_and_reports_and_the_model_loads(way, tmp_path, monkeypatch):
    data, run = tmp_path / "rows.npy", tmp_path / "run"
    np.save(data, rows())
    monkeypatch.syspath_prepend(Path(ways.__file__).parent)
    name = {"nothing": "ways:Nothing", "em": "ways:EM", "aevb": "AEVB"}[way]
    options = [
        "--posterior",
        "Bernoulli",
        "--likelihood",
        "Normal",
        "--latent-dim",
        "1",
        "--epochs",
        "3",
        "--batch-size",
        "20",
        "--hidden",
    ]
    given = ["--validation", "0"] if way == "em" else ["--gradient", "enumerated"] if way == "aevb" else []
    fit = ["fit", str(data), "--out", str(run), "--inference", name, "--optimizer", "Adam", *options, "", *given]
    commands(fit, standalone_mode=False)
    commands(["report", str(run), str(data)], standalone_mode=False)
    page = (run / "report.html").read_text()
    assert (run / "overview.png").stat().st_size > 5000
    assert "Fresh samples" in page
    assert ("learnt no posterior" in page) == (way != "aevb") == ("Latent space" not in page)
    vae = lb.load(run)
    assert vae.objective_is_bound == (way != "nothing")
    assert vae.sample(5).shape == (5, 1)
    assert vae.inverse_transform(np.array([[0.0], [1.0]])).shape == (2, 1)
    vae.save(tmp_path / "again")
    again = lb.load(tmp_path / "again")
    assert np.array_equal(again.sample(5), vae.sample(5))
    if way == "aevb":
        assert np.isfinite(vae.transform(rows())).all()
        return
    with pytest.raises(ValueError, match=r"inference is your own (EM|Nothing), which is not saved; give it"):
        again.fit(rows())
    own = WAYS[way]["inference"]
    assert lb.load(run, inference=own).fit(rows()).inference is own
    for needs in (vae.transform, vae.encode, vae.score, vae.score_samples, vae.reconstruct, vae.log_likelihood):
        with pytest.raises(NoPosteriorError, match=r"the inference \w+ learnt none"):
            needs(rows())


def test_fits_by_two_ways_are_two_fits(tmp_path):
    with pytest.raises(Stop):
        fit_by("nothing", tmp_path, [stop_at(12)])
    with pytest.raises(ValueError, match=r"another fit \(inference.\w+ is .* there and .* here"):
        lb.VAE(1, inference=EM, batch_size=20, random_state=0, threads=1, **MIXTURE).fit(rows(), run_dir=tmp_path)


def test_a_model_without_a_posterior_is_saved_and_loaded(tmp_path):
    model = mixture()
    lb.save(tmp_path, model, None)
    assert json.loads((tmp_path / "config.json").read_text())["posterior"] is None
    found = lb.load(tmp_path)
    assert found.posterior is None
    assert torch.equal(found.model.prior.logits, model.prior.logits)


# --- EM against its closed form and another library ---


def mixture() -> lb.LatentVariableModel:
    """A mixture of two normals of one σ, in double precision, that starts far from the groups of ``rows``."""
    likelihood = lb.likelihoods.Normal("dimension", shape=(1,), min_scale=1e-9)
    model = lb.LatentVariableModel(lb.priors.Bernoulli(1), lb.nn.MLP((1,), (1,), ()), likelihood).double()
    set_mixture(model, *map(torch.tensor, START))
    return model


START = (0.5, [[1.0], [2.0]], [1.5])


def read(model: lb.LatentVariableModel) -> tuple[float, np.ndarray, np.ndarray]:
    """The share of the second component, both means, and σ."""
    z = torch.tensor([0.0, 1.0]).double().view(2, 1, 1)
    with torch.no_grad():
        means = model.likelihood.mu(model.decode(z)).flatten().numpy()
        return float(model.prior.logits.sigmoid()), means, model.likelihood.sigma().numpy()


def closed_form(x: np.ndarray, steps: int) -> list[tuple[float, np.ndarray, np.ndarray, float]]:
    """EM of the mixture by its formulas: after each step the share, means and σ; and log p(x) per row before it."""
    (share, means, scale), found = START, []
    means, scale = np.array(means).ravel(), np.array(scale)
    for _ in range(steps):
        log_joint = np.log([[1 - share], [share]]) - ((x - means) ** 2 / (2 * scale**2)).T
        log_joint -= np.log(scale) + 0.5 * np.log(2 * np.pi)
        log_p = np.logaddexp(*log_joint)
        shares = np.exp(log_joint - log_p)
        means = (shares @ x).ravel() / shares.sum(1)
        scale = np.sqrt((shares.T * (x - means) ** 2).sum() / len(x))[None]
        share = shares[1].mean()
        found.append((share, means, scale, log_p.mean()))
    return found


class CountsPadding(Steps):
    """The mutant: the rows that fill the last batch up count, too."""

    def step(self, state, batch, noise, scalars):
        everything = type(batch)(batch.x, batch.mask, batch.index, batch.weight.clamp(min=1e-9), batch.context)
        return super().step(state, everything, noise, scalars)


def em_steps(x: np.ndarray, epochs: int, steps: type[Steps] = Steps) -> tuple[list, list[float]]:
    """What EM of this library has after each epoch, and its objective in each."""
    model, seen = mixture(), []
    inference = EM(model, None)
    inference.start = lambda model, rows: steps(model, 1)
    note = lambda event: seen.append(read(model)) if event.record else None  # noqa: E731
    data = lb.data.Rows(torch.tensor(x), dtype=torch.float64)
    history = lb.fit(model, data, inference, epochs=epochs, batch_size=20, validation=0, callbacks=[note]).history
    return seen, [record["train_objective"] for record in history.records]


def test_em_takes_its_closed_form_steps_and_each_raises_log_p():
    x = rows()
    seen, objectives = em_steps(x, 12)
    for (share, means, scale), objective, due in zip(seen, objectives, closed_form(x, 12), strict=True):
        assert share == pytest.approx(due[0], rel=1e-9)
        np.testing.assert_allclose(means, due[1], rtol=1e-9)
        np.testing.assert_allclose(scale, due[2], rtol=1e-7)
        assert objective == pytest.approx(due[3], rel=1e-9)
    assert (np.diff(objectives) > 0).all()
    wrong, _ = em_steps(x, 12, CountsPadding)
    assert wrong[-1][0] != pytest.approx(seen[-1][0], rel=1e-4)


def test_em_ends_where_scikit_learn_does():
    x = rows()
    seen, objectives = em_steps(x, 300)
    share, means, scale = START
    oracle = GaussianMixture(
        2,
        covariance_type="tied",
        tol=1e-12,
        reg_covar=0.0,
        max_iter=1000,
        weights_init=[1 - share, share],
        means_init=means,
        precisions_init=1 / np.square([scale]),
    ).fit(x)
    assert seen[-1][0] == pytest.approx(oracle.weights_[1], abs=1e-4)
    np.testing.assert_allclose(seen[-1][1], oracle.means_.ravel(), atol=1e-3)
    np.testing.assert_allclose(seen[-1][2] ** 2, oracle.covariances_[0], atol=1e-3)
    assert objectives[-1] == pytest.approx(oracle.score(x), abs=1e-7)


# --- what is no inference ---


class Broken(Untouched):
    """An untouched model in which something is wrong."""

    def __init__(self, model, wrong: str) -> None:
        super().__init__(model)
        self.wrong = wrong

    def evaluate(self, state, batch, noise, scalars):
        return (
            {"loss": batch.weight.sum()} if self.wrong == "metrics" else super().evaluate(state, batch, noise, scalars)
        )

    def epoch_end(self, state):
        if self.wrong == "epoch_end":
            with torch.no_grad():
                state.modules["model"].prior.logits.fill_(torch.nan)


class Unevaluated(Procedure):
    """A procedure that evaluates no held-out rows."""

    def __init__(self, model) -> None:
        self.state = State({"model": model}, draws=False)

    def step(self, state, batch, noise, scalars):
        return state, {"objective": batch.weight.sum()}


def by(start) -> Nothing:
    inference = Nothing(None, None)
    inference.start = start
    return inference


def odd(**members) -> Nothing:
    inference = Nothing(None, None)
    for name, value in members.items():
        setattr(inference, name, value)
    return inference


@pytest.mark.parametrize(
    ("inference", "error", "words"),
    [
        (EM, TypeError, "inference is EM, which is no way to learn: give an AEVB, or an object with posterior"),
        (object(), TypeError, "inference is object, which is no way to learn"),
        (by(lambda model, rows: None), TypeError, "start of Nothing gave a NoneType, which is no Procedure"),
        (odd(posterior=torch.nn.Identity()), TypeError, "posterior of Nothing is a Identity; give a Posterior or None"),
        (by(lambda model, rows: Broken(model, "metrics")), ValueError, 'must give the metric "objective"'),
        (by(lambda model, rows: Unevaluated(model)), NotImplementedError, "write its evaluate, or give validation=0"),
        (odd(describe=lambda: {"rate": torch.ones(1)}), TypeError, r"describe\(\) of Nothing must give .* JSON"),
        (
            by(lambda model, rows: Broken(model, "epoch_end")),
            DivergedError,
            "model.prior.logits was no longer finite at the end of epoch 1, and there is no learning rate to lower: "
            "the best model so far is kept; look for extreme values in the data",
        ),
    ],
)
def test_what_is_no_way_to_learn_is_refused_in_a_sentence(inference, error, words, tmp_path):
    model = mixture()
    before = model.prior.logits.clone()
    with pytest.raises(error, match=words) as found:
        lb.fit(model, lb.data.Rows(torch.tensor(rows()), dtype=torch.float64), inference, epochs=2, run_dir=tmp_path)
    assert "\n" not in str(found.value)
    assert torch.equal(model.prior.logits, before)


def test_the_best_state_is_kept_where_no_learning_rate_can_be_lowered():
    """Steps that worsen the model and then break it: the first epoch's state comes back."""

    class Worse(Untouched):
        def step(self, state, batch, noise, scalars):
            with torch.no_grad():
                logits = state.modules["model"].prior.logits
                logits += 1 if logits < 20 else torch.inf
            return super().step(state, batch, noise, scalars)

        def evaluate(self, state, batch, noise, scalars):
            return {"objective": -state.modules["model"].prior.logits.detach().sum()}

    model = mixture()
    x = lb.data.Rows(torch.tensor(rows()), dtype=torch.float64)
    with pytest.raises(DivergedError) as error:
        lb.fit(model, x, by(lambda model, rows: Worse(model)), epochs=20, batch_size=20, validation=0.1)
    steps_per_epoch = 7
    assert error.value.history.best_epoch == 1
    assert float(model.prior.logits.detach()) == pytest.approx(steps_per_epoch)


# --- learning rates of groups of parameters ---


def small(**settings) -> tuple[lb.LatentVariableModel, lb.AEVB, torch.Tensor]:
    x = (torch.rand(130, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    with lb.nn.seeded(0):
        encoder, decoder = lb.nn.MLP((6,), (4,), (8,)), lb.nn.MLP((2,), (6,), (8,))
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Bernoulli())
    if optimizer := settings.pop("grouped", None):
        groups = [
            {"params": list(decoder.parameters())},
            {"params": list(encoder.parameters()), "lr": settings.pop("slow")},
        ]
        settings["optimizer"] = lambda parameters: optimizer(groups, lr=1e-2)
    return model, lb.AEVB(lb.posteriors.DiagonalNormal(2, encoder), **settings), x


def moved(run_dir: Path | None = None, steps: int = 1, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """How far decoder and encoder move in a few steps."""
    model, inference, x = small(**settings)
    parts = model.decoder, inference.posterior.encoder
    before = [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in parts]
    lb.fit(model, x, inference, epochs=steps, batch_size=130, validation=0, run_dir=run_dir)
    after = [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in parts]
    return after[0] - before[0], after[1] - before[1]


def test_each_group_keeps_its_learning_rate_relative_to_the_schedule():
    sgd = torch.optim.SGD
    decoder, encoder = moved(optimizer=sgd, learning_rate=0.1)
    slow_decoder, slow_encoder = moved(grouped=sgd, slow=1e-3, learning_rate=0.1)  # a tenth of the optimiser's 1e-2
    torch.testing.assert_close(slow_decoder, decoder)
    torch.testing.assert_close(slow_encoder, 0.1 * encoder, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(slow_encoder, encoder, rtol=0.1)  # as if all groups had the schedule's rate
    fused = partial(torch.optim.Adam, fused=True)
    one, _ = moved(optimizer=fused, learning_rate=0.01)
    same, still = moved(grouped=fused, slow=0.0, learning_rate=0.01)
    assert torch.equal(one, same)
    assert not still.any()


def test_rates_of_groups_survive_a_resume_and_are_part_of_the_fit(tmp_path):
    settings = {"grouped": torch.optim.SGD, "learning_rate": lb.training.Cosine(0.1, 6)}

    def fit(run, slow, callbacks=()):
        model, inference, x = small(**settings, slow=slow)
        lb.fit(model, x, inference, epochs=6, batch_size=40, run_dir=run, checkpoint_every=4, callbacks=callbacks)

    fit(tmp_path / "whole", 1e-3)
    with pytest.raises(Stop):
        fit(tmp_path / "cut", 1e-3, [stop_at(10)])
    with pytest.raises(ValueError, match=r"rates is \[1.0, 0.1\] there and \[1.0, 0.2\] here"):
        fit(tmp_path / "cut", 2e-3)
    fit(tmp_path / "cut", 1e-3)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


# --- clipping ---


@pytest.mark.parametrize("most", [0.01, 0.5, 1e9])
def test_clipping_is_that_of_torch(most):
    parameters = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(5)), torch.zeros(2)]
    gradients = [torch.linspace(-1, 1, 6).reshape(3, 2), torch.linspace(0, 0.3, 5)]
    for found in (clip_by_norm, lambda ps, most: torch.nn.utils.clip_grad_norm_(list(ps), most)):
        for parameter, gradient in zip(parameters, gradients, strict=False):
            parameter.grad = gradient.clone()
        norm = found(iter(parameters), most)
        clipped = [parameter.grad.clone() for parameter in parameters[:2]]
        if found is clip_by_norm:
            mine = norm, clipped
    torch.testing.assert_close(mine[0], norm)
    for ours, theirs in zip(mine[1], clipped, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_one_gradient_tensor_of_two_parameters_is_clipped_once():
    shared = torch.full((4,), 3.0)
    one, other = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    one.grad = other.grad = shared
    clip_by_norm([one, other], 1.0)
    assert float(torch.cat([one.grad, other.grad]).norm()) == pytest.approx(1)


@pytest.mark.parametrize("path", ["plain", "compiled", "micro-batches"])
def test_clipped_steps_have_the_norm_that_is_asked_for_and_are_counted(path, monkeypatch):
    if path == "compiled":
        import lowerbound.inference.aevb as aevb

        monkeypatch.setattr(aevb, "Compiled", partial(aevb.Compiled, backend=lambda graph, examples: graph))
    model, inference, x = small(clip_norm=0.5, learning_rate=0.1, optimizer=torch.optim.SGD, compile=path == "compiled")
    procedure = inference.start(model)
    procedure.state.parts = 3 if path == "micro-batches" else 1
    norms, before = [], torch.cat([p.detach().flatten() for p in parameters_of(model, inference)])

    def note(event):
        nonlocal before
        if event.record is not None:
            now = torch.cat([p.detach().flatten() for p in parameters_of(model, inference)])
            norms.append((event.record["train_clipped"], float((now - before).norm() / 0.1)))
            before = now

    lb.training.train(procedure, lb.data.Rows(x), epochs=60, batch_size=130, seed=0, callbacks=[note])
    assert {clipped for clipped, _ in norms} == {0.0, 1.0}
    for clipped, norm in norms:
        assert norm == pytest.approx(0.5, rel=1e-3) if clipped else norm < 0.501


def parameters_of(model, inference):
    return [*model.parameters(), *inference.posterior.parameters()]


def test_a_norm_that_is_never_reached_changes_no_bit():
    runs = []
    for most in (None, 1e9):
        model, inference, x = small(clip_norm=most)
        history = lb.fit(model, x, inference, epochs=3, batch_size=40).history
        runs.append(torch.cat([p.detach().flatten() for p in parameters_of(model, inference)]))
        assert ("train_clipped" in history.records[0]) == (most is not None)
    assert torch.equal(*runs)
    with pytest.raises(ValueError, match="clip_norm must be above 0, got 0"):
        small(clip_norm=0)


# --- the estimator's arguments ---


@pytest.mark.parametrize("optimizer", ["AdamW", "sgd", "Rprop", partial(torch.optim.SGD, momentum=0.5), "Adam"])
def test_an_optimiser_by_name_or_with_settings_is_used_and_saved(optimizer, tmp_path):
    vae = lb.VAE(1, optimizer=optimizer, epochs=2, hidden=(4,), random_state=0).fit(rows())
    vae.save(tmp_path)
    again = lb.load(tmp_path)
    assert isinstance(again.optimizer, str) == isinstance(optimizer, str)
    assert np.array_equal(again.fit(rows()).transform(rows()), vae.transform(rows()))
    plain = lb.VAE(1, epochs=2, hidden=(4,), random_state=0).fit(rows())
    assert np.array_equal(plain.transform(rows()), vae.transform(rows())) == (optimizer == "Adam")


def test_an_optimiser_of_ones_own_is_passed_back_for_another_fit(tmp_path):
    def mine(parameters):
        return torch.optim.SGD(parameters, lr=1.0, nesterov=True, momentum=0.5)

    lb.VAE(1, optimizer=mine, epochs=1, hidden=(4,), random_state=0).fit(rows()).save(tmp_path)
    assert lb.load(tmp_path).transform(rows()).shape == (len(rows()), 1)
    with pytest.raises(ValueError, match=r"optimizer is your own mine, .*; give it by load\(path, optimizer="):
        lb.load(tmp_path).fit(rows())
    assert lb.load(tmp_path, optimizer=mine).fit(rows()).optimizer is mine


def test_a_way_of_ones_own_is_given_the_settings_that_it_takes():
    given = {}

    def way(model, posterior, learning_rate, draws, beta):
        given.update(learning_rate=learning_rate, draws=draws, beta=beta)
        return lb.AEVB(posterior, draws=draws, beta=beta, learning_rate=learning_rate)

    vae = lb.VAE(1, inference=way, learning_rate=0.02, warm_up=2.0, draws=3, epochs=2, hidden=(4,), random_state=0)
    vae.fit(rows())
    assert given == {"learning_rate": 0.02, "draws": 3, "beta": lb.training.WarmUp(2.0)}
    assert np.isfinite(vae.score(rows()))
    same = lb.VAE(1, learning_rate=0.02, warm_up=2.0, draws=3, epochs=2, hidden=(4,), random_state=0).fit(rows())
    assert np.array_equal(vae.transform(rows()), same.transform(rows()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inference": "EVB"}, "inference is 'EVB', none of AEVB, .*local.*; did you mean 'AEVB'"),
        ({"inference": 3}, "inference is int; give a name, or a function"),
        ({"inference": lambda: None}, r"inference is called as \S+\(model, posterior\), which fails"),
        ({"inference": lambda model, posterior: 3}, "which returned a int; return an object with posterior"),
        ({"optimizer": "Addam"}, "optimizer is 'Addam', none of .*; did you mean 'Adam'"),
        ({"optimizer": 3}, "optimizer is 3; give a name, or a function that makes an optimiser of parameters"),
        ({"optimizer": lambda parameters: None}, "optimizer made a NoneType, which is no torch.optim.Optimizer"),
        *(
            (
                {"inference": EM, name: value},
                f"{name} is .*, a setting of AEVB, but the inference EM has no",
            )
            for name, value in {
                **{"objective": "iwae", "gradient": "score_function", "draws": 2, "beta": 0.5, "warm_up": 3.0},
                **{"free_bits": 0.1, "learning_rate": 0.1, "optimizer": "SGD", "precision": "bf16", "compile": True},
            }.items()
        ),
    ],
)
def test_arguments_that_cannot_be_honoured_are_refused(settings, words):
    vae = lb.VAE(1, epochs=1, hidden=(4,), **settings)
    with pytest.raises(ValueError, match=words) as error:
        vae.fit(rows())
    assert "\n" not in str(error.value)
    assert not hasattr(vae, "model_")


def test_the_settings_of_aevb_have_the_defaults_of_the_estimator():
    given = lb.VAE().get_params()
    assert {name: given[name] for name in SETTINGS} == SETTINGS


@pytest.mark.parametrize("name", INFERENCES)
def test_every_inference_by_name_fits_saves_and_is_loaded(name, tmp_path):
    vae = lb.VAE(1, inference=name.upper(), epochs=2, batch_size=50, hidden=(4,), random_state=0).fit(rows())
    vae.save(tmp_path)
    again = lb.load(tmp_path)
    assert again.inference_ == vae.inference_ == name
    assert again.objective_is_bound == (name != "mcem")
    assert again.draws_ == vae.draws_
    np.testing.assert_array_equal(again.transform(rows()), vae.transform(rows()))


def test_partial_fit_is_of_aevb_alone():
    with pytest.raises(ValueError, match="all rows, which partial_fit does not have; use fit"):
        lb.VAE(1, inference=EM, **MIXTURE).partial_fit(rows())


@pytest.mark.parametrize("name", ["nowhere:EM", "ways:Missing", "ways:rows.count"])
def test_what_cannot_be_imported_is_a_usage_error(name, tmp_path, monkeypatch):
    import click

    np.save(tmp_path / "rows.npy", rows())
    with pytest.raises(click.UsageError, match="cannot be imported") as error:
        commands(
            ["fit", str(tmp_path / "rows.npy"), "--out", str(tmp_path / "run"), "--inference", name],
            standalone_mode=False,
        )
    assert error.value.exit_code == 2
    assert "\n" not in error.value.format_message()


# --- what is learnt beside the model ---


class Weighted(torch.nn.Module):
    """The ELBO with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.nn.Parameter(torch.ones(()))

    def forward(self, draw):
        return lb.objectives.elbo(draw) - (self.own - 2).square()


def test_a_checkpoint_of_an_objective_with_parameters_loads_and_resumes(tmp_path):
    def fit(run, callbacks=()):
        model, inference, x = small(objective=Weighted(), learning_rate=0.1)
        lb.fit(model, x, inference, epochs=6, batch_size=40, run_dir=run, checkpoint_every=4, callbacks=callbacks)
        return inference.objective.own

    own = fit(tmp_path / "whole")
    with pytest.raises(Stop):
        fit(tmp_path / "cut", [stop_at(10)])
    with pytest.warns(UserWarning, match="has not ended"):
        assert lb.load(tmp_path / "cut").posterior is not None
    assert fit(tmp_path / "cut") == own
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
