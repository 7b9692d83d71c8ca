"""Simulation-based calibration where the posterior is known: exact, too narrow, too wide, and the prior."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import belief_net
from oracles import PPCA, rng
from scipy import stats
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.distributions import inverse_positive
from lowerbound.evidence.calibration import Calibration, calibrate
from lowerbound.evidence.targets import Target
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP
from lowerbound.posteriors import DiagonalNormal
from lowerbound.posteriors.normal import MIN_SCALE
from test_context import C, Linear, Y


def linear(latents: int = 2, dim: int = 4) -> PPCA:
    random = np.random.default_rng(1)
    x = random.normal(size=(400, latents)) @ random.normal(size=(latents, dim)) + random.normal(size=(400, dim))
    return PPCA.of(x, latents)


def prior_of(oracle: PPCA) -> DiagonalNormal:
    """q(z|x) = N(0, I), whatever x."""
    posterior = oracle.posterior()
    linear = posterior.encoder.second.layers[0]
    latents = oracle.weight.shape[1]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias[:latents] = 0
        linear.bias[latents:] = inverse_positive(torch.ones(latents).double() - MIN_SCALE)
    return posterior


def covered(widen: float, level: float, draws: int) -> float:
    """How often the central interval of ``draws`` draws of N(m, w²σ²) holds a draw of N(m, σ²), by quadrature: rank r
    has probability ∫ Binomial(r; L, Φ(u/w)) φ(u) du."""
    u = np.linspace(-9, 9, 4001)
    ranks = np.arange(draws + 1)
    mass = stats.binom.pmf(ranks[:, None], draws, stats.norm.cdf(u / widen)) @ stats.norm.pdf(u) * (u[1] - u[0])
    outside = round((1 - level) / 2 * (draws + 1))
    return float(mass[outside : draws + 1 - outside].sum())


def uniform_ranks(simulations: int, statistics: int, draws: int = 99, seed: int = 0) -> Calibration:
    ranks = np.random.default_rng(seed).integers(0, draws + 1, (simulations, statistics))
    return Calibration(ranks, tuple(map(str, range(statistics))), draws)


def test_ranks_of_the_exact_posterior_are_uniform():
    oracle = linear()
    found = calibrate(oracle.model(), oracle.posterior())
    assert found.ranks.shape == (1000, 3)
    assert (found.ranks.min(), found.ranks.max()) == (0, 99)
    assert found.names == ("z[0]", "z[1]", "log p(x, z)")
    assert found.bins.tolist() == list(range(0, 101, 5))
    assert found.p_values.min() > 0.01
    assert found.p_value == pytest.approx(min(1, 3 * found.p_values.min()))
    assert found.bands(0.999).inside.all()
    assert found.verdict().startswith("no evidence that q differs from the posterior")


@pytest.mark.parametrize(("widen", "words"), [(0.8, "too narrow"), (1.25, "too wide")])
def test_scales_a_fifth_off_are_rejected(widen, words):
    oracle = linear()
    found = calibrate(oracle.model(), oracle.posterior(widen))
    assert (found.p_values[:2] < 1e-6).all()
    assert not found.bands(0.999).inside[:2].any()
    assert found.verdict().startswith("q is not the posterior: ")
    assert words in found.verdict()


def test_the_prior_is_told_from_the_posterior_by_the_joint_density_alone():
    oracle = linear()
    found = calibrate(oracle.model(), prior_of(oracle))
    assert (found.p_values[:2] > 0.01).all()
    assert found.p_values[2] < 1e-6
    assert "q misses information in x" in found.verdict()


def test_a_shifted_posterior_is_rejected():
    oracle = linear()
    posterior = oracle.posterior()
    with torch.no_grad():
        posterior.encoder.second.layers[0].bias[0] += 0.3 * float(oracle.precision[0, 0].rsqrt())
    found = calibrate(oracle.model(), posterior)
    assert found.p_values[0] < 1e-6
    assert found.p_values[1] > 0.01


def test_p_values_are_uniform_where_q_is_the_posterior():
    """400 repetitions, by Kolmogorov & Smirnov, of each of two statistics: a false alarm in 500."""
    oracle = linear(1, 2)

    def p_values(widen: float) -> np.ndarray:
        model, posterior = oracle.model(), oracle.posterior(widen)
        return np.stack([calibrate(model, posterior, simulations=100, draws=19, seed=s).p_values for s in range(400)])

    for each in p_values(1.0).T:
        assert stats.kstest(each, "uniform").pvalue > 0.001
    assert stats.kstest(p_values(1.15)[:, 0], "uniform").pvalue < 1e-5


@pytest.mark.parametrize("draws", [19, 30, 99])
def test_p_values_are_uniform_for_bins_that_are_not_equal(draws):
    found = uniform_ranks(300, 4000, draws)
    assert np.diff(found.bins).sum() == draws + 1
    assert len(found.bins) == 21
    assert stats.kstest(found.p_values, "uniform").pvalue > 0.001
    off = replace(found, draws=draws + 2)  # two ranks that never come up
    assert stats.kstest(off.p_values, "uniform").pvalue < 1e-6


@pytest.mark.parametrize(("simulations", "draws", "level"), [(1000, 99, 0.95), (200, 99, 0.8), (150, 19, 0.95)])
def test_the_band_holds_uniform_ranks_at_its_level(simulations, draws, level):
    """Of 4,000 sets of ranks; the band is made of 10,000 others, and counts are whole numbers: it may hold more."""
    bands = uniform_ranks(simulations, 4000, draws, seed=1).bands(level)
    error = math.sqrt(level * (1 - level) * (1 / 4000 + 1 / 10_000))
    assert -3.5 * error < bands.inside.mean() - level < 3.5 * error + 0.01
    assert (bands.lower < bands.points).all()
    assert (bands.points < bands.upper).all()
    # a band that holds each point at the level, and not all together, is the mutant
    low, high = stats.binom.ppf([[(1 - level) / 2], [(1 + level) / 2]], simulations, bands.points) / simulations
    pointwise = replace(bands, lower=low, upper=high).inside.mean()
    assert pointwise < level - 20 * error


@pytest.mark.parametrize("widen", [0.7, 1.0, 1.4])
def test_coverage_is_that_of_the_closed_form(widen):
    oracle, levels = linear(), (0.5, 0.8, 0.9)
    found = calibrate(oracle.model(), oracle.posterior(widen), simulations=6000).coverage(levels)
    for level, share, error in zip(levels, found.share, found.standard_error, strict=True):
        due = covered(widen, level, 99)
        assert error[0] == pytest.approx(math.sqrt(due * (1 - due) / 6000), rel=0.1)
        np.testing.assert_allclose(share[:2], due, atol=4 * error[0])
        assert abs(due - level) < 1e-6 if widen == 1 else abs(due - level) > 12 * error[0]


def test_coverage_counts_a_part_of_a_rank():
    """Ranks 0 … 19 once each: the central 95 % is [½, 19½), which holds half of the first and of the last."""
    every = Calibration(np.arange(20)[:, None], ("z",), 19)
    found = every.coverage((0.95, 0.9, 0.5))
    np.testing.assert_allclose(found.share[:, 0], [0.95, 0.9, 0.5])
    first = Calibration(np.zeros((20, 1), dtype=np.int64), ("z",), 19)
    np.testing.assert_allclose(first.coverage((0.95, 0.9)).share[:, 0], [0.5, 0.0], atol=1e-12)
    assert (first.coverage().standard_error > 0).all()


def one_bit(dtype: torch.dtype, gain: float = 1.0) -> tuple[LatentVariableModel, lb.posteriors.Bernoulli]:
    """A mixture of two products of Bernoullis, whose posterior's logit is linear in x; ``gain`` times it is wrong."""
    model = belief_net(1).model
    layer = model.decoder.layers[0]
    with torch.no_grad():
        layer.bias.copy_(torch.linspace(-1, 1, 5))
        off, on = layer.bias, layer.bias + layer.weight[:, 0]
        softplus = nn.functional.softplus
        encoder = MLP((5,), (1,), hidden=()).double()
        encoder.layers[0].weight.copy_(gain * layer.weight.T)
        encoder.layers[0].bias.copy_(gain * (model.prior.logits + (softplus(off) - softplus(on)).sum()))
    return model.to(dtype), lb.posteriors.Bernoulli(1, encoder).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_of_discrete_latents_are_broken_at_random(dtype):
    """A bit ties with half of the draws, and so does its joint density; 10,000 simulations."""
    found = calibrate(*one_bit(dtype), simulations=10_000)
    assert found.p_values.min() > 0.005
    assert found.p_values.shape == (2,)
    wrong = calibrate(*one_bit(dtype, gain=2.0), simulations=10_000)
    assert wrong.p_values.min() < 1e-6


@pytest.mark.parametrize("side", [torch.inf, -torch.inf])
def test_the_last_digit_does_not_decide_a_tie(side):
    """Densities that are the same but for rounding, always up (or down) for the draws: the truth ranks anywhere."""
    asked: list[int] = []

    def log_joint(z: Tensor) -> Tensor:
        value = torch.full(z.shape[:2], -500.0)
        asked.append(len(z))
        return value if len(asked) == 1 else value.nextafter(torch.tensor(side))  # the truth is asked for first

    module = importlib.import_module("lowerbound.evidence.calibration")
    q = lb.distributions.Normal(torch.zeros(2000, 1), torch.ones(2000, 1))
    ranks = module._ranks(Target(log_joint, (1,), q), torch.zeros(2000, 1), 19, rng())
    assert asked[0] == 1
    assert sum(asked[1:]) == 19
    assert stats.chisquare(np.bincount(ranks[:, 1], minlength=20)).pvalue > 0.001


def test_densities_that_differ_by_more_than_rounding_are_no_tie():
    asked: list[int] = []

    def log_joint(z: Tensor) -> Tensor:
        asked.append(len(z))
        return torch.full(z.shape[:2], -500.0 if len(asked) == 1 else -500.02)

    module = importlib.import_module("lowerbound.evidence.calibration")
    q = lb.distributions.Normal(torch.zeros(20, 1), torch.ones(20, 1))
    ranks = module._ranks(Target(log_joint, (1,), q), torch.zeros(20, 1), 19, rng())
    assert (ranks[:, 1] == 19).all(), "all draws lie below the truth"


def test_a_vampprior_is_simulated_by_its_posterior():
    """Where x says nothing, the posterior is the prior, which is that of the pseudo-inputs."""
    oracle = linear()
    model, posterior = oracle.model(), prior_of(oracle)
    model.prior = lb.priors.VampPrior((2,), (4,), components=3).double()
    with torch.no_grad():
        posterior.encoder.second.layers[0].bias[:2] = 2
        assert calibrate(model, posterior).p_value < 1e-6
        model.decoder.layers[0].weight.zero_()
    found = calibrate(model, posterior)
    assert found.p_values.min() > 0.01


def test_a_conditioned_model_is_simulated_given_its_rows_in_turn():
    model, posterior = Linear().parts()
    context, seen = torch.randn(7, C, generator=rng(), dtype=torch.float64), []
    with model.prior.network.register_forward_hook(lambda _, given, __: seen.append(given[0])):
        assert calibrate(model, posterior, context=context).p_values.min() > 0.01
    drawn = torch.cat(seen[::2])  # each batch draws from the prior, and then has its density
    torch.testing.assert_close(drawn, context[torch.arange(1000) % 7])
    with torch.no_grad():
        posterior.encoder.layers[0].weight[:, Y:] = 0
    assert calibrate(model, posterior, context=context).p_value < 1e-6


def test_seeds_batches_and_the_global_generator():
    oracle = linear()
    model, posterior = oracle.model(), oracle.posterior()
    before = torch.random.get_rng_state()
    one, same, other = (calibrate(model, posterior, simulations=150, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(one.ranks, same.ranks)
    assert one.ranks.shape == (150, 3)
    assert (one.ranks != other.ranks).any()


def test_bad_input_is_named():
    oracle = linear()
    with pytest.raises(ValueError, match="simulations must be at least 10"):
        calibrate(oracle.model(), oracle.posterior(), simulations=9)
    with pytest.raises(ValueError, match="draws at least 1"):
        calibrate(oracle.model(), oracle.posterior(), draws=0)
    with pytest.raises(ValueError, match="level must be above 0"):
        uniform_ranks(100, 1).bands(1.0)
    with pytest.raises(ValueError, match="level must be above 0"):
        uniform_ranks(100, 1).coverage((0.0,))
