"""Sequences in tables in long form: the estimator, the command line, and what is refused."""

from __future__ import annotations

import datetime
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
import warm
from messages import assert_one_sentence

import lowerbound as lb
from lowerbound.errors import DataError, FormatError
from lowerbound.training import Event

N, T = 24, 6
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "id": np.repeat([f"s{i}" for i in range(N)], T),
        "time": [*range(T)] * N,
        "x": (100 + 3 * RNG.normal(size=(N, T)).cumsum(1)).ravel().round(2) - 100,
        "level": RNG.choice(["low", "high", "none"], N * T),
    }
)
FRAME.loc[5, "x"] = np.nan
FRAME.loc[14, ["x", "level"]] = np.nan  # a missing step
QUICK: dict[str, Any] = {"latent_dim": 2, "hidden": 6, "epochs": 3, "random_state": 0, "threads": 1}


@pytest.fixture(scope="module")
def model() -> lb.SequenceVAE:
    return lb.SequenceVAE(**QUICK).fit(FRAME)


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = warm.lowerbound(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


# --- the estimator ---


def test_rows_are_sorted_by_time_within_their_sequence(model: lb.SequenceVAE) -> None:
    """Whatever their order in the frame, and whether times are numbers or days."""
    mixed = FRAME.sample(frac=1, random_state=1)
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=2 * day) for day in mixed["time"]]
    place = [model.names(FRAME).index(name) for name in model.names(mixed)]
    assert sorted(place) == list(range(N))
    due = _values(model, FRAME)[place]
    np.testing.assert_array_equal(_values(model, mixed), due)
    np.testing.assert_array_equal(_values(model, pl.from_pandas(mixed).with_columns(pl.Series("time", days))), due)
    reversed_ = FRAME.iloc[::-1].sort_values("id", key=lambda ids: ids.str[1:].astype(int), kind="stable")
    again = lb.SequenceVAE(**QUICK).fit(reversed_)
    assert all(value.equal(model.model_.state_dict()[name]) for name, value in again.model_.state_dict().items())


def _values(model: lb.SequenceVAE, frame: Any) -> Any:
    batch = model._rows(frame)[1].batch(torch.arange(N), torch.ones(N))
    return torch.where(batch.mask, batch.x, torch.nan).numpy()


def test_log_p_is_in_the_columns_own_units() -> None:
    """The same data in thousandths have a density of a thousandth at each observed cell."""
    data = FRAME[["id", "time", "x"]].assign(x=FRAME["x"] - 1e3)
    found = [lb.SequenceVAE(**QUICK).fit(frame).log_likelihood(frame, samples=50) for frame in
             (data, data.assign(x=1000 * data["x"]))]  # fmt: skip
    observed = data["x"].notna().groupby(data["id"], sort=False).sum().to_numpy()
    np.testing.assert_allclose(found[0].estimate - found[1].estimate, observed * math.log(1000), rtol=1e-3)


def test_missing_steps_are_integrated_out(model: lb.SequenceVAE) -> None:
    """A row of missing cells at the end of a sequence changes nothing; one in the middle does."""
    one = FRAME.head(T)
    blank = pd.DataFrame({"id": ["s0"], "time": [T], "x": [np.nan], "level": [None]})
    due = model.log_likelihood(one, samples=500).estimate
    ended = model.log_likelihood(pd.concat([one, blank]), samples=500).estimate
    np.testing.assert_allclose(ended, due, atol=0.3)
    apart = model.log_likelihood(pd.concat([one, blank.assign(time=2.5)]), samples=500).estimate
    assert np.isfinite(apart).all()
    empty = one.assign(x=np.nan, level=None).astype({"x": float, "level": object})
    np.testing.assert_allclose(model.log_likelihood(empty, samples=10).estimate, 0, atol=1e-5)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "pyarrow"])
def test_forecasts_are_in_the_frame_and_the_units_of_the_fit(make: Any) -> None:
    frame = make({name: [None if each != each else each for each in FRAME[name]] for name in FRAME})
    model = lb.SequenceVAE(**QUICK).fit(frame)
    found = model.forecast(frame, 3, draws=100, samples=50)
    assert type(found) is type(frame)
    names = list(getattr(found, "column_names", found.columns))
    assert names == ["id", "steps_ahead", "x", "x_lower", "x_upper", "level"]
    table = found if isinstance(found, pd.DataFrame) else found.to_pandas()
    assert len(table) == 3 * N
    assert table["id"].tolist() == [f"s{i}" for i in range(N) for _ in range(3)]
    assert table["steps_ahead"].tolist() == [1, 2, 3] * N
    assert (table["x_lower"] < table["x"]).all()
    assert (table["x"] < table["x_upper"]).all()
    assert set(table["level"]) <= {"low", "high", "none"}
    drawn = model.sample(2, 4)
    drawn = drawn if isinstance(drawn, pd.DataFrame) else drawn.to_pandas()
    assert drawn["time"].tolist() == [0, 1, 2, 3] * 2
    assert list(drawn.columns) == ["id", "time", "x", "level"]


def test_sequences_may_be_longer_than_at_the_fit_or_of_one_step(model: lb.SequenceVAE) -> None:
    long = FRAME.assign(id="one", time=range(len(FRAME)))
    assert math.isfinite(model.score(long))
    assert len(model.forecast(pd.concat([long, FRAME.head(1)]), 2, draws=20, samples=20)) == 4
    short = FRAME.groupby("id").head(1)
    assert math.isfinite(lb.SequenceVAE(**QUICK).fit(short).score(short))
    alone = lb.SequenceVAE(**QUICK).fit(long)
    assert alone.history_.records
    assert math.isfinite(alone.score(long))


def test_a_saved_estimator_is_the_same(model: lb.SequenceVAE, tmp_path: Path) -> None:
    model.save(tmp_path / "run")
    loaded = lb.load(tmp_path / "run")
    assert isinstance(loaded, lb.SequenceVAE)
    assert loaded.get_params() == model.get_params() | {"threads": None}  # it is of the machine
    np.testing.assert_array_equal(
        loaded.log_likelihood(FRAME, samples=20).estimate, model.log_likelihood(FRAME, samples=20).estimate
    )
    pd.testing.assert_frame_equal(loaded.forecast(FRAME, 2, draws=9), model.forecast(FRAME, 2, draws=9))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda extra: extra["parameters"].update(latent_dim=0), "latent_dim must be"),
        (lambda extra: extra["parameters"].pop("hidden"), "its parameters are not those of this version"),
        (lambda extra: extra["fitted"].pop("schema"), "schema"),
        (lambda extra: extra["fitted"]["schema"]["columns"].pop(), "the model is"),
        (lambda extra: extra["parameters"].update(sequence=["id"]), "sequence is"),
    ],
)
def test_a_forged_file_is_refused(model: lb.SequenceVAE, change: Any, words: str) -> None:
    from lowerbound.storage.model import Saved

    extra = json.loads(json.dumps(model._described()))
    change(extra)
    with pytest.raises(FormatError, match=words) as caught:
        lb.SequenceVAE.restore(Saved(model.model_, model.posterior_, model.history_, extra))
    assert_one_sentence(str(caught.value), ("config.json does not describe a SequenceVAE",))


def _with(**columns: Any) -> pd.DataFrame:
    return FRAME.head(4).assign(**columns)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (_with().drop(columns="time"), ("X has no column 'time'", "its columns are 'id', 'x', 'level'")),
        (FRAME.head(0), ("X has no rows", "at least one step")),
        (_with(time=[0, 1, 1, 2]), ("rows 1 and 2 have the same 'id', 's0', and the same 'time', 1", "once")),
        (_with(time=[0, 1, None, 2]), ("row 2 has no 'time'",)),
        (_with(id=["a", None, "a", "a"]), ("row 1 has no 'id'",)),
        (_with(time=["a", "b", "c", "d"]), ("times in column 'time' are String, such as 'a'", "numbers or dates")),
        (_with(x=[1.0, math.inf, 2.0, 3.0]), ("inf",)),
        (FRAME[["id", "time"]], ("no column to learn from|0 columns",)),
        (FRAME["x"].to_numpy(), ("X is of type ndarray, not a frame", "a row per step")),
    ],
)
def test_tables_that_are_no_sequences_are_refused(frame: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        lb.SequenceVAE(**QUICK).fit(frame)
    assert_one_sentence(str(caught.value), words)


def test_a_column_of_the_fit_must_be_there(model: lb.SequenceVAE) -> None:
    with pytest.raises(DataError, match="'level'") as caught:
        model.forecast(FRAME.drop(columns="level"))
    assert_one_sentence(str(caught.value), ())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sequence": "id"}, "give the names of two columns"),
        ({"sequence": ("id", "id")}, "give the names of two columns"),
        ({"hidden": 0}, "hidden must be"),
        ({"validation": 1.0}, "validation is 1"),
        ({"epochs": 0}, "epochs must be"),
    ],
)
def test_settings_are_checked_before_data_are_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        lb.SequenceVAE(**settings).fit(None)
    assert_one_sentence(str(caught.value), ())


# --- the command line ---


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "steps.csv"
    FRAME.sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(steps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "r"
    quick = ["--latent-dim", 2, "--epochs", 3, "--set", "hidden=6"]
    done = run("fit", steps, "--sequence", "id,time", *quick, "--out", out)
    assert "24 sequences of 144 steps, 2 columns, 2 latents per step → " in done.stderr
    return out


def test_two_commands_forecast(fitted: Path, steps: Path, tmp_path: Path) -> None:
    done = run("sample", fitted, "--given", steps)
    assert "the next step of 24 sequences, with intervals of 90 % → " in done.stderr
    assert list(pd.read_csv(fitted / "forecast.csv")) == ["id", "steps_ahead", "x", "x_lower", "x_upper", "level"]
    out = tmp_path / "f.parquet"
    done = run("sample", fitted, "--given", steps, "--steps", 3, "--level", 0.5, "--out", out, "--json")
    assert json.loads(done.stdout) == {
        "rows": 72, "seed": 0, "given": [str(steps)], "steps": 3, "out": str(out)
    }  # fmt: skip
    narrow, wide = pd.read_parquet(out), lb.load(fitted).forecast(lb.data.read_frame(steps), 3).to_pandas()
    assert ((narrow["x_upper"] - narrow["x_lower"]) < (wide["x_upper"] - wide["x_lower"])).all()


def test_what_was_fitted_is_what_python_fits(fitted: Path, steps: Path) -> None:
    found = lb.load(fitted)
    due = lb.SequenceVAE(latent_dim=2, hidden=6, epochs=3, random_state=0).fit(lb.data.read_frame(steps))
    for name, value in due.model_.state_dict().items():
        assert value.equal(found.model_.state_dict()[name])


def test_score_and_draw_sequences(fitted: Path, steps: Path, tmp_path: Path) -> None:
    done = run("score", fitted, steps, "--samples", 50, "--out", tmp_path / "s.csv", "--json")
    found, rows = json.loads(done.stdout), pd.read_csv(tmp_path / "s.csv")
    assert found["sequences"] == len(rows) == N
    assert rows["log_likelihood"].mean() == pytest.approx(found["log_likelihood"])
    assert found["per_step"] == pytest.approx(rows["log_likelihood"].sum() / (N * T))
    assert "nats per sequence" in done.stderr
    run("sample", fitted, "-n", 3, "--steps", 4, "--out", tmp_path / "new.csv")
    assert pd.read_csv(tmp_path / "new.csv").shape == (12, 4)
    assert "SequenceVAE" in run("info", fitted).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "D", "--sequence", "id", "--out", "R"), "'id' is not two names of columns, such as id,time"),
        (("fit", "D", "--sequence", "id,time", "--hidden", "4", "--out", "R"), "--hidden does not apply to models of"),
        (("fit", "D", "--sequence", "id,time", "--model", "lda", "--out", "R"), "--sequence does not apply to --model"),
        (("fit", "D", "--sequence", "id,time", "--set", "no=1", "--out", "R"), "--set is 'no'"),
        (("score", "F", "D", "--evidence"), "--evidence does not apply to models of sequences"),
        (("sample", "F", "--given", "D", "--given", "D"), "give it once"),
        (("sample", "F", "--level", "1"), "is not in the range"),
    ],
)
def test_commands_that_do_not_fit_are_refused(
    arguments: tuple[str, ...], words: str, fitted: Path, steps: Path, tmp_path: Path
) -> None:
    paths = {"D": steps, "F": fitted, "R": tmp_path / "r"}
    assert words in run(*(paths.get(each, each) for each in arguments), code=2).stderr


def test_data_that_do_not_fit_are_refused(fitted: Path, steps: Path, tmp_path: Path) -> None:
    assert "has no column 'day'" in run("fit", steps, "--sequence", "id,day", "--out", tmp_path / "r", code=65).stderr
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    assert "is no table with a row per step" in run("sample", fitted, "--given", tmp_path / "x.npy", code=65).stderr
    assert run("sample", fitted, "--given", tmp_path / "no.csv", code=66).stderr
    assert "not a VAE estimator" in run("report", fitted, steps, code=65).stderr


def test_an_interrupted_fit_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    def fit(folder: Path, stop: int | None) -> lb.SequenceVAE:
        def at(event: Event) -> bool:
            return stop is not None and event.step >= stop

        model = lb.SequenceVAE(**QUICK | {"random_state": None}, callbacks=[at], validation=0.0)
        return model.fit(FRAME, run_dir=folder, checkpoint_every=1)

    parts = tmp_path / "parts"
    fit(parts, 3)
    resumed = fit(parts, None)
    whole = lb.SequenceVAE(**QUICK | {"random_state": resumed.seed_}, validation=0.0).fit(FRAME)
    for name, value in whole.model_.state_dict().items():
        assert value.equal(resumed.model_.state_dict()[name])
