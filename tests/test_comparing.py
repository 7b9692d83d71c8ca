"""Differences between models, and whether each of their errors is the right one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracles import PPCA, rng

from lowerbound.evidence import log_likelihood
from lowerbound.evidence.baselines import baselines
from lowerbound.evidence.comparing import Comparison, Difference, compare
from lowerbound.evidence.importance import LogLikelihood

TIMES = 1000  # repetitions of each simulation


def estimates(values: np.ndarray, error: np.ndarray | float = 0.0, k: np.ndarray | float = 0.1) -> LogLikelihood:
    n = len(values)
    error, k = np.broadcast_to(np.asarray(error, float), n), np.broadcast_to(np.asarray(k, float), n)
    return LogLikelihood(values, error, np.full(n, 50.0), values - 1, k, np.full(n, 100), np.zeros(n, bool), 100 * n)


def of_two(a: list[LogLikelihood], b: list[LogLikelihood]) -> Difference:
    return compare({"a": a, "b": b}, {"a": "counting", "b": "counting"}).differences[0]


def assert_standard(z: np.ndarray, degrees: float) -> None:
    """``z`` is of Student's distribution: mean and mean square within 4.5 of their standard errors (false: 1e-5)."""
    n, v = len(z), degrees
    square = v / (v - 2)
    error = math.sqrt(2 * v**2 * (v - 1) / ((v - 2) ** 2 * (v - 4)) / n)
    assert abs(z.mean()) < 4.5 * math.sqrt(square / n)
    assert abs(np.square(z).mean() - square) < 4.5 * error


class World:
    """Two models: rows differ by ±20 nats for both alike and by ±1 between them, fits by ±0.3, draws by ±0.1 … 2."""

    def __init__(self, seed: int, rows: int, fits: int) -> None:
        self.random, self.rows, self.fits, self.truth = np.random.default_rng(seed), rows, fits, 0.7
        self.draw_rows()
        self.draw_fits()
        self.noise = self.random.uniform(0.1, 2, (2, fits, rows))

    def draw_rows(self) -> None:
        both = -90 + 20 * self.random.normal(size=self.rows)
        self.values = both + self.random.normal(size=(2, self.rows)) / math.sqrt(2) + [[self.truth], [0]]

    def draw_fits(self) -> None:
        self.shifts = 0.3 * self.random.normal(size=(2, self.fits))

    def estimates(self) -> list[list[LogLikelihood]]:
        """Drawn anew for these rows and fits."""
        exact = self.values[:, None] + self.shifts[..., None]
        drawn = exact + self.noise * self.random.normal(size=self.noise.shape)
        return [[estimates(x, e) for x, e in zip(*both, strict=True)] for both in zip(drawn, self.noise, strict=True)]

    @property
    def on_these_fits(self) -> float:
        return self.truth + float(np.subtract(*self.shifts.mean(1)))

    @property
    def on_these_rows(self) -> float:
        return float(np.subtract(*self.values.mean(1)))


Error = Callable[[Difference, list[LogLikelihood], list[LogLikelihood]], float]


def over_rows(error: Error) -> np.ndarray:
    world, z = World(1, rows=200, fits=3), []
    for _ in range(TIMES):
        world.draw_rows()
        both = world.estimates()
        found = of_two(*both)
        z.append((found.mean - world.on_these_fits) / error(found, *both))
    return np.array(z)


def over_draws(error: Error) -> np.ndarray:
    world, z = World(2, rows=100, fits=3), []
    exact = world.on_these_rows + world.on_these_fits - world.truth
    for _ in range(TIMES):
        both = world.estimates()
        found = of_two(*both)
        z.append((found.mean - exact) / error(found, *both))
    return np.array(z)


def over_fits(error: Error) -> np.ndarray:
    world, z = World(3, rows=50, fits=8), []
    for _ in range(TIMES):
        world.draw_fits()
        both = world.estimates()
        found = of_two(*both)
        z.append((found.mean - world.on_these_rows) / error(found, *both))
    return np.array(z)


def unpaired(_: Difference, a: list[LogLikelihood], b: list[LogLikelihood]) -> float:
    return math.hypot(*(np.mean([one.estimate for one in x], 0).std(ddof=1) for x in (a, b))) / math.sqrt(200)


def of_one_fit(found: Difference, *_: list[LogLikelihood]) -> float:
    return found.monte_carlo_error * math.sqrt(found.fits[0])


def of_the_better_known(_: Difference, a: list[LogLikelihood], __: list[LogLikelihood]) -> float:
    return float(np.std([one.mean for one in a], ddof=1)) / math.sqrt(len(a))


@pytest.mark.parametrize(
    ("simulated", "error", "degrees", "mutant"),
    [
        (over_rows, lambda d, *_: d.row_error, 199, unpaired),
        (over_draws, lambda d, *_: d.monte_carlo_error, 1e6, of_one_fit),
        (over_fits, lambda d, *_: d.seed_error, 14, of_the_better_known),
    ],
    ids=["rows", "draws", "fits"],
)
def test_each_error_is_that_of_its_source_and_a_wrong_one_is_seen(simulated, error, degrees, mutant):
    assert_standard(simulated(error), degrees)
    with pytest.raises(AssertionError):
        assert_standard(simulated(mutant), degrees)


@pytest.fixture(scope="module")
def pair() -> tuple[PPCA, PPCA, torch.Tensor]:
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 5)) @ random.normal(size=(5, 8)) + 0.5 * random.normal(size=(400, 8))
    truth, small = PPCA.of(x, 5), PPCA.of(x, 4)
    noise = torch.randn(4000, 13, generator=rng(), dtype=torch.float64)
    return truth, small, truth.mean + noise[:, :5] @ truth.weight.T + math.sqrt(truth.variance) * noise[:, 5:]


def test_linear_models_differ_by_their_divergence(pair):
    truth, small, x = pair
    eye = torch.eye(8, dtype=torch.float64)
    both = [
        torch.distributions.MultivariateNormal(m.mean, m.weight @ m.weight.T + m.variance * eye) for m in (truth, small)
    ]
    divergence = float(torch.distributions.kl_divergence(*both))
    found = of_two(
        [log_likelihood(truth.model(), truth.posterior(widen=1.1), x, samples=500, seed=1)],
        [log_likelihood(small.model(), small.posterior(widen=1.1), x, samples=500, seed=2)],
    )
    per_row = (truth.log_prob(x) - small.log_prob(x)).numpy()
    assert abs(found.mean - divergence) < 4 * found.row_error
    assert found.row_error < 0.1 * divergence
    assert found.row_error == pytest.approx(per_row.std(ddof=1) / math.sqrt(4000), rel=0.01)
    assert abs(found.mean - per_row.mean()) < 4 * found.monte_carlo_error
    assert 0 < found.monte_carlo_error < 0.1 * found.row_error
    assert found.first_better == pytest.approx((per_row > 0).mean(), abs=0.002)
    assert math.isnan(found.seed_error)


def test_a_baseline_compares_with_the_model_it_is(pair):
    x = pair[2][:300]
    baseline = {b.name: b for b in baselines(x, x, "real", latent_dim=5)}["probabilistic PCA, 5 latents"]
    exact = PPCA.of(x.numpy(), 5)
    estimate = log_likelihood(exact.model(), exact.posterior(), x, samples=2)
    found = of_two([baseline.log_likelihood()], [estimate])
    assert found.mean == pytest.approx(0, abs=1e-9)


def test_rows_that_are_unreliable_in_any_fit_are_counted():
    rows = np.arange(6.0)
    bad = np.array([0.1, 0.9, 0.1, 0.1, 0.9, math.nan])
    found = of_two([estimates(rows), estimates(rows, k=bad)], [estimates(rows + 1, k=bad[::-1])])
    assert found.unreliable == 4
    assert found.fits == (2, 1)
    assert "only one seed of b:" in found.note
    assert "4 of 6 rows are unreliable" in found.note
    assert found.first_better == 0


def several() -> Comparison:
    random = np.random.default_rng(0)
    rows = random.normal(size=40) * 10
    of = {
        "a VAE": [estimates(rows + s, 0.1) for s in (0.2, 0.3)],
        "flow": [estimates(rows + 0.5 * random.normal(size=40)) for _ in range(3)],
        "a Gaussian": estimates(rows - 3, 0.0, -math.inf),
    }
    return compare(of, dict.fromkeys(of, "counting"))


def test_the_table_is_json_and_the_text_is_aligned():
    compared = several()
    table = json.loads(json.dumps(compared.table(), allow_nan=False))
    assert [(d["first"], d["second"]) for d in table] == [
        ("a VAE", "flow"),
        ("a VAE", "a Gaussian"),
        ("flow", "a Gaussian"),
    ]
    assert table[1]["mean"] == pytest.approx(3.25)
    assert table[1]["seed_error"] is None
    assert table[1]["measure"] == "counting"
    assert table[1]["note"] == "only one seed of a Gaussian: the variation over fits is unknown"
    assert table[0]["note"] == ""
    assert table[0]["fits"] == [2, 3]
    assert table[0]["monte_carlo_error"] == pytest.approx(0.1 / math.sqrt(40) / math.sqrt(2))
    title, head, *lines = str(compared).splitlines()
    assert title == "log p(x) of the first minus the second: nats per row, 40 rows, counting"
    assert {len(line) for line in (head, *lines[:3])} == {len(head)}
    assert "+3.2500" in lines[1]
    assert "unknown" in lines[1]
    assert lines[3] == "a VAE − a Gaussian: only one seed of a Gaussian: the variation over fits is unknown."


def test_the_order_of_names_changes_only_the_sign():
    random = np.random.default_rng(0)
    a, b = ([estimates(random.normal(size=30), 0.1) for _ in range(3)] for _ in range(2))
    one, other = of_two(a, b), of_two(b, a)
    assert one.mean == pytest.approx(-other.mean)
    assert one.first_better == pytest.approx(1 - other.first_better)
    for name in ("row_error", "monte_carlo_error", "seed_error"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))


def test_a_row_at_minus_infinity_is_said():
    rows = np.array([0.0, -math.inf, 1.0])
    found = compare({"a": estimates(rows), "b": estimates(np.zeros(3))}, {"a": "counting", "b": "counting"})
    assert found.differences[0].mean == -math.inf
    assert found.table()[0]["mean"] is None
    assert "log p of a row is −∞" in str(found)
    both = of_two([estimates(rows)], [estimates(rows)])
    assert math.isnan(both.mean)


def test_what_does_not_compare_is_refused():
    a, b = estimates(np.zeros(3)), estimates(np.zeros(4))
    with pytest.raises(ValueError, match="'b' has the base measure Lebesgue and 'a' counting"):
        compare({"a": a, "b": a}, {"a": "counting", "b": "Lebesgue"})
    with pytest.raises(ValueError, match="a fit of 'b' has 4 rows and the first of 'a' has 3"):
        compare({"a": a, "b": [a, b]}, {"a": "counting", "b": "counting"})
    with pytest.raises(ValueError, match="measures lacks the base measure of 'b'"):
        compare({"a": a, "b": a}, {"a": "counting"})
    with pytest.raises(ValueError, match="estimates holds no fit of 'b'"):
        compare({"a": a, "b": []}, {"a": "counting", "b": "counting"})
    with pytest.raises(ValueError, match="give at least two"):
        compare({"a": a}, {"a": "counting"})
