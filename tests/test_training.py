"""The loop: place in the data, schedules, validation, stopping, the way back from NaN, Ctrl-C."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from oracles import PPCA, batch_of, rng
from sklearn.datasets import load_digits

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.draw import tempered
from lowerbound.errors import DataError, DivergedError
from lowerbound.inference import split
from lowerbound.inference.aevb import AEVBProcedure
from lowerbound.model import draw
from lowerbound.objectives import elbo, free_bits
from lowerbound.training import Cosine, Cursor, Event, WarmUp, in_order, metrics_file


def small(seed: int = 0, **settings) -> tuple[lb.LatentVariableModel, lb.AEVB, torch.Tensor]:
    """A small Bernoulli VAE and 230 rows for it."""
    x = (torch.tensor(load_digits().data[:230]) > 8).float()
    with lb.nn.seeded(seed):
        encoder, decoder = lb.nn.MLP((64,), (6,), (16,)), lb.nn.MLP((3,), (64,), (16,))
    model = lb.LatentVariableModel(lb.priors.Normal(3), decoder, lb.likelihoods.Bernoulli())
    return model, lb.AEVB(lb.posteriors.DiagonalNormal(3, encoder), **settings), x


def parameters(model, inference) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for m in (model, inference.posterior) for p in m.parameters()])


# --- the place in the data ---


def test_a_pass_meets_every_row_once_in_a_new_order_each_time():
    cursor = Cursor(Rows(torch.arange(23.0).unsqueeze(1)), batch_size=5, seed=0)
    orders = []
    for _ in range(2):
        seen, weights = [], []
        for _ in range(cursor.steps_per_epoch):
            batch, real = cursor.next()
            assert batch.x.shape == (5, 1)
            assert batch.weight.sum() == pytest.approx(1)
            assert (batch.weight > 0).sum() == real
            seen += batch.index[batch.weight > 0].tolist()
            weights.append(real)
        assert sorted(seen) == list(range(23))
        assert sum(weights) == 23
        orders.append(seen)
    assert orders[0] != orders[1]


def test_the_cursor_goes_back_to_a_place():
    x = torch.rand(23, 4, generator=rng())
    cursor = Cursor(Rows(x, binarise="afresh"), batch_size=5, seed=3)
    for _ in range(7):
        cursor.next()
    place = cursor.place()
    ahead = [cursor.next()[0] for _ in range(6)]
    cursor.go(place)
    for batch in ahead:
        again = cursor.next()[0]
        assert torch.equal(batch.index, again.index)
        assert torch.equal(batch.x, again.x)


def test_in_order_pads_to_one_size():
    batches = list(in_order(Rows(torch.arange(7.0).unsqueeze(1)), 4))
    assert [real for _, real in batches] == [4, 3]
    assert [len(batch.x) for batch, _ in batches] == [4, 4]
    assert torch.cat([b.x[:n] for b, n in batches]).flatten().tolist() == list(range(7))


# --- scaling: minibatches, splits, precision ---


@pytest.mark.parametrize(("penalties", "floor"), [((), 0.0), ((partial(free_bits, floor=0.3),), 0.3)])
@pytest.mark.parametrize("parts", [1, 4])
def test_minibatch_gradients_add_up_to_that_of_all_rows(penalties, floor, parts):
    """Training steps by plain gradient ascent, 230 rows by 50, the last batch of 30: each moves the parameters by the
    gradient of the mean over its real rows, padding counts nothing, and weighted by rows they make that of all."""
    if penalties and parts > 1:
        pytest.skip("a penalty is of the whole batch")
    model, inference, x = small(penalties=penalties, optimizer=partial(torch.optim.SGD, lr=1.0), learning_rate=1e-3)
    model, posterior, x = model.double(), inference.posterior.double(), x.double()
    modules = torch.nn.ModuleList([model, posterior])
    fit = inference.start(model)
    fit.state.parts = parts
    noise = torch.randn(1, len(x), 3, generator=rng(), dtype=torch.float64)
    before = [p.detach().clone() for p in modules.parameters()]
    cursor = Cursor(Rows(x, dtype=torch.float64), batch_size=50, seed=3)
    scalars = {"learning_rate": torch.tensor(1e-3).double(), "beta": torch.tensor(1.0).double()}

    def gradient(rows: torch.Tensor) -> torch.Tensor:
        modules.zero_grad()
        there = draw(model, posterior, batch_of(x[rows]), noise[:, rows])
        value = elbo(there).mean() - (floor - there.nodes[0].kl_per_dim.mean(0)).clamp(min=0).sum()
        (value if floor else elbo(there).mean()).backward()
        return torch.cat([p.grad.flatten() for p in modules.parameters()])

    total, counted = torch.zeros(sum(p.numel() for p in modules.parameters())).double(), 0
    for _ in range(cursor.steps_per_epoch):
        batch, real = cursor.next()
        due = gradient(batch.index[:real])
        fit.step(fit.state, batch, noise[:, batch.index], scalars)
        moved = torch.cat([(p.detach() - was).flatten() for p, was in zip(modules.parameters(), before, strict=True)])
        np.testing.assert_allclose(moved / 1e-3, due, rtol=1e-7, atol=1e-10)
        total, counted = total + real * moved / 1e-3, counted + real
        with torch.no_grad():
            for parameter, was in zip(modules.parameters(), before, strict=True):
                parameter.copy_(was)
    assert counted == len(x)
    if not penalties:
        np.testing.assert_allclose(total / len(x), gradient(torch.arange(len(x))), rtol=1e-7, atol=1e-10)


def test_rows_do_not_depend_on_the_batch_they_come_in():
    model, inference, x = small()
    noise = torch.randn(2, len(x), 3, generator=rng())
    with torch.no_grad():
        whole = elbo(draw(model, inference.posterior, batch_of(x), noise))
        pieces = [
            elbo(draw(model, inference.posterior, batch_of(x[i]), noise[:, i])) for i in torch.arange(len(x)).split(37)
        ]
    np.testing.assert_allclose(torch.cat(pieces), whole, rtol=2e-6)


def test_single_precision_agrees_with_double():
    model, inference, x = small()
    noise = torch.randn(4, len(x), 3, generator=rng())
    with torch.no_grad():
        single = elbo(draw(model, inference.posterior, batch_of(x), noise))
        exact = elbo(draw(model.double(), inference.posterior.double(), batch_of(x.double()), noise.double()))
    np.testing.assert_allclose(single.double(), exact, rtol=1e-5)


# --- reproducibility ---


def test_the_same_seed_gives_the_same_bytes_and_touches_no_global_generator():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    runs = []
    for seed in (0, 0, 1):
        model, inference, x = small()
        lb.fit(model, x, inference, epochs=3, batch_size=50, seed=seed)
        runs.append(parameters(model, inference))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# --- schedules, β, free bits ---


def test_schedules_follow_their_formulas():
    assert [WarmUp(10, end=4.0)(t) for t in (0, 5, 10, 99, math.inf)] == [0, 2, 4, 4, 4]
    cosine = Cosine(1.0, epochs=10, end=0.1)
    assert [cosine(t) for t in (0, 5, 10, 20)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_the_step_sees_the_schedules_at_its_own_time():
    model, inference, x = small(beta=WarmUp(2.0), learning_rate=Cosine(0.01, 4))
    seen = []

    class Spy(AEVBProcedure):
        def step(self, state, batch, noise, scalars):
            seen.append({name: float(value) for name, value in scalars.items()})
            return super().step(state, batch, noise, scalars)

    start = inference.start(model)
    lb.training.train(Spy(inference, model, start.state), Rows(x), epochs=4, batch_size=115, seed=0)
    assert [s["beta"] for s in seen] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    assert [s["learning_rate"] for s in seen] == pytest.approx([Cosine(0.01, 4)(t / 2) for t in range(8)])


def test_beta_multiplies_every_form_of_the_prior_and_posterior_terms():
    model, inference, x = small()
    d = draw(model, inference.posterior, batch_of(x), rng(), K=3)
    half = tempered(d, 0.5)
    assert torch.allclose(elbo(half), d.log_lik.mean(0) - 0.5 * d.kl)
    assert torch.allclose(half.log_w, d.log_lik + 0.5 * (d.log_prior - d.log_q))
    assert torch.allclose(half.entropy, 0.5 * d.entropy)
    kl = d.nodes[0].terms["kl_per_dim", True]
    assert elbo(half).isfinite().all()
    assert half.nodes[0].terms["kl_per_dim", True] is kl  # computed once for both


def test_a_draw_is_freed_as_soon_as_it_is_let_go():
    """No cycle holds a step's graph until the garbage collector comes by."""
    model, inference, x = small()
    d = draw(model, inference.posterior, batch_of(x), rng(), K=3)
    assert elbo(d).isfinite().all()
    watched = weakref.ref(d.nodes[0].q)
    gc.disable()
    try:
        del d
        assert watched() is None
    finally:
        gc.enable()


def test_free_bits_charge_each_latent_at_least_the_floor():
    model, inference, x = small()
    batch = batch_of(x)
    d = draw(model, inference.posterior, batch, rng())
    per_dim = d.nodes[0].kl_per_dim.detach().mean(0)
    floor = float(per_dim.detach().median())
    charged = per_dim.sum() + free_bits(d, batch.weight, floor).detach()
    assert float(charged) == pytest.approx(float(per_dim.clamp(min=floor).sum()), rel=1e-6)
    assert free_bits(d, batch.weight, 0.0).item() == 0


def test_what_is_weighted_is_not_called_a_bound():
    posterior = small()[1].posterior
    assert lb.AEVB(posterior).is_bound
    assert not lb.AEVB(posterior, beta=2.0).is_bound
    assert not lb.AEVB(posterior, beta=WarmUp(3)).is_bound
    assert not lb.AEVB(posterior, penalties=(lambda d, w: w.sum(),)).is_bound


# --- validation and stopping ---


def test_the_best_state_by_validation_is_the_one_kept():
    model, inference, x = small(learning_rate=0.03)
    states = []

    def note(event: Event) -> None:
        if event.record is not None:
            states.append((event.record["valid_objective"], parameters(model, inference)))

    fitted = lb.fit(model, x[:100], inference, epochs=200, validation=0.3, patience=15, callbacks=[note], batch_size=20)
    best = int(np.argmax([score for score, _ in states]))
    assert fitted.history.stopped == "patience"
    assert len(states) - 15 <= fitted.history.best_epoch == best + 1
    assert torch.equal(parameters(model, inference), states[best][1])


def test_patience_waits_for_the_warm_up():
    model, inference, x = small(beta=WarmUp(40), learning_rate=0.03)
    fitted = lb.fit(model, x[:60], inference, epochs=60, validation=0.3, patience=2, patience_from=40, batch_size=20)
    assert len(fitted.history.records) >= 42


def test_validation_rows_are_not_trained_on():
    rows, held_out = split(Rows(torch.arange(50.0).unsqueeze(1)), 0.2, seed=0)
    train, valid = set(rows.x.flatten().tolist()), set(held_out.x.flatten().tolist())
    assert (len(train), len(valid)) == (40, 10)
    assert not train & valid


def test_a_callback_can_stop_the_fit_and_metrics_are_written(tmp_path):
    model, inference, x = small()
    file = tmp_path / "metrics.jsonl"
    stop = lambda event: event.record is not None and event.record["epoch"] == 3  # noqa: E731
    fitted = lb.fit(model, x, inference, epochs=9, callbacks=[metrics_file(file), stop])
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert fitted.history.stopped == "callback"
    assert records == fitted.history.records
    assert [record["epoch"] for record in records] == [1, 2, 3]
    for record in records:
        split_bound = record["train_log_lik"] - record["train_kl"]
        assert record["train_objective"] == pytest.approx(split_bound, rel=1e-5)


def test_the_progress_bar_is_gone_when_the_fit_ends(capfd):
    model, inference, x = small()
    stop = lambda event: event.step >= 900  # noqa: E731
    lb.fit(model, x, inference, epochs=900, callbacks=[stop], progress=True)
    said = capfd.readouterr().err
    assert "valid -" in said
    assert said.split("\r")[-1].strip() == ""


def test_no_value_is_read_from_the_device_at_a_step(monkeypatch):
    model, inference, x = small()
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *a, original=original, name=name: (reads.append(name), original(self, *a))[1],
        )
    counts = []
    for epochs in (1, 11):
        reads.clear()
        lb.training.train(inference.start(model), Rows(x.repeat(40, 1)), epochs=epochs, batch_size=100, seed=0)
        counts.append(len(reads))
    steps = 10 * 92
    assert (counts[1] - counts[0]) / steps < 0.1, counts


# --- values that are not finite ---


class Breaks(torch.nn.Module):
    """Passes values on, and gives NaN (or a NaN gradient) from its ``at``-th training call, ``times`` times."""

    def __init__(self, at: int, times: int, backward: bool = False) -> None:
        super().__init__()
        self.calls, self.at, self.times, self.backward = 0, at, times, backward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        self.calls += 1
        if not (self.at <= self.calls < self.at + self.times):
            return x
        return x + (x - x.detach()).sqrt() if self.backward else x * math.nan


def breaking(at: int, times: int, backward: bool = False) -> tuple[lb.LatentVariableModel, lb.AEVB, torch.Tensor]:
    model, inference, x = small()
    model.decoder = lb.nn.Chain(model.decoder, Breaks(at, times, backward))
    return model, inference, x


def test_a_nan_is_named_rolled_back_and_the_step_lowered():
    # Fails at step 8 and once more in the replay; then it is gone.
    model, inference, x = small()

    class Twice(torch.nn.Module):
        calls = 0

        def forward(self, z):
            self.calls += 1
            return z * math.nan if self.calls in (8, 15) else z

    # Four steps per epoch. Calls 1–8 are steps 1–8; the replay explains and takes steps 5, 6 and 7 (calls 9–14).
    model.decoder = lb.nn.Chain(model.decoder, Twice())
    with pytest.warns(
        RuntimeWarning, match=r"log_lik became NaN, first in the output of model.decoder.second \(Twice\)"
    ):
        fitted = lb.fit(model, x, inference, epochs=4, batch_size=60, validation=0, seed=0)
    (rescue,) = fitted.history.rescues
    assert "step 8 (epoch 2)" in rescue
    assert "went back to step 4" in rescue
    assert "0.00025" in rescue
    assert fitted.history.stopped == "epochs"
    assert fitted.history.records[-1]["learning_rate"] == pytest.approx(0.00025)
    assert parameters(model, inference).isfinite().all()


def test_after_three_tries_it_stops_with_the_best_state_and_a_clear_error():
    model, inference, x = breaking(at=30, times=10**9)  # epoch 15
    kept = []

    def note(event: Event) -> None:
        if event.record is not None:
            kept.append((event.record["valid_objective"], parameters(model, inference)))

    with pytest.warns(RuntimeWarning) as told, pytest.raises(DivergedError) as error:
        lb.fit(model, x, inference, epochs=30, validation=0.2, callbacks=[note])
    assert "3 lower learning rates did not help" in str(error.value)
    assert len(told) == 3
    assert error.value.history.stopped == "diverged"
    assert error.value.history.best_epoch == 1 + int(np.argmax([score for score, _ in kept]))
    assert torch.equal(parameters(model, inference), max(kept, key=lambda pair: pair[0])[1])


def test_a_gradient_that_is_not_finite_is_named():
    model, inference, x = breaking(at=5, times=10**9, backward=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DivergedError, match=r"the gradient of \S+ became NaN at step 5"):
            lb.fit(model, x, inference, epochs=5, batch_size=60, validation=0)


@pytest.mark.parametrize("validation", [0, 0.1])  # row 137 keeps its number when rows are held out
def test_a_row_that_is_not_finite_is_named(validation):
    model, inference, x = small()
    x[137, 3] = math.inf
    with pytest.raises(DataError, match="row 137, column 3 is inf, which Bernoulli cannot produce"):
        lb.fit(model, Rows(x), inference, epochs=2, batch_size=60, validation=validation)
    model.likelihood = lb.likelihoods.Normal(shape=x.shape[1:])  # which has a density at any number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DivergedError, match="row 137 of the training data"):
            lb.fit(model, Rows(x), inference, epochs=2, batch_size=60, validation=validation)


def test_a_learning_rate_far_too_high_is_survived_or_said():
    model, inference, x = small(learning_rate=1e30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DivergedError):
            lb.fit(model, x, inference, epochs=5, batch_size=60, validation=0)
    assert parameters(model, inference).isfinite().all()


# --- Ctrl-C ---


SCRIPT = """
    import signal, sys, torch, lowerbound as lb
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    x = (torch.rand(2000, 20, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    with lb.nn.seeded(0):
        encoder, decoder = lb.nn.MLP((20,), (4,)), lb.nn.MLP((2,), (20,))
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Bernoulli())
    def ready(event):
        if event.step > 300 and not sys.argv[1:]:
            print("fitting", flush=True); sys.argv.append("told")
    fitted = lb.fit(model, x, lb.AEVB(lb.posteriors.DiagonalNormal(2, encoder)), epochs=10**6, callbacks=[ready])
    print(fitted.history.stopped, fitted.history.best_epoch is not None, flush=True)
"""


def test_ctrl_c_stops_cleanly_and_keeps_what_there_is():
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout.readline() == "fitting\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert out == "interrupted True\n"
    assert process.returncode == 0


def test_fit_refuses_what_cannot_be_fitted():
    model, inference, x = small()
    for arguments, words in [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"validation": 1.5}, "validation"),
        ({"validation": 0, "patience": 3}, "patience"),
    ]:
        with pytest.raises(ValueError, match=words):
            lb.fit(model, x, inference, **arguments)


def test_a_batch_larger_than_the_data_is_the_data():
    oracle_x = np.random.default_rng(0).normal(size=(12, 4)) @ np.diag([3.0, 2.0, 1.0, 1.0])
    oracle = PPCA.of(oracle_x, 2)
    model, posterior = oracle.model(), oracle.posterior()
    fitted = lb.fit(model, torch.tensor(oracle_x), lb.AEVB(posterior), epochs=2, batch_size=500, validation=0)
    assert [record["step"] for record in fitted.history.records] == [1, 2]


def test_modules_train_in_training_mode_and_are_used_in_evaluation_mode():
    model, inference, x = small()
    modes = []

    class Note(torch.nn.Module):
        def forward(self, z):
            modes.append((self.training, torch.is_grad_enabled()))
            return z

    model.decoder = lb.nn.Chain(model.decoder, Note())
    lb.fit(model, x[:100], inference, epochs=2, batch_size=45, validation=0.1)
    assert modes == [(True, True)] * 2 + [(False, False)] + [(True, True)] * 2 + [(False, False)]
    assert not model.training
    assert not inference.posterior.training


def test_dropout_draws_from_the_fit_alone():
    runs, before = [], torch.random.get_rng_state()
    for _ in range(2):
        model, inference, x = small()
        model.decoder = torch.nn.Sequential(torch.nn.Dropout(0.3), model.decoder)
        lb.fit(model, x, inference, epochs=3, batch_size=50, seed=0)
        runs.append(parameters(model, inference))
        torch.rand(7)  # what others draw in between does not matter
    assert torch.equal(*runs)
    torch.random.set_rng_state(before)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_free_bits_never_pay_for_a_larger_kl(beta):
    # A decoder blind to z leaves the KL as the only thing to learn: with free bits to spare it must stay, whatever β.
    kls = []
    for floor in (50.0, 0.0):
        model, inference, x = small(
            beta=beta, penalties=(partial(free_bits, floor=floor),), optimizer=torch.optim.SGD, learning_rate=0.05
        )
        with torch.no_grad():
            model.decoder.layers[0].weight.zero_()
        model.decoder.requires_grad_(False)
        fitted = lb.fit(model, x, inference, epochs=2, batch_size=230, validation=0)
        kls.append([record["train_kl"] for record in fitted.history.records])
    assert kls[0][1] == pytest.approx(kls[0][0], rel=1e-6)
    if beta > 0:
        assert kls[1][1] < 0.98 * kls[1][0]


def test_held_out_rows_are_judged_at_the_end_of_the_schedules():
    model, inference, x = small(beta=WarmUp(5, end=2.0), learning_rate=1e-12)
    fitted = lb.fit(model, x, inference, epochs=5, validation=0.2)
    for record in fitted.history.records:
        weighted = record["valid_log_lik"] - 2.0 * record["valid_kl"]
        assert record["valid_objective"] == pytest.approx(weighted, rel=1e-4)
    cycle = lambda t: math.fmod(t, 2.0)  # noqa: E731  (a schedule is asked for no time beyond the last epoch)
    model, inference, x = small(beta=cycle)
    assert math.isfinite(lb.fit(model, x, inference, epochs=3).history.records[-1]["valid_objective"])


def test_going_back_restores_the_optimiser_too():
    # One NaN at step 8, found at the end of epoch 2: what follows is what follows from step 4 at the lower rate.
    finals = []
    for lr in (torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)):
        model, inference, x = small(optimizer=lr)

        class Once(torch.nn.Module):
            calls = 0

            def forward(self, z):
                self.calls += 1
                return z * math.nan if self.calls in (8, 15) else z

        model.decoder = lb.nn.Chain(model.decoder, Once())
        with pytest.warns(RuntimeWarning, match="went back to step 4"):
            lb.fit(model, x, inference, epochs=2, batch_size=60, validation=0, seed=0)
        broken = parameters(model, inference)

        model, inference, x = small(optimizer=lr, learning_rate=lambda t: 1e-3 if t < 1 else 0.25e-3)
        lb.fit(model, x, inference, epochs=2, batch_size=60, validation=0, seed=0)
        finals.append((broken, parameters(model, inference)))
    for broken, smooth in finals:
        assert torch.equal(broken, smooth)


def test_a_share_that_would_hold_out_every_row_leaves_one():
    model, inference, x = small()
    fitted = lb.fit(model, x[:3], inference, epochs=1, validation=0.9)
    assert fitted.history.records[0]["step"] == 1


def test_a_shared_module_is_learned_once():
    model, inference, x = small()
    shared = torch.nn.Linear(64, 64)
    model.decoder = torch.nn.Sequential(model.decoder, shared)
    inference.posterior.encoder = torch.nn.Sequential(shared, inference.posterior.encoder)
    lb.fit(model, x, inference, epochs=1)
    assert parameters(model, inference).isfinite().all()


def test_optimisers_of_every_kind_take_the_learning_rate():
    for optimizer in (torch.optim.SGD, torch.optim.Adagrad, partial(torch.optim.Adam, foreach=True)):
        model, inference, x = small(optimizer=optimizer, learning_rate=Cosine(0.01, 2))
        before = parameters(model, inference)
        lb.fit(model, x, inference, epochs=2)
        assert not torch.equal(parameters(model, inference), before)


def test_arrays_and_tensors_that_are_not_finite_are_refused():
    model, inference, x = small()
    x[5, 1] = math.inf
    for data in (x, x.numpy()):
        with pytest.raises(DataError, match="row 5"):
            lb.fit(model, data, inference)
    with pytest.raises(ValueError, match="draws"):
        lb.AEVB(inference.posterior, draws=0)
