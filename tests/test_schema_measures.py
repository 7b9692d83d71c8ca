"""What is measured of columns of numbers: grids, atoms, tails, scales; and draws that keep to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_iris

from lowerbound.schema import Column, infer, times
from lowerbound.schema.measures import curved, heavy, heavy_tailed, kurtosis, off_grid, precision, snap

TABLES = Path(__file__).parents[2] / "shared/data/tables"


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (np.arange(1, 40) / 10, 0.1),
        (np.arange(1, 40) / 4, 0.25),
        (np.arange(1, 40) / 2, 0.5),
        (np.arange(1, 40) * 10_000.0, 10_000.0),
        (np.array([12.5, 10.0]), 0.1),  # too few to tell halves
        (np.array([0.1 + 0.2, 0.3]), None),  # 0.30000000000000004 is no tenth
        (np.array([1e-7, 3e-7]), 1e-7),
        (np.array([1e300, 2.0]), None),
        (np.array([0.0, 0.0]), 1.0),
    ],
)
def test_precision(values: np.ndarray[Any, np.dtype[np.float64]], step: float | None) -> None:
    assert precision(values) == step
    if step is not None:
        assert snap(values, step).tobytes() == values.tobytes()
        assert (snap(values + 0.3 * step, step) == values).all()


TENTHS = np.random.default_rng(7).integers(3, 190, 400) / 10
NOISY = {
    "through single precision": TENTHS.astype(np.float32).astype(np.float64),
    "and rounded to 8 digits": np.round(TENTHS.astype(np.float32).astype(np.float64), 8),
    "a running sum": np.cumsum(np.full(400, 0.1)),
    "a sum that wanders": np.cumsum(TENTHS - TENTHS.mean().round(1)),
    "products": TENTHS * 3.3 / 3.3,
    "of another sign": -TENTHS.astype(np.float32).astype(np.float64),
}


@pytest.mark.parametrize("case", NOISY)
def test_grids_beneath_the_noise_of_floats(case: str) -> None:
    """Found from 20 values on; values that were never rounded have none; those that are there stay what they are."""
    values = NOISY[case]
    assert precision(values) == 0.1
    frame = pd.DataFrame({"price": values})
    schema = infer(frame)
    assert "in steps of 0.1" in schema["price"].why
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame, check_exact=True)
    drawn = schema.decode(values[:, None] + 0.013)["price"].to_numpy()
    np.testing.assert_array_equal(drawn, np.round(drawn, 1))


def test_no_grid_beneath_what_was_never_rounded() -> None:
    draw = np.random.default_rng(8)
    for scale in (1e-3, 1.0, 1e3, 1e6):
        for _ in range(50):
            values = scale * draw.normal(size=20)
            assert precision(values) is None
            assert precision(values.astype(np.float32).astype(np.float64)) is None
    assert precision(1 + 1e-9 * np.arange(40)) == 1e-9  # what looks like noise may be all there is


def test_precision_by_chance() -> None:
    """Of 200 columns of 10 values that were never rounded none has a grid; of rounded ones all have."""
    draw = np.random.default_rng(2)
    assert all(precision(draw.normal(size=10)) is None for _ in range(100))
    single = [draw.normal(size=10).astype(np.float32) for _ in range(100)]
    assert all(precision(values.astype(np.float64), np.dtype(np.float32)) is None for values in single)
    tenths = [np.round(values, 2).astype(np.float32) for values in single]
    assert {precision(values.astype(np.float64), np.dtype(np.float32)) for values in tenths} == {0.01}
    assert {precision(values.astype(np.float64)) for values in tenths} == {None}  # as doubles they are no hundredths


def test_atoms() -> None:
    draw = np.random.default_rng(3)
    rain = np.where(draw.random(1000) < 0.7, 0.0, draw.lognormal(0, 1, 1000))
    column = infer(pd.DataFrame({"rain": rain}))["rain"]
    assert (column.kind, column.atom, column.low) == ("positive", 0.0, 0.0)
    assert column.atoms == np.mean(rain == 0)
    assert column.problems == (), "its likelihood has a mass at 0"
    spike = infer(pd.DataFrame({"x": np.where(draw.random(1000) < 0.3, 2.5, draw.normal(size=1000))}))["x"]
    assert spike.heavy == (2.5,)
    assert spike.problems == (f"{100 * spike.atoms:.3g} % of the values are exactly 2.5: modelled as a point mass",)
    plain = infer(pd.DataFrame({"x": draw.normal(size=1000)}))["x"]
    assert plain.atoms == 1e-3
    assert plain.problems == ()


DRAW = np.random.default_rng(12)
TAKEN = DRAW.choice(6, 4000, p=[0.45, 0.09, 0.06, 0.05, 0.016, 0.334])
HOURS = np.where(TAKEN == 5, DRAW.normal(40, 14, 4000).round().clip(1, 99), np.array([40, 50, 45, 60, 48, 0])[TAKEN])
NORMAL = DRAW.normal(size=2000)
HEAVY: dict[str, tuple[Any, float | None, tuple[float, ...]]] = {
    "hours": (HOURS, 1.0, (40, 50, 45, 60)),
    "a normal": (NORMAL, None, ()),
    "a normal of ten values": ((2 * NORMAL).round().clip(-4, 5), 1.0, ()),
    "a normal of few values": (NORMAL.round(), 1.0, ()),
    "a narrow normal": ((0.5 * NORMAL).round(), 1.0, ()),
    "counts": (DRAW.poisson(0.5, 2000).astype(float), 1.0, ()),
    "waiting times": (DRAW.geometric(0.6, 2000).astype(float), 1.0, ()),
    "halves among whole numbers": (np.where(DRAW.random(2000) < 0.15, 0.5, 0) + (2 * NORMAL).round(), 0.5, ()),
    "a limit": (np.minimum(NORMAL, 1.75), None, (1.75,)),
    "three of a hundred": (np.where(np.arange(2000) % 33 == 0, 7.25, NORMAL), None, (7.25,)),
    "three of a hundred, near others": (np.where(np.arange(2000) % 33 == 0, 0, NORMAL.round(1)), 0.1, ()),
    "one of a hundred": (np.where(np.arange(2000) % 99 == 0, 7.25, NORMAL), None, ()),
    "both ends": (np.clip(NORMAL, -0.5, 0.5), None, (0.5, -0.5)),
    "too few": (np.array([3.0] * 15 + [1.0, 2, 4, 5]), 1.0, ()),
    "five of twenty": (np.array([3.0] * 5 + [0.1 * k for k in range(15)]), None, ()),
    "at most five": (
        np.where(NORMAL < 0, DRAW.uniform(9, 20, 2000), DRAW.choice([10.0, 12, 14, 16, 18, 19], 2000)),
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", HEAVY)
def test_heavy_values(case: str) -> None:
    values, step, due = HEAVY[case]
    found = heavy(values, step)
    if due is None:
        assert len(found) == 5
    else:
        assert sorted(found) == sorted(due)
    counts = [int((values == value).sum()) for value in found]
    assert counts == sorted(counts, reverse=True), "the most frequent first"


def test_heavy_values_of_real_tables() -> None:
    petals = load_iris().data[:, 3]
    assert heavy(petals, precision(petals)) == ()
    if not (TABLES / "adult").is_dir():
        pytest.skip("the tables are not here")
    adult = pd.read_csv(TABLES / "adult/data.csv", header=None)
    hours, ages = adult[11].to_numpy(float), adult[0].to_numpy(float)
    assert heavy(hours, 1.0) == (40, 50, 45, 60, 20)
    assert heavy(hours[:3000], 1.0)[:2] == (40, 50)
    assert heavy(ages, 1.0) == ()
    wine = pd.read_csv(TABLES / "wine/data.csv", header=None)
    assert all(heavy(own, precision(own)) == () for own in wine.iloc[:, :11].to_numpy(float).T)


def test_heavy_values_do_not_move_what_is_measured_of_others() -> None:
    draw = np.random.default_rng(9)
    values = np.where(draw.random(3000) < 0.6, 900.0, draw.normal(5, 2, 3000))
    column = infer(pd.DataFrame({"x": values}))["x"]
    assert column.heavy == (900.0,)
    assert column.centre == pytest.approx(5, abs=0.2)
    assert column.scale == pytest.approx(2, rel=0.1)
    assert not column.heavy_tailed
    counts = np.where(draw.random(3000) < 0.6, 90, draw.poisson(20, 3000))
    assert infer(pd.DataFrame({"x": counts}))["x"].dispersion == pytest.approx(1, abs=0.15)


def finer(share: float, n: int = 1000) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Tenths, of which a share has one more decimal or four."""
    draw = np.random.default_rng(10)
    values = draw.normal(10, 2, n).round(1)
    some = np.arange(n) < share * n
    return np.where(some, values + draw.choice([0.05, 0.0333], n), values).round(4)[draw.permutation(n)]


@pytest.mark.parametrize(
    ("values", "step", "share"),
    [
        (finer(0.0), 0.1, 0.0),
        (finer(0.02), 0.1, 0.02),
        (finer(0.09), 0.1, 0.09),
        (finer(0.2), 1e-4, 0.0),
        (finer(0.02).astype(np.float32).astype(float), 0.1, 0.02),
        (finer(0.05, 40), 0.1, 0.05),
        (finer(0.2, 20)[:15], None, 0.0),
        (np.where(np.arange(1000) % 20, 0.0, NORMAL[:1000]), None, 0.0),  # zeros say nothing
        (np.where(np.arange(1000) % 20, 7.5, NORMAL[:1000]), None, 0.0),  # nor does one value
        (
            np.where(
                np.arange(1000) < 850, 7.5, np.where(np.arange(1000) < 930, NORMAL[:1000].round(1), NORMAL[:1000])
            ),
            None,
            0.0,
        ),
        (np.where(np.arange(1000) % 50, np.random.default_rng(1).integers(0, 60, 1000) * 5, 1 / 3), 5.0, 0.02),
    ],
)
def test_a_few_finer_values_do_not_hide_the_grid_of_most(values: Any, step: float | None, share: float) -> None:
    if len(values) == 15:
        step = precision(values)
        assert step is None or step < 0.1, "of 15 values, all must lie on it"
        return
    assert precision(values) == step
    if step is None:
        return
    assert off_grid(values, step) == pytest.approx(share, abs=1e-9)
    frame = pd.DataFrame({"x": values})
    schema = infer(frame)
    said = f", in steps of {step:g}" + (f" ({100 * share:.2g} % of the cells are finer)" if share else "")
    assert schema["x"].why.endswith(said)
    pd.testing.assert_frame_equal(schema.decode(schema.encode(frame)), frame, check_exact=True)
    drawn = schema.decode(values[:, None] + 0.0123)["x"].to_numpy()
    assert off_grid(drawn, step) == 0


def test_the_grids_of_wine() -> None:
    if not (TABLES / "wine").is_dir():
        pytest.skip("the table is not here")
    wine = pd.read_csv(TABLES / "wine/data.csv", header=None).rename(columns=str)
    schema = infer(wine)
    assert schema["10"].precision == 0.1
    assert schema["10"].why.endswith("in steps of 0.1 (1.3 % of the cells are finer)")
    assert schema["3"].why.endswith("in steps of 0.1 (4.2 % of the cells are finer)")
    pd.testing.assert_frame_equal(schema.decode(schema.encode(wine)), wine, check_exact=True)


@pytest.mark.parametrize("value", [0.48, 1e6 + 0.1, -7e-9, 1 / 3, 12.8933])
@pytest.mark.parametrize("scale", [0.37, 1.0, 1e4])
def test_draws_of_a_heavy_value_are_that_value(value: float, scale: float) -> None:
    """After single precision, on no grid; and other draws are left alone."""
    draw = np.random.default_rng(2)
    values = np.where(draw.random(500) < 0.3, value, value + scale * draw.normal(size=500))
    schema = infer(pd.DataFrame({"x": values}), {"x": "real"})
    assert schema["x"].heavy == (value,)
    single = schema.standardise(values[:, None]).astype(np.float32)
    again = schema.decode(schema.unstandardise(single.astype(np.float64)))["x"].to_numpy()
    assert ((again == value) == (values == value)).all()
    tenths = pd.DataFrame({"x": np.where(draw.random(500) < 0.3, 2.25, draw.normal(size=500).round(1))})
    schema = infer(tenths)
    assert schema["x"].precision == 0.1 or schema["x"].precision == 0.05
    assert (schema.decode(np.full((3, 1), 2.25))["x"] == 2.25).all()


def test_heavy_tails() -> None:
    """Ratios of quantiles as in theory; false alarms in 1 of 100 columns at n = 20, 1 of 1,000 at 300; t is found."""
    exact = {"norm": 2.906, "laplace": 4.322, "t": 4.160}
    for name, ratio in exact.items():
        law = stats.t(3) if name == "t" else getattr(stats, name)
        values = law.ppf((np.arange(20_001) + 0.5) / 20_001)
        assert kurtosis(values) == pytest.approx(ratio, abs=0.003)
    draw = np.random.default_rng(4)
    for n, most in ((20, 36), (300, 7)):  # of such rates P < 0.001
        assert sum(heavy_tailed(draw.normal(size=n)) for _ in range(2000)) <= most
    assert np.mean([heavy_tailed(draw.standard_t(3, size=300)) for _ in range(200)]) > 0.6
    assert np.mean([heavy_tailed(draw.standard_t(3, size=1000)) for _ in range(200)]) > 0.98
    assert heavy_tailed(np.where(np.arange(2000) % 2, 0, draw.standard_t(2, size=2000)))  # beside an atom
    assert not heavy_tailed(np.where(np.arange(2000) % 2, 0, draw.normal(size=2000)))
    frame = pd.DataFrame({"a": draw.lognormal(0, 2, 2000), "b": np.exp(draw.standard_t(2, size=2000) / 3)})
    assert [column.heavy_tailed for column in infer(frame).columns] == [False, True]  # of the logarithms


def test_standardise() -> None:
    """Invertible; outliers do not move it; and log p in the user's units is the density of the user's variable."""
    draw = np.random.default_rng(5)
    normal = draw.normal(50, 30, 4000)
    normal[:40] = 1e9
    frame = pd.DataFrame(
        {"n": normal, "p": draw.lognormal(2, 1, 4000), "s": draw.random(4000), "c": [0, 1, 2, 3] * 1000}
    )
    schema = infer(frame, {"s": Column("interval", low=-1, high=3)})
    values = schema.encode(frame).values
    scaled = schema.standardise(values)
    np.testing.assert_allclose(schema.unstandardise(scaled), values, rtol=1e-14, atol=1e-14)
    assert schema["n"].centre == pytest.approx(50, abs=2)
    assert schema["n"].scale == pytest.approx(30, rel=0.06)
    assert np.median(scaled[:, 1]) == pytest.approx(1)
    np.testing.assert_allclose(scaled[:, 2], (values[:, 2] + 1) / 4)
    np.testing.assert_array_equal(scaled[:, 3], values[:, 3])
    centre, scale = schema["n"].centre, schema["n"].scale
    ours = stats.norm.logpdf(scaled[50:, 0], (50 - centre) / scale, 30 / scale) + schema.log_jacobian[0]
    np.testing.assert_allclose(ours, stats.norm.logpdf(values[50:, 0], 50, 30), atol=1e-11)
    atoms = infer(pd.DataFrame({"x": [0.0] * 90 + [-7.5] * 9 + [-7.25]}))["x"]  # no middle half: mean and deviation
    assert (atoms.centre, atoms.scale) == (pytest.approx(-0.7475), pytest.approx(2.242625, abs=1e-5))
    huge = infer(pd.DataFrame({"x": [-1.7e308, 1.7e308, 0.5]}))
    assert np.isfinite(huge.standardise(np.array([[1.7e308]]))).all()


def test_draws_keep_to_type_grid_and_range() -> None:
    frame = pd.DataFrame(
        {
            "u8": pd.Series([0, 7, 200], dtype="uint8"),
            "f32": pd.Series([0.1, -0.2, 0.7], dtype="float32"),
            "wage": [1.5, 2.5, 9.0],
            "share": [0.12, 0.5, 1.0],
            "when": pd.to_datetime(["2001-01-01 10:00", "2001-01-02 11:00", "2001-01-03 00:00"]),
        }
    )
    schema = infer(frame)
    assert [column.precision for column in schema.columns] == [1, 0.1, 0.1, 0.01, 1]
    drawn = schema.decode(np.array([[300.0, 0.333, -4.0, 1.7, 1.4], [-1.0, 1e300, 3.14159, -1.0, -0.4], [np.nan] * 5]))
    assert drawn.dtypes.tolist() == [np.float64, *frame.dtypes[1:]]  # whole numbers of NumPy know no holes
    assert drawn["u8"].tolist()[:2] == [255, 0]
    assert drawn["f32"].tolist()[:1] == [float(np.float32(0.3))]
    assert np.isfinite(drawn["f32"][1])
    assert drawn["wage"].tolist()[:2] == [0.1, 3.1]
    assert drawn["share"].tolist()[:2] == [1.0, 0.0]
    assert drawn["when"][0] == pd.Timestamp("2001-01-01 11:00")
    assert drawn.iloc[2].isna().all()
    assert schema.decode(np.zeros((2, 5))).dtypes.tolist() == frame.dtypes.tolist()


def test_steps_against_exact_arithmetic() -> None:
    """(whole − offset) / step and back, of all 64 bits, signed or not, below the offset and above it."""
    draw = np.random.default_rng(6)
    for dtype in (np.int64, np.uint64):
        limits = (0, 2**64 - 1) if dtype == np.uint64 else (-(2**63) + 1, 2**63 - 1)
        for step in (1, 7, 10**9, 86_400 * 10**9):
            values = draw.integers(limits[0], limits[1], 300, dtype, endpoint=True) >> draw.integers(0, 63, 300, dtype)
            offset = int(np.median(values[np.argsort(np.abs(values.astype(float)))[100:201]]).astype(dtype))
            found = times.steps(values, offset, step)
            exact = [(int(value) - offset) / step for value in values]  # Python divides whole numbers exactly
            np.testing.assert_allclose(found, exact, rtol=4e-16)
            near = np.array([abs(int(value) - offset) < 2**50 for value in values])
            assert near.sum() > 50
            assert (times.whole(found, offset, step, limits)[near] == values[near]).all()
            ends = times.whole(np.array([-1e300, -np.inf, 1e300, np.inf, 0.0]), offset, step, limits)
            assert ends.tolist() == [limits[0]] * 2 + [limits[1]] * 2 + [offset]
            for limit in limits:  # just before the end nothing goes around it
                last = np.nextafter((limit - offset) / step, 0)
                assert abs(int(times.whole(np.array([last]), offset, step, limits)[0]) - limit) <= 2**13 + 2 * step


def test_two_different_numbers_are_two_classes_and_come_back_as_they_were():
    """A standardised indicator, as scikit-learn's diabetes has it; 19 cells are too few to say so."""
    values = np.where(np.arange(60) % 3 == 0, -0.044641636506989144, 0.0506801187398187)
    (column,) = infer(pd.DataFrame({"sex": values})).columns
    assert column.kind == "binary"
    assert column.levels == (-0.044641636506989144, 0.0506801187398187)
    assert infer(pd.DataFrame({"sex": values[:19]})).columns[0].kind == "real"


def test_a_curved_column_is_far_from_normal():
    draw = np.random.default_rng(0)
    for n in (30, 300, 3000):
        assert np.mean([curved(draw.normal(size=n)) for _ in range(500)]) < (0.02 if n == 30 else 0.004)
    assert not curved(np.round(draw.normal(size=500) * 2))  # coarse rounding is no other shape
    uniform = draw.uniform(size=3000)  # differs by 0.057
    assert not curved(uniform[:400])
    assert curved(uniform)
    assert curved(np.where(np.arange(400) % 2, -2, 2) + 0.5 * draw.normal(size=400))
    assert curved(draw.exponential(size=400))
    assert not curved(draw.exponential(size=29))
    assert not curved(np.full(50, 3.0))
    assert not curved(np.array([0.0, 1.0] * 50))
    both = np.concatenate([draw.normal(1, 0.1, 200), draw.normal(3, 0.1, 200)])
    frame = pd.DataFrame({"modes": both, "logs": np.exp(both), "normal": np.exp(draw.normal(size=400))})
    frame["share"] = 1 / (1 + np.exp(-2 * (both - 2)))
    found = infer(frame, schema={"share": Column("interval", low=0, high=1)})
    assert [column.domain for column in found.columns] == ["positive", "positive", "positive", "unit"]
    assert [column.curved for column in found.columns] == [True, True, False, True]
