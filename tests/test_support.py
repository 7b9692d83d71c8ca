"""Values that a likelihood cannot have produced are refused by every way in, with their place and a way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from messages import assert_one_sentence
from torch import Tensor, nn
from torch.distributions import constraints

import lowerbound as lb
from lowerbound import evidence, likelihoods, queries
from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.errors import DataError
from lowerbound.likelihoods import Factorised, Likelihood, Product
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, seeded
from lowerbound.posteriors import Posterior

N, D, LATENTS = 12, 4, 2
FEW = evidence.Settings(temperatures=2, chains=2, leapfrogs=1)


class Halves(Factorised):
    """A likelihood of one's own: Bernoulli on ±½."""

    measure = "counting"

    @property
    def support(self) -> constraints.Constraint:
        return _halves

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return nn.functional.logsigmoid(2 * x * params.squeeze(2))

    def mean(self, params: Tensor) -> Tensor:
        return params.squeeze(2).sigmoid() - 0.5

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(params.squeeze(2).sigmoid(), generator=generator) - 0.5

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.zeros(1, *x.shape[1:])


class _Halves(constraints.Constraint):
    def check(self, value: Tensor) -> Tensor:
        return value.abs() == 0.5


_halves = _Halves()


class Shares(Halves):
    """One whose support is of whole rows: shares that sum to 1."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.simplex


@dataclass(frozen=True)
class Case:
    """A likelihood, values at the edges of its support and inside, and values outside of it."""

    make: Callable[[], Likelihood]
    inside: tuple[float, ...]
    outside: tuple[float, ...]


tiny, below_1 = 1e-38, 1 - 2**-24
CASES = {
    "Bernoulli": Case(likelihoods.Bernoulli, (0, 1), (0.5, -1, 2, 255, tiny, below_1)),
    "Categorical": Case(lambda: likelihoods.Categorical(4), (0, 1, 2, 3), (4, -1, 1.5, 9)),
    "Ordinal": Case(lambda: likelihoods.Ordinal(3), (0, 1, 2), (3, -1, 0.5)),
    "Poisson": Case(likelihoods.Poisson, (0, 1, 7, 2**24), (-1, 0.5, 1e30, tiny)),
    "Multinomial": Case(likelihoods.Multinomial, (0, 1, 7, 2**20), (-1, 0.5, 1e30, tiny)),
    "NegativeBinomial": Case(likelihoods.NegativeBinomial, (0, 1, 7, 2**24), (-1, 2.5, 1e30)),
    "ZeroInflatedNegativeBinomial": Case(likelihoods.ZeroInflatedNegativeBinomial, (0, 1, 7), (-1, 2.5, 1e30)),
    "RoundedLogistic": Case(lambda: likelihoods.RoundedLogistic(shape=(D,), scale="dimension"), (0, 1, 7), (-1, 0.5)),
    "BetaBinomial": Case(lambda: likelihoods.BetaBinomial(5), (0, 1, 5), (6, -1, 0.5)),
    "Beta": Case(likelihoods.Beta, (tiny, 0.5, below_1), (0, 1, -0.1, 1.5)),
    "LogitNormal": Case(lambda: likelihoods.LogitNormal(shape=(D,)), (tiny, 0.5, below_1), (0, 1, -0.1, 1.5)),
    "InflatedLogitNormal": Case(lambda: likelihoods.InflatedLogitNormal(shape=(D,)), (0, 0.5, 1), (-0.1, 1.5)),
    "DiscretizedLogistic": Case(lambda: likelihoods.DiscretizedLogistic(256), (0, 17, 255), (256, -1, 0.5)),
    "DiscretizedLogisticMixture": Case(lambda: likelihoods.DiscretizedLogisticMixture(16), (0, 15), (16, -1, 0.5)),
    "LogNormal": Case(lambda: likelihoods.LogNormal(shape=(D,), scale="dimension"), (tiny, 1, 1e30), (0, -1)),
    "ZeroInflatedLogNormal": Case(lambda: likelihoods.ZeroInflatedLogNormal(shape=(D,)), (0, 1, 1e9), (-1,)),
    "Atoms": Case(
        lambda: likelihoods.Atoms(likelihoods.LogNormal(shape=(D,)), [(0.0, -7.1), (0.0,), (0.0, -7.1), (0.0,)]),
        (0, tiny, 0, 1e30),
        (-1, -7.2),
    ),
    "Normal": Case(lambda: likelihoods.Normal(shape=(D,)), (-1e30, 0, 1e30), ()),
    "StudentT": Case(lambda: likelihoods.StudentT(shape=(D,)), (-1e30, 0, 1e30), ()),
    "Warped": Case(lambda: likelihoods.Warped("positive", shape=(D,)), (tiny, 1, 1e30), (0, -1)),
    "FullNormal": Case(lambda: likelihoods.FullNormal((D,)), (-1e9, 0, 1e9), ()),
    "CholeskyNormal": Case(lambda: likelihoods.CholeskyNormal((D,)), (-1e9, 0, 1e9), ()),
    "LowRankNormal": Case(lambda: likelihoods.LowRankNormal((D,), rank=1), (-1e9, 0, 1e9), ()),
    "SelfMasking": Case(
        lambda: likelihoods.SelfMasking(Product([likelihoods.Poisson() for _ in range(D)])), (0, 7), (-1, 0.5)
    ),
    "EachStep": Case(lambda: likelihoods.EachStep(likelihoods.Bernoulli()), (0, 1), (0.5, -1, 2)),  # D steps
    "Product": Case(lambda: Product([likelihoods.Bernoulli() for _ in range(D)]), (0, 1), (0.5, 2)),
    "one's own": Case(Halves, (0.5, -0.5), (0, 1)),
}


def parts(likelihood: Likelihood) -> tuple[LatentVariableModel, Posterior]:
    with seeded(0):
        out = (D,) if likelihood.n_parameters == 1 else (likelihood.n_parameters, D)
        model = LatentVariableModel(lb.priors.Normal(LATENTS), MLP((LATENTS,), out, (4,)), likelihood)
        return model, lb.posteriors.DiagonalNormal(LATENTS, MLP((D,), (2 * LATENTS,), (4,)))


def fit(model: LatentVariableModel, posterior: Posterior, x: Any, **kwargs: Any) -> None:
    lb.fit(model, x, lb.AEVB(posterior, learning_rate=0.0), epochs=1, **{"validation": 0.0, "batch_size": 4} | kwargs)


def refusal(ask: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        ask()
    return str(caught.value)


def test_every_likelihood_is_in_the_table():
    of_others = {"Factorised", "Likelihood", "Measure"}
    assert set(likelihoods.__all__) - of_others <= CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_what_a_likelihood_can_produce_is_taken_and_the_rest_refused(name):
    case = CASES[name]
    model, posterior = parts(case.make())
    x = torch.tensor(case.inside, dtype=torch.float32).repeat(N * D)[: N * D].view(N, D)
    if max(map(abs, case.inside)) < 1e20:  # squares beyond the type would stop the fit
        fit(model, posterior, x)
    evidence.log_likelihood(model, posterior, x, samples=2)
    for value in case.outside:
        bad = x.clone()
        bad[7, 2] = value
        for ask in (
            lambda: fit(model, posterior, bad),  # noqa: B023
            lambda: fit(model, posterior, bad.numpy()),  # noqa: B023
            lambda: fit(model, posterior, x, validation=bad),  # noqa: B023
            lambda: evidence.log_likelihood(model, posterior, bad, samples=2),  # noqa: B023
        ):
            shown = f"{torch.tensor(value).item():g}".replace("+", r"\+")
            words = (f"^row 7, column 2 is {shown}, which {type(model.likelihood).__name__} cannot", "choose another")
            assert_one_sentence(refusal(ask), words)
        mask = torch.ones(N, D, dtype=torch.bool)
        mask[7, 2] = False
        if not isinstance(model.likelihood, likelihoods.SelfMasking):
            evidence.log_likelihood(model, posterior, Rows(bad, mask), samples=2)  # what is missing is not looked at


def rng() -> torch.Generator:
    return generator(0, "support")


WAYS_IN: dict[str, Callable[[LatentVariableModel, Posterior, Tensor], Any]] = {
    "fit": fit,
    "log_likelihood": lambda m, q, x: evidence.log_likelihood(m, q, x, samples=2),
    "importance_sampling": lambda m, q, x: evidence.importance_sampling(evidence.of_model(m, q), Rows(x), rng(), 2),
    "importance_sampling of a tensor": lambda m, q, x: evidence.importance_sampling(
        evidence.of_model(m, q), x, rng(), 2
    ),
    "to_precision": lambda m, q, x: evidence.to_precision(evidence.of_model(m, q), Rows(x), rng(), 1),
    "annealed": lambda m, q, x: evidence.annealed(evidence.of_model(m, q), Rows(x), rng(), FEW),
    "steadiness": lambda m, q, x: evidence.steadiness(evidence.of_model(m, q), Rows(x), rng(), FEW),
    "appendix_d": lambda m, q, x: evidence.appendix_d(evidence.of_model(m, q), Rows(x), rng()),
    "score_rows": lambda m, q, x: evidence.score_rows(m, q, Rows(x).batch(torch.arange(N), torch.ones(N)), 2, rng()),
    "judge_model": lambda m, q, x: evidence.judge_model(m, q, x),
    "judge_model, simple models": lambda m, q, x: evidence.judge_model(
        m, q, x.clamp(max=1), train=x, budget=300, anneal=0, simulate=0, gaps=0, simulations=0
    ),
    "gap_report": lambda m, q, x: evidence.gap_report(m, q, x),
    "collapse": lambda m, q, x: evidence.collapse(m, q, x),
    "terms": lambda m, q, x: evidence.terms(m, q, x),
    "predictive_check": lambda m, q, x: evidence.predictive_check(m, q, x),
    "complete": lambda m, q, x: queries.complete(m, q, holes(x), rng()),
    "posterior_chains": lambda m, q, x: queries.posterior_chains(m, q, holes(x), rng(), draws=12),
    "posterior_draws": lambda m, q, x: queries.posterior_draws(m, q, holes(x), rng(), draws=2),
    "anomaly": lambda m, q, x: queries.anomaly(m, q, holes(x), rng()),
}


def holes(x: Tensor) -> Rows:
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 0] = False
    return Rows(x, mask)


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_looks(way):
    model, posterior = parts(likelihoods.Bernoulli())
    x = torch.zeros(N, D)
    x[5, 3] = 7
    words = ("^row 5, column 3 is 7, which Bernoulli cannot produce; choose another", "binarise", "correct the value")
    assert_one_sentence(refusal(lambda: WAYS_IN[way](model, posterior, x)), words)


def test_a_condition_is_looked_at_too():
    model, posterior = parts(likelihoods.Bernoulli())
    known = torch.tensor([True, False, True, True])
    with pytest.raises(DataError, match="row 0, column 2 is 3, which Bernoulli cannot produce"):
        queries.conditional(model, posterior, torch.tensor([0.0, 9, 3, 1]), known, 2, rng())


def test_rows_of_a_subset_keep_their_numbers_and_images_their_positions():
    model, posterior = parts(likelihoods.Bernoulli())
    x = torch.zeros(N, D)
    x[9, 1] = 0.5
    rows = Rows(x).subset(torch.tensor([2, 9, 4]))
    assert refusal(lambda: evidence.log_likelihood(model, posterior, rows)).startswith("row 9, column 1 is 0.5")
    images = LatentVariableModel(lb.priors.Normal(2), MLP((2,), (2, 2)), likelihoods.Bernoulli())
    encoder = lb.posteriors.DiagonalNormal(2, MLP((2, 2), (4,)))
    assert refusal(lambda: fit(images, encoder, x.view(N, 2, 2))).startswith("row 9, position (0, 1) is 0.5")


def test_grey_values_that_are_binarised_are_taken():
    model, posterior = parts(likelihoods.Bernoulli())
    grey = torch.randint(256, (N, D), generator=rng()).to(torch.uint8)
    fit(model, posterior, Rows(grey, binarise="afresh"))
    fit(model, posterior, Rows(grey, binarise="fixed", generator=rng()))
    evidence.log_likelihood(model, posterior, Rows(grey, binarise="afresh"), samples=2)
    refused = refusal(lambda: fit(model, posterior, Rows(grey, binarise="mean")))
    assert "which Bernoulli cannot produce" in refused
    positive, encoder = parts(likelihoods.LogNormal(shape=(D,), scale="dimension"))
    assert "is 0, which LogNormal" in refusal(lambda: fit(positive, encoder, Rows(grey, binarise="afresh")))


def test_a_product_refuses_by_the_kind_of_the_column():
    kinds = [likelihoods.Poisson(), likelihoods.Bernoulli(), likelihoods.Normal(shape=(1,)), likelihoods.Bernoulli()]
    model, posterior = parts(Product(kinds))
    x = torch.tensor([[3.0, 1, -0.5, 0]]).repeat(N, 1)
    fit(model, posterior, x)
    x[4, 3] = 2
    assert refusal(lambda: fit(model, posterior, x)).startswith("row 4, column 3 is 2, which Product cannot produce")
    blocks = Product([likelihoods.Bernoulli(), likelihoods.Poisson()], blocks=[(0, 2), (1, 3)])
    model, posterior = parts(blocks)
    x = torch.tensor([[1.0, 5, 0, 5]]).repeat(N, 1)
    fit(model, posterior, x)
    x[2, 2] = 5
    assert refusal(lambda: fit(model, posterior, x)).startswith("row 2, column 2 is 5")
    with pytest.raises(DataError, match=r"rows have shape \[3\], but the Product has likelihoods for 4 columns"):
        fit(model, posterior, x[:, :3])


def test_a_support_of_whole_rows_names_the_row():
    model, posterior = parts(Shares())
    x = torch.full((N, D), 1 / D)
    fit(model, posterior, x)
    x[3] *= 2
    assert refusal(lambda: fit(model, posterior, x)).startswith("row 3, which Shares cannot produce")
    mask = torch.ones(N, D, dtype=torch.bool)
    mask[3, 0] = False
    evidence.log_likelihood(model, posterior, Rows(x, mask), samples=2)


@pytest.mark.parametrize("name", ["Poisson", "Beta", "LogNormal"])
def test_a_model_is_not_refused_what_it_draws_itself(name):
    """Rounding leads draws of an extreme model out of its support: its sandwich is then poor, and no error."""
    model, posterior = parts(CASES[name].make())
    with torch.no_grad():
        model.decoder.layers[-1].bias.fill_(-120.0)
    targets, simulate = evidence.of_model(model, posterior), evidence.simulator(model, posterior)
    with np.errstate(all="ignore"):
        assert len(evidence.sandwich(targets, simulate, rng(), 3, FEW).gap) == 3
        assert len(evidence.calibrate(model, posterior, simulations=10, draws=3).ranks) == 10
