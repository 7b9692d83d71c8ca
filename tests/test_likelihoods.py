"""Every likelihood through one table: normalised, differentiated, sampled, masked and initialised right."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from lowerbound.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Likelihood,
    NegativeBinomial,
    Normal,
    Poisson,
)
from oracles import rng

PARAMETER_SETS = 6


def grid_for(likelihood: Likelihood) -> torch.Tensor:
    """Values that hold all but a negligible share of the mass, in float64."""
    if isinstance(likelihood, Normal):
        return torch.linspace(-60, 60, 60_001, dtype=torch.float64)
    levels = {Bernoulli: 2, Categorical: 5, DiscretizedLogistic: 256, Poisson: 400, NegativeBinomial: 6000}
    count = getattr(likelihood, "levels", levels[type(likelihood)])
    return torch.arange(count, dtype=torch.float64)


TABLE = {
    "bernoulli": lambda: Bernoulli(),
    "normal fixed": lambda: Normal(1.7),
    "normal scalar": lambda: Normal("scalar"),
    "normal per dimension": lambda: Normal("dimension", shape=(1,)),
    "normal per entry": lambda: Normal("entry"),
    "categorical": lambda: Categorical(5),
    "discretised logistic": lambda: DiscretizedLogistic(),
    "discretised logistic, 17 levels": lambda: DiscretizedLogistic(17),
    "poisson": lambda: Poisson(),
    "negative binomial": lambda: NegativeBinomial(),
}


@pytest.fixture(params=TABLE, ids=list(TABLE))
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    return TABLE[request.param]().double()


def parameters(likelihood: Likelihood) -> torch.Tensor:
    """``[PARAMETER_SETS, 1, P, 1]``: the sets take the place of draws."""
    return torch.randn(PARAMETER_SETS, 1, likelihood.n_parameters, 1, generator=rng(1), dtype=torch.float64)


def masses(likelihood: Likelihood, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The grid ``[G]`` and the probability of each of its cells, ``[sets, G]``."""
    grid = grid_for(likelihood)
    width = float(grid[1] - grid[0]) if isinstance(likelihood, Normal) else 1.0
    wide = params.expand(-1, -1, -1, len(grid))
    with torch.no_grad():
        return grid, likelihood.log_prob_per_value(wide, grid.unsqueeze(0)).squeeze(1).exp() * width


def test_it_sums_to_one(likelihood):
    _, probability = masses(likelihood, parameters(likelihood))
    np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-9)


def test_its_gradient_is_that_of_finite_differences(likelihood):
    params = parameters(likelihood).requires_grad_()
    x = grid_for(likelihood)[[0, 1, -1]].clamp(max=40).expand(PARAMETER_SETS, 1, 3)[0]
    learned = list(likelihood.parameters())
    assert torch.autograd.gradcheck(
        lambda p, *_: likelihood.log_prob(p.expand(-1, -1, -1, 3), x), (params, *learned), atol=1e-6
    )


def test_its_samples_have_its_moments(likelihood):
    # 6 sets × 2 moments, each rejected beyond 5 standard errors: a false alarm once in 140,000 runs.
    params, draws = parameters(likelihood), 40_000
    grid, probability = masses(likelihood, params)
    sample = likelihood.sample(params.expand(-1, -1, -1, draws), rng(2)).squeeze(1)
    for power in (1, 2):
        truth = (probability * grid**power).sum(-1)
        variance = (probability * grid ** (2 * power)).sum(-1) - truth**2
        error = (sample**power).mean(-1) - truth
        assert (error.abs() < 5 * (variance / draws).sqrt()).all(), (power, error)
    assert likelihood.support.check(sample).all()


def test_its_mean_is_that_of_its_distribution(likelihood):
    params = parameters(likelihood)
    grid, probability = masses(likelihood, params)
    mean = likelihood.mean(params).detach().squeeze(1).squeeze(1)
    if likelihood.one_hot_mean:
        np.testing.assert_allclose(mean, probability, atol=1e-12)
    else:
        np.testing.assert_allclose(mean.squeeze(-1), (probability * grid).sum(-1), rtol=1e-9, atol=1e-9)


def test_unobserved_values_add_nothing_and_leave_gradients_finite(likelihood):
    params = parameters(likelihood).expand(-1, 2, -1, 3).clone().requires_grad_()
    x = torch.tensor([[1.0, math.nan, 0.0], [math.inf, 1.0, -1e30]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    value = likelihood.log_prob(params, x, mask)
    alone = likelihood.log_prob_per_value(params, torch.where(mask, x, 1))
    assert torch.equal(value[:, 0], alone[:, 0, 0] + alone[:, 0, 2])
    assert torch.equal(value[:, 1], alone[:, 1, 1])
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert gradient.isfinite().all()
    assert (gradient.movedim(2, -1)[:, ~mask] == 0).all()
    assert (gradient.movedim(2, -1)[:, mask].abs().sum(-1) > 0).all()


def test_all_observed_is_the_same_as_no_mask(likelihood):
    params = parameters(likelihood).expand(-1, 1, -1, 3)
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    whole = likelihood.log_prob(params, x)
    assert torch.equal(whole, likelihood.log_prob(params, x, torch.ones_like(x, dtype=torch.bool)))


def test_it_stays_finite_far_out_in_single_precision(likelihood):
    # Raw parameters of ±30 are far from any fit; the value and its gradient must still lead back.
    likelihood = likelihood.float()
    ends = torch.tensor([-30.0, 30.0])
    params = torch.cartesian_prod(*[ends] * likelihood.n_parameters).view(-1, 1, likelihood.n_parameters, 1)
    params = params.expand(-1, -1, -1, 2).clone().requires_grad_()
    x = grid_for(likelihood)[[0, -1]].float().clamp(-60, 60).unsqueeze(0)
    value = likelihood.log_prob(params, x)
    value.sum().backward()
    assert value.isfinite().all()
    assert params.grad.isfinite().all()


def test_single_precision_agrees_with_double(likelihood):
    params = parameters(likelihood)
    x = grid_for(likelihood)[:: max(1, len(grid_for(likelihood)) // 40)].unsqueeze(0)
    wide = params.expand(-1, -1, -1, x.shape[1])
    exact = likelihood.log_prob(wide, x).detach()
    single = likelihood.float().log_prob(wide.float(), x.float()).detach()
    np.testing.assert_allclose(single.double(), exact, rtol=3e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_it_starts_at_each_values_own_distribution(likelihood, masked):
    # After `initialise` the mean of p(x|z) is the mean of the data, up to half a count.
    rows = likelihood.sample(parameters(likelihood)[:1].expand(-1, -1, -1, 4000), rng(3)).detach().view(4000, 1)
    mask = torch.rand(4000, 1, generator=rng(4)) < 0.7 if masked else None
    seen = rows[mask].view(-1, 1) if masked else rows
    x = torch.where(mask, rows, math.nan) if masked else rows
    params = likelihood.initialise(x, mask).view(1, 1, -1, 1)
    mean = likelihood.mean(params).detach().view(-1)
    if likelihood.one_hot_mean:
        seen = torch.nn.functional.one_hot(seen.squeeze(1).long(), 5).double()
    slack = 5.0 if isinstance(likelihood, DiscretizedLogistic) else 1.0  # its tails fold onto the end levels
    assert ((mean - seen.mean(0)).abs() < 0.02 * slack * seen.std(0) + 1e-3).all()


@pytest.mark.parametrize(
    ("ours", "scipys"),
    [
        (lambda x: (Poisson(), [math.log(3.5)]), lambda x: scipy.stats.poisson(3.5).logpmf(x)),
        (
            lambda x: (NegativeBinomial(), [math.log(3.5), math.log(0.7)]),
            lambda x: scipy.stats.nbinom(0.7, 0.7 / 4.2).logpmf(x),
        ),
        (
            lambda x: (NegativeBinomial(), [math.log(3.5), math.log(300)]),
            lambda x: scipy.stats.nbinom(300, 300 / 303.5).logpmf(x),
        ),
        (lambda x: (NegativeBinomial(), [math.log(3.5), math.log(1e9)]), lambda x: scipy.stats.poisson(3.5).logpmf(x)),
        (lambda x: (Normal(2.0), [1.5]), lambda x: scipy.stats.norm(1.5, 2).logpdf(x)),
        (lambda x: (Bernoulli(), [0.4]), lambda x: scipy.stats.bernoulli(1 / (1 + math.exp(-0.4))).logpmf(x)),
    ],
    ids=["poisson", "nbinom", "nbinom, large r", "nbinom → poisson", "normal", "bernoulli"],
)
def test_against_scipy(ours, scipys):
    likelihood, values = ours(0)
    x = torch.arange(2 if isinstance(likelihood, Bernoulli) else 50, dtype=torch.float64)
    params = torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1).expand(-1, -1, -1, len(x))
    value = likelihood.double().log_prob_per_value(params, x.unsqueeze(0)).view(-1)
    np.testing.assert_allclose(value, scipys(x.numpy()), rtol=2e-8, atol=1e-10)


@pytest.mark.parametrize("log_r", [-5.0, 0.0, 3.0, 8.0, 14.0, 30.0])
@pytest.mark.parametrize("log_mean", [-3.0, 2.0, 7.0, 11.0, 14.0])
def test_counts_of_any_size_keep_their_digits_in_single_precision(log_mean, log_r):
    # Values within 4 standard deviations, against the textbook formula in 60 digits at the very same parameters.
    mean, r = math.exp(log_mean), math.exp(log_r)
    deviation = math.sqrt(mean + mean**2 / r)
    x = np.unique(np.float32(np.round(np.clip(mean + np.linspace(-4, 4, 33) * deviation, 0, 1.6e7))))
    params = torch.tensor([log_mean, log_r]).view(1, 1, 2, 1).expand(-1, -1, -1, len(x))
    values = torch.tensor(x).unsqueeze(0)
    ours = NegativeBinomial().log_prob_per_value(params, values).view(-1).double()
    # The rounding of a log-mean of 14 alone is worth 4e-3 nats; the textbook formula would be off by .1 to 2.
    slack = 3e-4 if log_mean < 10 else 6e-3
    np.testing.assert_allclose(ours, in_60_digits(x, mean, r), rtol=3e-6, atol=slack)
    near = np.abs(x - mean) < 8 * math.sqrt(mean) + 8
    poisson = Poisson().log_prob_per_value(params[:, :, :1], values).view(-1).double()
    truth = scipy.stats.poisson(mean).logpmf(x.astype(float))
    np.testing.assert_allclose(poisson[near], truth[near], rtol=3e-6, atol=slack)


def in_60_digits(x: np.ndarray, mean: float, r: float) -> list[float]:
    """log Γ(x+r) − log Γ(r) − log x! + r log(r/(r+m)) + x log(m/(r+m))."""
    with mpmath.workdps(60):
        m, r, values = mpmath.mpf(mean), mpmath.mpf(r), [mpmath.mpf(float(v)) for v in x]
        ways = [mpmath.loggamma(v + r) - mpmath.loggamma(r) - mpmath.loggamma(v + 1) for v in values]
        odds = [r * mpmath.log(r / (r + m)) + v * mpmath.log(m / (r + m)) for v in values]
        return [float(a + b) for a, b in zip(ways, odds, strict=True)]


def test_a_column_that_does_not_vary_is_not_taken_for_precise_data():
    # 0.1 has no exact single-precision mean; its rounding must not become a spread.
    x = torch.full((3000, 2), 0.1)
    x[:, 1] = torch.randn(3000, generator=rng())
    likelihood = Normal("dimension", shape=(2,))
    likelihood.initialise(x)
    assert likelihood.spread[0] == 1
    assert likelihood.spread[1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("unit", [1e-25, 1e18])
@pytest.mark.parametrize("scale", ["scalar", "dimension", "entry"])
def test_any_unit_will_do(unit, scale):
    x = torch.randn(2000, 3, generator=rng(), dtype=torch.float64)
    values = []
    for factor in (1.0, unit):
        likelihood = Normal(scale, shape=(3,))
        scaled = (x * factor).float()
        params = likelihood.initialise(scaled).expand(1, 1, -1, -1)
        values.append(float(likelihood.log_prob(params, scaled.expand(1, -1, -1)[0][:1]).detach().mean()))
    assert values[0] - values[1] == pytest.approx(3 * math.log(unit), rel=1e-4)


def test_a_discretised_logistic_is_a_difference_of_cdfs():
    likelihood = DiscretizedLogistic(17).double()
    params = parameters(likelihood)
    loc, scale = (part.view(-1, 1).numpy() for part in likelihood._loc_scale(params))
    edges = scipy.stats.logistic(loc, scale).cdf(np.arange(18) - 0.5)
    edges[:, 0], edges[:, -1] = 0, 1
    _, probability = masses(likelihood, params)
    np.testing.assert_allclose(probability, np.diff(edges), rtol=1e-9, atol=1e-15)
