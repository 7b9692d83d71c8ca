"""Sequences: latents unrolled over time, against the dense joint normal of a linear model; padding; batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import assert_one_sentence
from torch import Tensor

import lowerbound as lb
from lowerbound import likelihoods, nn, objectives, posteriors, priors
from lowerbound.data import Sequences
from lowerbound.distributions.markov import before
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.inference import KalmanSmoother, exact_posterior, state_space
from lowerbound.model import LatentVariableModel, distributions_of, draw

LENGTHS = (3, 5, 1, 6, 4, 2)
MIN = 1e-6


def linear_model(d: int, width: int, steps: int, seed: int = 0) -> LatentVariableModel:
    """A linear normal model of sequences whose matrices are all random, in double precision."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    model = LatentVariableModel(
        priors.Markov(d, steps, nn.LinearTransition(d)),
        nn.EachStep(nn.MLP((d,), (width,), ())),
        likelihoods.EachStep(likelihoods.Normal("dimension", (width,))),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * normal(*parameter.shape))
        model.likelihood.of.shift.copy_(normal(width))
        model.likelihood.of.spread.copy_(normal(width).exp())
    return model


@dataclass(frozen=True)
class Joint:
    """N(mean, covariance) of (z_1, …, z_T, x_1, …, x_T), written out without any recursion over observations."""

    mean: Tensor
    covariance: Tensor
    d: int
    steps: int

    @classmethod
    def of(cls, model: LatentVariableModel, steps: int) -> Joint:
        with torch.no_grad():
            prior, decoder, normal = model.prior, model.decoder.network.layers[0], model.likelihood.of
            scale = [
                torch.nn.functional.softplus(raw + math.log(math.e - 1)) + MIN
                for raw in (prior.raw_scale, prior.network.raw_scale)
            ]
            A, d = prior.network.weight, prior.latent_dim
            means, rows = [prior.loc], [torch.diag(scale[0])]  # z_t = mean + rows[t] · (standard normal numbers)
            for _ in range(1, steps):
                means.append(A @ means[-1] + prior.network.bias)
                rows.append(torch.cat([A @ rows[-1], torch.diag(scale[1])], 1))
            Z = torch.zeros(steps * d, steps * d, dtype=torch.float64)
            for t, row in enumerate(rows):
                Z[t * d : (t + 1) * d, : row.shape[1]] = row
            C = torch.block_diag(*[normal.spread[:, None] * decoder.weight] * steps)
            offset = (normal.shift + normal.spread * decoder.bias).repeat(steps)
            covariance = Z @ Z.T
            both = torch.cat([Z, C @ Z])
            full = both @ both.T
            full[steps * d :, steps * d :] += torch.diag(normal.sigma().square().repeat(steps))
            mean = torch.cat(means)
            del covariance
            return cls(torch.cat([mean, C @ mean + offset]), full, d, steps)

    def given(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x) of one row, and mean ``[T, d]`` and covariance ``[T, d, d]`` of each z_t given it."""
        n = self.steps * self.d
        seen = torch.cat([torch.zeros(n, dtype=torch.bool), mask.flatten()])
        mean, covariance = self.mean, self.covariance
        values = torch.cat([torch.zeros(n, dtype=torch.float64), x.flatten()])[seen]
        S, cross = covariance[seen][:, seen], covariance[:n][:, seen]
        log_p = torch.distributions.MultivariateNormal(mean[seen], S).log_prob(values)
        gain = torch.linalg.solve(S, cross.T).T
        z = mean[:n] + gain @ (values - mean[seen])
        left = covariance[:n, :n] - gain @ cross.T
        blocks = [left[t * self.d : (t + 1) * self.d, t * self.d : (t + 1) * self.d] for t in range(self.steps)]
        return log_p, z.view(self.steps, self.d), torch.stack(blocks)


def linear_rows(model: LatentVariableModel, lengths: tuple[int, ...] = LENGTHS, missing: bool = True) -> Sequences:
    """Rows drawn from the model, with missing values, a missing step, and a missing step at an end."""
    x = model.sample(len(lengths), torch.Generator().manual_seed(5)).detach()
    rows = [row[:length].clone() for row, length in zip(x, lengths, strict=True)]
    if missing:
        rows[0][1, 0] = math.nan
        rows[1][2] = rows[3][5] = math.nan
    return Sequences(rows, dtype=torch.float64)


def all_of(rows: Sequences) -> Batch:
    return rows.batch(torch.arange(len(rows)), torch.full((len(rows),), 1 / len(rows), dtype=rows.dtype))


# --- the linear normal state space ---


@pytest.mark.parametrize(("d", "width", "missing"), [(1, 1, True), (2, 3, True), (3, 2, True), (2, 3, False)])
def test_the_kalman_filter_and_smoother_are_exact(d: int, width: int, missing: bool) -> None:
    model = linear_model(d, width, 6)
    rows = linear_rows(model, LENGTHS if missing else (4,) * 3, missing)
    batch = all_of(rows)
    mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
    joint, steps = Joint.of(model, batch.x.shape[1]), batch.x.shape[1]
    with torch.no_grad():
        space = state_space(model)
        log_p, means, covariances = space.filtered(batch.x, mask)
        smooth, spread = space.posterior(batch.x, mask, model.prior_given()).marginals()
    for i in range(len(rows)):
        exact, mean, covariance = joint.given(batch.x[i], mask[i])
        torch.testing.assert_close(log_p[i], exact, rtol=0, atol=1e-8)
        torch.testing.assert_close(smooth[i], mean, rtol=0, atol=1e-8)
        torch.testing.assert_close(spread[i], covariance, rtol=0, atol=1e-8)
        for t in range(steps):
            until = mask[i] & (torch.arange(steps) <= t)[:, None]
            _, mean, covariance = joint.given(batch.x[i], until)
            torch.testing.assert_close(means[i, t], mean[t], rtol=0, atol=1e-8)
            torch.testing.assert_close(covariances[i, t], covariance[t], rtol=0, atol=1e-8)


def test_the_exact_posterior_makes_every_log_weight_log_p() -> None:
    model = linear_model(2, 3, 6)
    rows, posterior = linear_rows(model), exact_posterior(model)
    assert isinstance(posterior, KalmanSmoother)
    batch = all_of(rows)
    with torch.no_grad():
        found = draw(model, posterior, batch, torch.Generator().manual_seed(0), K=7).log_w
        log_p, *_ = state_space(model).filtered(batch.x, batch.mask)
    assert float((found - log_p).abs().max()) < 1e-8
    assert float(found.var(0).max()) < 1e-16


def test_a_fit_by_the_exact_posterior_maximises_the_likelihood() -> None:
    model, rows = linear_model(1, 2, 6), linear_rows(linear_model(1, 2, 6, seed=1), (6,) * 40)
    batch = all_of(rows)
    learning = lb.AEVB(exact_posterior(model), learning_rate=0.05)
    history = lb.fit(model, rows, learning, epochs=60, batch_size=40, validation=0).history
    with torch.no_grad():
        log_p = state_space(model).filtered(batch.x, batch.mask)[0].mean()
    assert float(log_p) > history.records[0]["train_objective"] + 1
    assert history.records[-1]["train_objective"] == pytest.approx(float(log_p), abs=0.05)


def test_a_learned_q_in_the_right_family_reaches_log_p() -> None:
    """With one latent, p(z_t|z_{t−1}, x) is the product of the transition and a normal: the form of the posterior."""
    model = linear_model(1, 1, 5, seed=2).requires_grad_(False)
    x = model.sample(400, torch.Generator().manual_seed(7)).detach()
    rows = Sequences([row[: 2 + i % 4] for i, row in enumerate(x)], dtype=torch.float64)
    with nn.seeded(0):
        posterior = posteriors.Markov(1, nn.Recurrent((1,), 2, 24), 5).double()
    learning = lb.AEVB(
        posterior, gradient=lb.gradients.sticking_the_landing, learning_rate=lb.training.Cosine(1e-2, 60)
    )
    lb.fit(model, rows, learning, epochs=60, batch_size=50, validation=0)
    batch = all_of(rows)
    with torch.no_grad():
        log_p, *_ = state_space(model).filtered(batch.x, batch.mask)
        bound = draw(model, posterior, batch, torch.Generator().manual_seed(0), K=50).log_w.mean()
    assert 0 < float(log_p.mean() - bound) < 0.02


def test_a_transition_applied_once_too_often_is_rejected() -> None:
    """The negative control of the test of log-weights: p(z_1) = ∫ p(z_1|z_0) p(z_0) dz_0 is another model."""
    model = linear_model(2, 3, 6)
    batch = all_of(linear_rows(model))
    with torch.no_grad():
        space = state_space(model)
        log_p, *_ = space.filtered(batch.x, batch.mask)
        again = lb.inference.kalman.StateSpace(
            **vars(space)
            | {
                "mean": space.transition @ space.mean + space.bias,
                "start": (space.transition.square() @ space.start) + space.noise,
            }
        )
        assert float((again.filtered(batch.x, batch.mask)[0] - log_p).abs().max()) > 1e-3


# --- padding ---


def deep(
    d: int, steps: int, width: int, product: bool, dtype: torch.dtype = torch.float64
) -> tuple[LatentVariableModel, posteriors.Posterior]:
    with nn.seeded(0):
        model = LatentVariableModel(
            priors.Markov(d, steps, nn.GatedTransition(d, 5)),
            nn.EachStep(nn.MLP((d,), (width,), (6,))),
            likelihoods.EachStep(likelihoods.Bernoulli()),
        )
        network = None if product else nn.MLP((d,), (2 * d,), (6,), context=7)
        posterior = posteriors.Markov(d, nn.Recurrent((width,), 2 * d if product else 7, 8, "both"), steps, network)
    return model.to(dtype), posterior.to(dtype)


def one_each(
    d: int, steps: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[LatentVariableModel, posteriors.Posterior]:
    """One z per sequence."""
    with nn.seeded(0):
        model = LatentVariableModel(
            priors.Normal(d), nn.Unrolled(d, steps, (width,), hidden=6), likelihoods.EachStep(likelihoods.Bernoulli())
        )
        posterior = posteriors.DiagonalNormal(d, nn.Summary((width,), 2 * d, 5))
    return model.to(dtype), posterior.to(dtype)


def bits(lengths: tuple[int, ...] = LENGTHS, width: int = 3, dtype: torch.dtype = torch.float64) -> Sequences:
    rng = torch.Generator().manual_seed(3)
    rows = [(torch.rand(length, width, generator=rng) < 0.4).to(dtype) for length in lengths]
    if len(rows) > 1:
        rows[1][0, 1] = rows[3 % len(rows)][1 % lengths[3 % len(rows)]] = math.nan
    return Sequences(rows, dtype=dtype)


MODELS = {
    "combined": lambda: deep(2, 6, 3, product=False),
    "product": lambda: deep(2, 6, 3, product=True),
    "one z": lambda: one_each(2, 6, 3),
}


def test_the_prior_is_left_out_only_where_all_rows_are_observed() -> None:
    """Draws and log q of rows of 3, 5 and 4 steps are those of a q that computes p at every step."""
    model, posterior = deep(2, 6, 3, product=False)
    with torch.no_grad():
        for parameter in posterior.network.parameters():
            parameter.mul_(3)  # q far from p
        batch = all_of(bits((3, 5, 4)))
        q, _ = distributions_of(model, posterior, batch.x, batch.mask)
        assert q.whole == 3
        noise = posterior.noise(4, 3, torch.Generator().manual_seed(0), torch.float64)
        z = q.sample(noise)
        slow = replace(q, whole=0)
        torch.testing.assert_close(z, slow.sample(noise), rtol=0, atol=1e-12)
        torch.testing.assert_close(q.log_prob(z), slow.log_prob(z), rtol=0, atol=1e-12)
        gap = (q.log_prob_per_step(z, before(z)) - q.prior.log_prob_per_step(z, before(z))).abs()
        assert float(gap[:, 0, :3].min()) > 1e-3
        assert float(gap[:, 0, 3:].max()) == 0


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("objective", [objectives.elbo, objectives.iwae])
def test_padding_adds_nothing(make, objective) -> None:
    model, posterior = make()
    rows = bits()
    model.initialise(all_of(rows).x, all_of(rows).mask)
    noise = posterior.noise(3, len(rows), torch.Generator().manual_seed(0), torch.float64)

    def bound_and_gradient(batches: list[Batch]) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad(), posterior.zero_grad()
        bounds = [objective(draw(model, posterior, own, noise[:, own.index])) for own in batches]
        torch.cat(bounds).sum().backward()
        parameters = [*model.parameters(), *posterior.parameters()]
        return torch.cat(bounds).detach(), [parameter.grad.clone() for parameter in parameters]

    one = torch.ones(1, dtype=torch.float64)
    alone = [rows.batch(torch.tensor([i]), one) for i in range(len(rows))]
    assert [own.x.shape[1] for own in alone] == list(LENGTHS)
    padded = [rows.padded().extended(0).batch(torch.tensor([i]), one) for i in range(len(rows))]
    assert {own.x.shape[1] for own in padded} == {6}
    expected = bound_and_gradient(alone)
    for batches in ([all_of(rows)], padded):
        found = bound_and_gradient(batches)
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-10)
        for own, due in zip(found[1], expected[1], strict=True):
            torch.testing.assert_close(own, due, rtol=0, atol=1e-10)


def test_missing_steps_at_the_end_of_a_row_are_padding() -> None:
    model, posterior = deep(2, 6, 3, product=False)
    row = bits((4,))
    longer = row.extended(2)
    noise = posterior.noise(2, 1, torch.Generator().manual_seed(0), torch.float64)
    found = [draw(model, posterior, all_of(each), noise).log_w for each in (row, longer)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def test_a_backward_encoder_reads_the_present_and_the_future_alone() -> None:
    rows = bits((6,))
    x = all_of(rows).x
    for direction, unchanged in (("backward", slice(3, 6)), ("forward", slice(0, 2))):
        with nn.seeded(0):
            encoder = nn.Recurrent((3,), 4, 5, direction).double()
        other = x.clone()
        other[:, 2] = 1 - other[:, 2]
        same = (encoder(x) == encoder(other)).all(2)[0]
        assert same[unchanged].all()
        assert not same[[2]].any()


# --- the rows ---


def test_batches_are_padded_and_masked() -> None:
    rows = bits()
    batch = rows.batch(torch.tensor([2, 1]), torch.full((2,), 0.5))
    assert batch.x.shape == (2, 5, 3)
    assert rows.shape == (6, 3)
    assert batch.mask[0].sum() == 3
    assert batch.mask[1].sum() == 14
    assert not batch.x[~batch.mask].any()
    assert batch.index.tolist() == [2, 1]
    assert rows.lengths.tolist() == list(LENGTHS)
    assert all_of(Sequences([np.ones((2, 3)), np.ones((2, 3))])).mask is None


def test_a_subset_keeps_the_numbers_and_the_digest_is_of_the_rows() -> None:
    rows = bits()
    some = rows.subset(torch.tensor([4, 1])).subset(torch.tensor([1]))
    assert (len(some), some.total, some.shape) == (1, 6, (6, 3))
    batch = some.batch(torch.tensor([0]), torch.ones(1))
    assert batch.index.tolist() == [1]
    assert batch.x.shape == (1, 5, 3)
    assert rows.digest() == bits().digest()
    assert len({each.digest() for each in (rows, some, rows.extended(1), rows.padded(), bits((3, 5)))}) == 5


def test_the_order_of_an_epoch_is_sorted_by_length_in_blocks() -> None:
    lengths = torch.randint(1, 30, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = Sequences([np.zeros((n, 1)) for n in lengths], block=20)
    order = rows.order(seed=0, epoch=3)
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(order, rows.order(0, 3))
    assert not torch.equal(order, rows.order(0, 4))
    assert not torch.equal(order, rows.order(1, 3))
    for block in rows.lengths[order].split(20):
        assert block.tolist() == sorted(block.tolist(), reverse=True)


def test_sorted_batches_hold_little_padding() -> None:
    lengths = torch.randint(1, 100, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = Sequences([np.zeros((n, 1)) for n in lengths])
    order = rows.order(0, 0)
    sizes = [rows.batch(own, torch.ones(len(own))).x[..., 0].numel() for own in order.split(20)]
    assert sum(sizes) < 1.1 * sum(lengths)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sequences([]), ("there are no sequences",)),
        (lambda: Sequences([np.ones((2, 3)), np.ones((0, 3))]), (r"row 1 has shape \[0, 3\]", "at least one step")),
        (lambda: Sequences([np.ones((2, 3)), np.ones((2, 2))]), (r"row 1 has steps of shape \[2\]", r"row 0 of \[3\]")),
        (lambda: Sequences([np.ones((2, 3)), [["a"]]]), ("row 1 is no array",)),
        (lambda: Sequences([np.ones((1, 1)), [[1.0], [math.inf]]]), ("row 1 holds an infinite",)),
        (lambda: Sequences([[[math.nan]]], [[[True]]]), ("row 0 holds an infinite or missing",)),
        (lambda: Sequences([[[1.0]]], [[[True], [False]]]), (r"the mask of row 0 is \[2, 1\]",)),
        (lambda: Sequences([[[1.0]]], []), ("0 masks for 1 sequences",)),
        (lambda: Sequences([[[1.0]]], block=0), ("block must be at least 1",)),
    ],
)
def test_rows_that_are_no_sequences_are_refused(make, words) -> None:
    with pytest.raises((DataError, ValueError)) as caught:
        make()
    assert_one_sentence(str(caught.value), words)


def test_rows_longer_than_the_model_are_refused() -> None:
    model, posterior = deep(2, 4, 3, product=True)
    with pytest.raises(ValueError, match="have 6 steps, and the prior and the posterior were made for 4") as caught:
        lb.fit(model, bits(), lb.AEVB(posterior), epochs=1)
    assert_one_sentence(str(caught.value), (r"as steps=rows.shape\[0\]",))


# --- fits, folders, evidence ---


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_fit_is_saved_loaded_and_evaluated(make, tmp_path: Path) -> None:
    model, posterior = make()
    model, posterior, rows = model.float(), posterior.float(), bits(LENGTHS * 5, dtype=torch.float32)
    model.initialise(all_of(rows).x, all_of(rows).mask)
    learning = lb.AEVB(posterior, objective=objectives.iwae, draws=3, learning_rate=1e-2)
    history = lb.fit(model, rows, learning, epochs=20, batch_size=8, run_dir=tmp_path / "run").history
    assert history.records[-1]["train_objective"] > history.records[0]["train_objective"]
    found = lb.log_likelihood(model, posterior, rows, samples=200)
    assert np.isfinite(found.estimate).all()
    assert (found.estimate >= found.elbo - 4 * found.standard_error - 0.1).all()
    loaded = lb.load(tmp_path / "run")
    again = lb.log_likelihood(loaded.model, loaded.posterior, rows, samples=200)
    np.testing.assert_array_equal(again.estimate, found.estimate)
    lb.save(tmp_path / "other", model, posterior)
    assert {*loaded.model.state_dict()} == {*model.state_dict()}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_fit_resumes_to_the_same_bytes_within_an_epoch(make, tmp_path: Path) -> None:
    rows = bits(LENGTHS * 5)

    def run(folder: Path, stop: int | None) -> dict[str, Tensor]:
        model, posterior = make()
        stops = [] if stop is None else [lambda event: event.step >= stop]
        lb.fit(
            model,
            rows,
            lb.AEVB(posterior),
            epochs=6,
            batch_size=4,
            run_dir=folder,
            checkpoint_every=2,
            callbacks=stops,
            validation=0,
        )
        return model.state_dict() | posterior.state_dict()

    whole = run(tmp_path / "whole", None)
    run(tmp_path / "parts", 13)
    resumed = run(tmp_path / "parts", None)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_importance_sampling_of_the_exact_posterior_has_no_error() -> None:
    model = linear_model(2, 3, 6)
    rows = linear_rows(model)
    found = lb.log_likelihood(model, exact_posterior(model), rows, samples=10)
    batch = all_of(rows)
    with torch.no_grad():
        log_p, *_ = state_space(model).filtered(batch.x, batch.mask)
    np.testing.assert_allclose(found.estimate, log_p.numpy(), rtol=0, atol=1e-8)
    assert found.standard_error.max() < 1e-8


def test_annealing_from_the_prior_finds_log_p() -> None:
    model, rows = linear_model(1, 2, 4), linear_rows(linear_model(1, 2, 4), (3, 4, 2), missing=False)
    posterior = posteriors.Markov(1, nn.Recurrent((2,), 2, 4), 4).double()
    settings = lb.evidence.Settings(200, 50, 3, start="prior")
    targets = lb.evidence.of_model(model, posterior)
    found = lb.evidence.annealed(targets, rows, torch.Generator().manual_seed(0), settings)
    batch = all_of(rows)
    with torch.no_grad():
        log_p, *_ = state_space(model).filtered(batch.x, batch.mask)
    assert np.abs(found.estimate - log_p.numpy()).max() < 0.2


def test_models_of_sequences_are_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        made = [*(make() for make in MODELS.values()), KalmanSmoother(2, 3)]
    for each in made:
        for module in each if isinstance(each, tuple) else (each,):
            assert all(value.is_meta for value in (*module.parameters(), *module.buffers()))


def test_a_kalman_smoother_is_saved_and_loaded(tmp_path: Path) -> None:
    model = linear_model(1, 2, 6)
    rows = linear_rows(model)
    lb.save(tmp_path / "run", model, exact_posterior(model))
    loaded = lb.load(tmp_path / "run")
    assert isinstance(loaded.posterior, KalmanSmoother)
    found = [lb.log_likelihood(own, exact_posterior(own), rows, samples=2).estimate for own in (model, loaded.model)]
    np.testing.assert_array_equal(*found)


def test_likelihoods_of_several_parameters_at_each_step() -> None:
    """A decoder of steps gives [P, T, *X]; the log-probability is that of the steps as rows of their own."""
    rows = bits((4, 4))
    x, mask = all_of(rows).x, all_of(rows).mask
    with nn.seeded(0):
        network = nn.MLP((2,), (2, 3), (4,)).double()
    of = likelihoods.Normal("entry", (3,)).double()
    model = LatentVariableModel(
        priors.Markov(2, 4, nn.LinearTransition(2)), nn.EachStep(network, n_parameters=2), likelihoods.EachStep(of)
    ).double()
    model.initialise(x, mask)
    z = torch.randn(3, 2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = LatentVariableModel(priors.Normal(2), network, of)
    due = steps.log_lik(z.flatten(1, 2), x.flatten(0, 1), mask.flatten(0, 1)).unflatten(1, (2, 4)).sum(2)
    torch.testing.assert_close(model.log_lik(z, x, mask), due, rtol=0, atol=1e-10)
    assert model.sample(5, torch.Generator().manual_seed(0)).shape == (5, 4, 3)
