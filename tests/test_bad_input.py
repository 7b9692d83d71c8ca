"""Bad input in Python: each kind is met with one sentence that says what, where and the way out; nothing is written."""

from __future__ import annotations

import copy
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from bad_arrays import FINE, NUMBERS, PYTHON, SAME, X, fitted, frame, put, vae
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from messages import assert_one_sentence, tree

from lowerbound.data import Rows
from lowerbound.estimators.preview import preview
from lowerbound.inference.fitting import split

QUICK = hypothesis.settings(derandomize=True, deadline=None, database=None, max_examples=400)


@pytest.mark.parametrize("name", PYTHON)
def test_bad_input_in_python(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = PYTHON[name]
    with pytest.raises(kind.error) as caught:
        kind.use()
    assert_one_sentence(str(caught.value), kind.words)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_refused_fit_leaves_the_model_that_was_there(name: str) -> None:
    model, never = copy.deepcopy(fitted("frame")), vae()
    before, names = model.transform(frame()), list(vars(never))
    for estimator in (model, never):
        with pytest.raises(ValueError):  # noqa: PT011 - what it says is held to elsewhere
            estimator.fit(np.hstack([NUMBERS[name][0]] * 2) if NUMBERS[name][0].ndim == 2 else NUMBERS[name][0])
    np.testing.assert_array_equal(model.transform(frame()), before)
    assert list(vars(never)) == names


@pytest.mark.parametrize("name", SAME)
def test_unusual_containers_hold_the_same_numbers(name: str) -> None:
    SAME[name]()


@pytest.mark.parametrize("name", NUMBERS)
def test_what_a_fit_refuses_the_preview_calls_a_problem(name: str) -> None:
    x, words = NUMBERS[name]
    said = preview(x)
    assert said.problems
    if words[0].startswith("row"):  # there the preview counts
        words = (words[0].partition(" is ")[0], words[1])
    assert_one_sentence(said.problems[0] if "every row" not in words[0] else said.problems[-1], words)
    for problem in said.problems:
        assert_one_sentence(problem, ())


def fitted_as_said(x: np.ndarray) -> None:
    """Fit ``x``, and hold the fit to what the preview said."""
    said = preview(x)
    assert said.problems == ()
    model = vae().fit(x)
    record = model.history_.records[0]
    assert type(model.model_.likelihood).__name__ == said.likelihood
    assert record["step"] == said.steps_per_epoch
    assert ("valid_objective" in record) == (said.held_out_rows > 0)
    assert not model.history_.rescues
    for part in (model.model_, model.posterior_):
        assert all(bool(value.isfinite().all()) for value in part.state_dict().values())


@pytest.mark.parametrize("name", FINE)
def test_unusual_data_are_fitted_as_the_preview_says(name: str) -> None:
    x = FINE[name]
    fitted_as_said(x)
    model = vae().fit(x)
    for result in (model.transform(x), model.reconstruct(x), model.score_samples(x)):
        assert np.isfinite(result).all()
        assert len(result) == len(x)


def test_the_preview_counts_what_it_finds() -> None:
    x = put(np.nan, put(np.inf, put(1e300, put(-1e300), row=7)), row=0)
    x[:, 2] = np.nan
    said = preview(x, names=("a", "b", "c"))
    assert said.problems == (
        "1 value is infinite, in row 5, column 1 ('b'); drop the row, or set it to a finite value.",
        "1 value is too large for float32, in row 7, column 1 ('b'); rescale the column.",
        "column 2 ('c') is NaN in every row; leave it out.",
    )
    assert said.likelihood is said.why is None
    assert "a fit would raise an error for these data" in said.words()


def test_the_preview_looks_beyond_the_first_rows() -> None:
    x = np.ones((25_001, 2), np.float32)
    x[:, 1] = np.arange(25_001) % 7
    x[25_000, 0] = np.inf
    assert "1 value is infinite, in row 25000, column 0" in preview(x).problems[0]
    with pytest.raises(ValueError, match="row 25000, column 0 is infinite"):
        vae().fit(x)
    x[25_000, 0] = np.nan
    assert preview(x).notes == (
        "column 0 is constant",
        "0.002 % of the values are missing (NaN); a fit would maximise iwae",
    )
    x[25_000, 0] = 2.0
    assert preview(x).notes == ()
    x[25_000, 0] = 1.0
    assert preview(x).notes == ("column 0 is constant",)
    x[25_000, 0] = -1.5
    assert preview(x).likelihood == "Normal"
    with pytest.raises(ValueError, match=r"row 25000, column 0 is -1\.5, which Poisson"):
        vae(likelihood="poisson").fit(x)


NOTES = {
    "constant": (frame().assign(b=1).to_numpy(), "abc", "column 1 .'b'. is constant"),
    "some constant": (np.hstack([X[:, :1], X[:1, 1:].repeat(40, 0)]), "abc", "columns 'b', 'c' are constant"),
    "without names": (np.zeros((120, 3)), None, "columns 0, 1, 2 are constant"),
    "images": (np.zeros((120, 4, 4)), None, "16 of 16 columns are constant"),
    "one row": (X[:1], None, "only one row: the model memorises it"),
    "no rows held out": (X[:4], None, "0.1 of 4 rows is less than one: no row is held out"),
    "fewer than a batch": (X, None, "36 rows to train on, fewer than batch_size=100"),
}


@pytest.mark.parametrize("name", NOTES)
def test_the_preview_notes_what_a_fit_takes_without_a_word(name: str) -> None:
    x, names, words = NOTES[name]
    notes = preview(x, names).notes
    assert any(words.replace(".'b'.", "('b')") in note for note in notes), notes
    assert preview(np.vstack([X, X, X]), "abc").notes == ()


@hypothesis.given(some.integers(1, 1000), some.floats(0, 0.99), some.integers(1, 300))
@QUICK
def test_the_preview_holds_out_what_a_fit_does(rows: int, share: float, batch_size: int) -> None:
    said = preview(np.zeros((rows, 1)), batch_size=batch_size, validation=share)
    train, held_out = split(Rows.from_array(np.zeros((rows, 1))), share, seed=0)
    assert (said.train_rows, said.held_out_rows) == (len(train), 0 if held_out is None else len(held_out))
    assert said.steps_per_epoch == -(-len(train) // batch_size)


numbers = some.one_of(
    some.floats(),
    some.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1e-45, 1e-38, 1e-30, 1e30, 1e38, 3.4e38, 1e300]),
)
tables = some.one_of(
    arrays.arrays(
        some.sampled_from([np.float64, np.float32, np.float16]),
        arrays.array_shapes(min_dims=2, max_dims=3, max_side=6),
        elements=None,
    ),
    arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=numbers),
    arrays.arrays(
        arrays.integer_dtypes() | arrays.unsigned_integer_dtypes() | arrays.boolean_dtypes(),
        arrays.array_shapes(min_dims=2, max_dims=3, max_side=6),
    ),
    arrays.arrays(
        some.sampled_from([np.float64, np.int64]),
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=some.integers(-3, 3),
    ).flatmap(
        lambda x: some.tuples(some.integers(-44, 38), some.integers(-8, 8)).map(
            lambda e: x * 10.0 ** e[0] + 10.0 ** e[1]
        )
    ),
)


@hypothesis.given(tables)
@QUICK
def test_any_numbers_are_fitted_or_refused_as_the_preview_says(x: np.ndarray) -> None:
    if preview(x).problems:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are held to one sentence
            vae().fit(x)
        assert_one_sentence(str(caught.value), ())
    else:
        fitted_as_said(x)


def test_the_table_is_as_long_as_it_is_said_to_be() -> None:
    assert len(PYTHON) == 131
    assert len(FINE) + len(SAME) == 44
