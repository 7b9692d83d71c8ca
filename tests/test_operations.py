"""How many tensor operations a step of a mixed table takes: each costs some microseconds, whatever it computes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import rng
from torch.utils._python_dispatch import TorchDispatchMode

import lowerbound as lb
from lowerbound import priors
from lowerbound.evidence.importance import narrow_chunks
from lowerbound.inference.aevb import AEVBProcedure
from lowerbound.likelihoods import Bernoulli, Categorical, Normal, Product, SelfMasking
from lowerbound.nn import MLP

ROWS, COUNTED = 120, 3  # the step that is counted
MOST = 1_750
"""Operations of a step, forwards, backwards and the optimiser's; 1,708 when this was written, 2,028 before."""


class Count(TorchDispatchMode):
    """The number of operations that reach tensors, those of gradients among them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


def mixed_table() -> pd.DataFrame:
    """Columns of most kinds, with point masses, different numbers of levels, and missing cells."""
    random = np.random.default_rng(0)
    z = random.normal(size=ROWS)
    frame = pd.DataFrame(
        {
            "balance": np.where(random.random(ROWS) < 0.3, 0.0, 400 * z + 90 * random.standard_exponential(ROWS)),
            "paid": np.where(random.random(ROWS) < 0.4, 0.0, np.exp(z + random.normal(size=ROWS))),
            "rate": np.where(random.random(ROWS) < 0.4, 0.25, random.normal(size=ROWS)),
            "price": np.exp(0.5 * z + random.normal(size=ROWS)),
            "visits": random.poisson(np.exp(1 + z)),
            "rooms": 3 + random.integers(0, 3, ROWS) + (z > 0),
            "city": random.choice(["a", "b", "c", "d"], ROWS),
            "sex": random.choice(["f", "m"], ROWS),
        }
    )
    for name, levels in (("low", 3), ("middle", 5), ("high", 7)):
        codes = random.integers(0, levels, ROWS)
        frame[name] = pd.Categorical.from_codes(codes, [f"{name} {code}" for code in range(levels)], ordered=True)
    return frame.mask(random.random(frame.shape) < 0.1)


@pytest.fixture(scope="module")
def operations() -> int:
    """The operations of one step of a fit by the defaults of a table with many rows."""
    counted: list[int] = []
    step = AEVBProcedure.step

    def counting(self, state, batch, noise, scalars):
        if len(counted) != COUNTED:
            counted.append(0)
            return step(self, state, batch, noise, scalars)
        with Count() as count:
            found = step(self, state, batch, noise, scalars)
        counted.append(count.operations)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AEVBProcedure, "step", counting)
        lb.VAE(prior="Flow", hidden=(8,), latent_dim=2, epochs=3, validation=0.2, random_state=0).fit(mixed_table())
    return counted[COUNTED]


def test_a_step_of_a_mixed_table_takes_few_operations(operations):
    assert 0 < operations <= MOST


@pytest.mark.parametrize("masked", [False, True])
def test_log_p_is_the_same_from_all_outputs_of_a_decoder_and_from_those_that_are_used(masked):
    likelihood = Product([Categorical(3), Normal("entry", (2,)), Bernoulli()], [[1], [3, 0], [2]], [1.0, 1.0, 1.0, 2.0])
    whole = SelfMasking(likelihood) if masked else likelihood
    model = lb.LatentVariableModel(priors.Normal(2), MLP((2,), (3, 4), (5,), linear=True), whole).double()
    z = torch.randn(6, 7, 2, generator=rng(1), dtype=torch.float64).requires_grad_()
    x = torch.stack([torch.linspace(-1, 1, 7), torch.arange(7) % 3, torch.arange(7) % 2, torch.ones(7)], 1).double()
    mask = torch.arange(28).view(7, 4) % 5 > 0
    assert model.decoder.selects
    found = model.log_lik(z, x, mask)
    params = model.decode(z)
    due = whole.log_prob(params, x, mask)
    np.testing.assert_allclose(found.detach(), due.detach(), rtol=1e-12)
    learned = [z, *model.decoder.parameters()]
    own, its = torch.autograd.grad(found.sum(), learned), torch.autograd.grad(due.sum(), learned)
    for one, other in zip(own, its, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    sizes = [tuple(each.shape) for each in likelihood.split(model._params(z, x, None))]
    assert sizes == [(6, 7, 3, 1), (6, 7, 2, 2), (6, 7, 1, 1)]


def test_a_decoder_whose_layers_are_watched_computes_all_outputs():
    decoder = MLP((2,), (3, 4), (5,))
    handle = decoder.layers[0].register_forward_hook(lambda *_: None)
    assert not decoder.selects
    handle.remove()
    assert decoder.selects


def test_rows_with_few_values_are_evaluated_in_larger_chunks_and_all_draws_are():
    for draws, rows, values in ((1000, 64, 24), (1000, 64, 128), (1000, 64, 784), (7, 64, 1), (3, 5000, 0)):
        found = list(narrow_chunks(draws, rows, values))
        assert sum(found) == draws
        assert max(found) == min(draws, max(1, {24: 4096, 128: 2048, 784: 1024, 1: 4096, 0: 4096}[values] // rows))
