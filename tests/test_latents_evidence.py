"""Evidence, its checks and queries of latents with parents: two linear layers, where every figure has a closed form."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from layers import LinearLayers, linear
from oracles import batch_of, rng
from torch import nn

import lowerbound as lb
from lowerbound import distributions, evidence, queries
from lowerbound.cli import commands
from lowerbound.errors import FormatError
from lowerbound.estimators.trial import check_computes
from lowerbound.evidence import gaps, proposals
from lowerbound.evidence.collapse import collapse
from lowerbound.evidence.gaps import gap_report
from lowerbound.model import LatentVariableModel, distributions_of, draw, nodes_of
from lowerbound.nn import MLP, seeded
from lowerbound.posteriors import DiagonalNormal
from lowerbound.queries.denoising import Gaussian, denoise
from test_gaps import known
from test_latents import Classes

ORDERS = ("bottom-up", "top-down", "apart")
EXACT = ("bottom-up", "top-down", "ladder")
NATS = 0.02


@pytest.fixture(scope="module")
def toy() -> LinearLayers:
    return LinearLayers()


# The terms of a draw


@pytest.mark.parametrize("order", ORDERS)
def test_the_closed_forms_of_this_file_are_one(toy, order):
    """KL(q ‖ p(z|x)) from the moments of q, as from its factors; the mean KL from its parts, as from draws."""
    away, inside = toy.of_q(order, 0.4, 1.3)
    precision = toy.precision()
    gap = 0.5 * ((precision @ inside).trace() + away @ precision @ away - 2 - precision.logdet() - inside.logdet())
    assert float(gap) == pytest.approx(toy.gap(order, 0.4, 1.3), abs=1e-12)
    q, _ = distributions_of(toy.model, toy.posterior(order, 0.4, 1.3), x := toy.rows(1))
    z = q.split(q.sample(toy.posterior(order).noise(400_000, 1, rng(), x.dtype)))
    z = torch.cat([z["z1"], z["z2"]], 2)[:, 0].detach()
    torch.testing.assert_close(z.T.cov(), inside, rtol=0.02, atol=0.002)


@pytest.mark.parametrize("order", [*ORDERS, "ladder"])
def test_the_kl_of_a_draw_is_the_sum_of_that_of_its_latents(toy, order):
    posterior = toy.posterior(order) if order == "ladder" else toy.posterior(order, 0.4, 1.3)
    x = toy.rows(40_000)
    there = draw(toy.model, posterior, batch_of(x), rng(), 3)
    nodes = {node.name: node for node in there.nodes}
    torch.testing.assert_close(there.mean_kl, nodes["z1"].mean_kl + nodes["z2"].mean_kl)
    due = toy.parts_of_kl(order) if order == "ladder" else toy.parts_of_kl(order, 0.4, 1.3)
    for name, node in nodes.items():
        each, per_dim = node.mean_kl.detach(), node.mean_kl_per_dim.detach()
        assert float(each.mean()) == pytest.approx(due[name], abs=4 * float(each.std()) / 200)
        torch.testing.assert_close(per_dim[:, 0], each)
        assert per_dim.shape == (40_000, 1)


def test_latents_without_the_likelihood_are_those_of_the_draw(toy):
    posterior, x = toy.posterior("bottom-up", 0.4), toy.rows(3)
    q, p = distributions_of(toy.model, posterior, x)
    noise = posterior.noise(2, 3, rng(), x.dtype)
    for ours, theirs in zip(
        nodes_of(q, p, (2,), noise), draw(toy.model, posterior, batch_of(x), noise).nodes, strict=True
    ):
        assert ours.name == theirs.name
        for term in ("z", "log_p", "log_q", "mean_kl"):
            assert torch.equal(getattr(ours, term), getattr(theirs, term))


# The gap and its parts


def report(
    toy: LinearLayers, posterior: lb.posteriors.Posterior, n: int = 40, steps: int = 250, **settings
) -> gaps.Gaps:
    x = toy.rows(n)
    return gap_report(toy.model, posterior, x, known(toy.log_prob(x).detach()), steps=steps, **settings)


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_an_encoder_that_is_off_is_all_that_is_lost_where_the_order_is_exact(toy, order):
    """The best q of a row is p(z|x): the gap is amortisation."""
    found = report(toy, toy.posterior(order, 0.4, 1.3))
    assert list(found.local) == ["Latents", "FullNormal"]
    assert found.total.mean == pytest.approx(toy.gap(order, 0.4, 1.3), abs=NATS)
    assert found.amortisation.mean == pytest.approx(toy.gap(order, 0.4, 1.3), abs=NATS)
    for name in found.local:
        assert abs(found.approximation(name).mean) < NATS
        assert abs(found.approximation(name).estimate).max() < NATS
    assert found.converged()


def test_the_best_of_a_ladder_is_what_its_merge_makes_of_it(toy):
    """An encoder that gives the likelihood's precision and mean is exact; any other is as far off as its merge."""
    exact = report(toy, toy.posterior("ladder"), richer=())
    assert abs(exact.total.mean) < 1e-8
    posterior = toy.posterior("ladder")
    with torch.no_grad():
        posterior.parts["z1"].encoder.layers[0].bias[0] += 0.5
    own = float(toy.w @ toy.w) / toy.t**2
    shift = 0.5 * own / (own + toy.s**-2)  # of the merged mean
    gap = 0.5 * shift**2 * float(toy.precision()[0, 0])
    found = report(toy, posterior, richer=())
    assert found.total.mean == pytest.approx(gap, abs=NATS)
    assert found.amortisation.mean == pytest.approx(gap, abs=NATS)
    assert abs(found.approximation().mean) < NATS


def test_what_a_factorised_q_misses_of_dependent_latents_is_approximation(toy):
    found, missed = report(toy, toy.posterior("apart", 0.4, 1.3)), toy.gap("apart")
    assert missed > 5 * NATS
    assert found.approximation().mean == pytest.approx(missed, abs=NATS)
    assert found.amortisation.mean == pytest.approx(toy.gap("apart", 0.4, 1.3) - missed, abs=NATS)
    assert abs(found.approximation("FullNormal").mean) < NATS


def sloped(toy: LinearLayers, slope: float) -> lb.posteriors.Latents:
    """Bottom-up and exact, but for the slope of z2 in z1."""
    posterior = toy.posterior("bottom-up")
    with torch.no_grad():
        posterior.parts["z2"].encoder.layers[0].weight[0, 2] += slope
    return posterior


def test_how_a_child_depends_on_its_parent_stays_as_the_encoder_says(toy):
    """A slope that is off by d costs, at the best of all shifts and scales, ½ log(1 + d² V₁/V₂)."""
    precision, inverse = toy.precision(), toy.precision().inverse()
    due = 0.5 * math.log1p(0.9**2 * float(inverse[0, 0] * precision[1, 1]))
    assert due > 5 * NATS
    found = report(toy, sloped(toy, 0.9), steps=400)
    assert found.approximation().mean == pytest.approx(due, abs=NATS)
    assert found.amortisation.mean > 0.1
    assert abs(found.approximation("FullNormal").mean) < NATS


def test_log_p_is_estimated_around_the_best_q_of_all_layers(toy):
    x = toy.rows(40)
    found = gap_report(toy.model, toy.posterior("apart", 0.4, 1.3), x, steps=250)
    np.testing.assert_allclose(found.log_p, toy.log_prob(x).detach(), atol=NATS)
    assert found.reliable.all()
    q, _ = distributions_of(toy.model, toy.posterior("bottom-up"), x)
    around = proposals.around(q, x, rng())
    assert isinstance(around, proposals.StudentT)
    covariance = (around.scale_tril @ around.scale_tril.mT).detach()
    due = toy.precision().inverse().flip(0, 1)  # z2 first, as in the model
    np.testing.assert_allclose(covariance, due.expand(40, 2, 2), atol=0.1)


@pytest.mark.parametrize("order", ORDERS)
def test_the_kl_of_each_latent_is_reported_with_the_gap(toy, order):
    found = report(toy, toy.posterior(order, 0.4, 1.3), 400, 1, richer=(), samples=300)
    due = toy.parts_of_kl(order, 0.4, 1.3)
    assert list(found.kl) == ["z1", "z2"]
    for name, kl in found.kl.items():
        assert kl.mean == pytest.approx(due[name], abs=4 * (kl.mean_standard_error + kl.mean_monte_carlo_error) + 1e-9)
        assert kl.mean_monte_carlo_error < 0.01
    words = found.words()
    assert "The KL(q ‖ p) of each latent in the ELBO is " in words
    assert "(z1), " in words
    assert "(z2)." in words


def test_the_best_q_of_a_class_and_a_number_is_sought_by_their_families():
    """p(y) p(z|y) p(x|y, z), y enumerated: with all it needs the family reaches log p(x)."""
    toy = Classes()
    x = torch.tensor([[0.5, -0.4], [2.0, 1.0], [-1.0, 0.3]]).double()
    found = gap_report(
        toy.model, toy.posterior, x, known(toy.log_prob(x)), steps=400, draws=32, samples=4000, learning_rate=0.05
    )
    assert list(found.local) == ["Latents"]
    assert found.amortisation.mean > 0.1
    assert -0.02 < found.approximation().mean < found.total.mean - 0.1
    assert list(found.kl) == ["y", "z"]
    with pytest.raises(ValueError, match="richer needs real-valued latents, but Latents has others; leave richer out"):
        gap_report(toy.model, toy.posterior, x, richer=["FullNormal"])


# The mean KL in its parts


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.0), (0.4, 1.5)])
@pytest.mark.parametrize("order", ORDERS)
def test_information_and_mismatch_of_two_layers_are_those_of_the_closed_form(toy, order, shift, widen):
    due = toy.parts_of_kl(order, shift, widen)
    found = collapse(toy.model, toy.posterior(order, shift, widen), toy.rows(1500), samples=2)
    for name, estimate in (("information", found.mutual_information), ("marginal", found.marginal_kl)):
        assert estimate.value == pytest.approx(due[name], abs=4 * estimate.standard_error + 0.005)
        assert estimate.standard_error < 0.03
    for name, estimate in found.kl_per_latent.items():
        assert estimate.value == pytest.approx(due[name], abs=4 * estimate.standard_error)
        assert f"{name}: {estimate}" in found.verdict()
    assert list(found.kl_per_latent) == ["z2", "z1"]
    assert found.kl.value == pytest.approx(sum(each.value for each in found.kl_per_latent.values()), rel=1e-9)
    np.testing.assert_allclose(found.kl_per_dim, [each.value for each in found.kl_per_latent.values()], rtol=1e-9)
    assert found.active.tolist() == [True, True]


@pytest.mark.parametrize(("spread", "active"), [(0.08, False), (0.12, True)])
def test_a_child_is_active_by_its_mean_over_its_parents(toy, spread, active):
    """z2|z1 ~ N(k z1, 1): E[z2|x] = k E[z1|x], whatever z1 is drawn."""
    posterior, x = toy.posterior("bottom-up"), toy.rows(400)
    layer = posterior.parts["z1"].encoder.layers[0]
    deviation = float((x @ layer.weight[0]).std(correction=0).detach())
    posterior.latents[1] = DiagonalNormal(1, linear(2, [[0.0, 0.0, spread / deviation]], [0.0], 1.0, context=1))
    with torch.no_grad():
        layer.bias[1] += 2  # z1 is drawn far from its mean
    found = collapse(toy.model, posterior, x, samples=1)
    assert found.active.tolist() == [active, True]


# Proposals, annealing, calibration, predictive checks


@pytest.mark.parametrize("order", ORDERS)
def test_a_proposal_fitted_to_a_row_finds_the_evidence_that_a_bad_encoder_misses(toy, order):
    x, posterior = toy.rows(30), toy.posterior(order, 1.0, 0.5)
    targets = evidence.of_model(toy.model, posterior)
    exact = toy.log_prob(x).detach().numpy()
    bad = evidence.to_precision(targets, x, rng(), 0.02, fit=False)
    assert not bad.reliable.any()
    found = evidence.to_precision(targets, x, rng(), 0.02)
    assert found.fitted.all()
    assert found.reliable.all()
    assert found.standard_error.max() < 0.03
    assert abs((found.estimate - exact) / found.standard_error).max() < 4
    for quick in (False, True):
        z, log_w = proposals.mixed(targets(batch_of(x)), x, 2000, rng(), quick=quick)
        assert z.shape == (2000, 30, 2)
        np.testing.assert_allclose(log_w.logsumexp(0).detach() - math.log(2000), exact, atol=0.2)


def test_proposals_are_fitted_to_layers_of_normals_alone(toy):
    target = evidence.of_model(toy.model, toy.posterior("bottom-up"))(batch_of(toy.rows(2)))
    assert proposals.fits(target)
    classes = Classes()
    mixed = evidence.of_model(classes.model, classes.posterior)(batch_of(classes.x))
    assert not proposals.fits(mixed)
    assert proposals.around(mixed.posterior, classes.x, rng()) is mixed.posterior


@pytest.mark.parametrize(("order", "start"), [("bottom-up", "posterior"), ("top-down", "prior")])
def test_the_sandwich_of_two_layers_holds_the_evidence_of_its_rows(toy, order, start):
    posterior = toy.posterior(order, 0.4, 1.3)
    drawn: list[torch.Tensor] = []
    simulate = evidence.simulator(toy.model, posterior)

    def kept(n: int, own: torch.Generator):
        z, rows = simulate(n, own)
        drawn.append(rows.x)
        return z, rows

    settings = evidence.Settings(temperatures=20, chains=10, start=start)
    both = evidence.sandwich(evidence.of_model(toy.model, posterior), kept, rng(), 60, settings)
    exact = toy.log_prob(drawn[0]).detach().numpy()
    for bound, sign in ((both.lower, 1), (both.upper, -1)):
        short = sign * (exact - bound.estimate)
        error = short.std(ddof=1) / math.sqrt(60)
        assert -4 * error < short.mean() < 0.1
        assert error < 0.05
    assert abs(both.mean_gap) < 0.1


def parents_mean(toy: LinearLayers) -> lb.posteriors.Latents:
    """Bottom-up, but z2 is drawn given the mean of q(z1|x)."""
    posterior = toy.posterior("bottom-up")
    first, second = (part.encoder.layers[0] for part in posterior.parts.values())
    share = float(second.weight[0, 2].detach())
    weight, bias = (share * first.weight[:1]).tolist(), float((share * first.bias[0] + second.bias[0]).detach())
    scale = 1 / math.sqrt(float(toy.precision()[1, 1]))
    parts = {"z1": posterior.parts["z1"], "z2": DiagonalNormal(1, linear(2, weight, [bias], scale))}
    return lb.posteriors.Latents(parts).double()


@pytest.mark.parametrize("order", EXACT)
def test_the_exact_posterior_of_two_layers_is_calibrated(toy, order):
    found = evidence.calibrate(toy.model, toy.posterior(order), simulations=2000)
    assert found.names == ("z2[0]", "z1[0]", "log p(x, z)")
    assert found.p_value > 0.01
    assert found.decision.answer == "passed"
    assert found.verdict().startswith("no evidence that q differs from the posterior")


@pytest.mark.parametrize("order", ["bottom-up", "top-down"])
def test_half_the_variance_is_rejected(toy, order):
    found = evidence.calibrate(toy.model, toy.posterior(order, 0.0, math.sqrt(0.5)), simulations=2000)
    assert found.p_values[1] < 1e-6
    assert found.coverage([0.9]).share[0, 1] < 0.87
    assert found.verdict().startswith("q is not the posterior")


def test_a_child_that_is_drawn_given_its_parents_mean_is_rejected(toy):
    found = evidence.calibrate(toy.model, parents_mean(toy), simulations=4000)
    assert found.p_values[0] < 1e-3
    assert found.p_value < 1e-3
    assert found.p_values[1] > 0.01


def test_data_of_two_layers_are_like_those_of_their_model_and_others_are_not(toy):
    posterior, x = toy.posterior("bottom-up"), toy.rows(100)
    for given in ("prior", "posterior"):
        assert evidence.predictive_check(toy.model, posterior, x, replications=100, given=given).p_value > 0.01
    assert evidence.predictive_check(toy.model, posterior, 1.5 * x + 1, replications=1500).p_value < 0.01


@pytest.mark.parametrize("order", ORDERS)
def test_the_terms_of_rows_are_those_of_the_bound_of_two_layers(toy, order):
    x, posterior = toy.rows(40), toy.posterior(order, 0.4, 1.3)
    found = evidence.terms(toy.model, posterior, x, samples=4000)
    bound = toy.log_prob(x).detach().numpy() - toy.gap(order, 0.4, 1.3)
    np.testing.assert_allclose(found.log_lik - found.kl, bound, atol=0.15)
    assert abs((found.log_lik - found.kl - bound).mean()) < NATS
    p_values = evidence.typicality(found, found).p_value
    assert p_values.shape == (40,)


def test_a_model_of_two_layers_is_judged_with_every_check(toy):
    x, posterior = toy.rows(60), toy.posterior("bottom-up")
    settings = evidence.Settings(temperatures=10, chains=4)
    found = evidence.judge_model(
        toy.model, posterior, x, anneal=5, simulate=5, gaps=5, simulations=100, settings=settings
    )
    names = [check.name for check in found.verdict.checks]
    assert names == [
        "importance weights",
        "two estimators",
        "a finer path",
        "the sandwich",
        "the ELBO's gap",
        "calibration",
        "use of the latents",
    ]
    assert not found.verdict.failed
    assert found.importance.mean == pytest.approx(float(toy.log_prob(x).mean().detach()), abs=1e-6)
    assert set(found.kl) == {"z1", "z2"}
    assert found.kl == found.summary()["kl"]
    assert found.kl["z2"] == pytest.approx(found.collapse.kl_per_latent["z2"].value)
    assert evidence.Evidence(found.importance, "Lebesgue", (2,), found.index, gaps=found.gaps).kl[
        "z1"
    ] == pytest.approx(found.gaps.kl["z1"].mean)
    assert evidence.Evidence(found.importance, "Lebesgue", (2,), found.index).kl == {}


# Queries


def given(toy: LinearLayers, x: torch.Tensor, scale: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """E[x_0|x_1] ``[N]`` and its variance; of x_1 with noise of this ``scale`` on it."""
    mean, spread = toy.w * toy.c + toy.b, (toy.a**2 + toy.s**2) * torch.outer(toy.w, toy.w)
    total = spread + toy.t**2 * torch.eye(2).double()
    gain = total[0, 1] / (total[1, 1] + scale**2)
    return mean[0] + gain * (x[:, 1] - mean[1]), total[0, 0] - gain * total[0, 1]


def masked(x: torch.Tensor) -> tuple[lb.data.Rows, torch.Tensor]:
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 0] = False
    return lb.data.Rows(x, mask, dtype=torch.float64), mask


@pytest.mark.parametrize(
    ("order", "fit", "refine"), [("bottom-up", True, None), ("top-down", False, "hmc"), ("ladder", False, "gibbs")]
)
def test_missing_cells_are_completed_as_two_layers_have_it(toy, order, refine, fit):
    """The encoder takes a missing cell for 0, so that its q is off: proposals and chains put it right."""
    x = toy.rows(6)
    rows, _ = masked(x)
    mean, variance = (each.detach().numpy() for each in given(toy, x))
    found = queries.complete(toy.model, toy.posterior(order), rows, rng(), draws=400, refine=refine, fit=fit)
    assert (found.best[:, 1] == x[:, 1].numpy()).all()
    assert abs(found.best[:, 0] - mean).max() < 0.15
    assert abs(found.draws[:, :, 0].mean(0) - mean).max() < 5 * math.sqrt(variance / 100)
    assert found.draws[:, :, 0].var(0).mean() == pytest.approx(variance, rel=0.1)
    assert found.refined.any() == (refine is not None)


def test_latents_given_what_is_observed_are_those_of_the_closed_form(toy):
    x = toy.rows(8)
    found = queries.posterior_draws(
        toy.model, toy.posterior("bottom-up"), masked(x)[0], rng(), draws=1000, samples=4000
    )
    precision = toy.precision().clone()
    precision[0, 0] -= float(toy.w[0] ** 2) / toy.t**2
    covariance = precision.inverse().flip(0, 1).numpy()  # z2 first, as in the model
    for row in range(8):
        np.testing.assert_allclose(np.cov(found.z[:, row].T), covariance, atol=0.1)
    assert found.z.shape == (1000, 8, 2)


def test_scores_of_rows_with_missing_cells_are_exact(toy):
    x = toy.rows(20)
    found = queries.anomaly(toy.model, toy.posterior("bottom-up"), masked(x)[0], rng(), samples=4000)
    mean, total = toy.w[1] * toy.c + toy.b[1], (toy.a**2 + toy.s**2) * toy.w[1] ** 2 + toy.t**2
    exact = -torch.distributions.Normal(mean, total.sqrt()).log_prob(x[:, 1]).numpy()
    assert abs((found.score - exact) / found.standard_error).max() < 4
    np.testing.assert_allclose(found.score, found.cells.sum(1) + found.latent)


def test_rows_given_a_cell_are_drawn_as_two_layers_have_it(toy):
    x = toy.rows(1)
    mean, variance = given(toy, x)
    rows = queries.conditional(toy.model, toy.posterior("top-down"), x[0], masked(x)[1][0], 4000, rng())
    assert float(rows[:, 0].mean()) == pytest.approx(float(mean), abs=5 * math.sqrt(float(variance) / 4000))
    assert float(rows[:, 0].var()) == pytest.approx(float(variance), rel=0.1)


def test_noisy_rows_are_cleaned_as_two_layers_have_it(toy):
    """y = x + noise: E[x|y] is linear in y."""
    x = toy.rows(10)
    y = x + 0.8 * torch.randn(x.shape, generator=rng(1), dtype=x.dtype)
    found = denoise(toy.model, toy.posterior("bottom-up"), y, Gaussian(0.8), rng(), samples=2000)
    mean, spread = toy.w * toy.c + toy.b, (toy.a**2 + toy.s**2) * torch.outer(toy.w, toy.w)
    clean = spread + toy.t**2 * torch.eye(2).double()
    noisy = clean + 0.8**2 * torch.eye(2).double()
    exact = mean + (y - mean) @ torch.linalg.solve(noisy, clean)
    deviation = (clean - clean @ torch.linalg.solve(noisy, clean)).diagonal().sqrt()
    errors = abs(found.mean - exact.numpy()) / (deviation.numpy() / np.sqrt(found.ess)[:, None])
    assert errors.max() < 4.5
    log_p = torch.distributions.MultivariateNormal(mean, noisy).log_prob(y).numpy()
    assert (abs(found.log_evidence - log_p) < 4.5 * found.standard_error).all()


def test_a_conditional_row_of_a_model_of_its_missingness_reads_the_latents_it_names(toy):
    """Whatever is said of missingness, the decoder reads z1 alone."""
    columns = [lb.likelihoods.Normal(toy.t, shape=(1,)) for _ in range(2)]
    likelihood = lb.likelihoods.SelfMasking(lb.likelihoods.Product(columns))
    model = LatentVariableModel(toy.model.prior, toy.model.decoder, likelihood, ["z1"]).double()
    x = toy.rows(1)
    rows = queries.conditional(model, toy.posterior("top-down"), x[0], masked(x)[1][0], 50, rng())
    assert rows.shape == (50, 2)
    assert (rows[:, 1] == x[0, 1]).all()


# The estimator


def in_layers(latent_dim: int, encoder: nn.Module) -> lb.posteriors.Latents:
    """q(z1|x) q(z2|z1, x), of three and two numbers."""
    first = DiagonalNormal(3, MLP((8,), (6,), (8,)))
    second = DiagonalNormal(2, MLP((8,), (4,), (8,), context=3))
    return lb.posteriors.Latents({"z1": first, "z2": second}, encoder, {"z2": ["z1"]}, features=8)


@pytest.fixture(scope="module")
def fitted() -> tuple[lb.VAE, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2)) @ random.normal(size=(2, 4)) + 0.3 * random.normal(size=(300, 4))
    with seeded(0):
        above = lb.priors.ConditionalNormal(3, MLP((2,), (6,), (8,)))
    prior = lb.priors.Latents({"z2": lb.priors.Normal(2), "z1": above}, {"z1": ["z2"]})
    settings = {"epochs": 60, "batch_size": 30, "hidden": (16,), "learning_rate": 1e-2, "random_state": 0}
    return lb.VAE(posterior=in_layers, prior=prior, **settings).fit(x), x


def test_an_estimator_of_two_layers_encodes_scores_and_samples(fitted):
    vae, x = fitted
    mean, scale = vae.encode(x)
    assert mean.shape == scale.shape == vae.transform(x).shape == (300, 5)
    assert vae.reconstruct(x).shape == x.shape
    assert np.square(vae.reconstruct(x) - x).mean() < 0.3 * x.var()
    assert vae.sample(7).shape == (7, 4)
    np.testing.assert_allclose(vae.inverse_transform(mean), vae.reconstruct(x))
    found = vae.log_likelihood(x)
    assert vae.score(x) == pytest.approx(found.mean, abs=0.1)
    assert found.reliable.mean() > 0.9
    assert vae.log_likelihood(x[:50], samples=5000).mean == pytest.approx(found.estimate[:50].mean(), abs=0.1)
    each = vae.kl_of_latents(x)
    drawn = collapse(vae.model_, vae.posterior_, torch.tensor(x), samples=20).kl_per_latent
    assert list(each) == ["z2", "z1"]
    for name, kl in each.items():
        assert kl.shape == (300,)
        assert kl.mean() == pytest.approx(drawn[name].value, rel=0.1)
    per_dim = vae.kl(x)
    np.testing.assert_allclose(per_dim[:, :2].sum(1), each["z2"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(per_dim[:, 2:].sum(1), each["z1"], rtol=1e-4, atol=1e-4)
    bound = evidence.terms(vae.model_, vae.posterior_, torch.tensor(x), samples=1000)
    np.testing.assert_allclose(sum(each.values()).mean(), bound.kl.mean(), rtol=0.02)


def test_an_estimator_of_two_layers_is_saved_loaded_and_reported(fitted, tmp_path):
    """Loaded without the function that made its posterior, which another fit alone needs."""
    vae, x = fitted
    vae.save(tmp_path / "run")
    loaded = lb.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.transform(x), vae.transform(x))
    assert loaded.posterior_.parents == {"z2": ("z1",)}
    with pytest.raises(
        ValueError, match=r"posterior is your own in_layers, which is not saved; give it by load\(path, posterior=…\)"
    ):
        loaded.fit(x)
    again = lb.load(tmp_path / "run", posterior=in_layers)
    assert again.set_params(epochs=1).fit(x).transform(x).shape == (300, 5)
    np.save(tmp_path / "x.npy", x)
    told = CliRunner().invoke(commands, ["report", str(tmp_path / "run"), str(tmp_path / "x.npy")])
    assert told.exit_code == 0, told.output
    page = (tmp_path / "run" / "report.html").read_text()
    kl = {name: each.mean() for name, each in vae.kl_of_latents(x).items()}
    assert f"By name it is {kl['z2']:.3g} of z2, {kl['z1']:.3g} of z1, given the latents" in page
    assert "with 5 latents" in page
    assert "of 5 latents active" in page
    assert "5 (2 of z2, 3 of z1)" in page


def test_a_table_in_two_layers_has_its_missing_cells_filled(fitted):
    frame = pd.DataFrame(fitted[1][:200], columns=list("abcd"))
    frame["kind"] = np.where(frame["a"] > 0, "u", "v")
    whole = frame.copy()
    frame.loc[frame.index[:20], "b"] = np.nan
    vae = lb.VAE(
        posterior=in_layers, prior=fitted[0].prior, epochs=40, hidden=(16,), random_state=0, learning_rate=3e-3
    )
    vae.fit(frame)
    best, draws = vae.impute(frame), vae.impute(frame, draws=3)
    assert not best.isna().any(axis=None)
    assert len(draws) == 3
    error = (best["b"] - whole["b"])[:20]
    assert error.std() < 0.8 * whole["b"].std()
    assert (vae.sample(5, given={"kind": "u"})["kind"] == "u").all()
    assert vae.anomaly(frame[:10]).score.shape == (10,)


def test_a_context_is_given_to_networks_beside_the_parents_of_their_latent(fitted, tmp_path):
    x, given = fitted[1][:100], fitted[1][:100, :2]

    def posterior(latent_dim: int, encoder: nn.Module) -> lb.posteriors.Latents:
        first = DiagonalNormal(3, MLP((8,), (6,), (), context=2))
        second = DiagonalNormal(2, MLP((8,), (4,), (), context=5))
        return lb.posteriors.Latents({"z1": first, "z2": second}, encoder, {"z2": ["z1"]}, features=8)

    with seeded(0):
        above = lb.priors.ConditionalNormal(3, MLP((4,), (6,), ()))
    prior = lb.priors.Latents({"z2": lb.priors.Normal(2), "z1": above}, {"z1": ["z2"]})
    vae = lb.VAE(posterior=posterior, prior=prior, epochs=2, hidden=(8,), random_state=0).fit(x, context=given)
    vae.save(tmp_path / "run")
    loaded = lb.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.transform(x, context=given), vae.transform(x, context=given))
    with pytest.raises(FormatError, match=r"a context of 3 numbers is given, and the networks take \[2\]"):
        check_computes(loaded.model_, loaded.posterior_, 3, (4,))


def test_the_kl_of_a_class_and_a_number_is_that_of_an_enumeration():
    """KL(q(y|x) ‖ p(y)) and Σ_y q(y|x) KL(q(z|x, y) ‖ p(z|y)), of each row."""
    toy = Classes()
    x = torch.tensor([[0.5, -0.4], [2.0, 1.0], [-1.0, 0.3], [0.0, 0.0]]).double()
    q, p = distributions_of(toy.model, toy.posterior, x)
    states = torch.eye(3).double().unsqueeze(1).expand(3, 4, 3).unsqueeze(2)  # y of each class, for each row
    with torch.no_grad():
        of_q, of_p = q.given({"y": states}), p.given({"y": states})
        shares = of_q["y"].logits[:, 0].softmax(-1)
        first = (shares * (shares.log() - of_p["y"].logits[0].log_softmax(-1))).sum(1)
        second = (shares * distributions.kl(of_q["z"], of_p["z"]).T).sum(1)
    found = collapse(toy.model, toy.posterior, x, samples=4000)
    assert list(found.kl_per_latent) == ["y", "z"]
    assert found.kl_per_latent["y"].value == pytest.approx(float(first.mean()), rel=1e-10)
    assert found.kl_per_latent["z"].value == pytest.approx(float(second.mean()), rel=0.03)
    assert found.kl.value == pytest.approx(float((first + second).mean()), rel=0.03)
    assert len(found.kl_per_dim) == 2


def test_a_class_above_a_number_is_found_from_what_is_observed():
    toy = Classes()
    x = torch.tensor([[0.5, -0.4], [2.0, 1.0]]).double()
    rows = lb.data.Rows(x, torch.ones_like(x, dtype=torch.bool), dtype=torch.float64)
    exact = toy.log_prob(x, of_each=True).softmax(1).numpy()
    for refine in ("gibbs", None):
        found = queries.posterior_draws(
            toy.model, toy.posterior, rows, rng(), draws=2000, samples=8000, refine=refine, least_ess=100
        )
        np.testing.assert_allclose(found.z[:, :, :3].mean(0), exact, atol=0.06)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda toy, targets: evidence.annealed(targets, toy.x, rng()),
            "annealing needs real-valued latents, but latent 'y' is a Categorical; use importance sampling",
        ),
        (
            lambda toy, targets: evidence.appendix_d(targets, toy.x, rng()),
            "needs real-valued latents, but latent 'y' is a Categorical; use importance_sampling",
        ),
        (
            lambda toy, targets: queries.posterior_draws(
                toy.model, toy.posterior, lb.data.Rows(toy.x, dtype=torch.float64), rng(), draws=3
            ),
            "latent 'y' is a Categorical; use refine=\"gibbs\" or refine=None",
        ),
    ],
)
def test_what_needs_real_numbers_refuses_a_class_above_a_number(ask, words):
    toy = Classes()
    with pytest.raises(ValueError, match=words):
        ask(toy, evidence.of_model(toy.model, toy.posterior))


def test_posteriors_that_are_not_made_of_latents_by_name_are_refused_in_a_sentence(fitted):
    x = fitted[1]
    for posterior, words in (
        (
            "Latents",
            r"Latents needs more than its name: in Python, give a function \(latent_dim, encoder=…\) that return",
        ),
        (lb.posteriors.Latents, "latents need names, as in Latents\\(.*; got 10"),
        (lambda latent_dim, encoder: 3, "posterior is a function that returned a int; return a Posterior"),
    ):
        with pytest.raises(ValueError, match=words):
            lb.VAE(posterior=posterior).fit(x)
    with pytest.raises(
        ValueError, match="latents have 4 columns, but this model has latent_dim=10 and a z of 5 numbers"
    ):
        fitted[0].inverse_transform(np.zeros((2, 4)))
