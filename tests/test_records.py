"""The records of a fit against means over all rows by hand, where the rows are no multiple of the batch size."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from oracles import batch_of

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.draw import tempered
from lowerbound.inference.aevb import AEVBProcedure
from lowerbound.model import draw
from lowerbound.objectives import cubo, elbo, elbo_sampled, free_bits, iwae
from lowerbound.training import WarmUp

TRAIN, HELD_OUT, BATCH, EPOCHS = 230, 150, 100, 3


def rows(n: int, seed: int, missing: bool = False) -> Rows:
    """Rows that lie farther out the later they come, so that each batch has another mean."""
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = noise * torch.linspace(0.1, 3, n, dtype=torch.float64).unsqueeze(1)
    mask = torch.rand(n, 4, generator=torch.Generator().manual_seed(seed + 1)) > 0.3 if missing else None
    return Rows(x, mask, dtype=torch.float64)


def parts() -> tuple[lb.LatentVariableModel, lb.posteriors.DiagonalNormal]:
    with lb.nn.seeded(0):
        decoder, encoder = lb.nn.MLP((2,), (4,), (8,)), lb.nn.MLP((4,), (4,), (8,))
    model = lb.LatentVariableModel(lb.priors.Normal(2), decoder, lb.likelihoods.Normal("scalar", shape=(4,)))
    return model.double(), lb.posteriors.DiagonalNormal(2, encoder).double()


class ByHand(AEVBProcedure):
    """Keeps what each real row has, by a draw of it alone, under the parameters and the noise of its step."""

    def note(self, batch, noise, scalars) -> None:
        real = int((batch.weight > 0).sum())
        with torch.no_grad():
            mask = None if batch.mask is None else batch.mask[:real]
            there = draw(self.model, self.settings.posterior, batch_of(batch.x[:real], mask), noise[:, :real])
            weighted = tempered(there, float(scalars["beta"]))
            alike = torch.full((real,), 1 / real, dtype=torch.float64)
            objective = self.settings.objective(weighted)
            for penalty in self.settings.penalties:
                objective = objective - penalty(weighted, alike)
            self.seen.append(torch.stack([objective, there.log_lik.mean(0), there.kl]))

    def step(self, state, batch, noise, scalars):
        self.note(batch, noise, scalars)
        return super().step(state, batch, noise, scalars)

    def evaluate(self, state, batch, noise, scalars):
        before, self.seen = self.seen, self.held_out
        self.note(batch, noise, scalars)
        self.seen = before
        return super().evaluate(state, batch, noise, scalars)


FREE = (partial(free_bits, floor=0.4),)


@pytest.mark.parametrize(
    ("objective", "penalties", "in_parts"),
    [
        (elbo, (), 1),
        (elbo_sampled, (), 3),
        (iwae, (), 1),
        (iwae, (), 3),
        (partial(cubo, order=1.5), (), 1),
        (elbo, FREE, 1),  # of the whole batch: it is not taken in parts
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_records_are_means_over_all_rows(objective, penalties, in_parts, missing):
    """``train_*`` over 230 rows in batches of 100, ``valid_*`` over 150: each row once, padding not at all."""
    model, posterior = parts()
    beta = WarmUp(2, end=0.7)
    settings = lb.AEVB(posterior, objective, 3, beta, penalties, learning_rate=0.01)
    start = settings.start(model)
    start.state.parts = in_parts
    fit = ByHand(settings, model, start.state)
    fit.seen, fit.held_out, train, valid, alike, reads = [], [], [], [], [], []

    def at_the_end_of_a_pass(event):
        if event.record is not None:
            assert [each.shape[1] for each in fit.seen] == [100, 100, 30]
            assert [each.shape[1] for each in fit.held_out] == [100, 50]
            train.append(torch.cat(fit.seen, 1).mean(1))
            valid.append(torch.cat(fit.held_out, 1).mean(1))
            alike.append(torch.stack([each.mean(1) for each in fit.held_out]).mean(0))  # batches counted alike
            reads.append(parameters(model, posterior))
            fit.seen.clear()
            fit.held_out.clear()

    history = lb.training.train(
        fit,
        rows(TRAIN, 0, missing),
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=5,
        validation=rows(HELD_OUT, 7, missing),
        callbacks=[at_the_end_of_a_pass],
    )
    names = ("objective", "log_lik", "kl")
    for number, record in enumerate(history.records):
        for prefix, due in (("train_", train), ("valid_", valid)):
            assert [record[prefix + name] for name in names] == pytest.approx(due[number].tolist(), rel=1e-9)
        assert (record["epoch"], record["step"]) == (number + 1, 3 * (number + 1))
        assert record["beta"] == pytest.approx(min(0.35 * number, 0.7))
        assert record["learning_rate"] == 0.01
        assert record["valid_log_lik"] != pytest.approx(float(alike[number][1]), rel=1e-3)
    best = int(np.argmax([float(each[0]) for each in valid]))
    assert history.best_epoch == best + 1
    assert torch.equal(parameters(model, posterior), reads[best])


def parameters(*modules: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def test_held_out_rows_have_the_same_draws_at_each_pass():
    model, posterior = parts()
    inference = lb.AEVB(posterior, draws=2, learning_rate=0.0)
    history = lb.fit(
        model, rows(TRAIN, 0), inference, epochs=2, batch_size=BATCH, validation=rows(HELD_OUT, 7), seed=1
    ).history
    first, second = history.records
    assert first["valid_log_lik"] == second["valid_log_lik"]
    assert first["train_log_lik"] != second["train_log_lik"]  # of the training rows they are drawn afresh


def test_every_batch_of_the_held_out_rows_is_of_all_of_them():
    """The metrics of 150 equal rows are those of one, whatever the batch size, for a decoder that sees no z."""
    model, posterior = parts()
    with torch.no_grad():
        for layer in (model.decoder.layers[0], posterior.encoder.layers[-1]):
            layer.weight.zero_()
    x = torch.full((1, 4), 1.5, dtype=torch.float64)
    with torch.no_grad():
        due = draw(model, posterior, batch_of(x), torch.zeros(1, 1, 2, dtype=torch.float64))
    for size in (100, 64, 7, 150, 1000):
        inference = lb.AEVB(posterior, learning_rate=0.0)
        data = (x.expand(n, 4) for n in (TRAIN, HELD_OUT))
        train, valid = (Rows(each.clone(), dtype=torch.float64) for each in data)
        (record,) = lb.fit(model, train, inference, epochs=1, batch_size=size, validation=valid).history.records
        for prefix in ("train_", "valid_"):
            assert record[prefix + "log_lik"] == pytest.approx(float(due.log_lik), rel=1e-9)
            assert record[prefix + "kl"] == pytest.approx(float(due.kl), rel=1e-9)
            assert record[prefix + "objective"] == pytest.approx(float(due.log_lik - due.kl), rel=1e-9)


def ended(records: list[dict[str, float]], patience: int, counted_from: float) -> int:
    """The epoch after which a fit ends: ``patience`` without a better one, of those after ``counted_from``."""
    best, at = -np.inf, 0
    for number, record in enumerate(records, 1):
        if record["valid_objective"] > best:
            best, at = record["valid_objective"], number
        if number - max(at, counted_from) >= patience:
            return number
    return len(records)


@pytest.mark.parametrize("warm_up", [0, 6, 4.5])
def test_patience_of_a_vae_is_counted_from_the_end_of_the_warm_up(warm_up):
    """Rows of noise, that a fast fit learns by heart: the best epoch is one of the first."""
    x = np.random.default_rng(0).normal(size=(60, 6))
    settings = {"hidden": (64,), "batch_size": 17, "validation": 0.4, "learning_rate": 0.03, "random_state": 0}
    vae = lb.VAE(3, warm_up=warm_up, patience=2, epochs=40, **settings).fit(x)
    found = vae.history_
    assert found.stopped == "patience"
    assert len(found.records) <= ended(found.records, 2, warm_up)
    objective = [record["valid_objective"] for record in found.records]
    assert found.best_epoch == 1 + int(np.argmax(objective))
    if warm_up:
        assert ended(found.records, 2, 0) < len(found.records), "patience in the warm-up would have ended it sooner"
        assert len(found.records) >= warm_up + 2
    else:
        assert found.best_epoch <= len(found.records) <= found.best_epoch + 2
