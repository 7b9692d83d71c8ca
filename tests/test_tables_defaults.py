"""What ``benchmarks/tables.py --defaults`` measures with: the rule, masks, CRPS, intervals, ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def a_frame(rows=200, **more):
    rng = np.random.default_rng(rows)
    columns = {"x": rng.normal(size=rows), "y": rng.integers(0, 50, rows), "z": rng.normal(size=rows)}
    classes = {"a": rng.choice(["u", "v"], rows), "b": rng.integers(0, 3, rows)}
    return pd.DataFrame(columns | classes | more)


def test_identifiers_constants_and_names_are_no_columns():
    from table_defaults.tables import usable_columns

    names = [f"name {i % 30}" for i in range(200)]
    frame = a_frame(id=np.arange(200.0), key=[f"k{i}" for i in range(200)], constant=1, name=names)
    assert list(usable_columns(frame)) == ["x", "y", "z", "a", "b"]


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"z": ["u", "v"] * 100}, True),  # two numeric columns are enough
        ({"z": ["u", "v"] * 100, "y": [0, 1] * 100}, False),
        ({"a": np.arange(200) % 11}, False),  # eleven values are numbers
        ({"x": [np.nan] * 40 + [1.0, 2.5] * 80}, True),
        ({"x": [np.nan] * 51 + list(np.arange(149.0))}, False),  # 5.1 % missing
    ],
)
def test_the_rule_asks_for_both_kinds_and_few_missing_cells(change, fits):
    from table_defaults.tables import eligible

    assert eligible(a_frame(**change)) == fits


def test_the_rule_takes_one_table_per_number_of_rows_in_the_order_of_hashes():
    import hashlib

    from table_defaults.tables import TAKEN, chosen

    found = [(f"p/{rows}{copy}", a_frame(rows)) for rows in range(95, 120) for copy in "ab"]
    taken = chosen(found)
    assert len(taken) == TAKEN
    assert min(map(len, taken.values())) >= 100
    assert len({len(frame) for frame in taken.values()}) == TAKEN
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in taken]
    assert hashes == sorted(hashes)
    assert list(chosen(reversed(found))) == list(taken)
    large = chosen([("large", a_frame(4_000)), ("too large", a_frame(5_001))])
    assert {name: len(frame) for name, frame in large.items()} == {"large": 1_000}


def test_tables_come_back_from_their_files(tmp_path):
    from table_defaults.tables import as_table, read, write

    frame = a_frame()
    frame.loc[3, "a"] = None
    table = as_table("made", frame)
    assert table.kinds == ("real", "count", "real", "cat", "cat")
    assert np.isnan(table.values[3, 3])
    write(tmp_path / "made.npz", table)
    again = read(tmp_path / "made.npz")
    np.testing.assert_array_equal(again.values, table.values)
    assert (again.name, again.columns, again.kinds, again.classes) == (
        table.name,
        table.columns,
        table.kinds,
        table.classes,
    )


def test_cells_missing_at_random_depend_on_one_observed_column_by_the_logistic():
    from sklearn.linear_model import LogisticRegression

    from table_defaults.masks import SLOPE, at_random

    values = np.random.default_rng(0).normal(3, 2, size=(40_000, 6))
    hidden = at_random(values, 0.2, np.random.default_rng(1))
    assert hidden.mean() == pytest.approx(0.2, abs=0.004)
    targets = np.flatnonzero(hidden.any(0))
    assert len(targets) == 3
    slopes = [
        [LogisticRegression(C=np.inf).fit((x[:, None] - 3) / 2, hidden[:, j]).coef_.item() for x in values.T]
        for j in targets
    ]
    driver = int(np.argmax(slopes[0]))
    assert driver not in targets
    np.testing.assert_allclose([each[driver] for each in slopes], SLOPE, atol=0.1)
    assert np.abs(np.delete(slopes, driver, axis=1)).max() < 0.06


def test_crps_of_many_draws_is_that_of_the_normal_distribution():
    """CRPS(N(0, 1), y) = y (2Φ(y) − 1) + 2φ(y) − 1/√π; of M draws it is larger by 1/(M√π) on average."""
    from table_defaults.scores import crps

    truth = np.array([-1.5, 0.0, 0.3, 2.0])
    normal = truth * (2 * stats.norm.cdf(truth) - 1) + 2 * stats.norm.pdf(truth) - 1 / np.sqrt(np.pi)
    quantiles = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    np.testing.assert_allclose(crps(truth, np.repeat(quantiles[:, None], 4, 1)), normal, atol=1e-4)
    few = np.random.default_rng(0).normal(size=(5, 4, 40_000))
    found = crps(truth[:, None], few).mean(-1)
    np.testing.assert_allclose(found, normal + 1 / (5 * np.sqrt(np.pi)), atol=0.01)
    np.testing.assert_allclose(crps(truth, np.ones((1, 4))), np.abs(truth - 1))


def test_t_intervals_of_five_draws_cover_a_normal_nine_times_of_ten():
    from table_defaults.scores import covered_by_t

    cells = np.random.default_rng(0).normal(5, 3, size=(6, 100_000))
    assert covered_by_t(cells[0], cells[1:]).mean() == pytest.approx(0.9, abs=0.004)  # 4 standard errors
    assert covered_by_t(np.array([2.0, 2.1]), np.full((5, 2), 2.0)).tolist() == [True, False]


def test_scores_are_in_standard_deviations_and_error_rates():
    from table_defaults.scores import score
    from table_peers.data import Table

    table = Table("made", np.array([[0, 0], [10, 1], [0, 2], [10, 1.0]]), ("x", "c"), ("real", "cat"), (0, 3))
    hidden = np.array([[1, 1], [1, 1], [0, 1], [0, 0]], bool)
    best = np.array([[3, 0], [6, 1], [9, 1], [9, 9.0]])
    found = score(table, hidden, best, np.repeat(best[None], 5, 0), 0)
    assert found["errors"] == pytest.approx({"x": np.sqrt(12.5) / 5, "c": 1 / 3})
    assert found["error"] == pytest.approx((np.sqrt(12.5) / 5 + 1 / 3) / 2)
    assert found["crps_5"] == pytest.approx(3.5 / 5)  # equal draws: the absolute error
    assert found["coverage_5"] == 0
    assert "crps_20" not in found


def test_the_best_of_draws_is_their_mean_or_their_commonest_class():
    from table_defaults.imputers import of_draws
    from table_peers.data import Table

    table = Table("made", np.full((1, 2), np.nan), ("x", "c"), ("real", "cat"), (0, 3))
    draws = np.array([[[1.0, 2]], [[2.0, 0]], [[6.0, 2]]])
    np.testing.assert_array_equal(of_draws(table, draws).best, [[3, 2]])


def test_ranks_count_what_did_not_finish_as_last():
    from table_defaults.standings import standings

    lines = {
        "one": {"a": 1.0, "b": 1.04, "c": 2.0},
        "two": {"a": 3.0, "b": 2.0, "c": None},
        "three": {"a": 1.0, "b": 1.0},  # c was not run yet
    }
    found = standings(lines)
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == {"mean_rank": pytest.approx(4.5 / 3), "near": 2 / 3, "worst": 1.5, "lines": 3, "finished": 3}
    assert found["b"]["mean_rank"] == pytest.approx(4.5 / 3)
    assert found["c"] == {"mean_rank": 3, "near": 0, "worst": 2, "lines": 2, "finished": 1}


def test_indicators_for_forest_diffusion_keep_missing_classes_and_come_back():
    from table_defaults.forest import coded, decoded
    from table_peers.data import Table

    values = np.array([[0, 1, 0.5, 3], [2, 0, 1.5, 4], [np.nan, np.nan, 0, 0], [1, 1, 2, 1]])
    table = Table("made", values, tuple("abcd"), ("cat", "cat", "real", "count"), (3, 2, 0, 0))
    found, places = coded(table)
    np.testing.assert_array_equal(found[:, :2], [[0, 0], [0, 1], [np.nan, np.nan], [1, 0]])
    assert places == {"bin_indexes": [2], "int_indexes": [4]}
    known = ~np.isnan(values).any(1)
    np.testing.assert_array_equal(decoded(table, found)[known], values[known])
    np.testing.assert_array_equal(decoded(table, np.array([[0.4, 0.3, 1, 0, 0]]))[:, 0], [0])


def test_drawn_rows_are_written_as_the_tables():
    from table_defaults.generators import METHODS, decimals, draw
    from table_peers.data import Table

    values = np.array([[1, 0.25, 1 / 3], [200, 0.5, 2 / 7]])
    assert [decimals(column) for column in values.T] == [0, 2, 12]
    table = Table("made", values, tuple("abc"), ("count", "real", "real"), (0, 0, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "thirds", lambda table, seed: table.values + 1 / 3)
        np.testing.assert_allclose(draw(table, "thirds", 0)[0], [1, 0.58, 2 / 3], atol=1e-12)
        patch.setitem(METHODS, "none", lambda table, seed: np.full((2, 3), np.nan))
        with pytest.raises(ValueError, match="2 drawn rows"):
            draw(table, "none", 0)


def test_jobs_are_not_started_where_a_smaller_table_took_too_long():
    from table_defaults import jobs
    from table_peers.data import Table

    sizes = {"small": (600, 5), "wide": (600, 9), "large": (900, 9)}
    tables = {
        name: Table(name, np.zeros(size), tuple(map(str, range(size[1]))), ("real",) * size[1], (0,) * size[1])
        for name, size in sizes.items()
    }
    late = {"impute-wide-20_1-arfpy-seed1": {"not_run": "not done after 5 minutes"}}

    def reason(name, mask="20_2", method="arfpy"):
        job = jobs.Job("impute", name, method, mask, 2)
        return jobs.hopeless(job, tables, lambda job: late.get(job.name))

    assert reason("large") == reason("wide") == "not started: not done after 5 minutes on wide"
    assert reason("small") is None
    assert reason("large", "50_2") is None
    assert reason("large", method="TVAE") is None
    order = [job.table for job in jobs.all_jobs("generate", tables) if job.method == "arfpy"]
    assert order == ["small", "wide", "large"] * 3


def test_figures_of_the_committed_result_are_not_run_again(tmp_path, monkeypatch):
    from kit.processes import Kept
    from table_defaults import study

    monkeypatch.setattr(study.record, "RESULTS", tmp_path)
    kept = Kept(tmp_path / "cache")
    study.restore(kept)  # there is no result yet
    (tmp_path / "tables_defaults.json").write_text('{"jobs": {"a": {"error": 1.0}, "b": {"error": 2.0}}}')
    kept.put("b", {"error": 3.0})
    study.restore(kept)
    assert kept.get("a") == {"error": 1.0}
    assert kept.get("b") == {"error": 3.0}  # what the cache has is newer
