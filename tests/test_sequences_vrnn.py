"""The variational RNN against quadrature over its latents, written out step by step; one latent per sequence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from enumeration import gradient
from messages import assert_one_sentence
from torch import Tensor

import lowerbound as lb
from lowerbound import objectives, queries, recipes
from lowerbound.data import Sequences
from lowerbound.inference import particles
from lowerbound.model import LatentVariableModel, distributions_of, draw
from lowerbound.posteriors import Posterior

ROWS = Sequences([[[1.0, 0], [1, 1]], [[0, math.nan], [0, 1]]], dtype=torch.float64)
GRID, REACH = 61, 7.0
MIN = 1e-6


def toy(smoothing: bool = False) -> tuple[LatentVariableModel, Posterior]:
    """d = 1, H = 3, T = 2, two bits per step, with large weights."""
    model, posterior = recipes.vrnn(ROWS, 1, 3, smoothing=smoothing)
    model, posterior = model.double(), posterior.double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for size, parameter in [(0.7, own) for own in model.parameters()] + [
            (0.3, own) for own in posterior.parameters()
        ]:
            parameter.copy_(size * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return model, posterior


def batch(rows: Sequences = ROWS) -> lb.Batch:
    return rows.batch(torch.arange(len(rows)), torch.full((len(rows),), 1 / len(rows), dtype=rows.dtype))


def normal(out: Tensor) -> torch.distributions.Normal:
    loc, raw = out.chunk(2, -1)
    return torch.distributions.Normal(loc, torch.nn.functional.softplus(raw + math.log(math.e - 1)) + MIN)


def by_hand(model: LatentVariableModel, posterior: Posterior, row: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, z) and log q(z|x) ``[G]`` of one row at z ``[G, 2]``, and h_2."""
    x, mask = ROWS.batch(torch.tensor([row]), torch.ones(1)).x[0], batch().mask[row]
    prior, flags = model.prior, mask.double()
    read = prior.reader.layers(torch.cat([x, flags], 1))
    h = torch.zeros(len(z), 3, dtype=torch.float64)
    log_p = log_q = torch.zeros(len(z), dtype=torch.float64)
    for t in range(2):
        if t:
            h = prior.cell(torch.cat([read[0].expand(len(z), -1), z[:, :1]], 1), h)
        own = z[:, t : t + 1]
        logits = model.decoder.network(torch.cat([own, h], 1))
        of_x = torch.distributions.Bernoulli(logits=logits).log_prob(x[t]) * flags[t]
        log_p = log_p + normal(prior.network(h)).log_prob(own).sum(1) + of_x.sum(1)
        feature = posterior.encoder(x[None], mask[None])[0, t].expand(len(z), -1)
        log_q = log_q + normal(posterior.network(h, feature)).log_prob(own).sum(1)
    return log_p, log_q, h


def grid() -> tuple[Tensor, float]:
    line = torch.linspace(-REACH, REACH, GRID, dtype=torch.float64)
    return torch.cartesian_prod(line, line), float(line[1] - line[0]) ** 2


def quadrature(model: LatentVariableModel, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """log p(x) and the ELBO of both rows."""
    z, area = grid()
    found = []
    for row in range(2):
        log_p, log_q, _ = by_hand(model, posterior, row, z)
        found.append((log_p.logsumexp(0) + math.log(area), (log_q.exp() * (log_p - log_q)).sum() * area))
    log_p, bound = zip(*found, strict=True)
    return torch.stack(log_p), torch.stack(bound)


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_densities_are_those_written_out(smoothing: bool) -> None:
    model, posterior = toy(smoothing)
    with torch.no_grad():
        there = draw(model, posterior, batch(), torch.Generator().manual_seed(0), K=6)
        s = there.nodes[0].z
        for row in range(2):
            log_p, log_q, h = by_hand(model, posterior, row, s[:, row, :, 0])
            torch.testing.assert_close(there.log_w[:, row], log_p - log_q, rtol=0, atol=1e-10)
            torch.testing.assert_close(s[:, row, 1, 1:], h, rtol=0, atol=1e-10)
        joint = model.log_joint(s, batch().x, batch().mask)
        torch.testing.assert_close(joint - there.log_q, there.log_w, rtol=0, atol=1e-10)


def test_bounds_and_filters_agree_with_quadrature() -> None:
    """ELBO by quadrature under q; p(x) as the mean weight, of all steps or of a filter with resampling."""
    model, posterior = toy()
    rows = 20_000
    with torch.no_grad():
        log_p, bound = quadrature(model, posterior)
        q, p = distributions_of(model, posterior, batch().x, batch().mask)
        noise = particles.particle_noise(posterior, rows, 2, torch.Generator().manual_seed(0), torch.float64)
        log_w = draw(model, posterior, batch(), noise[..., :-1]).log_w
        for found, due in ((log_w, bound), ((log_w - log_p).exp(), torch.ones(2))):
            error = found.std(0) / rows**0.5
            assert float(((found.mean(0) - due) / error).abs().max()) < 4
            assert float(error.max()) < 0.03
        many = [0, 1] * rows
        whole = ROWS.batch(torch.tensor(many), torch.ones(len(many)))
        q, p = distributions_of(model, posterior, whole.x, whole.mask)
        noise = particles.particle_noise(posterior, 4, len(many), torch.Generator().manual_seed(1), torch.float64)
        p_hat = particles.particle_filter(model, q, p, whole, noise, threshold=1.0).log_p.view(rows, 2)
        ratio = (p_hat - log_p).exp()
        assert float(((ratio.mean(0) - 1) / (ratio.std(0) / rows**0.5)).abs().max()) < 4
        four = objectives.iwae(draw(model, posterior, whole, noise[..., :-1])).view(rows, 2).mean(0)
        assert (bound < four).all()
        assert (four < log_p).all()


def test_the_gradient_is_that_of_the_bound_by_quadrature() -> None:
    """Also of the memory, through which the parameters of the model reach the draws of q."""
    model, posterior = toy()
    parameters = [*model.parameters(), *posterior.parameters()]
    due = gradient(quadrature(model, posterior)[1].sum(), parameters)
    found = []
    for seed in range(40):
        there = draw(model, posterior, batch(), torch.Generator().manual_seed(seed), K=500)
        found.append(gradient(objectives.elbo(there).sum(), parameters))
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / len(found) ** 0.5
    moves = error > 1e-9
    assert moves.sum() > 100
    assert float(((mean - due)[moves] / error[moves]).abs().max()) < 4.5
    stopped = [gradient(lb.gradients.sticking_the_landing(there, objectives.elbo_sampled).sum(), parameters)
               for there in (draw(model, posterior, batch(), torch.Generator().manual_seed(seed), K=500)
                             for seed in range(40))]  # fmt: skip
    mean, error = torch.stack(stopped).mean(0), torch.stack(stopped).std(0) / 40**0.5
    moves = error > 1e-9
    assert float(((mean - due)[moves] / error[moves]).abs().max()) < 4.5


def test_padding_adds_nothing() -> None:
    model, posterior = toy()
    longer = ROWS.extended(2)
    with torch.no_grad():
        noise = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        long = draw(model, posterior, batch(longer), noise)
        short = draw(model, posterior, batch(), noise[:, :, :2])
    torch.testing.assert_close(long.log_w, short.log_w, rtol=0, atol=1e-10)


def test_draws_of_the_model_have_its_probabilities() -> None:
    """The share of rows with x = (1, 0), (1, 1) among draws is p(x) by quadrature."""
    model, posterior = toy()
    with torch.no_grad():
        due = float(quadrature(model, posterior)[0][0].exp())
        x = model.sample(40_000, torch.Generator().manual_seed(0))
    share = float((x == batch().x[0]).all(2).all(1).double().mean())
    assert abs(share - due) < 4 * (due * (1 - due) / 40_000) ** 0.5


@pytest.mark.parametrize("learning", ["AEVB", "FIVO"])
def test_it_is_fitted_saved_and_resumed(learning: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = Sequences([(rng.random((n, 2)) < 0.3 + 0.4 * (np.arange(n) % 2)[:, None]) * 1.0 for n in (6, 4, 5, 6) * 10])

    def run(folder: Path, stop: int | None) -> tuple[Any, Posterior, LatentVariableModel]:
        model, posterior = recipes.vrnn(rows, 2, 8, smoothing=learning == "AEVB")
        way = (
            lb.AEVB(posterior, learning_rate=1e-2) if learning == "AEVB" else lb.FIVO(posterior, 4, learning_rate=1e-2)
        )
        stops = [] if stop is None else [lambda event: event.step >= stop]
        settings = {"run_dir": folder, "checkpoint_every": 2, "callbacks": stops, "validation": 0}
        return lb.fit(model, rows, way, epochs=4, batch_size=10, **settings).history, posterior, model

    history, posterior, model = run(tmp_path / "whole", None)
    assert history.records[-1]["train_objective"] > history.records[0]["train_objective"]
    run(tmp_path / "parts", 7)
    *_, resumed = run(tmp_path / "parts", None)
    assert all(value.equal(resumed.state_dict()[name]) for name, value in model.state_dict().items())
    loaded = lb.load(tmp_path / "whole")
    found = [lb.log_likelihood(*each, rows, samples=20).estimate for each in
             ((model, posterior), (loaded.model, loaded.posterior))]  # fmt: skip
    np.testing.assert_array_equal(*found)


def test_what_it_cannot_do_is_refused() -> None:
    model, posterior = toy()
    there = draw(model, posterior, batch(), torch.Generator().manual_seed(0), K=3)
    with pytest.raises(ValueError, match="holds the units of a network") as caught:
        lb.gradients.doubly_reparameterised(there, objectives.iwae)
    assert_one_sentence(str(caught.value), ("use gradients.reparameterised",))
    with pytest.raises(ValueError, match="reads the rows before step t, and these are not given") as caught:
        model.sample_latents(2, torch.Generator())
    assert_one_sentence(str(caught.value), ())
    with pytest.raises(ValueError, match="a forecast continues the latents alone") as caught:
        queries.forecast(model, posterior, ROWS, 1, torch.Generator())
    assert_one_sentence(str(caught.value), ("priors.Markov",))


def test_one_latent_per_sequence_by_recipe() -> None:
    model, posterior = recipes.sequence_vae(ROWS, 1, 3)
    model, posterior = model.double(), posterior.double()
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    with torch.no_grad():
        grid = model.log_joint(z[:, None, None].expand(-1, 2, 1), batch().x, batch().mask)
        due = grid.logsumexp(0) + math.log(float(z[1] - z[0]))
        found = draw(model, posterior, batch(), torch.Generator().manual_seed(0), K=20_000).log_w
    assert float((found.logsumexp(0) - math.log(20_000) - due).abs().max()) < 0.02
    assert (found.mean(0) < due).all()
