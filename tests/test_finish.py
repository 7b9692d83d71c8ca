"""When a fit ends, and its last phase on all rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.cli import commands
from lowerbound.training import Event, Finish, State, train
from lowerbound.training.bookkeeping import Best
from lowerbound.training.procedure import OF_ROWS, Procedure


class Slope(Procedure):
    """Adds the learning rate to one number at each step, and notes which rows it is given, at which rate."""

    def __init__(self, noise: float = 0.0, gain: float = 0.0) -> None:
        self.module = torch.nn.Linear(1, 1)
        self.state = State({"model": self.module})
        self.seen: list[tuple[float, list[int]]] = []
        self.noise_of_rows, self.gain, self.evaluated = noise, gain, 0

    @property
    def schedules(self):
        return {"learning_rate": lambda epochs: 0.5}

    def step(self, state, batch, noise, scalars):
        self.seen.append((float(scalars["learning_rate"]), batch.index[batch.weight > 0].tolist()))
        with torch.no_grad():
            self.module.weight += scalars["learning_rate"]
        return state, {"objective": batch.weight.sum()}

    def evaluate(self, state, batch, noise, scalars):
        """Gains per call, for every row alike, and noise of its own for each row."""
        self.evaluated += 1
        rng = torch.Generator().manual_seed(self.evaluated)
        rows = self.gain * self.evaluated + self.noise_of_rows * torch.randn(len(batch.index), generator=rng)
        return {"objective": batch.weight @ rows, OF_ROWS: rows}


def rows(count: int) -> lb.data.Rows:
    return lb.data.Rows(torch.zeros(count, 1))


def test_the_last_phase_takes_all_rows_at_a_rate_that_falls_from_the_best_state_on():
    whole = rows(50)
    held_out, others = whole.subset(torch.arange(10)), whole.subset(torch.arange(10, 50))
    procedure, events = Slope(gain=-1.0), []
    history = train(
        procedure,
        others,
        epochs=9,
        batch_size=20,
        seed=0,
        validation=held_out,
        patience=3,
        callbacks=[events.append],
        finish=Finish(whole, share=0.5, least=7),
    )
    assert history.stopped == "patience"
    first, last = procedure.seen[:8], procedure.seen[8:]
    assert {index for _, some in first for index in some} == set(range(10, 50))
    assert len(last) == 9, "7 steps, in whole epochs of 3"
    assert all(sorted(index for _, some in last[at : at + 3] for index in some) == list(range(50)) for at in (0, 3, 6))
    assert {rate for rate, _ in first} == {0.5}
    expected = [0.5 * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / 9))) for step in range(9)]
    assert [rate for rate, _ in last] == pytest.approx(expected)
    kept = history.records[0]
    assert kept["epoch"] == 1, "the first epoch was the best"
    assert [record["step"] for record in history.records] == [2, 4, 6, 8, 11, 14, 17]
    assert ["valid_objective" in record for record in history.records] == [True] * 4 + [False] * 3
    assert history.best_epoch == 7
    assert events[-1].step == events[-1].total_steps == 17
    assert events[-1].waiting == "learning from all rows"


def test_the_last_phase_starts_from_the_best_state():
    whole = rows(40)
    procedure = Slope(gain=-1.0)
    before = procedure.module.weight.item()
    train(
        procedure,
        whole.subset(torch.arange(10, 40)),
        epochs=4,
        batch_size=30,
        seed=0,
        validation=whole.subset(torch.arange(10)),
        finish=Finish(whole, least=4),
    )
    last = sum(rate for rate, _ in procedure.seen[4:])
    assert procedure.module.weight.item() == pytest.approx(before + 0.5 + last, abs=1e-5), (
        "one step, then the last ones"
    )


@pytest.mark.parametrize(("noise", "gain", "ends"), [(1.0, 0.0, True), (0.1, 1.0, False), (1.0, 0.05, False)])
def test_noise_is_no_improvement_and_a_slow_one_is_not_noise(noise, gain, ends):
    """A gain of .05 an epoch is within the error, .14, of one epoch, but not within that of several."""
    whole = rows(140)
    history = train(
        Slope(noise, gain),
        whole.subset(torch.arange(100, 140)),
        epochs=60,
        batch_size=100,
        seed=0,
        validation=whole.subset(torch.arange(100)),
        patience=12,
    )
    assert (history.stopped == "patience") == ends
    seeded = [(k, real, torch.Generator().manual_seed(k)) for k, real in ((1, 40), (2, 40), (3, 20))]
    each = torch.cat([gain * k + noise * torch.randn(40, generator=rng)[:real] for k, real, rng in seeded])
    assert history.records[0]["valid_standard_error"] == pytest.approx(float(each.std()) / 10, rel=1e-5)


def test_the_error_of_a_difference_is_that_of_pairs():
    """All rows are better by .1, which is clear, although the rows differ by far more than that from one another."""
    state, best = State({"model": torch.nn.Linear(1, 1)}), Best()
    values = 100 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    best.offer(float(values.mean()), 1, state, values)
    better = values + 0.1 + 0.1 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    best.offer(float(better.mean()), 2, state, better)
    assert (best.epochs, best.improved) == (2, 2)
    rough = better + 0.1 + 5 * (2 * (torch.arange(50) % 2) - 1)
    best.offer(float(rough.mean()), 3, state, rough)
    assert (best.epochs, best.improved) == (3, 2), "better on average, by .1 ± .7"


def test_a_small_table_takes_enough_steps_and_says_what_was_chosen():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 1))
    frame = pd.DataFrame(z + 0.3 * rng.normal(size=(60, 4)), columns=list("abcd"))
    events: list[Event] = []
    vae = lb.VAE(2, hidden=(8,), random_state=0, callbacks=[events.append]).fit(frame)
    assert vae.chosen_.keys() == {"batch_size", "learning_rate", "validation", "epochs", "patience"}
    assert vae.chosen_["validation"].value == pytest.approx(0.25), "15 rows: no more than a quarter"
    steps = vae.history_.records[-1]["step"]
    assert steps >= 800 + 500
    held_out = [record for record in vae.history_.records if "valid_objective" in record]
    assert steps - held_out[-1]["step"] >= 500
    assert any("steps unless better" in event.waiting for event in events)
    assert all("last_phase" in record for record in vae.history_.records[len(held_out) :])
    best = max(held_out, key=lambda record: record["valid_objective"])
    assert vae.history_.held_out == best
    assert vae.history_.records[-1]["learning_rate"] < 0.1 * held_out[-1]["learning_rate"]


def test_arguments_that_are_given_are_kept():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=list("abc"))
    vae = lb.VAE(2, hidden=(8,), epochs=3, batch_size=7, validation=0.5, random_state=0).fit(frame)
    assert vae.chosen_.keys() == {"learning_rate", "patience"}
    assert len(vae.history_.records) == 3, "no last phase after so many epochs"
    assert vae.history_.records[-1]["step"] == 9
    array = lb.VAE(2, hidden=(8,), epochs=2, random_state=0).fit(frame.to_numpy())
    assert {name: choice.value for name, choice in array.chosen_.items()} == {
        "batch_size": 100,
        "learning_rate": 1e-3,
        "validation": 0.1,
        "patience": 40,
    }


def test_what_was_chosen_is_saved(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=list("abc"))
    vae = lb.VAE(2, hidden=(8,), epochs=1, random_state=0).fit(frame)
    vae.save(tmp_path / "run")
    again = lb.load(tmp_path / "run")
    assert isinstance(again, lb.VAE)
    assert again.chosen_ == vae.chosen_
    assert again.get_params()["batch_size"] == "auto"


def test_the_command_line_says_how_long_and_what_was_chosen(tmp_path, capsys):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=list("ab"))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    arguments = ["fit", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "run"), "--hidden", "4", "--json"]
    commands.main([*arguments, "--latent-dim", "1"], standalone_mode=False)
    told = capsys.readouterr()
    result, lines = json.loads(told.out), told.err.splitlines()
    vae = lb.load(tmp_path / "run")
    best = vae.history_.held_out
    assert [result[f"valid_{name}"] for name in ("objective", "standard_error", "epoch")] == [
        best[f"valid_{name}"] if name != "epoch" else best[name] for name in ("objective", "standard_error", "epoch")
    ]
    assert result["last_phase"] == sum("valid_objective" not in record for record in vae.history_.records) > 0
    assert lines[-1].startswith("chosen for these rows: batch size 32, learning rate 0.002, validation 0.25, epochs ")
    assert f"best held-out objective {best['valid_objective']:.2f} ± {best['valid_standard_error']:.2f}" in lines[-3]
    assert f"then {result['last_phase']} epochs on all rows from the best state" in lines[-2]
    commands.main(["info", str(tmp_path / "run")], standalone_mode=False)
    assert "chosen: batch size 32, learning rate 0.002" in capsys.readouterr().err
    commands.main(["check", str(tmp_path / "rows.csv")], standalone_mode=False)
    said = capsys.readouterr().err
    assert (
        "it would take at most 5,000 steps, and end after 800 without a better objective of the held-out rows" in said
    )
    assert "then half as many (at least 500) on all rows" in said


def test_a_table_of_many_rows_has_a_flow_as_prior_unless_one_is_given():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(500, 3)), columns=list("abc"))

    def prior(rows: int = 500, **arguments: object) -> tuple[str, str | None]:
        vae = lb.VAE(2, hidden=(8,), epochs=1, random_state=0, **arguments).fit(frame[:rows])
        said = vae.chosen_.get("prior")
        return type(vae.model_.prior).__name__, None if said is None else said.why

    assert prior() == ("Flow", "a table of at least 500 rows")
    assert prior(499) == prior(prior="Normal") == prior(inference="local") == ("Normal", None)
    assert prior(posterior="Bernoulli", draws=2) == ("Bernoulli", None)
    assert type(lb.VAE(2, hidden=(8,), epochs=1).fit(frame.to_numpy()).model_.prior).__name__ == "Normal"
