"""A batch that does not fit in memory is taken in parts: the same objective, gradients and metrics, or a sentence."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.errors import OutOfMemoryError, is_out_of_memory
from lowerbound.inference.aevb import AEVBProcedure
from lowerbound.objectives import free_bits, iwae

ROWS = 53  # batches of 20: the last has 13 rows and 7 of padding


class Room:
    """Memory for a number of rows at once: more are refused as torch refuses them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
        self.seen: list[int] = []
        loss = AEVBProcedure.loss

        def limited(procedure, batch, noise, scalars):
            self.seen.append(len(batch.index))
            if len(batch.index) > rows:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
            return loss(procedure, batch, noise, scalars)

        monkeypatch.setattr(AEVBProcedure, "loss", limited)


def fit(penalties=()) -> tuple[list[dict[str, float]], torch.Tensor]:
    """A short fit in double precision with a mask, three draws and padding: its records, and its parameters."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(ROWS, 6, generator=rng, dtype=torch.float64)
    mask = torch.rand(ROWS, 6, generator=rng) > 0.3
    with lb.nn.seeded(0):
        encoder, decoder = lb.nn.MLP((6,), (4,), (8,)), lb.nn.MLP((2,), (6,), (8,))
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Normal("scalar", shape=(6,))).double()
    posterior = lb.posteriors.DiagonalNormal(2, encoder).double()
    objective = lb.objectives.elbo if penalties else iwae
    inference = lb.AEVB(posterior, objective=objective, draws=3, beta=0.7, penalties=penalties, learning_rate=1e-2)
    found = lb.fit(
        model, Rows(x, mask, dtype=torch.float64), inference, epochs=3, batch_size=20, validation=0, threads=1
    )
    parameters = torch.nn.ModuleList([model, posterior]).parameters()
    return found.history.records, torch.cat([p.detach().flatten() for p in parameters])


@pytest.mark.parametrize(("room", "parts"), [(19, 2), (7, 4), (1, 20)])
def test_parts_add_up_to_the_batch(room, parts, monkeypatch):
    records, parameters = fit()
    limit = Room(monkeypatch, room)
    with pytest.warns(RuntimeWarning, match="a batch of 20 rows does not fit in memory") as told:
        again, others = fit()
    assert f"taken in {parts} parts" in str(told[-1].message)
    np.testing.assert_allclose(others, parameters, rtol=1e-9, atol=1e-12)
    for one, other in zip(records, again, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    assert max(limit.seen[-3 * parts :]) <= room


def test_a_penalty_of_the_whole_batch_is_not_taken_in_parts(monkeypatch):
    Room(monkeypatch, 10)
    with pytest.raises(OutOfMemoryError, match="a batch of 20 rows does not fit in memory, and its penalties are of"):
        fit((partial(free_bits, floor=0.1),))


def test_a_row_that_does_not_fit_is_said(monkeypatch):
    Room(monkeypatch, 0)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(OutOfMemoryError, match="not even a single row does"),
    ):
        fit()


def test_memory_that_runs_out_elsewhere_is_said(monkeypatch):
    def refuse(*args):
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(torch.optim.Adam, "step", refuse)
    with pytest.raises(OutOfMemoryError, match="the fit needs more memory than there is; lower batch_size"):
        fit()


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch):
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))
    monkeypatch.setattr(AEVBProcedure, "loss", lambda *args: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        fit()
