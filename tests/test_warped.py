"""A Student's t of a monotone transform: its density, inverse, marginals, means and missing cells."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from oracles import rng

import lowerbound as lb
from lowerbound.distributions import inverse_positive
from lowerbound.distributions.splines import inverse_spline, spline
from lowerbound.likelihoods import Atoms, LogNormal, Product, SelfMasking, StudentT, Warped
from lowerbound.likelihoods.missingness import Line
from lowerbound.nn import MLP, seeded

ROWS = 4000


def data(name: str) -> torch.Tensor:
    """A column whose marginal no Student's t and no log-normal has."""
    levels = torch.tensor((np.arange(ROWS) + 0.5) / ROWS)
    normal = torch.tensor(scipy.stats.norm.ppf(levels))
    columns = {
        "two modes": torch.cat([normal[::2] * 0.3 - 2, normal[1::2] * 0.8 + 3]),
        "skewed": -torch.log1p(-levels) * 40,
        "heavy": torch.tensor(scipy.stats.cauchy.ppf(levels)) * 1e3 - 7,
        "ends": 5 + levels,
        "two positive modes": torch.cat([normal[::2] * 0.05 + 1, normal[1::2] * 0.2 + 3]).exp(),
        "shares": torch.cat([levels[::2] * 0.1, 1 - levels[1::2].square() * 0.3]).clamp(1e-4, 1 - 1e-4),
    }
    return columns[name]


COLUMNS = {
    "two modes": "real",
    "skewed": "positive",
    "heavy": "real",
    "ends": "real",
    "two positive modes": "positive",
    "shares": "unit",
}


def started(name: str, scale: str = "entry", **options) -> tuple[Warped, torch.Tensor]:
    """A likelihood in double precision, initialised from a column, and its parameters ``[1, 1, P, 1]``."""
    likelihood = Warped(COLUMNS[name], scale, (1,), **options).double()
    params = likelihood.initialise(data(name).unsqueeze(1))
    return likelihood, params.view(1, 1, -1, 1)


def edges(likelihood: Warped, params: torch.Tensor) -> np.ndarray:
    """Points u between which the density of u is smooth; they hold all but 1e-7 of the mass."""
    inner = (likelihood.shift + likelihood.spread * likelihood.knots[0, :, 0]).numpy()
    mu, sigma = float(likelihood.mu(params)), float(likelihood.sigma(params).detach())
    far = mu + sigma * np.sinh(np.linspace(-9, 9, 60))
    between = np.interp(np.arange(0, len(inner) - 1, 1 / 40), np.arange(len(inner)), likelihood.knots[1, :, 0])
    y = np.concatenate([far, float(likelihood.shift) + float(likelihood.spread) * between])
    return np.unique(np.concatenate([inner, likelihood.unwarp(torch.tensor(y).unsqueeze(-1))[0].numpy().ravel()]))


def integral(likelihood: Warped, params: torch.Tensor, of=lambda x: torch.ones_like(x)) -> float:
    """∫ of(x) p(x) dx by Gauss–Legendre quadrature in u."""
    node, weight = np.polynomial.legendre.leggauss(20)
    cut = edges(likelihood, params)
    half, middle = np.diff(cut) / 2, (cut[1:] + cut[:-1]) / 2
    u = torch.tensor((middle[:, None] + half[:, None] * node).ravel())
    back = {"real": u, "positive": u.exp(), "unit": u.sigmoid()}[likelihood.domain]
    du_dx = {"real": u * 0, "positive": -u, "unit": -(u.sigmoid() * (-u).sigmoid()).log()}[likelihood.domain]
    inside = likelihood.support.check(back) & back.isfinite()
    x = torch.where(inside, back, 0.5)
    log_p = likelihood.log_prob_per_value(params.expand(-1, -1, -1, 1), x.view(-1, 1)).detach().flatten()
    mass = torch.where(inside, (log_p - du_dx).exp() * torch.tensor((half[:, None] * weight).ravel()), 0)
    return float((mass * of(x)).sum())


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("at", [(0.0, 0.0), (1.3, -2.0), (-2.0, 1.0)])
def test_its_density_integrates_to_one(name, at):
    likelihood, _ = started(name, df=6.0)
    slack = 2e-4 if name == "shares" else 1e-6  # in double precision, shares nearer to 1 than 1e-16 are 1
    assert integral(likelihood, torch.tensor(at).double().view(1, 1, 2, 1)) == pytest.approx(1, abs=slack)


@pytest.mark.parametrize("name", COLUMNS)
def test_its_density_is_a_change_of_variables(name):
    """g' by autograd, and the density of t by scipy."""
    likelihood, _ = started(name)
    params = torch.tensor([0.4, -0.7]).double().view(1, 1, 2, 1)
    x = data(name)[:: ROWS // 40].clone().requires_grad_()
    to = {"real": lambda x: x, "positive": torch.log, "unit": torch.logit}[likelihood.domain]
    y = likelihood.warp(to(x).unsqueeze(1))[0]
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    mu, sigma, df = (
        float(each.detach()) for each in (likelihood.mu(params), likelihood.sigma(params), likelihood.degrees())
    )
    due = scipy.stats.t(df, mu, sigma).logpdf(y.detach().flatten()) + slope.log().numpy()
    found = likelihood.log_prob_per_value(params, x.detach().unsqueeze(1)).detach()
    np.testing.assert_allclose(found.flatten(), due, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", COLUMNS)
def test_it_starts_with_the_marginal_of_the_data_which_one_centre_and_scale_cannot_have(name):
    values = data(name)
    likelihood, params = started(name)
    drawn = likelihood.sample(params.expand(-1, 20_000, -1, -1), rng(1)).detach().flatten()
    assert likelihood.support.check(drawn).all()
    old = LogNormal("entry", (1,)) if likelihood.domain == "positive" else StudentT("learned", "entry", (1,))
    before = old.double().initialise(values.unsqueeze(1)).view(1, 1, -1, 1).double()
    worse = old.sample(before.expand(-1, 20_000, -1, -1), rng(1)).detach().flatten()
    found, then = (scipy.stats.ks_2samp(values, each).statistic for each in (drawn, worse))
    assert found < 0.035
    assert then > 0.05 or name == "heavy"


def test_samples_have_the_distribution_of_the_density():
    likelihood, _ = started("two modes")
    params = torch.tensor([0.9, -1.0]).double().view(1, 1, 2, 1)
    drawn = likelihood.sample(params.expand(-1, ROWS, -1, -1), rng(2)).detach().flatten()
    cuts = drawn.quantile(torch.linspace(0.1, 0.9, 9).double())
    shares = [integral(likelihood, params, lambda x, cut=cut: (x < cut).double()) for cut in cuts]
    np.testing.assert_allclose(shares, np.linspace(0.1, 0.9, 9), atol=2.9 / math.sqrt(ROWS))


AWKWARD = {
    "constant": torch.full((100,), 0.1),
    "two values": torch.arange(100.0) % 2,
    "few rows": torch.linspace(0, 1, 8),
    "one row": torch.ones(1),
    "mostly one value": torch.cat([torch.full((900,), 2.0), torch.linspace(0, 9, 100)]),
    "almost the same values": 1 + 1e-7 * torch.arange(100.0),
    "one far value": torch.cat([torch.randn(499, generator=rng()), torch.tensor([1e15])]),
    "tiny": 1e-25 * torch.randn(300, generator=rng()),
    "huge": 1e18 * torch.randn(300, generator=rng()),
    "whole numbers": torch.randint(0, 7, (500,), generator=rng()).float(),
    "two far groups": torch.cat([1e-4 * torch.randn(300, generator=rng()), 1e5 + torch.randn(300, generator=rng())]),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("domain", ["real", "positive", "unit"])
def test_any_column_has_a_finite_increasing_transform(name, domain):
    """In single precision: inverse ∘ g is the identity, slopes are positive, and densities and gradients are finite."""
    x = AWKWARD[name].unsqueeze(1)
    x = (
        x
        if domain == "real"
        else x.abs() + 1e-30
        if domain == "positive"
        else (x / x.abs().max()).abs().clamp(1e-6, 1 - 1e-6)
    )
    likelihood = Warped(domain, "entry", (1,), resolution=1e-3)
    params = likelihood.initialise(x).view(1, 1, 2, 1).expand(-1, len(x), -1, -1).clone().requires_grad_()
    knots = likelihood.knots[..., 0]
    assert (knots[:2].diff(dim=1) > 0).all()
    assert ((knots[2] > 0) & knots.isfinite()).all()
    log_prob = likelihood.log_prob_per_value(params, x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert params.grad.isfinite().all()
    for values in (likelihood.mean(params), likelihood.sample(params, rng())):
        assert values.isfinite().all()
        assert likelihood.support.check(values).all()
    u = torch.linspace(-1.2, 1.2, 401).unsqueeze(1) * knots[0].abs().max()
    y, log_slope = spline(likelihood.knots, u)
    back, log_slope_back = inverse_spline(likelihood.knots, y)
    flattest = torch.minimum(log_slope, log_slope_back).exp()
    assert ((back - u).abs() <= 1e-5 * (1 + u.abs() + (1 + y.abs()) / flattest)).all()
    steepest = 2 * (knots[1].diff() / knots[0].diff()).max().maximum(knots[2].max())
    assert ((spline(likelihood.knots, back)[0] - y).abs() <= 1e-5 * (1 + y.abs()) + 1e-6 * u.abs() * steepest).all()


def test_each_column_has_its_own_transform_and_missing_values_have_no_part_in_it():
    x = torch.stack([data("two modes"), data("skewed")], 1)
    mask = torch.rand(x.shape, generator=rng()) < 0.7
    together = Warped("real", "entry", (2,)).double()
    together.initialise(torch.where(mask, x, math.nan), mask)
    for j in range(2):
        alone = Warped("real", "entry", (1,)).double()
        alone.initialise(x[mask[:, j], j].unsqueeze(1))
        torch.testing.assert_close(together.knots[..., j], alone.knots[..., 0])
    atoms = Atoms(Warped("real", "entry", (2,)), [[0.0], []]).double()
    with_zeros = torch.where(mask, x, 0)
    atoms.initialise(with_zeros, mask | (torch.arange(2) == 0))
    torch.testing.assert_close(atoms.rest.knots, together.knots)


def test_tied_values_have_their_middle_score():
    x = torch.tensor([1.0, 1, 1, 2, 2, 2, 2, 2, 5, 5] * 30, dtype=torch.float64).unsqueeze(1)
    likelihood = Warped(scale="entry", shape=(1,), df=1e9).double()
    likelihood.initialise(x)
    y, _ = likelihood.warp(torch.tensor([[1.0], [2.0], [5.0]]).double())
    scores = ((y - likelihood.shift) / likelihood.spread).flatten()
    np.testing.assert_allclose(scores, scipy.stats.norm.ppf([0.15, 0.55, 0.9]), atol=1e-3)


def test_one_transform_for_all_values_of_a_row():
    rows = data("two modes").view(-1, 4)
    likelihood = Warped().double()
    params = likelihood.initialise(rows)
    found = likelihood.log_prob_per_value(params.expand(1, 1, -1, -1), rows).detach().flatten()
    alone = Warped("real", "scalar", (1,)).double()
    due = alone.log_prob_per_value(alone.initialise(rows.reshape(-1, 1)).expand(1, 1, -1, -1), rows.reshape(-1, 1))
    torch.testing.assert_close(found, due.detach().flatten())


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("at", [(0.2, -1.0), (-1.5, 0.5), (2.5, -3.0)])
def test_its_mean_is_that_of_values_limited_to_the_range_of_the_data(name, at):
    likelihood, _ = started(name)
    params = torch.tensor(at).double().view(1, 1, 2, 1)
    low, high = (float(end) for end in data(name).aminmax())
    due = integral(likelihood, params, lambda x: x.clamp(low, high))
    found = float(likelihood.typical(params).detach())
    q = data(name).quantile(torch.tensor([0.01, 0.99]).double())
    assert found == pytest.approx(due, abs=0.01 * float(q[1] - q[0]), rel=0.1 if name == "heavy" else 0)
    assert low <= found <= high


@pytest.mark.parametrize("name", ["two modes", "skewed", "shares"])
@pytest.mark.parametrize("slope", [0.0, 0.3, -1.0, 4.0, -12.0])
def test_the_missing_are_the_integral(name, slope):
    likelihood, _ = started(name)
    masking = SelfMasking(Product([likelihood])).double()
    (curve,) = masking.curves
    assert isinstance(curve, Line)
    x = data(name).unsqueeze(1)
    mask = torch.rand(x.shape, generator=rng()) < 0.7
    masking.initialise(x, mask)
    with torch.no_grad():
        curve.slope.fill_(slope)
    for at in ((0.2, -1.0), (-1.5, 0.5), (1.5, -3.0)):
        params = torch.tensor(at).double().view(1, 1, 2, 1)
        due = integral(likelihood, params, lambda x: curve.logit(x.unsqueeze(1)).detach().flatten().sigmoid())
        assert float(masking.log_missing(params).detach()) == pytest.approx(math.log(due), abs=0.01)


def test_its_scale_is_no_smaller_than_the_rounding_of_the_data():
    """σ ≥ h g'/√12, with the geometric mean of g' over the data."""
    step = 0.5
    x = data("two modes").unsqueeze(1)
    likelihood = Warped("real", "entry", (1,), min_scale=1e-6, resolution=step).double()
    likelihood.initialise(x)
    params = torch.tensor([[-1.0, -60.0], [0.8, -60.0]]).double().view(2, 1, 2, 1)
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.warp(at)[0].sum(), at)
    due = step * slope.log().mean().exp() / math.sqrt(12)
    torch.testing.assert_close(likelihood.sigma(params).detach(), due.expand(2, 1, 1), rtol=1e-4, atol=1e-5)
    wide = Warped("real", "entry", (1,), resolution=100.0).double()
    wide.initialise(x)
    assert (wide.sigma(params) <= 0.502 * wide.spread).all()


def test_gradients_of_missing_and_impossible_values_are_finite():
    likelihood, _ = started("skewed")
    params = torch.zeros(1, 3, 2, 1).double().requires_grad_()
    x = torch.tensor([[math.nan], [3.0], [math.inf]]).double()
    mask = torch.tensor([[False], [True], [False]])
    likelihood.log_prob(params, x, mask).sum().backward()
    assert params.grad.isfinite().all()
    assert (params.grad[:, [0, 2]] == 0).all()
    outside = likelihood.log_prob_per_value(params[:, :2].detach(), torch.tensor([[0.0], [-1.0]]).double())
    assert (outside == -math.inf).all()


def test_its_gradient_is_that_of_finite_differences():
    likelihood, _ = started("two modes", resolution=0.01)
    params = torch.randn(3, 5, 2, 1, generator=rng(), dtype=torch.float64).requires_grad_()
    x = data("two modes")[::800].unsqueeze(1)
    learned = list(likelihood.parameters())
    assert torch.autograd.gradcheck(lambda p, *_: likelihood.log_prob(p, x), (params, *learned), atol=1e-6)


def test_an_unfitted_one_is_a_t():
    params = torch.randn(3, 5, 2, 4, generator=rng())
    x = torch.randn(5, 4, generator=rng())
    due = StudentT("learned", "entry", (4,)).log_prob(params, x)
    torch.testing.assert_close(Warped("real", "entry", (4,)).log_prob(params, x), due)
    narrow = torch.stack([x.expand(1, -1, -1), inverse_positive(torch.full((1, 5, 4), 1e-2))], 2)
    torch.testing.assert_close(Warped("real", "entry", (4,)).mean(narrow), x.expand(1, -1, -1), rtol=1e-4, atol=1e-4)


def test_other_domains_are_refused():
    with pytest.raises(ValueError, match="domain must be"):
        Warped("complex")
    with pytest.raises(ValueError, match="resolution must be 0 or more"):
        Warped(resolution=-1.0)


def test_a_saved_one_is_the_same(tmp_path):
    x = torch.stack([data("skewed"), data("two positive modes")], 1).float()
    likelihood = Warped("positive", "entry", (2,), resolution=(0.0, 0.1))
    with seeded(0):
        model = lb.LatentVariableModel(lb.priors.Normal(1), MLP((1,), (2, 2), (3,)), Product([likelihood], [[0, 1]]))
        q = lb.posteriors.DiagonalNormal(1, MLP((2,), (2,), (3,)))
    lb.fit(model, x, lb.AEVB(q), epochs=1, validation=0)
    lb.save(tmp_path, model, q)
    params = torch.randn(1, len(x), 2, 2, generator=rng())
    found = lb.load(tmp_path).model.likelihood.log_prob(params, x)
    assert torch.equal(found, model.likelihood.log_prob(params, x))
