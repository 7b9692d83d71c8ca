"""Frames in, frames out: a table of mixed columns with holes, by ``VAE`` alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from messages import assert_one_sentence

import lowerbound as lb
from lowerbound.errors import DataError
from lowerbound.schema import infer
from test_tables import people


def quick(**more) -> lb.VAE:
    return lb.VAE(2, **{"hidden": (32,), "epochs": 25, "learning_rate": 5e-3, "random_state": 0} | more)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    found = people(600)
    found.insert(0, "id", [f"p{row:04d}" for row in range(len(found))])
    return found


@pytest.fixture(scope="module")
def model(frame) -> lb.VAE:
    return quick().fit(frame)


def test_a_frame_is_taken_column_by_column(model, frame):
    assert [column.kind for column in model.schema_.columns][:2] == ["identifier", "positive"]
    assert model.objective_ == "iwae"
    assert model.draws_ == 20
    assert list(model.feature_names_in_) == list(frame.columns)
    assert model.transform(frame).shape == (600, 2)
    assert model.model_.likelihood.measure == "mixed"


def test_without_holes_the_bound_is_the_plain_one():
    fitted = quick(epochs=1).fit(people(100, missing=0.0))
    assert (fitted.objective_, fitted.draws_) == ("elbo", 1)
    told = quick(epochs=1, objective="elbo_sampled", draws=3).fit(people(100))
    assert (told.objective_, told.draws_) == ("elbo_sampled", 3)


def test_holes_are_filled_and_nothing_else_is_touched(model, frame):
    full = model.impute(frame)
    assert not full.drop(columns="id").isna().any().any()
    assert full.dtypes.equals(frame.dtypes)
    for name in frame:
        there = frame[name].notna()
        assert full.loc[there, name].equals(frame.loc[there, name]), name
    guess = frame["age"].mean()
    whole = people(600, missing=0.0)
    hole = frame["age"].isna()
    ours = (full["age"] - whole["age"])[hole].pow(2).mean()
    assert ours < 0.5 * (guess - whole["age"])[hole].pow(2).mean(), "it knows more than the mean does"
    many = model.impute(frame, draws=3)
    assert len(many) == 3
    assert not many[0].equals(many[1])
    spread = np.std([each["age"][hole].to_numpy() for each in model.impute(frame, draws=20)], axis=0).mean()
    assert 0.3 * whole["age"].std() < spread < 1.5 * whole["age"].std()


def test_log_p_is_in_the_columns_own_units(frame):
    """The same table in other units has the same model, and a density that is as much smaller."""
    numbers = frame[["age", "income"]] + 0.01 * np.sin(np.arange(600))[:, None]  # on no grid: 8 times one is another
    other = numbers * 8  # a power of 2: the same standardised values to the last bit
    settings = {"epochs": 3, "objective": "elbo"}  # whose gradient does not depend on a constant in log p
    a, b = quick(**settings).fit(numbers), quick(**settings).fit(other)
    standard = a.score_samples(numbers, standardised=True)
    np.testing.assert_allclose(standard, b.score_samples(other, standardised=True), rtol=1e-5, atol=1e-5)
    observed = numbers.notna().sum(axis=1).to_numpy()
    gained = a.score_samples(numbers) - b.score_samples(other)
    np.testing.assert_allclose(gained, observed * np.log(8), rtol=1e-5, atol=1e-5)


def test_an_all_missing_row_is_answered_exactly(model, frame):
    nothing = frame.head(3).copy()
    nothing[["age", "income", "visits", "member", "city"]] = None
    nothing = nothing.astype(frame.dtypes)
    assert model.score_samples(nothing).tolist() == [0, 0, 0]
    mean, scale = model.encode(nothing)
    assert type(model.model_.prior).__name__ == "Flow", "a table of 600 rows"
    z = model.model_.prior.sample(4000, torch.Generator().manual_seed(1)).detach().numpy()
    assert (abs(mean - z.mean(0)) < 5 * z.std(0) / np.sqrt(1000)).all()
    assert (abs(scale / z.std(0) - 1) < 0.2).all()
    mean, scale = quick(epochs=1, prior="Normal").fit(frame).encode(nothing)
    assert (mean == 0).all()
    assert (scale == 1).all()
    full = model.impute(nothing)
    marginal = model.sample(4000)
    assert abs(full["age"][0] - marginal["age"].mean()) < 5 * marginal["age"].std() / np.sqrt(1000)
    assert full["city"][0] == marginal["city"].mode()[0]
    assert (full["country"] == "DE").all()
    assert full["id"].equals(nothing["id"])


def test_given_cells_are_kept_and_tell_of_others(model):
    bonn, ulm = (model.sample(400, given={"city": city}) for city in ("Bonn", "Ulm"))
    assert (bonn["city"] == "Bonn").all()
    assert bonn["age"].mean() > ulm["age"].mean() + 5
    exact = model.sample(5, given={"age": 37.25, "member": "yes", "visits": 3})
    assert exact["age"].tolist() == [37.25] * 5 or exact["age"].tolist() == [37.2] * 5
    assert exact["visits"].tolist() == [3] * 5
    assert model.sample(3, given={"city": "Ulm"}).equals(model.sample(3, given={"city": "Ulm"}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"citi": "Ulm"}, ("'citi'", "not a column")),
        ({"city": "Paris"}, ("'Paris'", "does not occur", "'Bonn'")),
        ({"age": "old"}, ("'age'", "not a number")),
        ({"country": "DE"}, ("'country'", "constant")),
        ({"visits": 2.5}, ("'visits'", "whole number")),
        ({"age": np.inf}, ("'age'", "infinite")),
        ({"age": None}, ("'age'", "no value")),
        ({"age": [1]}, ("'age'",)),
        ({}, ("given",)),
    ],
)
def test_what_cannot_be_given(model, given, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        model.sample(2, given=given)
    assert_one_sentence(str(error.value), words)


def test_contributions_add_up_and_find_the_odd_cell(model, frame):
    row = people(600, missing=0.0).head(50).assign(id=frame["id"][:50])[frame.columns]
    odd = row.copy()
    odd.loc[7, "age"] = 400.0
    found = model.anomaly(odd)  # the odd row has enough draws from a proposal of its own
    plain = model.anomaly(row)
    np.testing.assert_allclose(found.score, found.cells.sum(axis=1) + found.latent, rtol=1e-9)
    assert found.score.argmax() == 7
    many = model.anomaly(odd.iloc[[7]], samples=20_000)  # with hundreds of effective draws
    assert found.score[7] == pytest.approx(many.score[0], abs=3)
    assert found.cells.loc[7].idxmax() == many.cells.iloc[0].idxmax()
    mild = row.copy()
    mild.loc[7, "age"] = 75.0
    assert (model.anomaly(mild).cells - plain.cells).loc[7].idxmax() == "age"
    assert found.score[7] > plain.score[7] + 5
    np.testing.assert_allclose(plain.score, -model.score_samples(row, samples=1000), atol=0.7)


def test_the_order_of_columns_and_what_is_done_to_the_frame_change_nothing(frame):
    mine = frame.copy()
    fitted = quick(epochs=2).fit(mine)
    before = fitted.score_samples(frame)
    mine.loc[:, "age"] = 0.0
    np.testing.assert_array_equal(fitted.score_samples(frame), before)
    np.testing.assert_array_equal(fitted.score_samples(frame[frame.columns[::-1]]), before)
    again = quick(epochs=2).fit(frame[list(frame.columns)])
    np.testing.assert_array_equal(again.score_samples(frame), before)


def test_what_comes_in_goes_out(frame):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for given, kind in ((pl.from_arrow(table), pl.DataFrame), (table, pa.Table)):
        fitted = quick(epochs=2).fit(given)
        full, new = fitted.impute(given), fitted.sample(5)
        assert isinstance(full, kind)
        assert isinstance(new, kind)
        assert full.schema == given.schema
        assert new.schema == given.schema
        assert isinstance(fitted.anomaly(given).cells, kind)
        assert fitted.impute(frame).dtypes.equals(frame.dtypes), "and of another library, as that one has it"


def test_a_saved_model_knows_its_table(model, frame, tmp_path):
    model.save(tmp_path / "m")
    again = lb.load(tmp_path / "m")
    assert again.schema_ == model.schema_
    np.testing.assert_array_equal(again.score_samples(frame), model.score_samples(frame))
    assert again.impute(frame).equals(model.impute(frame))
    assert again.sample(5).equals(model.sample(5))
    refitted = again.fit(frame.head(100))
    assert refitted.schema_ == model.schema_, "a schema that was read is kept"


def test_levels_never_seen_are_counted_or_refused(model, frame):
    new = frame.head(20).copy()
    new.loc[[3, 5], "city"] = "Paris"
    with pytest.warns(UserWarning, match="2 of 'city'"):
        scores = model.score_samples(new)
    new.loc[[3, 5], "city"] = None
    np.testing.assert_array_equal(scores, model.score_samples(new))
    new.loc[3, "city"] = "Paris"
    with pytest.raises(DataError) as error:
        quick(epochs=1, strict=True).fit(frame).transform(new)
    assert_one_sentence(str(error.value), ("row 3", "'city'", "Paris"))


def test_a_row_does_not_depend_on_its_neighbours(model, frame):
    some = frame.iloc[[5, 200, 3]]
    np.testing.assert_array_equal(model.score_samples(frame)[[5, 200, 3]], model.score_samples(some))
    np.testing.assert_array_equal(model.transform(frame)[[5, 200, 3]], model.transform(some))


def test_reconstruct_and_inverse_transform_are_frames(model, frame):
    seen = model.reconstruct(frame)
    assert seen.dtypes.equals(frame.dtypes)
    assert seen["id"].equals(frame["id"])
    assert abs(np.corrcoef(seen["age"], people(600, missing=0.0)["age"])[0, 1]) > 0.5
    assert list(model.inverse_transform(np.zeros((2, 2))).columns) == list(frame.columns)


def bad(frame: pd.DataFrame) -> dict[str, tuple[object, tuple[str, ...]]]:
    mixed = frame["city"].astype(object).where(frame.index != 4, 3.5)
    twice = pd.concat([frame, frame[["age"]]], axis=1)
    zones = pd.Series([pd.Timestamp("2001-01-01", tz="UTC"), pd.Timestamp("2001-01-01")] * 300, dtype=object)
    return {
        "duplicated names": (twice, ("two columns", "'age'")),
        "mixed types": (frame.assign(city=mixed), ("'city'",)),
        "infinite": (frame.assign(income=np.inf), ("'income'", "infinite")),
        "zones": (frame.assign(when=zones), ("'when'",)),
        "lists": (frame.assign(age=[[1]] * 600), ("'age'",)),
        "empty": (frame.iloc[:0], ("0 rows",)),
        "nothing to learn": (frame[["id", "country"]], ("constant",)),
    }


@pytest.mark.parametrize("name", list(bad(people(600).assign(id="a"))))
def test_frames_that_cannot_be_used(name, frame):
    given, words = bad(frame)[name]
    never = quick()
    with pytest.raises(ValueError, match=words[0]) as error:
        never.fit(given)
    assert_one_sentence(str(error.value), words)
    assert not hasattr(never, "model_")


def test_frames_that_are_odd_but_can_be_used():
    frame = people(60).assign(nothing=None)
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 20)), columns=[f"c{j}" for j in range(20)])
    with pytest.warns(UserWarning, match="60 of 'nothing'"):
        assert quick(epochs=1).fit(frame).impute(frame)["nothing"].isna().all()
    assert quick(epochs=1).fit(wide).transform(wide).shape == (8, 2)


def test_a_column_of_another_type_at_use(model, frame):
    for wrong in (frame.assign(age="old"), frame.drop(columns="age")):
        with pytest.raises(DataError) as error:
            model.transform(wrong)
        assert_one_sentence(str(error.value), ("'age'",))


def test_asking_an_array_model_of_cells():
    fitted = quick(epochs=1).fit(np.random.default_rng(0).normal(size=(50, 3)))
    with pytest.raises(ValueError, match="array") as error:
        fitted.sample(2, given={"a": 1})
    assert_one_sentence(str(error.value), ("array", "frame"))
    with pytest.raises(ValueError, match="schema needs a data frame"):
        quick(schema={"a": "real"}).fit(np.zeros((5, 2)))


def test_kinds_can_be_declared(frame):
    fitted = quick(epochs=1, schema={"visits": "real"}).fit(frame)
    assert fitted.schema_["visits"].kind == "real"
    own = infer(frame, {"visits": "ordinal"})
    assert quick(epochs=1, schema=own).fit(frame).schema_ == own


def test_what_is_missing_by_its_value_is_imputed_better_if_told():
    """Large values are missing more often: taken for missing at random, what is imputed is too small."""
    random = np.random.default_rng(0)
    z = random.normal(size=1500)
    whole = pd.DataFrame({name: z + 0.4 * random.normal(size=1500) for name in "abcd"})
    hidden = random.random(whole.shape) < 1 / (1 + np.exp(-3 * (whole - 0.5)))
    frame = whole.mask(hidden)
    biases = {}
    for why in ("at_random", "self_masking"):
        fitted = lb.VAE(1, hidden=(16,), epochs=12, learning_rate=5e-3, draws=5, random_state=0, missing=why).fit(frame)
        biases[why] = float((fitted.impute(frame, samples=200) - whole).where(hidden).stack().mean())
    assert biases["at_random"] < -0.2
    assert abs(biases["self_masking"]) < 0.5 * abs(biases["at_random"])
    nothing = pd.DataFrame({name: [np.nan] for name in "abcd"})
    assert fitted.score_samples(nothing)[0] < -0.5, "log p of the holes themselves"
    assert fitted.model_.likelihood.informative
