"""Values of which a share is exactly 0: the atom and the density together, against quadrature and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import rng

from lowerbound.likelihoods import InflatedLogitNormal, LogitNormal, LogNormal, Normal, Product, ZeroInflatedLogNormal
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
