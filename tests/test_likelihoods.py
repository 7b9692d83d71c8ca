"""Every likelihood through one table: normalised, differentiated, sampled, masked and initialised right."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from oracles import rng

from lowerbound import LatentVariableModel, nn, priors
from lowerbound.distributions import inverse_positive
from lowerbound.likelihoods import (
    Atoms,
    Bernoulli,
    Beta,
    BetaBinomial,
    Categorical,
    CholeskyNormal,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Factorised,
    FullNormal,
    InflatedLogitNormal,
    Likelihood,
    LogitNormal,
    LogNormal,
    LowRankNormal,
    Multinomial,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    Product,
    RoundedLogistic,
    StudentT,
    Warped,
    ZeroInflatedLogNormal,
    ZeroInflatedNegativeBinomial,
)
from lowerbound.storage import tensor_data

PARAMETER_SETS = 6
CLASSES = 5
TRIALS = 30


def grid_for(likelihood: Likelihood) -> tuple[torch.Tensor, torch.Tensor]:
    """Values that hold all but a negligible share of the mass, in float64, and the measure of each one's cell."""
    if type(likelihood) is Atoms and likelihood.discrete:
        return grid_for(likelihood.base)
    if type(likelihood) is Atoms:
        grid, width = grid_for(likelihood.base)
        points = likelihood.points.double().flatten()
        width = torch.where((grid == points.unsqueeze(1)).any(0), 0, width)
        grid, width = torch.cat([grid, points]), torch.cat([width, torch.ones_like(points)])
        order = grid.argsort(stable=True)
        return grid[order], width[order]
    if likelihood.measure == "counting":
        known = {Bernoulli: 2, Categorical: CLASSES, Ordinal: CLASSES, BetaBinomial: TRIALS + 1, Poisson: 400}
        count = getattr(likelihood, "levels", known.get(type(likelihood), 6000))
        return torch.arange(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    t = torch.linspace(-60, 60, 60_001, dtype=torch.float64)
    step = torch.full_like(t, float(t[1] - t[0]))
    if isinstance(likelihood, StudentT):
        return (t / 2).sinh(), step / 2 * (t / 2).cosh()
    if isinstance(likelihood, LogNormal):
        return t.exp(), step * t.exp()
    if isinstance(likelihood, ZeroInflatedLogNormal):
        return torch.cat([0 * t[:1], t.exp()]), torch.cat([0 * t[:1] + 1, step * t.exp()])
    if isinstance(likelihood, InflatedLogitNormal):
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return (
            torch.cat([ends[:1], (t / 2).sigmoid(), ends[1:]]),
            torch.cat([ends[1:], step / 2 * (t / 2).sigmoid() * (-t / 2).sigmoid(), ends[1:]]),
        )
    if isinstance(likelihood, Beta | LogitNormal):
        return (t / 2).sigmoid(), step / 2 * (t / 2).sigmoid() * (-t / 2).sigmoid()
    return t, step


def values_for(likelihood: Likelihood) -> torch.Tensor:
    """Three values of the support, the last far out."""
    known = {
        Atoms: [1.0, 0.0, 2.5],
        Beta: [0.3, 0.9, 0.001],
        LogitNormal: [0.3, 0.9, 1e-6],
        InflatedLogitNormal: [0.3, 0.0, 1.0],
        LogNormal: [1.0, 0.2, 60.0],
        ZeroInflatedLogNormal: [1.0, 0.0, 60.0],
        StudentT: [1.0, 0.0, -60.0],
        Normal: [1, 0, -60.0],
    }
    far = float(grid_for(likelihood)[0][-1].clamp(max=60))
    return torch.tensor(known.get(type(likelihood), [1.0, 0.0, far]), dtype=torch.float64)


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
    "rounded logistic": lambda: RoundedLogistic(),
    "rounded logistic, per entry": lambda: RoundedLogistic("entry"),
    "log-normal scalar": lambda: LogNormal(),
    "log-normal per entry": lambda: LogNormal("entry"),
    "student t": lambda: StudentT(),
    "student t, 12 degrees, per entry": lambda: StudentT(12.0, "entry"),
    "student t, 2.5 degrees, per dimension": lambda: StudentT(2.5, "dimension", shape=(1,)),
    "warped": lambda: Warped(),
    "warped, 12 degrees, per entry": lambda: Warped(scale="entry", df=12.0),
    "beta": lambda: Beta(),
    "beta-binomial": lambda: BetaBinomial(TRIALS),
    "zero-inflated negative binomial": lambda: ZeroInflatedNegativeBinomial(),
    "zero-inflated log-normal": lambda: ZeroInflatedLogNormal(),
    "zero-inflated log-normal per entry": lambda: ZeroInflatedLogNormal("entry"),
    "logit-normal": lambda: LogitNormal(),
    "logit-normal per entry": lambda: LogitNormal("entry"),
    "inflated logit-normal": lambda: InflatedLogitNormal(),
    "inflated logit-normal per entry": lambda: InflatedLogitNormal("entry"),
    "atoms of a normal": lambda: Atoms(Normal(0.8), [[0.0, 2.5, -0.48]]),
    "atoms of a log-normal": lambda: Atoms(LogNormal("entry"), [[0.0, 1.0]]),
    "atoms of counts": lambda: Atoms(NegativeBinomial(), [[0.0, 4.0]]),
    "ordinal": lambda: Ordinal(CLASSES),
    "discretised logistics": lambda: DiscretizedLogisticMixture(components=3),
    "discretised logistics, 17 levels": lambda: DiscretizedLogisticMixture(17, 2),
}
HEAVY = (LogNormal, StudentT, ZeroInflatedLogNormal)  # too heavy for tests by moments


def is_heavy(likelihood: Likelihood) -> bool:
    return isinstance(likelihood, HEAVY) or isinstance(getattr(likelihood, "base", None), HEAVY)


@pytest.fixture(params=TABLE, ids=list(TABLE))
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    return TABLE[request.param]().double()


def parameters(likelihood: Likelihood) -> torch.Tensor:
    """``[PARAMETER_SETS, 1, P, 1]``: the sets take the place of draws."""
    params = torch.randn(PARAMETER_SETS, 1, likelihood.n_parameters, 1, generator=rng(1), dtype=torch.float64)
    if isinstance(likelihood, Beta):
        params[:, :, 1] += 3  # with a mass near 1 that float64 can tell from 1
    return params


def test_probabilities_of_all_values_are_those_of_each(likelihood):
    """In rows and values that differ, by the method of all likelihoods and by a family's own."""
    if likelihood.n_values is None:
        assert likelihood.support.is_discrete == likelihood.counts
        return
    if likelihood.n_values > 20:
        likelihood = TABLE["discretised logistics, 17 levels"]().double()
    count, (draws, rows, values) = likelihood.n_values, (2, 3, 4)
    shape = (draws, rows, likelihood.n_parameters, values)
    params = torch.randn(shape, generator=rng(1), dtype=torch.float64)
    each = torch.arange(count, dtype=torch.float64).view(count, 1, 1).expand(count, rows, values)
    due = torch.stack([likelihood.log_prob_per_value(params, x) for x in each], -1)
    assert torch.allclose(likelihood.log_probs(params), due, rtol=1e-12, atol=1e-12)
    assert torch.allclose(Factorised.log_probs(likelihood, params), due, rtol=1e-12, atol=1e-12)


def masses(likelihood: Likelihood, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The grid ``[G]`` and the probability of each of its cells, ``[sets, G]``."""
    grid, width = grid_for(likelihood)
    wide = params.expand(-1, -1, -1, len(grid))
    with torch.no_grad():
        return grid, likelihood.log_prob_per_value(wide, grid.unsqueeze(0)).squeeze(1).exp() * width


def distance(likelihood: Likelihood, params: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """√n times the largest difference of the CDFs of ``sample [sets, n]`` and of the likelihood, ``[sets]``."""
    grid, probability = masses(likelihood, params)
    atom = likelihood.at_atom(grid.unsqueeze(0)).squeeze(0)
    half = 0 if likelihood.measure == "counting" else torch.where(atom, 0, probability / 2)  # an atom is no cell
    below = probability.cumsum(-1) - half
    ordered = sample.contiguous().sort(-1).values
    share = torch.searchsorted(ordered, grid.expand(len(sample), -1).contiguous(), right=True) / sample.shape[1]
    return (share - below).abs().amax(-1) * math.sqrt(sample.shape[1])


def test_the_slope_is_the_gradient_of_observed_values(likelihood):
    """By central differences; what is missing moves nothing, whatever x holds there."""
    x = values_for(likelihood)[:2].unsqueeze(0)
    params = parameters(likelihood).expand(-1, -1, -1, 2).clone()
    eps, wanted = 1e-5, torch.zeros_like(params)
    with torch.no_grad():
        for p, i in itertools.product(range(params.shape[2]), range(2)):
            step = torch.zeros_like(params)
            step[:, :, p, i] = eps
            rise = likelihood.log_prob(params + step, x) - likelihood.log_prob(params - step, x)
            wanted[:, :, p, i] = rise / (2 * eps)
        found = likelihood.slope(params, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    seen, holes = torch.tensor([[True, False]]), x.clone()
    holes[0, 1] = math.nan
    in_part = likelihood.slope(params, holes, seen)
    assert torch.equal(in_part[..., 1], torch.zeros_like(in_part[..., 1]))
    np.testing.assert_allclose(in_part[..., 0], found[..., 0], rtol=1e-9)


def test_it_sums_to_one(likelihood):
    _, probability = masses(likelihood, parameters(likelihood))
    np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-9)


def test_its_gradient_is_that_of_finite_differences(likelihood):
    params = parameters(likelihood).requires_grad_()
    x = values_for(likelihood).unsqueeze(0)
    learned = list(likelihood.parameters())
    assert torch.autograd.gradcheck(
        lambda p, *_: likelihood.log_prob(p.expand(-1, -1, -1, 3), x), (params, *learned), atol=1e-6
    )


def test_its_samples_have_its_distribution(likelihood):
    # Kolmogorov and Smirnov's √n·D is beyond 2.9 once in 10,000,000 draws, more rarely of discrete values: with 6
    # sets of 21 likelihoods a false alarm once in 79,000 runs. A shifted first parameter must be found.
    params, draws = parameters(likelihood), 40_000
    wide = params.expand(-1, -1, -1, draws)
    sample = likelihood.sample(wide, rng(2)).detach().squeeze(1)
    found = distance(likelihood, params, sample)
    assert (found < 2.9).all(), found
    assert likelihood.support.check(sample).all()
    shifted = wide.clone()
    shifted[:, :, 0] += 0.5
    assert (distance(likelihood, params, likelihood.sample(shifted, rng(2)).detach().squeeze(1)) > 2.9).any()


def test_its_samples_have_its_moments(likelihood):
    # 6 sets × 2 moments, each rejected beyond 5 standard errors: a false alarm once in 140,000 runs.
    if is_heavy(likelihood):
        return
    params, draws = parameters(likelihood), 40_000
    grid, probability = masses(likelihood, params)
    sample = likelihood.sample(params.expand(-1, -1, -1, draws), rng(2)).squeeze(1)
    for power in (1, 2):
        truth = (probability * grid**power).sum(-1)
        variance = (probability * grid ** (2 * power)).sum(-1) - truth**2
        error = (sample**power).mean(-1) - truth
        assert (error.abs() < 5 * (variance / draws).sqrt()).all(), (power, error)


def test_its_mean_is_that_of_its_distribution(likelihood):
    params = parameters(likelihood)
    grid, probability = masses(likelihood, params)
    mean = likelihood.mean(params).detach().squeeze(1).squeeze(1)
    if likelihood.one_hot_mean:
        np.testing.assert_allclose(mean, probability, atol=1e-12)
    elif isinstance(likelihood, Warped):  # x is limited to the range of the data; until then, to 8 spreads
        np.testing.assert_allclose(mean.squeeze(-1), (probability * grid.clamp(-8, 8)).sum(-1), atol=2e-3)
    else:
        np.testing.assert_allclose(mean.squeeze(-1), (probability * grid).sum(-1), rtol=1e-9, atol=1e-9)


def test_unobserved_values_add_nothing_and_leave_gradients_finite(likelihood):
    params = parameters(likelihood).expand(-1, 2, -1, 3).clone().requires_grad_()
    one, other = values_for(likelihood)[:2].tolist()
    x = torch.tensor([[one, math.nan, other], [math.inf, one, -1e30]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    value = likelihood.log_prob(params, x, mask)
    alone = likelihood.log_prob_per_value(params, torch.where(mask, x, one))
    assert torch.equal(value[:, 0], alone[:, 0, 0] + alone[:, 0, 2])
    assert torch.equal(value[:, 1], alone[:, 1, 1])
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert gradient.isfinite().all()
    assert (gradient.movedim(2, -1)[:, ~mask] == 0).all()
    assert (gradient.movedim(2, -1)[:, mask].abs().sum(-1) > 0).all()


def test_all_observed_is_the_same_as_no_mask(likelihood):
    params = parameters(likelihood).expand(-1, 1, -1, 3)
    x = values_for(likelihood).unsqueeze(0)
    whole = likelihood.log_prob(params, x)
    assert torch.equal(whole, likelihood.log_prob(params, x, torch.ones_like(x, dtype=torch.bool)))


def test_it_stays_finite_far_out_in_single_precision(likelihood):
    # Raw parameters of ±30 are far from any fit; the value and its gradient must still lead back.
    likelihood = likelihood.float()
    ends = torch.tensor([-30.0, 30.0])
    params = torch.cartesian_prod(*[ends] * likelihood.n_parameters).view(-1, 1, likelihood.n_parameters, 1)
    params = params.expand(-1, -1, -1, 2).clone().requires_grad_()
    x = values_for(likelihood)[1:].float().unsqueeze(0)
    value = likelihood.log_prob(params, x)
    value.sum().backward()
    assert value.isfinite().all()
    assert params.grad.isfinite().all()


def test_single_precision_agrees_with_double(likelihood):
    params = parameters(likelihood).float().double()
    grid, _ = grid_for(likelihood)
    x = grid[:: max(1, len(grid) // 40)].float().double().unsqueeze(0)
    wide = params.expand(-1, -1, -1, x.shape[1])
    exact = likelihood.log_prob(wide, x).detach()
    single = likelihood.float().log_prob(wide.float(), x.float()).detach()
    np.testing.assert_allclose(single.double(), exact, rtol=3e-5, atol=3e-6)


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
        seen = torch.nn.functional.one_hot(seen.squeeze(1).long(), CLASSES).double()
    # Tails fold onto the end levels; a median is not a mean, nor is the mean of a logarithm.
    inexact = (DiscretizedLogistic, DiscretizedLogisticMixture)
    slack = 5.0 if isinstance(likelihood, inexact) or is_heavy(likelihood) else 1.0
    assert ((mean - seen.mean(0)).abs() < 0.02 * slack * seen.std(0) + 1e-3).all()


COUNTS = np.arange(50.0)
REALS = np.concatenate([-np.logspace(8, -3, 23), np.logspace(-3, 8, 23)])
SCIPYS = {
    "poisson": (Poisson(), [math.log(3.5)], COUNTS, scipy.stats.poisson(3.5).logpmf),
    "nbinom": (NegativeBinomial(), [math.log(3.5), math.log(0.7)], COUNTS, scipy.stats.nbinom(0.7, 0.7 / 4.2).logpmf),
    "nbinom, large r": (
        *(NegativeBinomial(), [math.log(3.5), math.log(300)], COUNTS),
        scipy.stats.nbinom(300, 300 / 303.5).logpmf,
    ),
    "nbinom → poisson": (
        *(NegativeBinomial(), [math.log(3.5), math.log(1e9)], COUNTS),
        scipy.stats.poisson(3.5).logpmf,
    ),
    "zero-inflated nbinom": (
        *(ZeroInflatedNegativeBinomial(), [math.log(0.3 / 0.7), math.log(3.5), math.log(0.7)], COUNTS),
        lambda x: np.log(0.3 * (x == 0) + 0.7 * scipy.stats.nbinom(0.7, 0.7 / 4.2).pmf(x)),
    ),
    "betabinom": (
        *(BetaBinomial(49), [math.log(0.2 / 0.8), math.log(7)], COUNTS),
        scipy.stats.betabinom(49, 1.4, 5.6).logpmf,
    ),
    "betabinom → binom": (
        *(BetaBinomial(49), [math.log(0.2 / 0.8), math.log(1e12)], COUNTS),
        scipy.stats.binom(49, 0.2).logpmf,
    ),
    "bernoulli": (Bernoulli(), [0.4], np.arange(2.0), scipy.stats.bernoulli(1 / (1 + math.exp(-0.4))).logpmf),
    "normal": (Normal(2.0), [1.5], REALS, scipy.stats.norm(1.5, 2).logpdf),
    "t": (StudentT(3.5, 2.0), [1.5], REALS, scipy.stats.t(3.5, 1.5, 2).logpdf),
    "t → normal": (StudentT(1e14, 2.0), [1.5], REALS[9:-9], scipy.stats.norm(1.5, 2).logpdf),
    "lognorm": (LogNormal(0.8), [1.5], REALS[23:], scipy.stats.lognorm(0.8, scale=math.exp(1.5)).logpdf),
    "logit-normal": (
        *(LogitNormal(0.8), [1.5], np.linspace(0, 1, 50)[1:-1]),
        lambda x: scipy.stats.norm(1.5, 0.8).logpdf(scipy.special.logit(x)) - np.log(x * (1 - x)),
    ),
    "inflated logit-normal": (
        *(InflatedLogitNormal(0.8), [math.log(0.2 / 0.7), math.log(0.1 / 0.7), -1.5], np.linspace(0, 1, 50)[:-1]),
        lambda x: np.log(
            np.where(x == 0, 0.2, 0.7 * scipy.stats.lognorm(0.8, scale=math.exp(-1.5)).pdf(x / (1 - x)) / (1 - x) ** 2)
        ),
    ),
    "beta": (
        Beta(),
        [math.log(0.2 / 0.8), math.log(7)],
        np.linspace(0, 1, 50)[1:-1],
        scipy.stats.beta(1.4, 5.6).logpdf,
    ),
    "beta, both ends high": (
        *(Beta(), [math.log(0.7 / 0.3), math.log(0.5)], np.linspace(0, 1, 50)[1:-1]),
        scipy.stats.beta(0.35, 0.15).logpdf,
    ),
}


@pytest.mark.parametrize("case", SCIPYS)
def test_against_scipy(case):
    likelihood, values, grid, reference = SCIPYS[case]
    x = torch.tensor(grid)
    params = torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1).expand(-1, -1, -1, len(x))
    value = likelihood.double().log_prob_per_value(params, x.unsqueeze(0)).view(-1)
    np.testing.assert_allclose(value, reference(grid), rtol=2e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("likelihood", "outside"),
    [
        (LogNormal("entry"), [0.0, -1.0]),
        (Beta(), [0.0, 1.0, -0.5, 1.5]),
        (LogitNormal("entry"), [0.0, 1.0, -0.5, 1.5]),
        (InflatedLogitNormal("entry"), [-0.5, 1.5]),
        (BetaBinomial(TRIALS), [-1.0, TRIALS + 1]),
        (ZeroInflatedNegativeBinomial(), [-1.0]),
        (Ordinal(CLASSES), [-1.0, CLASSES]),
        (Categorical(CLASSES), [-1.0, CLASSES]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outside_of_its_support_there_is_no_mass(likelihood, outside):
    x = torch.tensor([outside])
    params = torch.randn(2, 1, likelihood.n_parameters, len(outside), generator=rng()).requires_grad_()
    value = likelihood.log_prob_per_value(params, x)
    assert (value == -math.inf).all()
    assert not likelihood.support.check(x).any()
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert (gradient == 0).all()


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


@pytest.mark.parametrize("log_concentration", [-5.0, 0.0, 3.0, 8.0, 14.0, 30.0])
@pytest.mark.parametrize("logit", [-12.0, -1.0, 0.5, 9.0])
def test_proportions_keep_their_digits_in_single_precision(logit, log_concentration):
    # As for counts; here √κ times the rounding of the mean is what no formula can win back.
    mean, kappa = scipy.special.expit(logit), math.exp(log_concentration)
    deviation = math.sqrt(mean * (1 - mean) / (1 + kappa))
    around = np.clip(mean + np.linspace(-4, 4, 17) * deviation, 1e-30, 1 - 6e-8)
    x = np.unique(np.float32([*around, 1e-30, 1e-4, 0.5, 1 - 6e-8]))
    slack = 1e-5 + 6e-7 * math.sqrt(kappa)
    near = np.abs(np.float64(x) - mean) < 8 * deviation
    ours = in_single_precision(Beta(), [logit, log_concentration], x)
    truth = beta_in_60_digits(x, logit, log_concentration)
    np.testing.assert_allclose(ours[near], truth[near], rtol=3e-6, atol=slack)
    np.testing.assert_allclose(ours, truth, rtol=2e-6 + 1e-7 * math.sqrt(kappa), atol=slack)
    for trials in (1, 40, 3000, 10**6):
        spread = math.sqrt(trials * mean * (1 - mean) * (trials + kappa) / (1 + kappa))
        counts = np.round(np.clip(trials * mean + np.linspace(-4, 4, 17) * spread, 0, trials))
        counts = np.unique(np.float32([*counts, 0, trials // 2, trials]))
        ours = in_single_precision(BetaBinomial(trials), [logit, log_concentration], counts)
        truth = beta_binomial_in_60_digits(counts, trials, logit, log_concentration)
        near = np.abs(np.float64(counts) - trials * mean) < 8 * spread
        slack = 2e-5 + 6e-7 * math.sqrt(min(trials, kappa))
        np.testing.assert_allclose(ours[near], truth[near], rtol=3e-6, atol=slack)
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=slack)


def in_single_precision(likelihood: Factorised, values: list[float], x: np.ndarray) -> np.ndarray:
    params = torch.tensor(values).view(1, 1, -1, 1).expand(-1, -1, -1, len(x))
    return likelihood.log_prob_per_value(params, torch.tensor(x).unsqueeze(0)).view(-1).detach().double().numpy()


def beta_in_60_digits(x: np.ndarray, logit: float, log_concentration: float) -> np.ndarray:
    with mpmath.workdps(60):
        kappa, m = mpmath.exp(log_concentration), 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        a, b, values = m * kappa, (1 - m) * kappa, [mpmath.mpf(float(v)) for v in x]
        whole = mpmath.loggamma(kappa) - mpmath.loggamma(a) - mpmath.loggamma(b)
        return np.array([float(whole + (a - 1) * mpmath.log(v) + (b - 1) * mpmath.log(1 - v)) for v in values])


def beta_binomial_in_60_digits(x: np.ndarray, trials: int, logit: float, log_concentration: float) -> np.ndarray:
    def log_beta(a, b):
        return mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)

    with mpmath.workdps(60):
        kappa, m = mpmath.exp(log_concentration), 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        a, b, values = m * kappa, (1 - m) * kappa, [mpmath.mpf(float(v)) for v in x]
        ways = [-mpmath.log(trials + 1) - log_beta(v + 1, trials - v + 1) for v in values]
        terms = [log_beta(v + a, trials - v + b) - log_beta(a, b) for v in values]
        return np.array([float(way + term) for way, term in zip(ways, terms, strict=True)])


@pytest.mark.parametrize("df", [1.125, 2.0, 5.0, 40.0, 1e3, 1e6, 1e10])
def test_a_t_keeps_its_digits_in_single_precision(df):
    x = np.float32([0, 1e-4, 0.3, 1, 2, 5, 30, 1e3, 1e6, 1e12, 1e25, 1e38])
    x = np.concatenate([-x, x])
    with mpmath.workdps(60):
        nu = mpmath.mpf(df)
        constant = mpmath.loggamma((nu + 1) / 2) - mpmath.loggamma(nu / 2) - mpmath.log(nu * mpmath.pi) / 2
        w = [(mpmath.mpf(float(v)) - mpmath.mpf(1.25)) / 2 for v in x]
        truth = [float(constant - mpmath.log(2) - (nu + 1) / 2 * mpmath.log1p(v**2 / nu)) for v in w]
    np.testing.assert_allclose(in_single_precision(StudentT(df, 2.0), [1.25], x), truth, rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize("loc", [-80.0, -3.0, 0.0, 2.0, 80.0])
def test_an_ordinal_is_differences_of_cdfs(loc):
    likelihood = Ordinal(7)
    with torch.no_grad():
        likelihood.first_cut.fill_(-2.5)
        likelihood.raw_gaps.copy_(torch.tensor([-9.0, 1.5, 0.0, -2.0, 3.0]))
        cuts, _ = likelihood._cuts_and_gaps()
    assert (cuts.diff() > 0).all()
    x = np.arange(7, dtype=np.float32)
    with mpmath.workdps(60):
        gaps = [mpmath.log1p((mpmath.e - 1) * mpmath.exp(raw)) + 1e-6 for raw in (-9, 1.5, 0, -2, 3)]
        edges = [-mpmath.mpf(2.5) + mpmath.fsum(gaps[:k]) for k in range(6)]
        cdf = [0, *(1 / (1 + mpmath.exp(loc - edge)) for edge in edges), 1]
        exact = [float(mpmath.log(b - a)) for a, b in itertools.pairwise(cdf)]
    np.testing.assert_allclose(in_single_precision(likelihood, [loc], x), exact, rtol=1e-5, atol=1e-6)
    single = np.exp(in_single_precision(likelihood.double(), [loc], x.astype(float)))
    whole = [0, *scipy.special.expit(np.float64(edges) - loc), 1]
    np.testing.assert_allclose(single, np.diff(whole), rtol=1e-5, atol=1e-12)


def test_an_ordinal_of_two_classes_is_a_bernoulli_and_can_be_written(tmp_path):
    likelihood, params = Ordinal(2), torch.randn(3, 2, 1, 4, generator=rng())
    x = (torch.rand(2, 4, generator=rng()) < 0.5).float()
    bernoulli = Bernoulli().log_prob(params - likelihood.first_cut.detach(), x)
    assert torch.allclose(likelihood.log_prob(params, x), bernoulli, rtol=1e-6)
    written = tensor_data.tensor_bytes(likelihood.state_dict())
    again = tensor_data.parse_tensors(written, tmp_path)
    assert {name: value.shape for name, value in again.items()} == {"first_cut": (1,), "raw_gaps": (0,)}


@pytest.mark.parametrize("masked", [False, True])
def test_an_ordinal_starts_at_the_frequencies_of_each_value(masked):
    x = torch.stack([(torch.rand(500, generator=rng()) * n).floor() for n in (2, 4)], 1)
    mask = torch.rand(500, 2, generator=rng(1)) < 0.6 if masked else torch.ones(500, 2, dtype=torch.bool)
    likelihood = Ordinal(4, shape=(2,))
    params = likelihood.initialise(torch.where(mask, x, math.nan), mask if masked else None)
    probs = likelihood.mean(params.view(1, 1, 1, 2)).detach().view(2, 4)
    for column in range(2):
        counts = x[mask[:, column], column].long().bincount(minlength=4)
        expected = (counts + 0.5) / (counts.sum() + 2)
        assert torch.allclose(probs[column], expected, rtol=1e-4)


def test_a_column_that_does_not_vary_is_not_taken_for_precise_data():
    # 0.1 has no exact single-precision mean; its rounding must not become a spread.
    x = torch.full((3000, 2), 0.1)
    x[:, 1] = torch.randn(3000, generator=rng())
    likelihood = Normal("dimension", shape=(2,))
    likelihood.initialise(x)
    assert likelihood.spread[0] == 1
    assert likelihood.spread[1] == pytest.approx(1, abs=0.05)


SCALES = ("scalar", "dimension", "entry", "row")
OF_ANY_UNIT = {
    **{f"{kind.__name__} {scale}": partial(kind, scale=scale) for kind in (Normal, StudentT) for scale in SCALES},
    "CholeskyNormal": CholeskyNormal,
    "FullNormal": FullNormal,
    "LowRankNormal": partial(LowRankNormal, rank=2),
}


@pytest.mark.parametrize("unit", [1e-25, 1e18])
@pytest.mark.parametrize("kind", OF_ANY_UNIT)
def test_any_unit_will_do(unit, kind):
    x = torch.randn(2000, 3, generator=rng(), dtype=torch.float64)
    values = []
    for factor in (1.0, unit):
        likelihood = OF_ANY_UNIT[kind](shape=(3,))
        scaled = (x * factor).float()
        params = likelihood.initialise(scaled).expand(1, 1, -1, -1)
        values.append(float(likelihood.log_prob(params, scaled.expand(1, -1, -1)[0][:1]).detach().mean()))
    assert values[0] - values[1] == pytest.approx(3 * math.log(unit), rel=1e-4)


SPREADS = {
    "normal": (Normal("entry"), [0.3, 0.7]),
    "negative binomial": (NegativeBinomial(), [2.0, 0.5]),
    "zero-inflated negative binomial": (ZeroInflatedNegativeBinomial(), [-0.5, 2.0, 1.0]),
    "zero-inflated, few": (ZeroInflatedNegativeBinomial(), [-1.5, 0.5, 2.0]),
    "beta": (Beta(), [-1.0, 2.0]),
    "narrow beta": (Beta(), [3.0, 9.0]),
    "beta-binomial": (BetaBinomial(TRIALS), [-1.0, 2.0]),
    "discretised logistics": (DiscretizedLogisticMixture(components=4), [0.0] * 8 + [-3.0] * 4),
    "one discretised logistic": (DiscretizedLogisticMixture(components=1), [0.0, 0.2, -3.0]),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", SPREADS)
def test_it_starts_with_the_spread_of_the_data(case, masked):
    likelihood, values = SPREADS[case]
    likelihood = copy.deepcopy(likelihood).double()
    truth = torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1)
    rows = likelihood.sample(truth.expand(-1, -1, -1, 20_000), rng(3)).view(-1, 1)
    mask = torch.rand(rows.shape, generator=rng(4)) < 0.7 if masked else None
    seen = rows[mask] if masked else rows.view(-1)
    params = likelihood.initialise(torch.where(mask, rows, math.nan) if masked else rows, mask)
    grid, width = grid_for(likelihood)
    if isinstance(likelihood, Beta):  # the tables' grid is too coarse for the narrow one
        grid = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
        width = torch.full_like(grid, 1 / 400_000)
    log_prob = likelihood.log_prob_per_value(params.view(1, 1, -1, 1).expand(-1, -1, -1, len(grid)), grid.unsqueeze(0))
    probability = log_prob.view(-1).exp() * width
    mean = (probability * grid).sum()
    deviation = (probability * (grid - mean).square()).sum().sqrt()
    assert float(mean) == pytest.approx(float(seen.mean()), rel=1e-3, abs=0.005 * float(seen.std()))
    assert float(deviation) == pytest.approx(float(seen.std()), rel=2e-3)
    if isinstance(likelihood, ZeroInflatedNegativeBinomial):
        assert float(probability[0]) == pytest.approx(float((seen == 0).double().mean()), abs=1e-3)


def test_counts_without_extra_zeros_start_with_few():
    rows = NegativeBinomial().sample(torch.tensor([2.0, 0.5]).view(1, 1, 2, 1).expand(-1, -1, -1, 20_000), rng(3))
    params = ZeroInflatedNegativeBinomial().initialise(rows.view(-1, 1))
    assert params[0].sigmoid() < 0.03
    none = ZeroInflatedNegativeBinomial().initialise(torch.stack([torch.zeros(50), 1e6 + torch.arange(50.0)], 1))
    assert none.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("df", [1.5, 3.0, "learned", 100.0])
def test_a_t_starts_at_the_quartiles_whatever_the_outliers(df, masked):
    likelihood = StudentT(df, "dimension", shape=(1,), min_scale=1e-6).double()
    degrees = float(likelihood.degrees().detach())
    rows = torch.tensor(scipy.stats.t(degrees, 7, 2).ppf((np.arange(4001) + 0.5) / 4001)).view(-1, 1)
    rows[:3] = -1e15
    mask = torch.rand(rows.shape, generator=rng(4)) < 0.7 if masked else None
    seen = rows[mask] if masked else rows.view(-1)
    params = likelihood.initialise(torch.where(mask, rows, math.nan) if masked else rows, mask)
    low, median, high = np.quantile(seen, [0.25, 0.5, 0.75])
    assert float(likelihood.mean(params.view(1, 1, 1, 1)).detach()) == pytest.approx(median, rel=1e-12)
    ends = scipy.stats.t(degrees, 0, float(likelihood.sigma().detach())).ppf([0.25, 0.75])
    assert ends[1] - ends[0] == pytest.approx(high - low, rel=1.5e-3)


def test_a_t_of_repeated_or_unobserved_values_has_a_finite_start():
    x = torch.zeros(100, 3)
    x[:10, 0] = 5.0  # the quartiles are the same
    mask = torch.ones(100, 3, dtype=torch.bool)
    mask[:, 2] = False
    likelihood = StudentT(scale="dimension", shape=(3,))
    params = likelihood.initialise(x, mask)
    assert likelihood.spread[0] == pytest.approx(1.5)  # the deviation
    assert likelihood.spread[1:].tolist() == [1.0, 1.0]
    assert likelihood.log_prob(params.expand(1, 100, 1, 3), x, mask).isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_a_log_normal_starts_with_the_moments_of_the_logarithm(masked):
    rows = (2 + 0.5 * torch.randn(3000, 2, generator=rng(), dtype=torch.float64)).exp()
    mask = torch.rand(rows.shape, generator=rng(4)) < 0.7 if masked else torch.ones(rows.shape, dtype=torch.bool)
    likelihood = LogNormal("entry", shape=(2,)).double()
    params = likelihood.initialise(torch.where(mask, rows, math.nan), mask).view(1, 1, 2, 2)
    for column in range(2):
        seen = rows[mask[:, column], column].log()
        assert float(likelihood.mu(params)[..., column]) == pytest.approx(float(seen.mean()), rel=1e-9)
        spread = float(seen.std(correction=0))
        assert float(likelihood.sigma(params)[..., column]) == pytest.approx(1.001 * spread, rel=1e-9)


@pytest.mark.parametrize("scale", ["entry", "dimension"])
def test_a_log_normal_of_rounded_values_is_no_narrower_than_their_rounding(scale):
    steps = (0.1, 0.0, 40.0)
    exact = (1.0 + torch.tensor([0.3, 0.3, 0.02]) * torch.randn(4000, 3, generator=rng())).exp().double()
    likelihood = LogNormal(scale, (3,), 1e-3, steps).double()
    params = likelihood.initialise(exact).view(1, 1, -1, 3).clone()
    if scale == "entry":
        params[:, :, 1] = -50.0  # as narrow as it goes
    else:
        likelihood.raw_scale.data.fill_(-50.0)
    spread = exact.log().std(0, correction=0)
    rounding = 0.1 / math.sqrt(12) / exact[:, 0].log().mean().exp()  # the deviation of rounding, of log x
    due = torch.stack([rounding, 1e-3 * spread[1], 0.5 * spread[2]])
    torch.testing.assert_close(likelihood.sigma(params).flatten().expand(3), due, rtol=1e-6, atol=0)


def test_learned_degrees_of_freedom_start_at_5_and_stay_above_1():
    likelihood = StudentT()
    assert likelihood.degrees().item() == pytest.approx(5)
    with torch.no_grad():
        likelihood.raw_df.fill_(-60.0)
    value = likelihood.log_prob(torch.zeros(1, 1, 1, 2), torch.tensor([[0.0, 3.0]]))
    value.sum().backward()
    assert likelihood.degrees() >= 1
    assert float(value.detach()) == pytest.approx(scipy.stats.t(1).logpdf([0, 3.006 / 1.001]).sum(), abs=4e-3)
    assert likelihood.raw_df.grad.isfinite()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: StudentT(1.0), "above 1"),
        (lambda: StudentT("free"), "learned"),
        (lambda: StudentT(scale="wide"), "scale"),
        (lambda: LogNormal("entry", (2,), resolution=(0.1, -1.0)), "resolution must be 0 or more"),
        (lambda: LogNormal("entry", (2,), resolution=(0.1,)), "resolution has 1 numbers"),
        (lambda: LogNormal("scalar", (2,), resolution=(0.1, 0.2)), "resolution has one number per value"),
        (lambda: Ordinal(1), "n_classes must be at least 2"),
        (lambda: BetaBinomial(0), "trials must be at least 1"),
        (lambda: DiscretizedLogisticMixture(1), "levels must be at least 2"),
        (lambda: DiscretizedLogisticMixture(components=0), "components must be at least 1"),
        (lambda: FullNormal(()), "shape"),
        (lambda: LowRankNormal((3,), 4), "from 1 to"),
        (lambda: Multinomial("counts"), 'given must be "logits" or "probabilities"'),
        (lambda: Product([]), "at least one"),
        (lambda: Product([Bernoulli(), FullNormal((2,))]), "column 1: FullNormal"),
        (lambda: Product([Bernoulli()] * 2), "its own"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, why):
    with pytest.raises(ValueError, match=why):
        make()


def test_a_discretised_logistic_is_a_difference_of_cdfs():
    likelihood = DiscretizedLogistic(17).double()
    params = parameters(likelihood)
    loc, scale = (part.view(-1, 1).numpy() for part in likelihood._loc_scale(params))
    edges = scipy.stats.logistic(loc, scale).cdf(np.arange(18) - 0.5)
    edges[:, 0], edges[:, -1] = 0, 1
    _, probability = masses(likelihood, params)
    np.testing.assert_allclose(probability, np.diff(edges), rtol=1e-9, atol=1e-15)


def test_a_rounded_logistic_is_a_difference_of_cdfs_and_its_mean_their_sum():
    """Whatever the location and the scale, on both sides of where its mean changes from one rule to the other."""
    loc, scale = (
        each.ravel() for each in np.meshgrid([-30.0, -1.2, 0.0, 0.4, 3.5, 41.0, 200.3], [0.01, 0.3, 1.0, 1.99, 2.0, 25])
    )
    likelihood = RoundedLogistic("entry").double()
    params = torch.stack([torch.tensor(loc), inverse_positive(torch.tensor(scale) - 1e-3)], 1).view(-1, 1, 2, 1)
    x = torch.arange(1200.0, dtype=torch.float64)
    found = likelihood.log_prob_per_value(params.expand(-1, -1, -1, 1200), x).squeeze(1).exp()
    edges = scipy.stats.logistic(loc[:, None], scale[:, None]).cdf(np.arange(1201) - 0.5)
    edges[:, 0] = 0
    np.testing.assert_allclose(found, np.diff(edges), rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(likelihood.mean(params).flatten(), found @ x, rtol=1e-9, atol=1e-9)
    assert float(found.sum(1).min()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rare", [0, 1, 20])
def test_a_rounded_logistic_starts_at_the_mean_and_with_room_for_the_rare(rare):
    x = torch.full((2000, 1), 3.0, dtype=torch.float64)
    x[:rare] = 4
    likelihood = RoundedLogistic("entry", (1,)).double()
    params = likelihood.initialise(x).view(1, 1, 2, 1)
    assert float(likelihood.mean(params)) == pytest.approx(float(x.mean()), abs=0.01)
    if rare:
        seen = likelihood.log_prob_per_value(params, torch.tensor([[4.0]], dtype=torch.float64))
        assert abs(float(seen) - math.log(rare / 2000)) < 1.5
    sparse = torch.distributions.NegativeBinomial(torch.tensor(0.3), torch.tensor(0.84)).sample((4000, 1)).double()
    params = likelihood.initialise(sparse).view(1, 1, 2, 1)
    assert float(likelihood.mean(params)) == pytest.approx(float(sparse.mean()), rel=1e-3)
    none = likelihood.initialise(torch.zeros(50, 1, dtype=torch.float64)).view(1, 1, 2, 1)
    assert float(likelihood.mean(none)) < 0.01


def test_discretised_logistics_are_a_mixture_of_them():
    one, mixture = DiscretizedLogistic(17).double(), DiscretizedLogisticMixture(17, 3).double()
    params = parameters(mixture)
    weight = params[:, 0, :3, 0].softmax(1)
    _, probability = masses(mixture, params)
    parts = torch.stack([masses(one, params[:, :, [3 + m, 6 + m]])[1] for m in range(3)], 1)
    np.testing.assert_allclose(probability, (weight.unsqueeze(2) * parts).sum(1), rtol=1e-12)


@pytest.fixture(params=["logits", "probabilities"])
def multinomial(request: pytest.FixtureRequest) -> tuple[Multinomial, torch.Tensor]:
    """With parameters ``[PARAMETER_SETS, 1, 1, 4]``, of which one probability is near 0."""
    params = 2 * torch.randn(PARAMETER_SETS, 1, 1, 4, generator=rng(1), dtype=torch.float64)
    params[0, ..., 2] = -40.0
    return Multinomial(request.param).double(), params if request.param == "logits" else params.exp()


def all_counts(n: int, values: int) -> torch.Tensor:
    each = itertools.product(range(n + 1), repeat=values)
    return torch.tensor([x for x in each if sum(x) == n], dtype=torch.float64)


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("mask", [None, [True, False, True, True], [False] * 4])
def test_counts_given_their_sum_sum_to_one_and_are_scipys(multinomial, n, mask):
    likelihood, params = multinomial
    seen = [True] * 4 if mask is None else mask
    x = torch.full((1, 4), math.nan, dtype=torch.float64)
    some = all_counts(n if any(seen) else 0, sum(seen))
    x = x.repeat(len(some), 1)
    x[:, seen] = some
    given = None if mask is None else torch.tensor(mask).expand_as(x)
    found = likelihood.log_prob(params.expand(-1, len(x), -1, -1), x if mask is None else x.nan_to_num(9.0), given)
    np.testing.assert_allclose(found.exp().sum(1), 1, rtol=1e-12)
    if any(seen):
        p = params[:, 0, 0][:, seen]
        p = p.softmax(-1) if likelihood.given == "logits" else p / p.sum(-1, keepdim=True)
        for own, due in zip(p, found, strict=True):
            np.testing.assert_allclose(
                due, scipy.stats.multinomial(n, own.numpy()).logpmf(some.numpy()), rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_a_multinomial_are_those_of_finite_differences(multinomial, masked):
    likelihood, params = multinomial
    params = params.clamp(min=0.05 if likelihood.given == "probabilities" else -9).requires_grad_()
    x = torch.tensor([[2.0, 0, 1, 40]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True]]) if masked else None
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(p, x, mask), (params,), atol=1e-6)
    (gradient,) = torch.autograd.grad(likelihood.log_prob(params, x, mask).sum(), params)
    assert not masked or bool((gradient[..., 2] == 0).all())


def test_a_word_of_no_probability_leaves_gradients_finite():
    params = torch.tensor([[[[0.5, 0.5, 0.0]]]], requires_grad=True)
    value = Multinomial("probabilities").log_prob(params, torch.tensor([[3.0, 1.0, 0.0]]))
    value.sum().backward()
    assert value.item() == pytest.approx(math.log(4 / 16))
    assert params.grad.isfinite().all()
    assert Multinomial("probabilities").log_prob(params, torch.tensor([[0.0, 0.0, 1.0]])).item() < -80


def test_draws_of_a_multinomial_have_its_moments(multinomial):
    # 6 sets x 4 values x 2 moments, beyond 5 standard errors: a false alarm once in 36,000 runs.
    likelihood, params = multinomial
    likelihood.total.fill_(7.3)
    draws = 20_000
    x = likelihood.sample(params.expand(-1, draws, -1, -1), rng(2))
    assert (x.sum(-1) == 7).all()
    mean = likelihood.mean(params)[:, 0] * 7 / 7.3
    error = (x.mean(1) - mean).abs() / (mean * (1 - mean / 7) / draws).sqrt().clamp(min=1e-12)
    assert (error[mean > 1e-6] < 5).all()
    variance = mean * (1 - mean / 7)
    fourth = ((x - mean.unsqueeze(1)) ** 4).mean(1)
    spread = ((x - mean.unsqueeze(1)) ** 2).mean(1)
    assert ((spread - variance).abs() < 5 * ((fourth - spread**2) / draws).sqrt())[mean > 1e-6].all()
    assert ((spread - mean).abs() > 5 * ((fourth - spread**2) / draws).sqrt())[mean > 0.5].all(), (
        "Poissons are a mutant"
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("given", ["logits", "probabilities"])
def test_a_multinomial_starts_at_the_shares_and_the_sum_of_the_data(given, masked):
    rates = torch.tensor([0.0, 1.0, 5.0, 14.0], dtype=torch.float64)
    x = torch.poisson(rates.expand(5000, 4), generator=rng(3))
    mask = torch.rand(x.shape, generator=rng(4)) < 0.7 if masked else None
    likelihood = Multinomial(given).double()
    params = likelihood.initialise(x if mask is None else torch.where(mask, x, math.nan), mask)
    np.testing.assert_allclose(likelihood.mean(params.view(1, 1, 1, 4)).flatten(), rates, atol=0.15)
    assert params.isfinite().all()


def test_a_long_documents_coefficient_keeps_its_digits():
    params = torch.zeros(1, 1, 1, 3)
    x = torch.tensor([[1_000_000.0, 1_000_000.0, 1_000_000.0]])
    exact = scipy.stats.multinomial(3_000_000, [1 / 3] * 3).logpmf([1_000_000] * 3)
    assert Multinomial().log_prob(params, x).item() == pytest.approx(exact, abs=0.5)  # x log p rounds at .25


CORRELATED = {"full": FullNormal, "low rank": partial(LowRankNormal, rank=2)}


@pytest.fixture(params=CORRELATED)
def correlated(request: pytest.FixtureRequest) -> FullNormal | LowRankNormal:
    """Of shape [2, 3], with everything that it learns or holds somewhere else than at first."""
    likelihood = CORRELATED[request.param](shape=(2, 3)).double()
    with torch.no_grad():
        for value in (*likelihood.parameters(), likelihood.shift):
            value.copy_(torch.randn(value.shape, generator=rng(5), dtype=torch.float64))
        likelihood.spread.copy_(torch.rand(2, 3, generator=rng(6)) + 0.5)
    return likelihood


def covariance_of(likelihood: FullNormal | LowRankNormal) -> np.ndarray:
    """[D, D], from its parameters."""
    value = {name: tensor.double().numpy() for name, tensor in likelihood.state_dict().items()}
    scale = np.log1p((math.e - 1) * np.exp(value["raw_scale"]))
    if isinstance(likelihood, FullNormal):
        factor = np.tril(value["below"], -1) + np.diag(scale)
        inner = factor @ factor.T + 1e-6 * np.eye(len(scale))
    else:
        inner = np.diag((scale + 1e-3) ** 2) + value["factors"] @ value["factors"].T
    return inner * np.outer(value["spread"], value["spread"])


def rows_and_params(seed: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [4, 2, 3], params [5, 4, 1, 2, 3] and a mask: of a whole row, of no value, and of some."""
    x = 2 * torch.randn(4, 2, 3, generator=rng(seed), dtype=torch.float64)
    params = torch.randn(5, 4, 1, 2, 3, generator=rng(seed + 1), dtype=torch.float64)
    mask = torch.rand(4, 2, 3, generator=rng(seed + 2)) < 0.6
    mask[0], mask[1] = True, False
    return x, params, mask


def test_correlated_values_have_the_density_of_scipys_and_its_marginals(correlated):
    x, params, mask = rows_and_params()
    covariance, mean = covariance_of(correlated), correlated.mean(params).flatten(2).numpy()
    whole = correlated.log_prob(params, x).detach()
    part = correlated.log_prob(params, torch.where(mask, x, math.nan), mask).detach()
    assert torch.allclose(correlated.log_prob(params, x, torch.ones_like(mask)).detach(), whole, rtol=1e-12)
    for k in range(len(params)):
        for b in range(len(x)):
            row, seen = x[b].flatten().numpy(), mask[b].flatten().numpy()
            truth = scipy.stats.multivariate_normal(mean[k, b], covariance).logpdf(row)
            assert float(whole[k, b]) == pytest.approx(truth, rel=1e-10)
            truth = 0.0
            if seen.any():
                marginal = scipy.stats.multivariate_normal(mean[k, b][seen], covariance[np.ix_(seen, seen)])
                truth = marginal.logpdf(row[seen])
            assert float(part[k, b]) == pytest.approx(truth, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_correlated_values(correlated, masked):
    x, params, mask = rows_and_params()
    params, given = params[:2].requires_grad_(), mask if masked else None
    learned = list(correlated.parameters())
    assert torch.autograd.gradcheck(lambda p, *_: correlated.log_prob(p, x, given), (params, *learned), atol=1e-6)
    if masked:
        value = correlated.log_prob(params, torch.where(mask, x, math.nan), mask).sum()
        (gradient, *others) = torch.autograd.grad(value, (params, *learned))
        assert (gradient[:, ~mask.unsqueeze(1)] == 0).all()
        assert (gradient[:, mask.unsqueeze(1)] != 0).all()
        assert all(other.isfinite().all() for other in others)


def test_samples_of_correlated_values(correlated):
    # 6 means and 21 covariances, each rejected beyond 5 standard errors: a false alarm once in 64,000 runs. The same
    # noise through the wrong covariance, transposed or without what is shared, must be found.
    draws, params = 50_000, torch.zeros(1, 1, 1, 2, 3, dtype=torch.float64)
    truth = torch.tensor(covariance_of(correlated))

    def errors() -> torch.Tensor:
        sample = correlated.sample(params.expand(1, draws, 1, 2, 3), rng(8)).detach().view(draws, 6)
        off = sample - correlated.shift.flatten()
        squares = truth.diagonal().outer(truth.diagonal()) + truth.square()
        of_covariance = (off.T @ off / draws - truth) / (squares / draws).sqrt()
        return torch.cat([off.mean(0) / (truth.diagonal() / draws).sqrt(), of_covariance.flatten()]).abs()

    assert errors().max() < 5
    with torch.no_grad():
        hidden = correlated.below if isinstance(correlated, FullNormal) else correlated.factors
        hidden.copy_(hidden.T.clone() if isinstance(correlated, FullNormal) else hidden.flip(0))
    assert errors().max() > 5


@pytest.mark.parametrize("masked", [False, True])
def test_correlated_values_start_as_each_ones_own(correlated, masked):
    x = 3 + 2 * torch.randn(500, 2, 3, generator=rng(), dtype=torch.float64) * torch.arange(1.0, 4.0)
    mask = torch.rand(x.shape, generator=rng(4)) < 0.7 if masked else torch.ones(x.shape, dtype=torch.bool)
    params = correlated.initialise(torch.where(mask, x, math.nan), mask if masked else None)
    assert params.shape == (1, 2, 3)
    mean, variance = correlated.mean(params.view(1, 1, 1, 2, 3)).flatten(), np.diag(covariance_of(correlated))
    for i in range(6):
        seen = x.flatten(1)[mask.flatten(1)[:, i], i]
        assert float(mean[i]) == pytest.approx(float(seen.mean()), rel=1e-9)
        assert variance[i] == pytest.approx(float(seen.var(correction=0)), rel=0.02)


@pytest.mark.parametrize("kind", [FullNormal, partial(LowRankNormal, rank=3)])
def test_nearly_singular_covariances_in_single_precision(kind):
    # 40 values that share nearly all: standard deviations of 1e-3 of their own, beside shared ones of 1.
    likelihood = kind(shape=(40,))
    with torch.no_grad():
        likelihood.raw_scale.fill_(-10.0)
        shared = likelihood.below if isinstance(likelihood, FullNormal) else likelihood.factors
        shared[:, :3] = torch.randn(40, 3, generator=rng(1))
    params = torch.zeros(1, 50, 1, 40)
    x = likelihood.sample(params, rng(2)).detach().squeeze(0)
    mask = torch.rand(50, 40, generator=rng(3)) < 0.7
    single = [likelihood.log_prob(params, x, seen) for seen in (None, mask)]
    gradient = torch.autograd.grad(single[1].sum(), [likelihood.raw_scale, shared])
    likelihood.double()
    double = [likelihood.log_prob(params.double(), x.double(), seen) for seen in (None, mask)]
    exact = torch.autograd.grad(double[1].sum(), [likelihood.raw_scale, shared])
    for ours, truth in zip(single, double, strict=True):
        np.testing.assert_allclose(ours.detach().double(), truth.detach(), rtol=1e-3)
    for ours, truth in zip(gradient, exact, strict=True):
        assert (ours.double() - truth).norm() < 0.01 * truth.norm()


@pytest.fixture
def by_row() -> tuple[CholeskyNormal, torch.Tensor, np.ndarray]:
    """A covariance per row and draw: the likelihood of shape [2, 3], params [5, 4, 7, 2, 3], and covariances."""
    likelihood = CholeskyNormal((2, 3)).double()
    likelihood.shift.copy_(torch.randn(2, 3, generator=rng(5)))
    likelihood.spread.copy_(torch.rand(2, 3, generator=rng(6)) + 0.5)
    params = torch.randn(5, 4, 7, 2, 3, generator=rng(9), dtype=torch.float64)
    rows = params[:, :, 1:].flatten(3).numpy()
    diagonal = np.log1p((math.e - 1) * np.exp(rows.diagonal(axis1=2, axis2=3))) + 1e-3
    factor = np.tril(rows, -1) + diagonal[..., None] * np.eye(6)
    spread = likelihood.spread.flatten().numpy()
    return likelihood, params, factor @ factor.swapaxes(2, 3) * np.outer(spread, spread)


def test_covariances_of_each_row_have_the_density_of_scipys_and_its_marginals(by_row):
    likelihood, params, covariance = by_row
    x, _, mask = rows_and_params()
    mean = likelihood.mean(params).flatten(2).numpy()
    whole = likelihood.log_prob(params, x)
    part = likelihood.log_prob(params, torch.where(mask, x, math.nan), mask)
    for k, b in np.ndindex(5, 4):
        row, seen = x[b].flatten().numpy(), mask[b].flatten().numpy()
        truth = scipy.stats.multivariate_normal(mean[k, b], covariance[k, b]).logpdf(row)
        assert float(whole[k, b]) == pytest.approx(truth, rel=1e-10)
        own = mean[k, b][seen], covariance[k, b][np.ix_(seen, seen)]
        truth = scipy.stats.multivariate_normal(*own).logpdf(row[seen]) if seen.any() else 0.0
        assert float(part[k, b]) == pytest.approx(truth, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_covariances_of_each_row(by_row, masked):
    likelihood, params, _ = by_row
    x, _, mask = rows_and_params()
    params = params[:2].requires_grad_()
    given, values = (mask, torch.where(mask, x, math.nan)) if masked else (None, x)
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(p, values, given), (params,), atol=1e-6)


def test_samples_of_covariances_of_each_row(by_row):
    # 6 means and 21 covariances, each rejected beyond 5 standard errors; a transposed factor must be found.
    likelihood, params, covariance = by_row
    one, draws = params[:1, :1], 50_000

    def errors(params: torch.Tensor) -> float:
        sample = likelihood.sample(params.expand(1, draws, -1, -1, -1), rng(8)).view(draws, 6)
        off, truth = sample - likelihood.mean(one).flatten(), torch.tensor(covariance[0, 0])
        squares = truth.diagonal().outer(truth.diagonal()) + truth.square()
        found = (off.T @ off / draws - truth) / (squares / draws).sqrt()
        return float(max(found.abs().max(), (off.mean(0) / (truth.diagonal() / draws).sqrt()).abs().max()))

    assert errors(one) < 5
    turned = one.clone()
    turned[:, :, 1:] = one[:, :, 1:].flatten(3).mT.unflatten(3, (2, 3))
    assert errors(turned) > 5


def test_one_scale_per_row_is_that_of_the_mean_of_its_parameter():
    likelihood = Normal("row", (3,)).double()
    likelihood.spread.copy_(torch.tensor([1.0, 2.0, 2.0]))
    params = torch.randn(2, 4, 2, 3, generator=rng(1), dtype=torch.float64)
    raw = params[:, :, 1].mean(2, keepdim=True).numpy()
    sigma = math.sqrt(3) * (np.log1p((math.e - 1) * np.exp(raw)) + 1e-3)  # of spreads with a mean square of 3
    np.testing.assert_allclose(likelihood.sigma(params), np.broadcast_to(sigma, (2, 4, 3)), rtol=1e-12)


def product() -> Product:
    columns = [Normal(), Bernoulli(), Categorical(4), ZeroInflatedNegativeBinomial(), LogNormal("entry"), Ordinal(3)]
    return Product(columns).double()


MIXED = torch.tensor([[0.3, 1, 3, 0, 2.5, 2], [-1.2, 0, 0, 7, 0.1, 1]], dtype=torch.float64)


def test_a_product_is_the_sum_of_its_columns():
    likelihood = product()
    params = torch.randn(3, 2, likelihood.n_parameters, 6, generator=rng(), dtype=torch.float64).requires_grad_()
    assert likelihood.n_parameters == 4
    assert likelihood.measure == "mixed"
    assert likelihood.measures == ("Lebesgue", "counting", "counting", "counting", "Lebesgue", "counting")
    assert Product([Bernoulli(), Poisson()]).measure == "counting"
    values = likelihood.log_prob_per_value(params, MIXED)
    for column, part in enumerate(likelihood.likelihoods):
        own = params[:, :, : part.n_parameters, column : column + 1]
        alone = part.log_prob(own, MIXED[:, column : column + 1])
        assert torch.equal(values[:, :, column], alone)
    assert torch.equal(likelihood.log_prob(params, MIXED), values.sum(2))
    (gradient,) = torch.autograd.grad(values.sum(), params)
    for column, part in enumerate(likelihood.likelihoods):
        assert (gradient[:, :, part.n_parameters :, column] == 0).all()


def test_a_product_leaves_unobserved_columns_out():
    likelihood = product()
    params = torch.randn(3, 2, 4, 6, generator=rng(), dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True, False, True, False, False, True], [False, True, False, True, True, False]])
    value = likelihood.log_prob(params, torch.where(mask, MIXED, math.nan), mask)
    assert torch.allclose(value, torch.where(mask, likelihood.log_prob_per_value(params, MIXED), 0).sum(2))
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert gradient.isfinite().all()
    assert (gradient.movedim(2, -1)[:, ~mask] == 0).all()
    assert (gradient.movedim(2, -1)[:, mask].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_a_product_starts_and_draws_as_its_columns_do(masked):
    likelihood, alone = product(), product()
    params = torch.randn(1, 1, 4, 6, generator=rng(9), dtype=torch.float64)
    rows = likelihood.sample(params.expand(1, 2000, 4, 6), rng(1)).detach().squeeze(0)
    assert rows.shape == (2000, 6)
    assert likelihood.support.check(rows).all()
    assert not likelihood.support.check(rows - 1e6)[:, 1:].any()
    mask = torch.rand(rows.shape, generator=rng(2)) < 0.7 if masked else None
    bias = likelihood.initialise(rows if mask is None else torch.where(mask, rows, math.nan), mask)
    assert bias.shape == (4, 6)
    point = likelihood.mean(bias.view(1, 1, 4, 6))
    for column, part in enumerate(alone.likelihoods):
        one = slice(column, column + 1)
        own = part.initialise(rows[:, one], None if mask is None else mask[:, one])
        assert torch.equal(bias[: part.n_parameters, one], own)
        assert (bias[part.n_parameters :, one] == 0).all()
        assert torch.equal(point[..., one], part.point(own.view(1, 1, -1, 1)))


def test_a_product_refuses_another_number_of_columns():
    with pytest.raises(ValueError, match="likelihoods for 6 columns, but the data have 5"):
        product().log_prob(torch.zeros(1, 2, 4, 6).double(), MIXED[:, :5])


@pytest.mark.parametrize("kind", ["product", "full", "low rank"])
def test_a_model_of_rows_whose_values_are_not_alike_or_not_independent(kind):
    likelihood = product() if kind == "product" else CORRELATED[kind](shape=(6,)).double()
    decoder = nn.MLP((2,), (4, 6) if kind == "product" else (6,), (5,))
    model = LatentVariableModel(priors.Normal(2), decoder, likelihood).double()
    model.initialise(MIXED)
    z = torch.randn(3, 2, 2, generator=rng(), dtype=torch.float64)
    model.log_lik(z, MIXED).sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    assert model.sample(4, rng()).shape == (4, 6)


@pytest.mark.parametrize("shape", [(7,), (64,), (28, 28), (131,)])
def test_a_bernoulli_row_without_gradients_is_the_sum_of_its_values(shape):
    """By products of many factors: as exact as the sum, and no overflow where every factor is 2."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 3.0, 1e4):
        logits = scale * torch.randn(5, 3, 1, *shape, generator=generator)
        x = (torch.rand(3, *shape, generator=generator) < 0.5).float()
        exact = Bernoulli().log_prob(logits.double().requires_grad_(), x.double()).detach()
        with torch.no_grad():
            found = Bernoulli().log_prob(logits, x)
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-4)
    with torch.no_grad():
        certain = Bernoulli().log_prob(1e4 * (2 * x - 1).unsqueeze(1).expand(5, -1, -1, *shape), x)
    assert torch.equal(certain, torch.zeros_like(certain))  # large terms that cancel would leave their rounding


@pytest.mark.parametrize("log_mean", [-120.0, -1.0, 1.8, 100.0])
@pytest.mark.parametrize("log_r", [-120.0, 89.0, 1000.0])
def test_counts_at_any_parameters_have_finite_gradients(log_mean, log_r):
    """Counts that vary less than Poisson's drive r to the overflow of its exponential."""
    params = torch.tensor([log_mean, log_r]).view(1, 1, 2, 1).requires_grad_()
    for x in (0.0, 6.0):
        value = NegativeBinomial().log_prob(params, torch.tensor([[x]])).sum()
        (slope,) = torch.autograd.grad(value, params)
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()
    assert torch.isfinite(NegativeBinomial().sample(params.detach(), rng())).all()
    poisson = torch.distributions.Poisson(torch.tensor(6.0))
    params = torch.tensor([math.log(6), 1000.0]).view(1, 1, 2, 1)
    found = NegativeBinomial().log_prob(params, torch.tensor([[4.0]]))
    torch.testing.assert_close(found[0, 0], poisson.log_prob(torch.tensor(4.0)))
