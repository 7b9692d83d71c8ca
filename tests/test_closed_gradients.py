"""Functions with gradients by a formula: values against scipy, gradients and their gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from oracles import rng
from torch.autograd import gradcheck, gradgradcheck

from lowerbound.distributions import Transforms, stirling_remainder, student_t_log_prob
from lowerbound.distributions.closed_gradients import inverse_affine


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def of_t() -> tuple[torch.Tensor, ...]:
    """x per row and column; a location per draw, row and column; a scale per column; one number of degrees."""
    return numbers(3, 2), numbers(4, 3, 2, seed=1), numbers(2, seed=2).exp(), torch.tensor(3.4).double()


CASES = {
    "remainder": (stirling_remainder, (torch.tensor([1e-3, 0.4, 3.0, 15.9, 16.1, 40.0]).double(),)),
    "student t": (student_t_log_prob, of_t()),
    "student t near a normal": (student_t_log_prob, (*of_t()[:3], torch.tensor(5e3).double())),
    "affine": (
        lambda *given: torch.cat([each.flatten() for each in inverse_affine(*given)]),
        (numbers(4, 3), numbers(6)),
    ),
    "affine per row": (
        lambda *given: torch.cat([each.flatten() for each in inverse_affine(*given)]),
        (numbers(4, 3), numbers(4, 6)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_its_gradients_are_those_of_its_values(name):
    function, given = CASES[name]
    leaves = tuple(each.clone().requires_grad_() for each in given)
    assert gradcheck(function, leaves, rtol=1e-5)
    assert gradgradcheck(function, leaves, rtol=1e-4)


def test_the_remainder_is_that_of_stirling():
    y = np.logspace(-6, 12, 200)
    due = scipy.special.gammaln(y + 1) - y * np.log(y) + y
    error = np.abs(stirling_remainder(torch.tensor(y)).numpy() - due)
    assert (error <= 1e-10 + 1e-15 * y * np.log(y).clip(1)).all()  # what double precision leaves of the difference
    np.testing.assert_allclose(
        stirling_remainder(torch.tensor([1e12])).numpy(), 0.5 * np.log(2 * np.pi * 1e12), rtol=1e-6
    )


@pytest.mark.parametrize("df", [0.7, 2.0, 30.0, 1990.0, 2010.0, 1e6, 1e12])
def test_students_t_is_that_of_scipy_and_far_away_its_tail(df):
    x = np.concatenate([np.linspace(-40, 40, 81), [1e4, -1e6]])
    one = torch.ones(()).double()
    found = student_t_log_prob(torch.tensor(x), 0 * one, one, df * one).numpy()
    due = scipy.stats.t(df).logpdf(x) if df < 1e9 else scipy.stats.norm.logpdf(x)
    near = np.abs(x) < 50 if df > 1e5 else np.full(len(x), True)
    np.testing.assert_allclose(found[near], due[near], rtol=1e-9, atol=1e-9)


def test_in_single_precision_squares_that_overflow_keep_their_gradients():
    x = torch.tensor([3e25, -3e25, 1e18], requires_grad=True)
    found = student_t_log_prob(x, torch.zeros(()), torch.ones(()), torch.tensor(4.0))
    double = student_t_log_prob(x.double(), *(torch.tensor(each).double() for each in (0.0, 1.0, 4.0)))
    np.testing.assert_allclose(found.detach().numpy(), double.detach().numpy(), rtol=1e-5)
    found.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[2] == pytest.approx(-5e-18, rel=1e-5)


@pytest.mark.parametrize(("dim", "hidden"), [(5, (8, 7)), (4, ()), (2, (3,))])
def test_the_inverse_of_a_realnvp_undoes_it(dim, hidden):
    flow = Transforms(dim, "realnvp", 3, hidden).double()
    with torch.no_grad():
        for number, parameter in enumerate(flow.parameters()):
            parameter.copy_(0.5 * numbers(*parameter.shape, seed=number))
    x = numbers(6, 3, dim, seed=99)
    y, log_det = flow(x, None)
    back, of_inverse = flow(y, None, inverse=True)
    assert (y - x).abs().max() > 0.1, "the flow must be far from the identity for this to show anything"
    np.testing.assert_allclose(back.detach(), x, atol=1e-9)
    np.testing.assert_allclose(of_inverse.detach(), -log_det.detach(), atol=1e-9)
    y = y.detach()
    back, of_inverse = flow(y, None, inverse=True)
    whole = flow._inverse(y)  # by zuko's maps, as for splines
    learned = list(flow.parameters())
    found = torch.autograd.grad(back.square().sum() + of_inverse.sum(), learned)
    due = torch.autograd.grad(whole[0].square().sum() + whole[1].sum(), learned)
    for own, its in zip(found, due, strict=True):
        np.testing.assert_allclose(own, its, rtol=1e-8, atol=1e-8)
