"""The mean KL in its two parts, against linear normal models and enumeration, where both are known."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from enumeration import belief_net
from oracles import PPCA, rng
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.distributions import inverse_positive
from lowerbound.evidence.collapse import Collapse, collapse
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP
from lowerbound.posteriors.normal import MIN_SCALE
from test_context import C, Linear


def linear(scale: float = 1.0, latents: int = 3, dim: int = 6) -> PPCA:
    random = np.random.default_rng(1)
    x = scale * random.normal(size=(400, latents)) @ random.normal(size=(latents, dim)) + random.normal(size=(400, dim))
    return PPCA.of(x, latents)


def simulated(oracle: PPCA, n: int, seed: int = 5) -> Tensor:
    with torch.no_grad():
        return oracle.model().sample(n, rng(seed))


def answers(oracle: PPCA, widen: float) -> tuple[float, float]:
    """I_q(x; z) and KL(q(z) ‖ p(z)) over x of the model, q(z|x) = N(m(x), w²/P): q(z) = N(0, 1 − 1/P + w²/P)."""
    variance = 1 / oracle.precision.diagonal().numpy()
    inner, whole = widen**2 * variance, 1 - variance + widen**2 * variance
    return float(0.5 * np.log(whole / inner).sum()), float(0.5 * (whole - 1 - np.log(whole)).sum())


def misses(found: Collapse, truth: tuple[float, float]) -> list[float]:
    """Of information, mismatch and their sum, in standard errors."""
    pairs = zip((found.mutual_information, found.marginal_kl, found.kl), (*truth, sum(truth)), strict=True)
    return [(estimate.value - due) / estimate.standard_error for estimate, due in pairs]


@pytest.mark.parametrize("widen", [0.6, 1.5, 2.0])
def test_both_parts_are_those_of_the_linear_normal_model(widen):
    oracle = linear()
    found, truth = collapse(oracle.model(), oracle.posterior(widen), simulated(oracle, 3000)), answers(oracle, widen)
    assert max(map(abs, misses(found, truth))) < 4
    assert max(e.standard_error for e in (found.mutual_information, found.marginal_kl)) < 0.05 * min(1, truth[0])
    assert max(map(abs, misses(found, (truth[1], truth[0])))) > 10  # the parts the wrong way round
    assert not found.near_cap
    assert found.cap == pytest.approx(math.log(3000))


def test_at_the_exact_posterior_all_of_it_is_information():
    oracle = linear()
    found, (information, marginal) = (
        collapse(oracle.model(), oracle.posterior(), simulated(oracle, 3000)),
        answers(oracle, 1),
    )
    assert marginal == pytest.approx(0, abs=1e-12)
    assert found.mutual_information.value == pytest.approx(information, abs=4 * found.kl.standard_error)
    assert abs(found.marginal_kl.value) < 0.02
    assert found.marginal_kl.standard_error < 0.003  # the draws' error is the information's alone
    assert information > 1.5
    assert found.mutual_information.value <= found.upper.value + 1e-9
    assert found.upper.value == pytest.approx(information, abs=5 * found.upper.standard_error)


def test_the_kl_is_the_closed_form_and_the_sum_of_its_parts():
    oracle = linear()
    x, posterior = simulated(oracle, 300), oracle.posterior(1.3)
    found = collapse(oracle.model(), posterior, x)
    q = posterior(x)
    each = 0.5 * (q.scale**2 + q.loc**2 - 1 - 2 * q.scale.log()).detach().numpy()
    assert found.kl.value == pytest.approx(each.sum(1).mean(), rel=1e-12)
    assert found.kl.standard_error == pytest.approx(each.sum(1).std(ddof=1) / math.sqrt(300), rel=1e-9)
    np.testing.assert_allclose(found.kl_per_dim, each.mean(0), rtol=1e-12)
    assert found.mutual_information.value + found.marginal_kl.value == pytest.approx(found.kl.value, rel=1e-12)
    np.testing.assert_array_equal(found.active, (q.loc.detach().numpy().var(0) > 0.01))


def collapsed(oracle: PPCA, dims: slice) -> lb.posteriors.DiagonalNormal:
    """q(z_j|x) = p(z_j) for the dimensions ``dims``."""
    posterior, latents = oracle.posterior(), oracle.weight.shape[1]
    layer, of = posterior.encoder.second.layers[0], torch.arange(latents)[dims]
    with torch.no_grad():
        layer.weight[of] = 0
        layer.bias[of] = 0
        layer.bias[latents + of] = inverse_positive(torch.ones(len(of)).double() - MIN_SCALE)
    return posterior


def test_a_collapsed_posterior_holds_nothing():
    oracle = linear()
    found = collapse(oracle.model(), collapsed(oracle, slice(None)), simulated(oracle, 200))
    for estimate in (found.kl, found.mutual_information, found.marginal_kl, found.upper):
        assert abs(estimate.value) < 1e-12
    np.testing.assert_allclose(found.kl_per_dim, 0, atol=1e-12)
    assert not found.active.any()
    assert "0 of 3 latents are active" in found.verdict()


def test_one_collapsed_dimension_is_named():
    oracle = linear()
    found = collapse(oracle.model(), collapsed(oracle, slice(1, 2)), simulated(oracle, 200))
    assert found.active.tolist() == [True, False, True]
    assert found.kl_per_dim[1] == pytest.approx(0, abs=1e-12)
    assert found.kl_per_dim[[0, 2]].min() > 0.03


def test_few_rows_cap_the_information():
    """18 nats, of which 100 rows show log 100 = 4.6: the lower bound is near it, and the upper one above the truth."""
    oracle = linear(scale=300.0)
    information, _ = answers(oracle, 1)
    assert information > 15
    found = collapse(oracle.model(), oracle.posterior(), simulated(oracle, 100))
    assert found.mutual_information.value == pytest.approx(math.log(100), abs=0.05)
    assert found.mutual_information.value < found.cap + 1e-6
    assert found.near_cap
    assert found.upper.value > information
    assert found.mutual_information.standard_error < 1e-3  # the draws' error is the mismatch's alone
    assert f"may be up to {found.kl.value:.2f} nats" in found.verdict()
    assert found.mutual_information.value + found.marginal_kl.value == pytest.approx(found.kl.value)


def test_enumerated_bits():
    """Posteriors of three bits under 12 rows: q(z) and all that follows by summing over 8 states."""
    case = belief_net(3)
    x = (torch.rand(12, 5, generator=rng(), dtype=torch.float64) < 0.5).double()
    with torch.no_grad():
        case.posterior.encoder.layers[0].weight.mul_(4)
        case.model.prior.logits.copy_(torch.tensor([1.0, -1.0, 0.5]))
        q, p = case.posterior(x), case.model.prior()
        states = q.states()
        log_q, log_p = q.log_prob_of_each(states), p.log_prob_of_each(states)  # [8, 12], [8, 1]
    mixture = log_q.logsumexp(1, keepdim=True) - math.log(12)
    information = float((log_q.exp() * (log_q - mixture)).sum() / 12)
    marginal = float((mixture.exp() * (mixture - log_p)).sum())
    found = collapse(case.model, case.posterior, x, samples=20_000)
    assert found.mutual_information.value == pytest.approx(information, abs=0.005)
    assert found.marginal_kl.value == pytest.approx(marginal, abs=0.005)
    assert found.kl.value == pytest.approx(information + marginal, rel=1e-10)
    assert min(information, marginal) > 0.1
    assert found.kl_per_dim.shape == (3,)


def test_under_a_vampprior_of_these_very_rows_all_is_information():
    """p(z) = q(z): the parts are exact at every draw, and no closed form is at hand."""
    oracle = linear()
    x, model = simulated(oracle, 50), oracle.model()
    prior = lb.priors.VampPrior((3,), (6,), components=50).double()
    prior.initialise(x)
    found = collapse(LatentVariableModel(prior, model.decoder, model.likelihood), oracle.posterior(), x, samples=20)
    assert found.kl_per_dim is None
    assert found.marginal_kl.value == pytest.approx(0, abs=1e-10)
    assert found.kl.value == pytest.approx(found.mutual_information.value, abs=1e-10)
    assert found.mutual_information.value > 1


def test_parts_of_a_named_latent_each_have_their_dimensions():
    names = ("colour", "size")
    prior = lb.priors.Latents(dict(zip(names, [lb.priors.Normal(2), lb.priors.Bernoulli(3)], strict=True)))
    parts = [lb.posteriors.DiagonalNormal(2, nn.Identity()), lb.posteriors.Bernoulli(3, nn.Identity())]
    with lb.nn.seeded(0):
        posterior = lb.posteriors.Latents(dict(zip(names, parts, strict=True)), MLP((4,), (7,), hidden=()))
        model = LatentVariableModel(prior, MLP((5,), (4,), hidden=()), lb.likelihoods.Normal(1.0))
    x = torch.randn(300, 4, generator=rng())
    found = collapse(model, posterior, x)
    assert found.kl_per_dim.shape == found.active.shape == (5,)
    assert found.kl_per_dim.sum() == pytest.approx(found.kl.value, rel=1e-5)


def test_others_are_all_the_other_rows_however_they_are_divided(monkeypatch):
    module, oracle = importlib.import_module("lowerbound.evidence.collapse"), linear()
    x, posterior = simulated(oracle, 130), oracle.posterior(1.2)
    with torch.no_grad():
        q = posterior(x)
        z = q.sample(posterior.noise(3, 130, rng(), torch.float64))
        each = torch.distributions.Normal(q.loc, q.scale).log_prob(z.unsqueeze(2)).sum(3)  # [S, i, j]
        due = each.masked_fill(torch.eye(130, dtype=torch.bool), -math.inf).logsumexp(2)
        monkeypatch.setattr(module, "_VALUES", 5000)
        monkeypatch.setattr(module, "_ROWS", 40)
        found = module._log_others(oracle.model(), posterior, Rows(x, dtype=torch.float64), z)
    torch.testing.assert_close(found, due, rtol=1e-10, atol=1e-10)


def test_bad_input_is_named():
    oracle = linear()
    x = simulated(oracle, 5)
    with pytest.raises(ValueError, match="2 rows"):
        collapse(oracle.model(), oracle.posterior(), x[:1])
    with pytest.raises(ValueError, match="samples=0"):
        collapse(oracle.model(), oracle.posterior(), x, samples=0)
    truth = Linear()
    y, c = truth.rows(5)
    with pytest.raises(ValueError, match="context"):
        collapse(*truth.parts(), Rows(y, dtype=torch.float64, context=c))
    assert c.shape == (5, C)
