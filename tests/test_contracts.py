"""One table of parts, one contract: adding a part is a line here and a short class or function."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from oracles import batch_of
from torch import nn

import lowerbound as lb
from lowerbound import gradients, likelihoods, objectives, posteriors, priors
from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.evidence import of_model
from lowerbound.mcmc import slope_of
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, seeded
from lowerbound.storage.model import load
from lowerbound.training.compiled import Backward, Compiled

ROWS, X, D = 24, 5, 3
BITS = (torch.rand(ROWS, X, generator=torch.Generator().manual_seed(0)) < 0.4).float()


@dataclass(frozen=True)
class Case:
    """A posterior with a prior of its latents, and how it is learnt."""

    posterior: Callable[..., posteriors.Posterior]
    prior: Callable[[], priors.Prior] = partial(priors.Normal, D)
    objective: Callable = objectives.elbo
    gradient: Callable | None = None
    draws: int = 1
    penalties: tuple = ()
    traced: bool = True
    likelihood: Callable[[], likelihoods.Likelihood] = likelihoods.Bernoulli
    mask: torch.Tensor | None = None
    labels: dict[str, torch.Tensor] | None = None

    @property
    def batch(self) -> Batch:
        return replace(batch_of(BITS, self.mask), labels=self.labels)

    def build(self) -> tuple[LatentVariableModel, lb.AEVB]:
        with seeded(0):
            prior = self.prior()
            like = self.posterior(D, encoder=nn.Identity())
            posterior = self.posterior(D, encoder=MLP((X,), (like.n_outputs,), (8,)))
            likelihood = self.likelihood()
            out_shape = (X,) if likelihood.n_parameters == 1 else (likelihood.n_parameters, X)
            model = LatentVariableModel(prior, MLP(like.event, out_shape, (8,)), likelihood)
            model.initialise(BITS, self.mask)
            gradient = LEARNED[self.gradient]() if self.gradient in LEARNED else self.gradient
            objective = copy.deepcopy(self.objective) if isinstance(self.objective, nn.Module) else self.objective
        return model, lb.AEVB(
            posterior,
            objective=objective,
            draws=self.draws,
            gradient=gradient,
            penalties=self.penalties,
            learning_rate=1e-2,
        )


LEARNED = {
    gradients.LearnedBaseline: lambda: gradients.LearnedBaseline(MLP((X,), (1,), (8,))),
    gradients.Relax: lambda: gradients.Relax(MLP((D,), (1,), (8,))),
}
"""Estimators with a network of their own."""


BINARY = partial(Case, posteriors.Bernoulli, partial(priors.Bernoulli, D))
CLASSES = partial(posteriors.Categorical, n_classes=4)
FINITE = partial(Case, CLASSES, partial(priors.Categorical, D, 4))
NORMAL = partial(Case, posteriors.DiagonalNormal)

OF_COLUMNS = (likelihoods.Bernoulli, partial(likelihoods.Normal, "dimension", (2,)), likelihoods.Poisson)
MASKED = NORMAL(
    likelihood=lambda: likelihoods.SelfMasking(
        likelihoods.Product([make() for make in OF_COLUMNS], [[0, 4], [1, 2], [3]])
    ),
    mask=torch.rand(ROWS, X, generator=torch.Generator().manual_seed(1)) < 0.8,
)

NONE = nn.Identity()
BOTH = partial(
    Case,
    lambda latents, encoder: posteriors.Latents(
        {"k": posteriors.Categorical(1, 4, NONE), "z": posteriors.DiagonalNormal(latents, NONE)}, encoder
    ),
    lambda: priors.Latents({"k": priors.Categorical(1, 4), "z": priors.Normal(D)}),
)

CASES = {
    "plain": NORMAL(),
    "learned prior": NORMAL(partial(priors.LearnedNormal, D)),
    "VampPrior": NORMAL(partial(priors.VampPrior, (D,), (X,), 6)),
    "mixture prior": NORMAL(partial(priors.NormalMixture, D, 4)),
    "flow prior": NORMAL(partial(priors.Flow, D)),
    "spline prior": NORMAL(partial(priors.Flow, D, "nsf", 2)),
    "full covariance": Case(posteriors.FullNormal),
    "low rank": Case(partial(posteriors.LowRankNormal, rank=2)),
    "mixture": Case(partial(posteriors.NormalMixture, components=3)),
    "inverse autoregressive flow": Case(partial(posteriors.Flow, kind="iaf")),
    "RealNVP": Case(partial(posteriors.Flow, kind="realnvp"), objective=objectives.iwae, draws=3),
    "neural splines": Case(partial(posteriors.Flow, kind="nsf")),
    "flow, sticking the landing": Case(
        partial(posteriors.Flow, kind="realnvp"), gradient=gradients.sticking_the_landing
    ),
    "Beta": Case(posteriors.Beta, partial(priors.Beta, D)),
    "Gamma": Case(posteriors.Gamma, partial(priors.Gamma, D)),
    "Dirichlet": Case(posteriors.Dirichlet, partial(priors.Dirichlet, D)),
    "Weibull": Case(posteriors.Weibull, partial(priors.Gamma, D, learned=True)),
    "full covariance, VampPrior": Case(posteriors.FullNormal, partial(priors.VampPrior, (D,), (X,), 6)),
    "elbo_sampled": NORMAL(objective=objectives.elbo_sampled),
    "elbo_entropy": NORMAL(objective=objectives.elbo_entropy),
    "iwae": NORMAL(objective=objectives.iwae, draws=4),
    "renyi": NORMAL(objective=partial(objectives.renyi, alpha=0.5), draws=4),
    "minus_cubo": NORMAL(objective=objectives.minus_cubo, draws=4),
    "multi_iwae": NORMAL(objective=partial(objectives.multi_iwae, groups=2), draws=4),
    "combined_iwae": NORMAL(objective=partial(objectives.combined_iwae, share=0.5), draws=4),
    "capacity": NORMAL(objective=partial(objectives.capacity, nats=1.0, strength=2.0)),
    "constrained": NORMAL(objective=objectives.Constrained("kl", 1.0)),
    "free_bits": NORMAL(penalties=(partial(objectives.free_bits, floor=0.2),)),
    "total_correlation": NORMAL(penalties=(partial(objectives.total_correlation, strength=2.0),)),
    "disentangled": NORMAL(penalties=(partial(objectives.disentangled, off=1.0, on=1.0),)),
    "mmd": NORMAL(penalties=(partial(objectives.maximum_mean_discrepancy, strength=5.0),)),
    "sticking the landing": NORMAL(gradient=gradients.sticking_the_landing),
    "DReG": NORMAL(objective=objectives.iwae, gradient=gradients.doubly_reparameterised, draws=4),
    "PIWAE": NORMAL(
        objective=objectives.iwae, gradient=partial(gradients.partially_importance_weighted, groups=2), draws=4
    ),
    "score of a normal": NORMAL(gradient=gradients.score_function, draws=2),
    "Taylor control": NORMAL(gradient=partial(gradients.bounded, control=gradients.second_order), draws=2),
    "binary, RLOO": BINARY(draws=3),
    "binary, VIMCO": BINARY(objective=objectives.iwae, draws=3),
    "binary, score function": BINARY(gradient=gradients.score_function),
    "binary, NVIL": BINARY(gradient=gradients.LearnedBaseline),
    "binary, control variate": BINARY(gradient=gradients.control_variate, draws=3),
    "binary, Rao-Blackwell": BINARY(gradient=gradients.rao_blackwellised),
    "binary, concrete": BINARY(gradient=gradients.relaxed),
    "binary, straight-through": BINARY(gradient=gradients.straight_through),
    "binary, REBAR": BINARY(gradient=gradients.rebar),
    "binary, RELAX": BINARY(gradient=gradients.Relax),
    "binary, enumerated": BINARY(gradient=gradients.enumerated),
    "categorical, RLOO": FINITE(draws=3),
    "categorical, VIMCO": FINITE(objective=objectives.iwae, draws=3),
    "categorical, Gumbel-softmax": FINITE(gradient=gradients.relaxed),
    "categorical, REBAR": FINITE(gradient=gradients.rebar),
    "class and normal": BOTH(draws=3),
    "class and normal, iwae": BOTH(objective=objectives.iwae, draws=3),
    "class and normal, Gumbel-softmax": BOTH(gradient=gradients.relaxed),
    "class and normal, REBAR and DReG": BOTH(
        gradient=gradients.ByNode(("k", "z"), (gradients.rebar, gradients.doubly_reparameterised))
    ),
    "class and normal, enumerated": BOTH(objective=objectives.elbo_enumerated),
    "class and normal, labels": BOTH(
        objective=objectives.elbo_enumerated,
        penalties=(partial(objectives.cross_entropy, strength=0.5),),
        labels={"k": torch.arange(ROWS) % 5 - 1},
    ),
    "categorical, enumerated": FINITE(gradient=gradients.enumerated),
    "zero-inflated log-normal": NORMAL(likelihood=likelihoods.ZeroInflatedLogNormal),
    "self-masking": MASKED,
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def test_a_step_reaches_every_parameter(case):
    """Every parameter has a finite gradient, and somewhere one that is not zero (flows start as the identity)."""
    model, inference = case.build()
    procedure = inference.start(model)
    batch = case.batch
    scalars = {"learning_rate": torch.tensor(1e-3), "beta": torch.tensor(1.0)}
    with procedure.state.mode(training=True):
        procedure.step(procedure.state, batch, procedure.noise(ROWS, generator(1, "noise")), scalars)
        procedure.state.optimizer.zero_grad()
        total, metrics = procedure.loss(batch, procedure.noise(ROWS, generator(0, "noise")), scalars)
        total.backward()
    several = {f"kl_{name}" for name in getattr(inference.posterior, "names", ())}  # of each latent, where several
    assert set(metrics) == {"objective", "log_lik", "kl"} | several
    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())
    for group in procedure.state.optimizer.param_groups:
        for parameter in group["params"]:
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert (parameter.grad != 0).any()


def test_it_learns(case):
    """A few epochs raise the objective, from the same start on the same rows."""
    model, inference = case.build()
    fitted = lb.fit(model, Rows(BITS, case.mask), inference, epochs=60, batch_size=ROWS, validation=0)
    records = fitted.history.records
    early, late = (sum(r["train_objective"] for r in some) / 10 for some in (records[:10], records[-10:]))
    assert late > early


def test_the_same_seed_gives_the_same_numbers(case):
    ends = []
    for _ in range(2):
        model, inference = case.build()
        lb.fit(model, Rows(BITS, case.mask), inference, epochs=3, batch_size=8, validation=0, seed=5)
        ends.append([p.detach().clone() for p in (*model.parameters(), *inference.posterior.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_it_is_saved_and_loaded(case, tmp_path):
    model, inference = case.build()
    lb.save(tmp_path / "run", model, inference.posterior)
    found = load(tmp_path / "run")
    ours, theirs = (
        draw(m, q, case.batch, generator(1, "noise"), 2).log_w
        for m, q in ((model, inference.posterior), (found.model, found.posterior))
    )
    assert torch.equal(ours, theirs)


def test_it_traces_as_one_graph(case):
    """The traced graph gives autograd's gradients; nothing falls back."""
    model, inference = case.build()
    procedure = inference.start(model)
    compiled = Compiled(procedure.state.modules, procedure.loss, 1e-3, lambda graph, examples: graph)
    batch, noise = case.batch, procedure.noise(ROWS, generator(0, "noise"))
    scalars = {"learning_rate": torch.tensor(1e-3), "beta": torch.tensor(1.0)}
    by_autograd = Backward(procedure.state.modules, procedure.loss)
    before = {name: buffer.clone() for name, buffer in procedure.state.module_tensors().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error" if case.traced else "ignore")
        compiled(batch, noise, scalars)
    found = [p.grad for group in procedure.state.optimizer.param_groups for p in group["params"]]
    procedure.state.load_modules(before)
    by_autograd(batch, noise, scalars)
    for mine, group in zip(
        found, (p for g in procedure.state.optimizer.param_groups for p in g["params"]), strict=True
    ):
        torch.testing.assert_close(mine, group.grad, rtol=1e-4, atol=1e-6)


def test_chains_follow_the_gradient_of_the_log_joint(case):
    """What annealing takes for ∂ log p(x, z)/∂z, without log p(x, z), is its gradient."""
    model, inference = case.build()
    with torch.no_grad():
        target = of_model(model, inference.posterior)(case.batch)
    nodes = target.posterior.nodes().values()
    if any(node.reparameterisation is None for node in nodes):
        pytest.skip("no path leads to its latents")
    with torch.no_grad():
        noise = target.posterior.noise((3, ROWS), target.event, generator(0, "z"), torch.float32)
        z = target.posterior.sample(noise)
    slope = slope_of(target.log_joint, z)
    assert float(slope.abs().mean()) > 0.1
    torch.testing.assert_close(target.slope(z), slope, rtol=1e-4, atol=1e-5)
