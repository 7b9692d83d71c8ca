"""A fit that is killed and goes on ends with the same bytes as one that never stopped: model, optimiser, metrics."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import warnings
from functools import partial
from pathlib import Path

import fits
import numpy as np
import pytest
import torch
import warm
from fits import EPOCHS, EVERY, FITS, STEPS_PER_PASS, VAES, Stop, die_at, fit_vae, rows, stop_at
from folders import forge, tree

import lowerbound as lb
from lowerbound.errors import DivergedError, FormatError, LockedError
from lowerbound.storage import checkpoints, folder
from lowerbound.storage.contents import contents
from lowerbound.storage.model import load
from lowerbound.training.bookkeeping import Progress
from lowerbound.training.loop import _steps_ahead
from lowerbound.training.state import State


def run_apart(name: str, run: Path, *step: int) -> int:
    """The fit ``name`` in a process of its own; its exit code."""
    done = warm.run(fits.fit_until_killed, name, run, *step)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A fit of binarised digits that ended."""
    run = tmp_path_factory.mktemp("whole") / "run"
    FITS["afresh"](run)
    return run


@pytest.fixture
def cut(tmp_path) -> Path:
    """The same fit, cut short at step 22, with the checkpoints of steps 15 and 20."""
    run = tmp_path / "run"
    with pytest.raises(Stop):
        FITS["afresh"](run, [stop_at(22)])
    return run


@pytest.mark.parametrize("name", FITS)
def test_killed_twice_and_gone_on_with_gives_the_same_bytes(name, tmp_path):
    FITS[name](tmp_path / "whole")
    random.seed(name)
    first, second = random.randrange(7, 20), random.randrange(26, 36)
    run = tmp_path / "cut"
    assert run_apart(name, run, first) == -signal.SIGKILL
    killed = tree(run)
    assert not (run / "config.json").exists()
    assert 1 <= len(checkpoints.listed(run)) <= 2
    assert run_apart(name, run, second) == -signal.SIGKILL
    assert tree(run) != killed
    assert run_apart(name, run) == 0
    assert tree(run) == tree(tmp_path / "whole")


def test_the_bytes_do_tell_fits_apart(tmp_path):
    """What the test above rests on: an epoch more is seen in the model."""
    for epochs in (2, 3):
        fit_vae("bernoulli", tmp_path / str(epochs), epochs=epochs)
    two, three = tree(tmp_path / "2"), tree(tmp_path / "3")
    assert two["model.safetensors"] != three["model.safetensors"]
    assert {len(two), len(three)} == {18}  # three folders, a lock and a log


@pytest.mark.parametrize("name", ["bernoulli", "parts"])
def test_more_passes_go_on_where_fewer_ended(name, tmp_path):
    FITS[name](tmp_path / "once")
    FITS[name](tmp_path / "twice", epochs=EPOCHS - 2)
    assert load(tmp_path / "twice", decoder=own_decoder()).history.stopped == "epochs"
    FITS[name](tmp_path / "twice")
    assert tree(tmp_path / "twice") == tree(tmp_path / "once")


def own_decoder() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Dropout(0.2), lb.nn.MLP((3,), (8, 8), (16,)))


def test_a_fit_that_ended_is_not_fitted_again(whole, tmp_path):
    before = tree(whole)
    events = []
    fit_vae("afresh", whole, [events.append])
    assert events == []
    assert tree(whole) == before


def test_a_fit_cut_short_holds_a_model_that_can_be_used(cut):
    with pytest.warns(UserWarning, match="has not ended: this is its best model up to step 20"):
        vae = lb.load(cut)
    assert np.isfinite(vae.score(rows("afresh")[:5]))
    assert vae.history_.best_epoch in (1, 2)
    assert [record["epoch"] for record in vae.history_.records] == [1, 2]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(cut, whole):
    newest = cut / "checkpoints" / "00000020"
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[-5] ^= 1
    (newest / "state.safetensors").write_bytes(data)
    with pytest.warns(
        RuntimeWarning, match=r"00000020/state\.safetensors does not match .* checkpoint before is taken"
    ):
        fit_vae("afresh", cut)
    assert tree(cut) == tree(whole)


def test_no_whole_checkpoint_is_an_error_and_can_be_started_anew(cut, whole):
    for path in checkpoints.listed(cut):
        (path / "state.json").write_text("{}")
    with pytest.warns(RuntimeWarning), pytest.raises(FormatError, match=r"no checkpoint under .* is whole"):
        fit_vae("afresh", cut)
    vae = lb.VAE(**lb.load(whole).get_params() | {"threads": 1})
    vae.fit(rows("afresh"), run_dir=cut, resume="never", checkpoint_every=EVERY)
    assert tree(cut) == tree(whole)


def test_a_checkpoint_without_a_manifest_is_none(cut, whole):
    (cut / "checkpoints" / "00000020" / "manifest.json").unlink()
    fit_vae("afresh", cut)
    assert tree(cut) == tree(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 30}, "batch_size is 20 there and 30 here"),
        ({"random_state": 1}, "seed is 0 there and 1 here"),
        ({"hidden": (17,)}, r"model.arguments.decoder.arguments.hidden is \[16\] there and \[17\] here"),
        ({"draws": 2}, "inference.draws is 1 there and 2 here"),
        ({"validation": 0.2}, "validation is 0.1 there and 0.2 here"),
        ({"beta": 2.0}, "last.beta is 1.0 there and 2.0 here"),
        ({"objective": "elbo_sampled"}, 'inference.objective is "elbo" there and "elbo_sampled" here'),
        ({"max_value": 17}, "data is .* there"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_a_fit_of_something_else_is_refused(change, words, cut):
    settings = {"hidden": (16,), "batch_size": 20, "epochs": EPOCHS, "random_state": 0, "threads": 1}
    before = tree(cut)
    with pytest.raises(ValueError, match=rf"checkpoints of another fit .*{words}.*resume='never'") as error:
        lb.VAE(3, **settings | VAES["afresh"] | change).fit(rows("afresh"), run_dir=cut)
    assert "\n" not in str(error.value)
    assert tree(cut) == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: [], "no checkpoint under .* is whole"),
        (lambda c: c | {"identity": 3}, "no checkpoint under .* is whole"),
        (lambda c: {key: value for key, value in c.items() if key != "meter"}, "does not hold the state of this fit"),
        (lambda c: c | {"best": [1]}, "does not hold the state of this fit"),
        (lambda c: c | {"optimizer": []}, "does not hold the state of this fit"),
    ],
)
def test_a_forged_checkpoint_is_refused_in_a_sentence(spoil, words, cut):
    for path in checkpoints.listed(cut):
        forge(path, spoil, "state.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FormatError, match=words) as error:
            fit_vae("afresh", cut)
    assert "\n" not in str(error.value)


def test_a_network_of_ones_own_of_another_size_is_refused(tmp_path, monkeypatch):
    with pytest.raises(Stop):
        FITS["parts"](tmp_path, [stop_at(12)])
    monkeypatch.setattr(fits, "DECODER", 17)
    with pytest.raises(ValueError, match=r"structure is .* there"):
        FITS["parts"](tmp_path)


@pytest.mark.parametrize("to", [(1, 8), (3, 1), (8, 1)])
def test_tensors_of_another_size_are_refused_and_never_broadcast(to):
    """A fused optimiser would read past the end of moments that are too small."""

    def state(n_in, n_out):
        layer = torch.nn.Linear(n_in, n_out)
        found = State({"layer": layer}, torch.optim.Adam(layer.parameters(), fused=True))
        layer(torch.ones(1, n_in)).sum().backward()
        found.optimizer.step()
        return found

    here, there = state(*to), state(1, 1)
    before = {name: value.clone() for name, value in here.tensors().items()}
    for tensors in (there.tensors(), here.module_tensors() | there.optimizer_tensors()):
        with pytest.raises(ValueError, match="is due"):
            here.load(tensors)
    assert all(torch.equal(value, before[name]) for name, value in here.tensors().items())


def test_moments_lie_in_memory_as_their_parameters_do():
    """A fused optimiser walks both side by side, whatever their strides."""
    runs = []
    for cut in (False, True):
        with lb.nn.seeded(0):
            layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        state = State({"layer": layer}, torch.optim.Adam(layer.parameters(), fused=True))
        for step in range(4):
            if cut and step == 2:
                form = torch.contiguous_format  # as they come from a file
                state.load({name: value.clone(memory_format=form) for name, value in state.tensors().items()})
            state.optimizer.zero_grad()
            layer(torch.arange(75.0).reshape(1, 3, 5, 5).sin()).square().sum().backward()
            state.optimizer.step()
        runs.append(layer.weight.detach().clone())
    assert torch.equal(*runs)


def test_a_fit_without_a_seed_goes_on_with_the_one_it_drew(tmp_path):
    settings = {"hidden": (4,), "epochs": 3, "threads": 1, "batch_size": 20}
    with pytest.raises(Stop):
        lb.VAE(1, callbacks=[stop_at(10)], **settings).fit(rows("normal"), run_dir=tmp_path, checkpoint_every=3)
    again = lb.VAE(1, **settings).fit(rows("normal"), run_dir=tmp_path, checkpoint_every=3)
    assert len(again.history_.records) == 3


def test_a_refused_fit_leaves_the_estimator_as_it_was(cut):
    vae = lb.VAE(1, hidden=(4,), epochs=2, random_state=0).fit(rows("normal"))
    before = vae.score(rows("normal")), vae.history_
    for refused in (ValueError, LockedError):
        with (cut / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX if refused is LockedError else fcntl.LOCK_UN)
            with pytest.raises(refused):
                vae.fit(rows("normal"), run_dir=cut)
        assert (vae.score(rows("normal")), vae.history_) == before


def test_files_of_something_else_are_left_alone(tmp_path):
    other = tmp_path / "checkpoints" / "1000"
    other.mkdir(parents=True)
    (other / "weights.pt").write_text("mine")
    before = tree(tmp_path)
    for resume in ("auto", "never"):
        with pytest.raises(ValueError, match="checkpoints holds '1000', which is of no fit; choose another folder"):
            lb.VAE(1, epochs=1, random_state=0).fit(rows("normal"), run_dir=tmp_path, resume=resume)
    assert {name: data for name, data in tree(tmp_path).items() if name != ".lock"} == before
    other.rename(other.with_name("00001000"))
    (tmp_path / ".draft.tmp").write_text("mine")
    lb.VAE(1, epochs=1, random_state=0).fit(rows("normal"), run_dir=tmp_path)
    found = tree(tmp_path)
    assert (found["checkpoints/00001000/weights.pt"], found[".draft.tmp"]) == (b"mine", b"mine")


def test_a_model_from_before_a_fit_that_was_cut_short_is_said_to_be(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    with pytest.raises(Stop):
        lb.VAE(2, epochs=3, random_state=0, callbacks=[stop_at(2)]).fit(
            rows("normal"), run_dir=run, resume="never", checkpoint_every=1
        )
    with pytest.warns(UserWarning, match="has not ended: this is the model from before it"):
        assert lb.load(run).latent_dim == 3
    assert contents(run).unfinished
    assert "a fit has not ended" in "".join(contents(run).lines())


def test_a_checkpoint_of_a_later_version_is_not_passed_over(cut):
    forge(cut / "checkpoints" / "00000020", lambda c: c | {"format": 3}, "state.json")
    before = tree(cut)
    with pytest.raises(FormatError, match=r"state\.json is of format 3, newer than this version reads"):
        fit_vae("afresh", cut)
    assert tree(cut) == before


def test_other_rows_are_refused(cut):
    settings = {"hidden": (16,), "batch_size": 20, "epochs": EPOCHS, "random_state": 0, "threads": 1}
    x = rows("afresh").copy()
    x[140, 7, 7] += 1
    with pytest.raises(ValueError, match=r"checkpoints of another fit .data is "):
        lb.VAE(3, **settings | VAES["afresh"]).fit(x, run_dir=cut)


def test_what_may_change_the_bits_is_said(cut):
    for path in checkpoints.listed(cut):
        forge(path, lambda c: c | {"environment": c["environment"] | {"threads": 64, "torch": "1.0"}}, "state.json")
    with pytest.warns(
        RuntimeWarning, match=r"00000020, but not bit for bit .* threads was 64, is 1, torch was 1\.0, is"
    ):
        fit_vae("afresh", cut)


def test_another_learning_rate_is_taken_and_said(cut):
    settings = {"hidden": (16,), "batch_size": 20, "epochs": EPOCHS, "random_state": 0, "threads": 1}
    with pytest.warns(RuntimeWarning, match=r"learning_rate was 0\.02, is 0\.01"):
        lb.VAE(3, **settings | VAES["afresh"] | {"learning_rate": 0.01}).fit(rows("afresh"), run_dir=cut)


def test_a_folder_in_use_is_refused_and_can_be_read(cut):
    with (cut / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another process"):
            fit_vae("afresh", cut)
        with pytest.raises(LockedError, match="another process"):
            lb.VAE(1, epochs=1, random_state=0).fit(rows("normal")).save(cut)
        with pytest.warns(UserWarning, match="has not ended"):
            lb.load(cut)


def test_a_saved_model_is_not_replaced_unasked(tmp_path):
    vae = lb.VAE(1, epochs=1, hidden=(4,), random_state=0).fit(rows("normal"))
    vae.save(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model but no checkpoint to resume from; .*resume='never'"):
        vae.fit(rows("normal"), run_dir=tmp_path)
    assert tree(tmp_path) == before
    vae.fit(rows("normal"), run_dir=tmp_path, resume="never")
    assert checkpoints.listed(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"resume": "yes"}, "resume must be"), ({"checkpoint_every": 0}, "checkpoint_every is a")],
)
def test_wrong_arguments_are_named(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        lb.VAE(1, epochs=1).fit(rows("normal"), run_dir=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:the ELBO fell")  # by design
def test_a_rescue_is_part_of_what_goes_on(tmp_path):
    """A learning rate that was lowered stays lowered, and is told, after a kill."""

    def fit(run, stop=None):
        vae = lb.VAE(3, **settings, callbacks=[stop] if stop else [])
        return vae.fit(rows("normal"), run_dir=run, checkpoint_every=EVERY)

    settings = {"hidden": (16,), "batch_size": 20, "epochs": 4, "random_state": 0, "threads": 1, "learning_rate": 100.0}
    with pytest.warns(RuntimeWarning, match="lowered the learning rate"):
        whole = fit(tmp_path / "whole")
    assert whole.history_.rescues
    with pytest.warns(RuntimeWarning, match="lowered the learning rate"), pytest.raises(Stop):
        fit(tmp_path / "cut", stop_at(12))
    again = fit(tmp_path / "cut")
    assert again.history_ == whole.history_
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_an_optimiser_that_changes_its_own_options_goes_on_with_them(tmp_path):
    class Restless(torch.optim.SGD):
        """SGD whose momentum grows with each step."""

        def step(self, closure=None):
            self.param_groups[0]["momentum"] += 0.01
            return super().step(closure)

    def fit(run, callbacks=()):
        model, posterior = parts()
        inference = lb.AEVB(posterior, optimizer=partial(Restless, lr=1e-3, momentum=0.1), learning_rate=1e-3)
        x = rows("normal").astype(np.float32)
        lb.fit(
            model,
            x,
            inference,
            epochs=3,
            batch_size=20,
            threads=1,
            callbacks=callbacks,
            run_dir=run,
            checkpoint_every=4,
        )

    def parts():
        with lb.nn.seeded(0):
            encoder, decoder = lb.nn.MLP((5,), (4,), (8,)), lb.nn.MLP((2,), (5,), (8,))
        model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Normal("dimension", (5,)))
        return model, lb.posteriors.DiagonalNormal(2, encoder)

    fit(tmp_path / "whole")
    with pytest.raises(Stop):
        fit(tmp_path / "cut", [stop_at(10)])
    numbers = json.loads((tmp_path / "cut/checkpoints/00000008/state.json").read_bytes())
    assert numbers["optimizer"][0]["momentum"] == pytest.approx(0.18)
    fit(tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:the ELBO fell")  # by design
def test_the_best_state_is_kept_over_a_cut_after_it(tmp_path):
    """Where the best epoch lies before the cut, and none after it is better, its state comes from the checkpoint."""
    settings = {"hidden": (16,), "batch_size": 20, "epochs": 8, "random_state": 0, "threads": 1}
    rising = lb.training.WarmUp(8, 20.0)  # too high, in the end, to get better
    vae = lb.VAE(3, learning_rate=rising, **settings).fit(
        rows("normal"), run_dir=tmp_path / "whole", checkpoint_every=EVERY
    )
    assert vae.history_.best_epoch <= 4
    with pytest.raises(Stop):
        vae.set_params(callbacks=[stop_at(6 * STEPS_PER_PASS)]).fit(
            rows("normal"), run_dir=tmp_path / "cut", checkpoint_every=EVERY
        )
    vae.set_params(callbacks=()).fit(rows("normal"), run_dir=tmp_path / "cut", checkpoint_every=EVERY)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_ctrl_c_leaves_a_checkpoint_of_the_last_look(tmp_path):
    """What goes on then looks at its values where it would have: the same rescues, the same bytes."""

    def interrupt(event):
        if event.step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    FITS["bernoulli"](tmp_path / "whole")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.warns(UserWarning, match="interrupted"):
            FITS["bernoulli"](tmp_path / "cut", [interrupt])
    finally:
        signal.signal(signal.SIGINT, before)
    assert [int(path.name) for path in checkpoints.listed(tmp_path / "cut")] == [5, 10]
    FITS["bernoulli"](tmp_path / "cut")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_all_of_the_progress_comes_back(tmp_path):
    """Every field, also those that few fits reach: tries, lowered rates, rescues, a best epoch."""
    inference = lb.AEVB(lb.posteriors.DiagonalNormal(1, lb.nn.MLP((2,), (2,), ())))
    model = lb.LatentVariableModel(lb.priors.Normal(1), lb.nn.MLP((1,), (2,), ()), lb.likelihoods.Bernoulli())
    data = lb.data.Rows(torch.ones(8, 2))
    there, here = (Progress(inference.start(model), data, 4, seed) for seed in (0, 1))
    there.cursor.next()
    there.meter.add({"objective": torch.tensor(2.0)}, 3)
    there.best.offer(1.5, 7, there.state)
    there.clock.slowed, there.tries, there.state.parts = 0.25, 2, 4
    there.history.rescues.append("once")
    numbers = json.loads(json.dumps(there.numbers()))
    here.load(there.tensors(), numbers, [{"epoch": 1}], {"model.a": torch.ones(2)})
    assert (here.tries, here.clock.slowed, here.state.parts, here.cursor.position) == (2, 0.25, 4, 1)
    assert (here.best.epochs, here.best.objective, list(here.best.tensors)) == (7, 1.5, ["model.a"])
    assert (here.history.records, here.history.rescues) == ([{"epoch": 1}], ["once"])
    assert (here.meter.means(""), here.meter.rows) == ({"objective": 2.0}, 3)
    assert torch.equal(here.cursor.rng.get_state(), there.cursor.rng.get_state())


@pytest.mark.parametrize(
    ("position", "steps", "due"), [(0, 0, 40), (30, 30, 10), (90, 90, 10), (100, 100, 20), (7, 127, 33), (119, 239, 1)]
)
def test_values_are_looked_at_on_a_grid_of_steps(position, steps, due):
    """Whatever step a fit goes on from, it looks where it would have: each 100th of an epoch, and at checkpoints."""
    cursor = type("Cursor", (), {"position": position, "steps": steps, "steps_per_epoch": 120})
    assert _steps_ahead(cursor, 100, 40) == due


def test_a_fit_that_diverges_leaves_its_best_model(tmp_path):
    settings = {"hidden": (16,), "batch_size": 20, "epochs": 4, "random_state": 0, "threads": 1, "learning_rate": 3e3}
    with pytest.warns(RuntimeWarning, match="lowered"), pytest.raises(DivergedError):
        lb.VAE(3, **settings).fit(rows("normal"), run_dir=tmp_path)
    assert lb.load(tmp_path).history_.stopped == "diverged"
    assert np.isfinite(lb.load(tmp_path).transform(rows("normal"))).all()


def test_checkpoints_that_would_lie_elsewhere_are_refused(tmp_path, whole):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(whole / "checkpoints", elsewhere)
    before = tree(elsewhere)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(elsewhere)
    for resume in ("auto", "never"):
        with pytest.raises(FormatError, match="checkpoints is a link, which is not followed"):
            lb.VAE(1, epochs=1).fit(rows("normal"), run_dir=tmp_path / "run", resume=resume)
    assert tree(elsewhere) == before


def test_a_checkpoint_that_cannot_be_written_is_said_and_a_model_that_cannot_is_an_error(tmp_path, monkeypatch):
    def refuse(path, files):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write", refuse)
    with (
        pytest.warns(RuntimeWarning, match=r"checkpoint of step \d+ was not written .No space left on device"),
        pytest.raises(
            OSError, match=r"the model could not be written into .*No space left.* fix this.*nothing of it is kept"
        ) as error,
    ):
        fit_vae("normal", tmp_path)
    assert error.value.errno == 28


def test_two_checkpoints_are_kept(cut):
    names = sorted(path.name for path in (cut / "checkpoints").iterdir())
    assert names == ["00000015", "00000020", "metrics.jsonl", "unfinished"]
    assert not any(folder.problems(path) for path in checkpoints.listed(cut))


def test_the_log_of_a_fit_under_way_has_a_line_a_pass(cut):
    lines = (cut / "checkpoints" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_dying_is_what_the_callback_does():
    pid = os.fork()
    if pid == 0:
        die_at(3)(type("Event", (), {"step": 3}))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
