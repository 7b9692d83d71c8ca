"""Point masses next to a likelihood, such as that of exact zeros, against quadrature and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import rng

from lowerbound.likelihoods import (
    Atoms,
    Categorical,
    InflatedLogitNormal,
    LogitNormal,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    Product,
    StudentT,
    ZeroInflatedLogNormal,
)
from lowerbound.storage import parts

TABLE = {
    "scalar": lambda: ZeroInflatedLogNormal(),
    "fixed": lambda: ZeroInflatedLogNormal(0.7),
    "per dimension": lambda: ZeroInflatedLogNormal("dimension", (1,)),
    "per entry": lambda: ZeroInflatedLogNormal("entry"),
}


@pytest.fixture(params=TABLE)
def likelihood(request) -> ZeroInflatedLogNormal:
    return TABLE[request.param]().double()


def parameters(likelihood: ZeroInflatedLogNormal) -> torch.Tensor:
    return torch.randn(6, 1, likelihood.n_parameters, 1, generator=rng(1), dtype=torch.float64)


def density(likelihood: ZeroInflatedLogNormal, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and their probabilities, ``[sets, G]``: the atom first, then cells of a fine grid."""
    t = torch.linspace(-60, 60, 60_001, dtype=torch.float64)
    x = torch.cat([torch.zeros(1), t.exp()]).double()
    width = torch.cat([torch.ones(1).double(), (t[1] - t[0]) * t.exp()])
    with torch.no_grad():
        log_p = likelihood.log_prob_per_value(params.expand(-1, -1, -1, len(x)), x.unsqueeze(0)).squeeze(1)
    return x, log_p.exp() * width


def test_the_atom_and_the_density_sum_to_one_and_have_the_mean(likelihood):
    params = parameters(likelihood)
    x, mass = density(likelihood, params)
    np.testing.assert_allclose(mass.sum(-1), 1, atol=1e-9)
    np.testing.assert_allclose(mass[:, 0], params[:, 0, 0, 0].sigmoid(), rtol=1e-12)
    assert ((mass[:, 1:].sum(-1) - 1).abs() > 0.05).all(), "without its atom it is none"
    np.testing.assert_allclose(likelihood.mean(params).detach().flatten(), (mass * x).sum(-1), rtol=1e-9)


def test_against_scipy():
    x = np.concatenate([[0.0], np.logspace(-8, 8, 40)])
    params = torch.tensor([math.log(0.3 / 0.7), 1.5], dtype=torch.float64).view(1, 1, 2, 1).expand(-1, -1, -1, len(x))
    found = ZeroInflatedLogNormal(0.8).double().log_prob_per_value(params, torch.tensor(x).unsqueeze(0)).flatten()
    due = math.log(0.7) + scipy.stats.lognorm(0.8, scale=math.exp(1.5)).logpdf(x)
    np.testing.assert_allclose(found, np.where(x == 0, math.log(0.3), due), rtol=1e-11)
    outside = torch.tensor([[-1.0, math.nan, -math.inf]]).double()
    assert (ZeroInflatedLogNormal().double().log_prob_per_value(params[..., :3], outside) == -math.inf).all()


def test_its_samples_have_its_distribution(likelihood):
    # Each of 6 shares and of 6 distributions of the logs beyond once in 1e6: a false alarm once in 20,000 runs.
    params, draws = parameters(likelihood), 40_000
    sample = likelihood.sample(params.expand(-1, -1, -1, draws), rng(2)).detach().squeeze(1).numpy()
    assert likelihood.support.check(torch.tensor(sample)).all()
    sigma = likelihood.above.sigma(params[:, :, 1:]).detach().expand(6, 1, 1).flatten().numpy()
    for row, mu, scale, zeros in zip(
        sample, params[:, 0, 1, 0].numpy(), sigma, params[:, 0, 0, 0].sigmoid().numpy(), strict=True
    ):
        assert scipy.stats.binomtest(int((row == 0).sum()), draws, zeros).pvalue > 1e-6
        logs = np.log(row[row > 0])
        assert scipy.stats.kstest(logs, "norm", (mu, scale)).pvalue > 1e-6
        assert scipy.stats.kstest(logs, "norm", (mu + 0.2, scale)).pvalue < 1e-6, "a shifted one is found"


def test_its_gradient_is_that_of_finite_differences(likelihood):
    params = parameters(likelihood).requires_grad_()
    x = torch.tensor([[0.0, 1.3, 40.0]]).double()
    learned = list(likelihood.parameters())
    assert torch.autograd.gradcheck(
        lambda p, *_: likelihood.log_prob(p.expand(-1, -1, -1, 3), x), (params, *learned), atol=1e-6
    )


def test_unobserved_values_add_nothing_and_leave_gradients_finite(likelihood):
    params = parameters(likelihood).expand(-1, 2, -1, 3).clone().requires_grad_()
    x = torch.tensor([[0.0, math.nan, 2.0], [math.inf, 3.0, -1e30]]).double()
    mask = torch.tensor([[True, False, True], [False, True, False]])
    value = likelihood.log_prob(params, x, mask)
    alone = likelihood.log_prob_per_value(params, torch.where(mask, x, 1.0))
    assert torch.equal(value, torch.stack([alone[:, 0, 0] + alone[:, 0, 2], alone[:, 1, 1]], 1))
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert gradient.isfinite().all()
    assert (gradient.movedim(2, -1)[:, ~mask] == 0).all()
    assert (gradient.movedim(2, -1)[:, mask].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_it_starts_at_the_most_likely_constant_model(masked):
    """Any other share, location or scale has a lower likelihood, of each of two columns with their own."""
    likelihood = ZeroInflatedLogNormal("dimension", (2,), min_scale=1e-6).double()
    some = torch.rand(500, 2, generator=rng(3)) < torch.tensor([0.8, 0.3])
    x = torch.where(some, (torch.randn(500, 2, generator=rng(4)) * torch.tensor([0.5, 2.0]) + 3).exp(), 0).double()
    mask = torch.rand(500, 2, generator=rng(5)) < 0.7 if masked else None
    params = likelihood.initialise(x if mask is None else torch.where(mask, x, math.nan), mask)

    def total() -> torch.Tensor:
        values = likelihood.log_prob_per_value(params.expand(1, 500, 2, 2), x)
        return (values if mask is None else torch.where(mask, values, 0)).sum((0, 1)).detach()

    best = total()
    for place in (params[0], params[1], likelihood.above.raw_scale.data):
        for step in (-0.02, 0.02):
            place += step
            assert (total() < best).all()
            place -= step


@pytest.mark.parametrize("column", [[0.0, 0, 0, 0], [2.0, 2, 2, 2], [2.0, 0, 2, 0], [3.0, 0, 0, 0], [1.0, 2, 3, 4]])
@pytest.mark.parametrize("seen", [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
def test_columns_without_zeros_or_without_others_start_finite(column, seen):
    likelihood = ZeroInflatedLogNormal("dimension", (1,))
    x, mask = torch.tensor(column).unsqueeze(1), torch.tensor(seen).bool().unsqueeze(1)
    params = likelihood.initialise(x, mask)
    assert params.isfinite().all()
    assert params.abs().max() < 5
    assert likelihood.log_prob(params.expand(1, 4, 2, 1), x, mask).isfinite().all()
    assert likelihood.mean(params.view(1, 1, 2, 1)).isfinite().all()


def test_it_stays_finite_far_out_in_single_precision(likelihood):
    likelihood = likelihood.float()
    params = torch.cartesian_prod(*[torch.tensor([-30.0, 30.0])] * likelihood.n_parameters)
    params = params.view(-1, 1, likelihood.n_parameters, 1).expand(-1, -1, -1, 3).clone().requires_grad_()
    value = likelihood.log_prob(params, torch.tensor([[0.0, 0.2, 60.0]]))
    value.sum().backward()
    assert value.isfinite().all()
    assert params.grad.isfinite().all()
    assert likelihood.sample(params.detach() + 100, rng()).isnan().logical_not().all(), "a zero of what overflows is 0"


@pytest.mark.parametrize("largest", [0.8, 4.0, 1e3])
@pytest.mark.parametrize("scale", ["scalar", "entry"])
def test_the_estimate_of_a_missing_value_counts_larger_values_as_the_largest(scale, largest):
    """E[min(x, largest)|z], by quadrature."""
    likelihood = ZeroInflatedLogNormal(scale, largest=largest).double()
    params = parameters(likelihood)
    x, p = density(likelihood, params)
    due = (p * x.clamp(max=largest)).sum(1)
    torch.testing.assert_close(likelihood.typical(params).flatten().detach(), due, rtol=2e-3, atol=0)
    assert largest > 1 or (likelihood.mean(params).flatten() > 1.2 * due).any(), "the mean of all values is another"
    unknown = ZeroInflatedLogNormal(scale).double()
    assert torch.equal(unknown.typical(params), unknown.mean(params))


def test_the_estimate_of_a_missing_value_stays_below_the_largest_far_out():
    likelihood = LogNormal("entry", largest=5.0)
    params = torch.cartesian_prod(torch.tensor([-80.0, 0.0, 80.0, 1e4]), torch.tensor([-30.0, 0.0, 30.0]))
    found = likelihood.typical(params.view(-1, 1, 2, 1))
    assert ((found >= 0) & (found <= 5 * (1 + 1e-6))).all()
    with pytest.raises(ValueError, match="largest must be above 0"):
        LogNormal(largest=(1.0, 0.0), shape=(2,))


def test_it_is_a_column_of_a_product_and_can_be_written():
    product = Product([ZeroInflatedLogNormal("dimension", (1,), 0.01), Normal()])
    assert product.measure == ZeroInflatedLogNormal.measure == "mixed"
    x = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.0, 0.5]])
    params = product.initialise(x).expand(1, 3, 2, 2)
    alone = product.likelihoods[0].log_prob(params[..., :1], x[:, :1]) + product.likelihoods[1].log_prob(
        params[:, :, :1, 1:], x[:, 1:]
    )
    torch.testing.assert_close(product.log_prob(params, x), alone)
    again = parts.decode(parts.encode(product), {})
    again.load_state_dict(product.state_dict())
    assert torch.equal(again.log_prob(params, x), product.log_prob(params, x))
    assert isinstance(again.likelihoods[0].above, LogNormal)
    with pytest.raises(ValueError, match="a fixed scale must be positive"):
        ZeroInflatedLogNormal(-1.0)


def test_recorded_shares_have_no_scale_below_their_rounding_and_no_ends_by_it():
    """The floor is the deviation of a step's rounding, in logits; no draw within is rounded to an end."""
    likelihood = InflatedLogitNormal("entry", (2,), 1e-9, (0.01, 0.25)).double()
    x = torch.rand(500, 2, generator=rng()).double().clamp(0.2, 0.7)
    params = likelihood.initialise(x).view(1, 1, -1, 2).clone()
    params[:, :, 3] = -60.0  # as narrow as the decoder can ask for
    place = likelihood.inside.shift.sigmoid()
    due = torch.tensor([0.01, 0.25]) / math.sqrt(12) / (place * (1 - place))
    due = due.minimum(0.5 * likelihood.inside.spread)
    np.testing.assert_allclose(likelihood.inside.sigma(params[:, :, 2:]).flatten().detach(), due, rtol=1e-6)
    wide = params.expand(-1, 20_000, -1, -1).clone()
    wide[:, :, 2], wide[:, :, 3] = 3.0, 5.0
    drawn = likelihood.sample(wide, rng(1)).squeeze(0)
    for column, step in ((0, 0.01), (1, 0.25)):
        inside = drawn[:, column][(drawn[:, column] > 0) & (drawn[:, column] < 1)]
        rounded = (inside / step).round()
        assert ((rounded > 0) & (rounded < 1 / step)).all()
    unrounded = LogitNormal("entry").double().sample(wide[:, :, 2:, :1] * 3, rng(1)).detach().flatten()
    assert ((unrounded * 100).round() == 100).any(), "which others would be"


@pytest.mark.parametrize("ends", [(0.0, 0.0), (0.3, 0.0), (0.2, 0.5), (1.0, 0.0), (0.5, 0.5)])
def test_shares_start_at_the_frequencies_of_their_ends(ends):
    """Also where all cells are at the ends; an end without any starts at one in a million."""
    low, high = (round(100 * each) for each in ends)
    x = torch.tensor([0.0] * low + [1.0] * high + [0.1 + 0.008 * k for k in range(100 - low - high)]).unsqueeze(1)
    likelihood = InflatedLogitNormal("entry", (1,))
    params = likelihood.initialise(x)
    assert params.isfinite().all()
    found = likelihood.log_shares(params.view(1, 1, -1, 1)).exp().flatten().tolist()
    for share, due in zip(found[:2], ends, strict=True):
        assert abs(share - due) < 0.01
        assert due > 0 or 1e-7 < share < 2e-6
    assert likelihood.log_prob(params.expand(1, 100, -1, 1), x).isfinite().all()


RAGGED = [(0.48, -1.0), (), (2.0,)]
"""Atoms of three columns."""


def ragged(base) -> tuple[Atoms, torch.Tensor, torch.Tensor]:
    """A likelihood, its parameters for five rows, and rows of which some values are atoms of their column."""
    likelihood = Atoms(base, RAGGED).double()
    params = torch.randn(2, 5, likelihood.n_parameters, 3, generator=rng(1), dtype=torch.float64)
    x = torch.tensor([[0.48, 0.48, 0.48], [-1, -1, 2], [2, 2, 2], [0.3, 0.1, 0.2], [-1, 0.48, 0.7]]).double()
    x[0] = x[0].round(decimals=2)
    return likelihood, params, x


def test_each_column_has_its_own_atoms():
    likelihood, params, x = ragged(StudentT(4.0, "entry", (3,)))
    found = likelihood.log_prob_per_value(params, x)
    alone = likelihood.base.log_prob_per_value(params[:, :, 2:], x)
    for j, own in enumerate(RAGGED):
        weights = [params[:, :, k, j].exp() for k in range(len(own))]
        total = 1 + sum(weights)
        due = alone[:, :, j] - torch.as_tensor(total).log()
        for value, weight in zip(own, weights, strict=True):
            due = torch.where(x[:, j] == value, (weight / total).log(), due)
        torch.testing.assert_close(found[:, :, j], due, rtol=1e-12, atol=0)
    assert likelihood.at_atom(x).tolist() == [
        [True, False, False],
        [True, False, True],
        [False, False, True],
        [False, False, False],
        [True, False, False],
    ]
    drawn = likelihood.sample(params[:1, :1].expand(-1, 20_000, -1, -1), rng(2)).squeeze(0)
    shares = likelihood.log_shares(params[:1, :1]).exp().squeeze()
    for j, own in enumerate(RAGGED):
        for k, value in enumerate(own):
            count = int((drawn[:, j] == value).sum())
            assert scipy.stats.binomtest(count, 20_000, float(shares[k, j])).pvalue > 1e-6
    assert drawn.isfinite().all()


def test_gradients_are_finite_where_a_column_has_fewer_atoms_and_cells_are_missing():
    likelihood, params, x = ragged(LogNormal("entry", (3,)))
    x, params = x.abs(), params.requires_grad_()
    mask = torch.rand(5, 3, generator=rng(3)) < 0.7
    for value in (likelihood.log_prob(params, torch.where(mask, x, math.nan), mask), likelihood.mean(params)):
        (gradient,) = torch.autograd.grad(value.sum(), params)
        assert gradient.isfinite().all()
        assert (gradient[:, :, 0, 1] == 0).all(), "of an atom that the column does not have"
    assert (gradient[:, :, 0, 0] != 0).all()


def test_atoms_of_counts_are_added_to_their_mass():
    likelihood = Atoms(NegativeBinomial(), [[2.0]]).double()
    assert (likelihood.measure, likelihood.counts, likelihood.support) == ("counting", True, NegativeBinomial.support)
    params = torch.tensor([math.log(0.2 / 0.8), math.log(3.5), math.log(0.7)], dtype=torch.float64).view(1, 1, 3, 1)
    x = np.arange(50.0)
    found = likelihood.log_prob_per_value(params.expand(-1, -1, -1, 50), torch.tensor(x).unsqueeze(0)).flatten().exp()
    due = 0.2 * (x == 2) + 0.8 * scipy.stats.nbinom(0.7, 0.7 / 4.2).pmf(x)
    np.testing.assert_allclose(found, due, rtol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_atoms_start_at_their_shares_and_the_rest_at_that_of_other_values(masked):
    some = torch.rand(4000, 2, generator=rng(5))
    x = torch.where(some < 0.3, 1e3, torch.where(some > 0.9, -2.0, 5 + 0.1 * torch.randn(4000, 2, generator=rng(6))))
    mask = torch.rand(4000, 2, generator=rng(7)) < 0.6 if masked else None
    likelihood = Atoms(Normal("dimension", (2,)), [[1e3, -2.0, 7.0], [1e3, -2.0]])
    params = likelihood.initialise(x if mask is None else torch.where(mask, x, math.nan), mask)
    shares = likelihood.log_shares(params.view(1, 1, *params.shape)).exp().squeeze()
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    for j in range(2):
        own = x[:, j][seen[:, j]]
        for k, value in enumerate((1e3, -2.0)):
            torch.testing.assert_close(shares[k, j], (own == value).float().mean(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(likelihood.base.shift[j], own[(own > 0) & (own < 1e3)].mean(), rtol=1e-5, atol=0)
    assert 0 < shares[2, 0] < 2e-6, "a value that does not occur"
    assert shares[2, 1] == 0


def test_log_p_in_the_users_units_sums_and_integrates_to_one():
    """The probability of an atom has no unit: only the density is divided by the scale of the column."""
    atoms = [math.log(0.3 / 0.5), math.log(0.2 / 0.5), 0.3]
    product = Product([Atoms(Normal(0.7), [[1.0, -0.5]]), Normal(2.0)], scale=(40.0, 3.0)).double()
    at = torch.linspace(-400.001, 400, 400_001, dtype=torch.float64)
    x = torch.cat([at, torch.tensor([40.0, -20.0]).double()]) / 40
    params = torch.tensor([atoms, [0.4, 0, 0]], dtype=torch.float64).T.reshape(1, 1, 3, 2).expand(1, len(x), 3, 2)
    rows = torch.stack([x, torch.zeros_like(x)], 1)
    found = product.log_prob_per_value(params, rows)[0, :, 0].exp()
    np.testing.assert_allclose(found[-2:], [0.3, 0.2], rtol=1e-12)
    inside = ~product.at_atom(rows)[:-2, 0]
    assert abs(float(found[:-2][inside].sum()) * float(at[1] - at[0]) + 0.5 - 1) < 1e-5
    densities = product.log_prob_per_value(params, rows)[0, :, 1]
    torch.testing.assert_close(densities, torch.full_like(x, scipy.stats.norm(1.2, 6).logpdf(0)))


@pytest.mark.parametrize("value", [0.48, 1e6 + 0.1, -7e-9, 1 / 3])
@pytest.mark.parametrize(("centre", "scale"), [(0.0, 0.37), (0.11, 0.37), (1e6, 0.37), (0.0, 1.0)])
def test_an_atom_is_equal_to_the_same_cell_in_every_precision(value, centre, scale):
    """Cells are standardised in double precision and then rounded, and so are atoms."""
    standardised = float(np.float64(value) / scale - centre / scale)
    near = np.nextafter(np.float32(standardised), np.float32(np.inf), dtype=np.float32)
    likelihood = Atoms(Normal("dimension", (1,)), [[standardised]])
    single = torch.from_numpy(np.array([[standardised]]).astype(np.float32))
    assert likelihood.at_atom(single).all()
    assert not likelihood.at_atom(torch.tensor([[near]])).any()
    assert likelihood.double().at_atom(torch.tensor([[standardised]], dtype=torch.float64)).all()
    assert likelihood.float().at_atom(single).all()
    assert likelihood.at_atom(torch.tensor([[standardised]], dtype=torch.float64)).all(), (
        "rows that are not yet rounded"
    )


@pytest.mark.parametrize(
    ("base", "values", "words"),
    [
        (Categorical(3), [[1.0]], "base is Categorical, a likelihood of classes; give one of numbers"),
        (InflatedLogitNormal(), [[0.5]], "base is InflatedLogitNormal, a likelihood of values of which some are atoms"),
        (Normal(), [[]], "values holds no value; give the atoms of each column"),
        (Normal(), [[0.0], [1.0, 1.0]], r"values\[1\] is \[1.0, 1.0\]; give finite numbers that differ"),
        (Normal(), [[math.inf]], r"values\[0\] is \[inf\]; give finite numbers"),
        (Normal(), [[1.0, 1 + 1e-9]], "that differ in single precision"),
        (Poisson(), [[0.5]], r"values\[0\] is \[0.5\], but Poisson cannot produce all of these; leave others out"),
    ],
)
def test_atoms_that_cannot_be_are_refused(base, values, words):
    with pytest.raises(ValueError, match=words):
        Atoms(base, values)
