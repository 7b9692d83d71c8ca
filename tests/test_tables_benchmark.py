"""What ``benchmarks/tables.py`` measures with: errors by hand, calibrated intervals, the published mask, copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def a_table(values):
    from table_peers.data import Table

    return Table("made", np.asarray(values, float), ("x", "c", "o"), ("pos", "cat", "ordinal"), (0, 3, 4))


def test_errors_are_those_of_hi_vae_by_hand():
    from table_peers.scores import column_errors, summary

    table = a_table([[0, 0, 0], [10, 1, 3], [4, 2, 1], [2, 2, 1]])
    hidden = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], bool)
    completed = np.array([[3, 0, 9], [10, 2, 1], [0, 1, 2], [7, 7, 7]], float)
    errors = column_errors(table, completed, hidden)
    assert errors == pytest.approx({"x": np.sqrt(12.5) / 10, "c": 2 / 3, "o": (2 + 1) / 2 / 4})
    assert summary(table, errors)["average"] == pytest.approx((np.sqrt(12.5) / 10 + 2 / 3 + 0.375) / 3)
    with pytest.raises(ValueError, match="x was not completed"):
        column_errors(table, np.where(hidden, np.nan, completed), hidden)


@pytest.mark.parametrize(("zeros", "width"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.5)])
def test_intervals_cover_what_they_say(zeros, width):
    """Of draws from the truth's own law 90 %, atoms or not; of draws half as wide, far fewer."""
    from table_peers.scores import DRAWS, coverage

    rng = np.random.default_rng(0)
    cells = rng.random((DRAWS + 1, 40_000)) * (rng.random((DRAWS + 1, 40_000)) >= zeros)
    found = coverage(cells[0], width * cells[1:], rng)
    half = 0.5 * (DRAWS - 1) / (DRAWS + 1)  # the uniform that is below the half that draws reach
    assert found["coverage"] == pytest.approx(half if width < 1 else 0.9, abs=0.01)  # 6 standard errors
    assert (found["inclusive"] > 0.95) == (zeros > 0)


def test_the_published_mask_is_the_one_that_others_measured_on():
    from table_peers.data import hidden_cells, load
    from table_peers.imputers import complete
    from table_peers.parts import PUBLISHED_MASK, TRUST
    from table_peers.scores import mean_squared_error

    table = load("breast", Path())
    for mask, same in ((PUBLISHED_MASK, True), ("1", False)):
        hidden = hidden_cells(table, mask, Path())
        assert hidden.sum() == table.values.size // 2
        for method in ("mean or mode", "5-NN"):
            error = mean_squared_error(table.values, complete(table, hidden, method, 0)[0], hidden)
            assert (abs(error - TRUST[method]) < 0.0006) == same


def test_frames_say_what_the_numbers_say():
    table = a_table([[0.5, 0, 3], [1.5, np.nan, 0], [np.nan, 2, 1]])
    frame = table.frame(np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]], bool))
    assert frame["o"].cat.ordered
    assert not frame["c"].cat.ordered
    expected = [[0.5, 0, np.nan], [1.5, np.nan, 0], [np.nan, 2, 1]]
    np.testing.assert_array_equal(table.numbers(frame), expected)
    np.testing.assert_array_equal(table.numbers(frame.astype({"c": object, "o": object})), expected)


def test_copies_and_shuffled_columns_are_told():
    """Copies of rows learnt from are nearer to them; columns drawn apart keep their marginals and lose their pairs."""
    from table_peers import fidelity

    rng = np.random.default_rng(1)
    code = rng.integers(0, 3, 6000)
    rows = np.column_stack([np.exp(code + 0.3 * rng.normal(size=6000)), code, np.minimum(code + rng.integers(0, 2), 3)])
    train, test, fresh = (a_table(rows[start : start + 2000]) for start in (0, 2000, 4000))
    apart = a_table(np.column_stack([rng.permutation(column) for column in fresh.values.T]))
    kept = {name: fidelity.memorised(train, test, rows, 0) for name, rows in (("copies", train), ("fresh", fresh))}
    assert kept["copies"]["copies"] == 1
    assert kept["copies"]["nearer_to_train"] > 0.9
    assert kept["fresh"]["copies"] < 0.01
    assert kept["fresh"]["nearer_to_train"] == pytest.approx(0.5, abs=0.06)
    edges = [fidelity._edges(train, j) for j in range(3)]
    pairs = [fidelity.pair_distance(*(fidelity._binned(each, edges) for each in (test, new))) for new in (fresh, apart)]
    assert pairs[0] < 0.1 < 0.4 < pairs[1]
    assert max(fidelity.column_distances(test, apart).values()) < 0.06
    assert fidelity.told_apart(test, fresh, 0) < 0.55 < 0.9 < fidelity.told_apart(test, apart, 0)


def test_paired_intervals_are_students():
    from scipy import stats

    from table_peers.scores import paired

    ours, theirs = [0.1, 0.2, 0.4], [0.2, 0.2, 0.3]
    found = paired(ours, theirs)
    known = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((known.low, known.high))
