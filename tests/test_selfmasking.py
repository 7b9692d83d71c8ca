"""Cells missing by their own value: integrals against scipy and enumeration, draws, and what a model learns of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from oracles import batch_of, rng

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.distributions import inverse_positive
from lowerbound.likelihoods import (
    Atoms,
    Bernoulli,
    Beta,
    Categorical,
    DiscretizedLogistic,
    InflatedLogitNormal,
    LogNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Poisson,
    Product,
    RoundedLogistic,
    SelfMasking,
    StudentT,
    Warped,
    ZeroInflatedLogNormal,
    ZeroInflatedNegativeBinomial,
)
from lowerbound.likelihoods.missingness import Classes, Line
from lowerbound.model import draw
from lowerbound.nn import MLP, Cells, Chain, seeded
from lowerbound.storage.model import load

OF_ALL = {
    "normal": lambda: Normal("dimension", (1,)),
    "t": lambda: StudentT(3.5, "dimension", (1,)),
    "warped": lambda: Warped("real", "dimension", (1,), df=3.5),
    "log-normal": lambda: LogNormal("dimension", (1,)),
    "zero-inflated log-normal": lambda: ZeroInflatedLogNormal("dimension", (1,)),
    "inflated logit-normal": lambda: InflatedLogitNormal("dimension", (1,)),
    "atoms of a t": lambda: Atoms(StudentT(3.5, "dimension", (1,)), [[0.5, -1.2]]),
    "atoms of a log-normal": lambda: Atoms(LogNormal("dimension", (1,)), [[0.0, 2.0]]),
    "atoms of counts": lambda: Atoms(NegativeBinomial(), [[3.0]]),
    "discretised logistic": lambda: DiscretizedLogistic(7),
    "bernoulli": Bernoulli,
    "categorical": lambda: Categorical(4),
    "ordinal": lambda: Ordinal(3),
    "poisson": Poisson,
    "negative binomial": NegativeBinomial,
    "rounded logistic": lambda: RoundedLogistic("dimension", (1,)),
    "zero-inflated negative binomial": ZeroInflatedNegativeBinomial,
}
SETS = 8


@pytest.fixture(params=OF_ALL)
def masking(request) -> SelfMasking:
    """Of one column, strongly self-masking."""
    return steep(SelfMasking(Product([OF_ALL[request.param]()])).double(), 2.5)


def steep(likelihood: SelfMasking, slope: float) -> SelfMasking:
    """``likelihood`` with curves far from constant."""
    with torch.no_grad():
        for number, curve in enumerate(likelihood.curves):
            if isinstance(curve, Classes):
                curve.logits.copy_(slope * torch.randn(curve.logits.shape, generator=rng(number)))
                continue
            assert isinstance(curve, Line)
            curve.intercept.fill_(-0.7)
            curve.slope.fill_(slope)
            curve.centre.fill_(0.3)
            curve.unit.fill_(1.5)
            if curve.at_zero is not None:
                curve.at_zero.fill_(1.1)
            if curve.at_one is not None:
                curve.at_one.fill_(-1.6)
    return likelihood


def parameters(likelihood: SelfMasking, columns: int = 1) -> torch.Tensor:
    return torch.randn(SETS, 1, likelihood.n_parameters, columns, generator=rng(1), dtype=torch.float64)


def values_and_widths(part: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """All values of a column, or a fine grid of them, and the measure of each one's cell."""
    if type(part) is Atoms and not part.discrete:
        (x, width), points = values_and_widths(part.base), part.points.flatten()
        return torch.cat([x, points]), torch.cat([width * (x.unsqueeze(1) != points).all(1), torch.ones_like(points)])
    if part.measure == "counting":
        x = torch.arange(
            {Bernoulli: 2, Categorical: 4, Ordinal: 3, DiscretizedLogistic: 7}.get(type(part), 4000)
        ).double()
        return x, torch.ones_like(x)
    t = torch.linspace(-50, 50, 50_001, dtype=torch.float64)
    step = float(t[1] - t[0])
    if isinstance(part, LogNormal):
        return t.exp(), step * t.exp()
    if isinstance(part, ZeroInflatedLogNormal):
        zero = torch.zeros(1).double()
        return torch.cat([zero, t.exp()]), torch.cat([zero + 1, step * t.exp()])
    if isinstance(part, InflatedLogitNormal):
        inside, one = t.sigmoid(), torch.ones(1).double()
        return torch.cat([0 * one, inside, one]), torch.cat([one, step * inside * (-t).sigmoid(), one])
    return (t / 2).sinh(), step / 2 * (t / 2).cosh()


def masses(likelihood: SelfMasking, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values ``[G]``, and of each its probability and that it is missing beside it, ``[SETS, G]``."""
    (part,), (curve,) = likelihood.likelihoods, likelihood.curves
    x, width = values_and_widths(part)
    with torch.no_grad():
        p = part.log_prob_per_value(params.expand(-1, -1, -1, len(x)), x.unsqueeze(0)).squeeze(1).exp() * width
        gone = scipy.special.expit(curve.logit(x.unsqueeze(-1)).squeeze(-1).numpy())
    return x, p, p * torch.tensor(gone)


def test_the_two_states_of_a_mask_sum_to_one_and_the_missing_is_the_integral(masking):
    params = parameters(masking)
    x, p, missing = masses(masking, params)
    found = masking.log_prob(params, torch.full((1, 1), math.nan).double(), torch.zeros(1, 1, dtype=torch.bool))
    found = found.detach().squeeze(1)
    np.testing.assert_allclose(found, missing.sum(-1).log(), atol=1e-4 if heavy(masking) else 1e-6)
    wide = params.expand(-1, len(x), -1, -1)
    observed = masking.log_prob(wide, x.unsqueeze(-1)).detach().exp() @ values_and_widths(masking.likelihoods[0])[1]
    np.testing.assert_allclose(observed + found.exp(), 1, atol=1e-5)
    assert (p.sum(-1) - observed > 0.01).any(), "that a value is there is told by the mask too"


def heavy(likelihood: SelfMasking) -> bool:
    counts = (Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial)
    return isinstance(likelihood.likelihoods[0], (StudentT, *counts))


@pytest.mark.parametrize("slope", [0.03, 0.1, -0.1])
def test_the_missing_of_a_rounded_logistic_is_the_sum_over_counts_however_many(slope):
    """At a scale of 30 counts hold the mass to 2,000, of which 96 stand for all; to 30 scales from the location."""
    likelihood = SelfMasking(Product([RoundedLogistic("entry", (1,))])).double()
    (part,), (curve,) = likelihood.likelihoods, likelihood.curves
    loc, scale = torch.tensor([-5.0, 3.0, 100.0, 700.0]).double(), torch.tensor([0.3, 2.0, 10.0, 30.0]).double()
    params = torch.stack(torch.meshgrid(loc, inverse_positive(scale - 1e-3), indexing="ij"), -1).view(-1, 1, 2, 1)
    with torch.no_grad():
        curve.slope.fill_(slope)
        curve.intercept.fill_(-1.0)
        curve.centre.fill_(100.0)
        x = torch.arange(4000).double()
        log_p = part.log_prob_per_value(params.expand(-1, -1, -1, 4000), x)
        due = (log_p + torch.nn.functional.logsigmoid(-1 + slope * (x - 100))).logsumexp(-1).flatten()
        found = likelihood.log_missing(params).flatten()
    near = due > -30
    np.testing.assert_allclose(found[near], due[near], atol=2e-3)
    assert (found[~near] < -30).all()


@pytest.mark.parametrize("slope", [0.01, 0.5, -2.0, 6.0, -25.0, 120.0])
@pytest.mark.parametrize("kind", ["normal", "log-normal", "t"])
def test_quadrature_agrees_with_scipys_at_any_slope(kind, slope):
    """A normal's, and a log-normal's, to 1e-6; a t's to 1e-4. 32 Gauss–Hermite points miss by more than 1e-2."""
    likelihood = SelfMasking(Product([OF_ALL[kind]()])).double()
    mu = torch.tensor([-6.0, -1.0, 0.0, 0.4, 3.0]).double()
    (curve,) = likelihood.curves
    with torch.no_grad():
        curve.slope.fill_(slope)
        curve.intercept.fill_(-1.0)
    found = likelihood.log_missing(mu.view(-1, 1, 1, 1)).detach().flatten()
    scale = float(likelihood.likelihoods[0].sigma().detach())
    log_pdf = log_t if kind == "t" else log_normal
    due = [integral(log_pdf, -1 + slope * float(loc), slope * scale) for loc in mu]
    np.testing.assert_allclose(found, due, atol=1e-4 if kind == "t" else 1e-6)
    if abs(slope) > 20:
        node, weight = np.polynomial.hermite_e.hermegauss(32)
        rule = [
            scipy.special.logsumexp(scipy.special.log_expit(-1 + slope * (m + scale * node)), b=weight)
            for m in mu.tolist()
        ]
        assert np.abs(np.array(rule) - 0.5 * math.log(2 * math.pi) - due).max() > 1e-2


def log_normal(u):
    return -0.5 * u * u - 0.5 * math.log(2 * math.pi)


def log_t(u):
    constant = math.lgamma(2.25) - math.lgamma(1.75) - 0.5 * math.log(3.5 * math.pi)
    return constant - 2.25 * np.log1p(u * u / 3.5)


def integral(log_pdf, loc: float, scale: float) -> float:
    """log ∫ sigmoid(loc + scale·u) p(u) du by scipy, cut where the curve turns and where u has its mass."""
    grid = np.linspace(-40, 40, 4001)
    top = (scipy.special.log_expit(loc + scale * grid) + log_pdf(grid)).max()
    turn = -loc / scale
    cuts = np.unique([-1e4, -60, -12, -5, -2, 0, 2, 5, 12, 60, 1e4, *(turn + np.array([-30, -3, 0, 3, 30]) / scale)])
    parts = [
        scipy.integrate.quad(
            lambda u: math.exp(scipy.special.log_expit(loc + scale * u) + log_pdf(u) - top), a, b, epsabs=1e-12
        )[0]
        for a, b in itertools.pairwise(cuts)
    ]
    return top + math.log(sum(parts))


@pytest.mark.parametrize("log_r", [math.inf, 6.0, 2.0, 0.0, -3.0])
@pytest.mark.parametrize("mean", [0.1, 5.0, 40.0, 700.0])
def test_counts_agree_with_the_sum_over_all(mean, log_r):
    """Where a deviation is worth 3 logits; the sum that stops at 96 is none where the counts are larger."""
    kind, r = (Poisson, math.inf) if log_r == math.inf else (NegativeBinomial, math.exp(log_r))
    likelihood = SelfMasking(Product([kind()])).double()
    law = scipy.stats.poisson(mean) if r == math.inf else scipy.stats.nbinom(r, r / (r + mean))
    slope = -3 / law.std()
    (curve,) = likelihood.curves
    with torch.no_grad():
        curve.slope.fill_(slope)
        curve.centre.fill_(0.5 * mean)
    params = torch.tensor([math.log(mean), log_r][: likelihood.n_parameters]).double().view(1, 1, -1, 1)
    found = float(likelihood.log_missing(params).detach())
    x = np.arange(int(mean + 60 * law.std() + 50))
    terms = law.logpmf(x) + scipy.special.log_expit(slope * (x - 0.5 * mean))
    due = scipy.special.logsumexp(terms)
    assert abs(found - due) < 1e-4 * max(1, -due / 14), "to 1e-4 where it is above 1e-6"
    if mean == 700 and log_r > 1:
        assert abs(scipy.special.logsumexp(terms[:96]) - due) > 1e-2


@pytest.mark.parametrize("kind", ["bernoulli", "categorical", "ordinal"])
def test_classes_are_enumerated(kind):
    likelihood = steep(SelfMasking(Product([OF_ALL[kind]()])).double(), 3.0)
    params = parameters(likelihood)
    _, p, missing = masses(likelihood, params)
    np.testing.assert_allclose(likelihood.log_missing(params).detach().flatten(), missing.sum(-1).log(), rtol=1e-12)
    drawn = likelihood.sample_missing(params.expand(-1, 20_000, -1, -1), rng(2)).squeeze(-1)
    for row, due in zip(drawn, missing / missing.sum(-1, keepdim=True), strict=True):
        counts = torch.bincount(row.long(), minlength=len(due)).numpy()
        assert scipy.stats.chisquare(counts, 20_000 * due.numpy()).pvalue > 1e-6  # 24 of them: once in 40,000 runs
    assert scipy.stats.chisquare(counts, 20_000 * (p[-1] / p[-1].sum()).numpy()).pvalue < 1e-6, "not those of p(x|z)"


def test_a_constant_probability_is_the_product_and_a_term_for_each_cell():
    likelihood, x, mask, params = table()
    likelihood.initialise(x, mask)
    share = (~mask).double().mean(0)
    constant = torch.where(mask, torch.log1p(-share), share.log()).sum(-1)
    plain = likelihood.likelihood.log_prob(params, x, mask)
    torch.testing.assert_close(likelihood.log_prob(params, x, mask), plain + constant, rtol=0, atol=1e-7)
    none = likelihood.log_prob(params, x, torch.zeros_like(mask))
    torch.testing.assert_close(none, share.log().sum().expand_as(none), rtol=0, atol=1e-7)
    whole = likelihood.log_prob(params, x)
    torch.testing.assert_close(whole, likelihood.likelihood.log_prob(params, x) + torch.log1p(-share).sum())


def table() -> tuple[SelfMasking, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A likelihood of columns of all kinds in blocks out of order, rows of it, what is seen of them, parameters."""
    parts = [Normal("dimension", (2,)), Categorical(3), LogNormal("entry"), NegativeBinomial(), Bernoulli()]
    likelihood = SelfMasking(Product(parts, [[5, 0], [2], [1], [4], [3]])).double()
    params = torch.randn(1, 60, likelihood.n_parameters, 6, generator=rng(3), dtype=torch.float64)
    x = likelihood.sample(params, rng(4)).detach().squeeze(0)
    mask = torch.rand(60, 6, generator=rng(5)) < 0.7
    return likelihood, x, mask, params


def test_each_column_has_its_own_curve_whatever_the_order_of_blocks():
    likelihood, x, mask, params = table()
    steep(likelihood, 1.5)
    with torch.no_grad():
        likelihood.curves[0].slope.copy_(torch.tensor([0.5, -2.0]))
    whole = likelihood.log_prob(params, x, mask)
    total = torch.zeros_like(whole)
    product = likelihood.likelihood
    for part, block, curve, own in zip(
        product.likelihoods, product.of, likelihood.curves, product.split(params), strict=True
    ):
        cells = x[:, list(block)]
        seen = part.log_prob_per_value(own, cells) + torch.log1p(-curve.logit(cells).sigmoid())
        total = total + torch.where(mask[:, list(block)], seen, curve.log_missing(part, own)).sum(-1)
    torch.testing.assert_close(whole, total)
    swapped = SelfMasking(Product([Normal("dimension", (2,))], [[1, 0]])).double()
    with torch.no_grad():
        swapped.curves[0].slope.copy_(torch.tensor([3.0, 0.0]))
    found = swapped.log_observed(torch.tensor([[0.0, 2.0], [2.0, 0.0]]).double()).exp()
    np.testing.assert_allclose(found.detach(), [[0.5, scipy.special.expit(-6)], [0.5, 0.5]], rtol=1e-9)


def test_gradients_are_those_of_finite_differences(masking):
    params = parameters(masking)[:3].expand(-1, 2, -1, -1).clone().requires_grad_()
    x, mask = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[True], [False]])
    learned = list(masking.parameters())
    assert len(learned) >= 1
    assert torch.autograd.gradcheck(
        lambda p, *_: masking.log_prob(p, x, mask), (params, *learned), atol=2e-4 if heavy(masking) else 1e-6
    )


def test_what_is_not_observed_is_never_read(masking):
    params = parameters(masking).expand(-1, 2, -1, -1).clone().requires_grad_()
    mask = torch.tensor([[True], [False]])
    found = [
        masking.log_prob(params, torch.tensor([[1.0], [value]]).double(), mask) for value in (math.nan, -1e30, 1.0)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    for gradient in torch.autograd.grad(found[0].sum(), [params, *masking.parameters()]):
        assert gradient.isfinite().all()


def test_it_stays_finite_far_out_in_single_precision(masking):
    masking = steep(masking.float(), 12.0)
    params = torch.cartesian_prod(*[torch.tensor([-30.0, 30.0])] * masking.n_parameters)
    params = params.view(-1, 1, masking.n_parameters, 1).expand(-1, 2, -1, -1).clone().requires_grad_()
    value = masking.log_prob(params, torch.tensor([[1.0], [0.0]]), torch.tensor([[True], [False]]))
    value.sum().backward()
    assert value.isfinite().all()
    assert params.grad.isfinite().all()
    assert all(each.grad.isfinite().all() for each in masking.parameters())


def test_single_precision_agrees_with_double(masking):
    params = parameters(masking).float().double()
    exact = masking.log_missing(params).detach()
    np.testing.assert_allclose(masking.float().log_missing(params.float()).detach().double(), exact, atol=2e-5)


@pytest.mark.parametrize(
    "kind", ["normal", "t", "log-normal", "zero-inflated log-normal", "poisson", "inflated logit-normal"]
)
def test_draws_of_missing_values_have_their_moments(kind):
    """The mean of x (of log(1 + x) where x ≥ 0) given that it is missing, which is not that of p(x|z)."""
    likelihood = steep(SelfMasking(Product([OF_ALL[kind]()])).double(), 1.0)
    params, draws = 0.5 * parameters(likelihood), 4000
    x, p, missing = masses(likelihood, params)
    feature = torch.log1p if kind not in ("normal", "t") else torch.tanh
    drawn = feature(likelihood.sample_missing(params.expand(-1, draws, -1, -1), rng(2)).detach().squeeze(-1))
    weights = missing / missing.sum(-1, keepdim=True)
    due = weights @ feature(x)
    error = (weights @ feature(x).square() - due.square()).sqrt() / math.sqrt(draws)
    # 1 of 64 draws is off by about 1/64 of how far the two means lie apart
    bias = (due - p @ feature(x)).abs() / 16
    assert ((drawn.mean(-1) - due).abs() < 5 * error + bias).all()
    assert ((p @ feature(x) - due).abs() > 5 * error + bias).all()


def test_columns_with_all_cells_or_none_keep_a_constant_curve():
    likelihood, x, mask, params = table()
    mask[:, 0], mask[:, 1], mask[:, 2] = True, False, True
    likelihood.initialise(x, mask)
    likelihood.log_prob(params, x, mask).sum().backward()
    of = {j: (curve, place) for curve, block in zip(likelihood.curves, likelihood.likelihood.of, strict=True)
          for place, j in enumerate(block)}  # fmt: skip
    for column in range(6):
        curve, place = of[column]
        learned = [curve.logits] if isinstance(curve, Classes) else [curve.intercept, curve.slope]
        moves = any(bool((each.grad[place] != 0).any()) for each in learned)
        assert moves == (column > 2) == bool(curve.learned[place])
    found = likelihood.log_observed(x[:1]).exp().detach()
    np.testing.assert_allclose(found[0, :3], [1 - 0.5 / 61, 0.5 / 61, 1 - 0.5 / 61], rtol=1e-9)
    unseen = likelihood.initialise(x)
    assert unseen.isfinite().all()
    assert not any(bool(curve.learned.any()) for curve in likelihood.curves)


def test_it_is_saved_and_loaded(tmp_path):
    likelihood, x, mask, _ = table()
    mask[:, 0] = True
    with seeded(0):
        model = lb.LatentVariableModel(
            lb.priors.Normal(2), MLP((2,), (likelihood.n_parameters, 6), (4,)), likelihood.float()
        )
        posterior = lb.posteriors.DiagonalNormal(2, MLP((6,), (4,), (4,)))
    model.initialise(x.float(), mask)
    steep(likelihood, 0.5)
    lb.save(tmp_path / "run", model, posterior)
    found = load(tmp_path / "run")
    one, two = (
        draw(m, q, batch_of(x.float(), mask), rng(), 3).log_w
        for m, q in ((model, posterior), (found.model, found.posterior))
    )
    assert torch.equal(one, two)
    assert torch.equal(found.model.likelihood.curves[0].learned, torch.tensor([True, False]))


def test_it_is_as_its_product_but_for_the_mask():
    likelihood, x, _, params = table()
    product = likelihood.likelihood
    assert SelfMasking.informative
    assert likelihood.likelihoods == product.likelihoods
    assert (likelihood.measure, likelihood.measures) == (product.measure, product.measures)
    assert torch.equal(likelihood.mean(params), product.mean(params))
    assert torch.equal(likelihood.sample(params, rng()), product.sample(params, rng()))
    assert torch.equal(likelihood.log_prob_per_value(params, x), product.log_prob_per_value(params, x))
    drawn = likelihood.sample_missing(params, rng())
    assert drawn.shape == likelihood.sample(params, rng()).shape
    assert likelihood.support.check(drawn).all()


def test_what_it_has_no_rule_for_is_refused():
    with pytest.raises(ValueError, match=r"SelfMasking needs a Product, but got Normal"):
        SelfMasking(Normal())
    with pytest.raises(ValueError, match="does not support columns of Beta"):
        SelfMasking(Product([Normal(), Beta()]))


def test_a_model_that_knows_why_cells_are_missing_fills_them_in_better():
    """Large values of half the columns go missing: taken at random, what is filled in is far too small."""
    random = np.random.default_rng(0)
    z = random.normal(size=(1000, 1))
    truth = z * np.array([1.0, -0.8, 0.9, 1.1]) + 0.5 * random.normal(size=(1000, 4))
    gone = random.random((1000, 4)) < scipy.special.expit(4 * (truth - 0.4))
    gone[:, 2:] = False
    x, mask = torch.tensor(np.where(gone, 0, truth)).float(), torch.tensor(~gone)
    errors, biases = {}, {}
    for informative in (False, True):
        model, posterior = fitted(x, mask, informative)
        found = imputed(model, posterior, x, mask)[gone]
        errors[informative] = float(np.sqrt(np.mean((found - truth[gone]) ** 2)))
        biases[informative] = float(np.mean(found - truth[gone]))
    assert errors[True] < 0.7 * errors[False], errors
    assert abs(biases[True]) < 0.3 * abs(biases[False]), biases
    (curve,) = model.likelihood.curves
    slope = (curve.slope / curve.unit)[:2].detach().numpy()
    np.testing.assert_allclose(slope, 4, rtol=0.5)


def fitted(x: torch.Tensor, mask: torch.Tensor, informative: bool):
    """A linear model of one latent, by importance-weighted bounds."""
    with seeded(0):
        product = Product([Normal("dimension", (4,))], [[0, 1, 2, 3]])
        model = lb.LatentVariableModel(
            lb.priors.Normal(1), MLP((1,), (4,), ()), SelfMasking(product) if informative else product
        )
        cells = Cells((0,) * 4, (False,) * 4)
        posterior = lb.posteriors.DiagonalNormal(1, Chain(cells, MLP((8,), (2,), (16,))))
    cells.fit(x, mask)
    model.initialise(x, mask)
    inference = lb.AEVB(posterior, objective=lb.objectives.iwae, draws=5, learning_rate=3e-2)
    lb.fit(model, Rows(x, mask), inference, epochs=25, batch_size=100, validation=0)
    return model, posterior


@torch.no_grad()
def imputed(model, posterior, x: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """E[x|x_observed, mask] by 40 weighted draws of each row."""
    z = posterior(x, mask).draw(posterior.noise(40, len(x), rng(1), x.dtype))["z"][0]
    log_w = model.log_joint(z, x, mask) - posterior(x, mask).log_prob(z)
    params = model.decode(z)
    informative = getattr(model.likelihood, "informative", False)
    each = model.likelihood.sample_missing(params, rng(2)) if informative else model.likelihood.mean(params)
    return (log_w.softmax(0).unsqueeze(-1) * each).sum(0).double().numpy()
