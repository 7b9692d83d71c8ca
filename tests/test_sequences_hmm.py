"""A hidden Markov model as latents with parents: enumerated, against the forward pass; gradients, against sums."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from enumeration import gradient
from oracles import batch_of, rng
from torch import Tensor, nn

from lowerbound import likelihoods, posteriors, priors
from lowerbound.draw import Draw
from lowerbound.gradients import by_family, enumerated, leave_one_out, rao_blackwellised, score_function
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, EachStep, seeded
from lowerbound.objectives import elbo, elbo_sampled, iwae


@dataclass
class HMM:
    """z_0, …, z_{T−1} of ``states``, one transition for all steps, two bits per step; q(z_t|z_{t−1}, x)."""

    states: int
    steps: int

    def __post_init__(self) -> None:
        S, T, names = self.states, self.steps, [f"z{t}" for t in range(self.steps)]
        parents = dict(zip(names[1:], ([name] for name in names), strict=False))
        with seeded(3):
            first = priors.Categorical(1, S)
            self.transition = MLP((S,), (S,), ())
            self.emission = MLP((S,), (2,), ())
            for parameter in (first.logits, *self.transition.parameters(), *self.emission.parameters()):
                nn.init.normal_(parameter)
            given = {name: priors.Given(posteriors.Categorical(1, S, self.transition)) for name in names[1:]}
            decoder = nn.Sequential(nn.Unflatten(1, (T, S)), EachStep(self.emission))
            of = {
                name: posteriors.Categorical(1, S, MLP((T, 2), (S,), (), context=S * (name in parents)))
                for name in names
            }
        prior = priors.Latents({names[0]: first, **given}, parents)
        likelihood = likelihoods.EachStep(likelihoods.Bernoulli())
        self.model = LatentVariableModel(prior, decoder, likelihood).double()
        self.posterior = posteriors.Latents(of, parents=parents).double()
        self.x = torch.bernoulli(torch.full((1, T, 2), 0.5, dtype=torch.float64), generator=rng())

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.posterior.parameters()]

    def forward_pass(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x) of one row by the recursion p(z_t, x_{1:t}) = p(x_t|z_t) Σ p(z_t|z_{t−1}) p(z_{t−1}, x_{1:t−1})."""
        eye = torch.eye(self.states, dtype=torch.float64)
        step, logits = self.transition(eye).log_softmax(1), self.emission(eye)
        alpha = self.model.prior.parts["z0"].logits[0].log_softmax(0)
        for t in range(self.steps):
            if t:
                alpha = (alpha[:, None] + step).logsumexp(0)
            each = torch.distributions.Bernoulli(logits=logits).log_prob(x[0, t])
            alpha = alpha + (each if mask is None else torch.where(mask[0, t], each, 0)).sum(1)
        return alpha.logsumexp(0)

    def paths(self) -> Tensor:
        """All paths, one-hot ``[S^T, T, S]``."""
        index = torch.tensor(list(itertools.product(range(self.states), repeat=self.steps)))
        return torch.nn.functional.one_hot(index, self.states).double()

    def tuples(self, K: int) -> tuple[Draw, Tensor]:
        """A draw whose rows are all K-tuples of paths, and the probability of each under q."""
        paths = self.paths()
        index = torch.tensor(list(itertools.product(range(len(paths)), repeat=K))).T
        rows = batch_of(self.x.expand(index.shape[1], *self.x.shape[1:]))
        there = draw(self.model, self.posterior, rows, rng(), K, True)
        there = there.at({f"z{t}": paths[index][:, :, t].unsqueeze(2) for t in range(self.steps)})
        return there, sum(node.log_density for node in there.nodes).sum(0).exp()

    def exact(self, objective: Any, K: int) -> Tensor:
        there, probability = self.tuples(K)
        return gradient((probability * objective(there)).sum(), self.parameters)

    def expected(self, estimator: Any, objective: Any, K: int) -> Tensor:
        there, probability = self.tuples(K)
        return gradient((probability.detach() * estimator(there, objective)).sum(), self.parameters)


@pytest.mark.parametrize(("states", "steps"), [(2, 6), (3, 5), (5, 5)])
def test_the_sum_over_all_paths_is_the_forward_pass(states: int, steps: int) -> None:
    """Also with a missing value and a missing step, and its gradient."""
    hmm = HMM(states, steps)
    mask = torch.ones_like(hmm.x, dtype=torch.bool)
    mask[0, 1, 0], mask[0, 3] = False, False
    z = hmm.paths().flatten(1).unsqueeze(1)
    own = list(hmm.model.parameters())
    for seen in (None, mask):
        found = hmm.model.log_joint(z, hmm.x, seen).logsumexp(0).squeeze()
        due = hmm.forward_pass(hmm.x, seen)
        torch.testing.assert_close(found, due, rtol=0, atol=1e-10)
        torch.testing.assert_close(gradient(found, own), gradient(due, own), rtol=0, atol=1e-10)


def test_the_bound_is_below_the_forward_pass_and_its_weights_have_mean_p() -> None:
    hmm = HMM(3, 4)
    there, probability = hmm.tuples(1)
    log_p = float(hmm.forward_pass(hmm.x).detach())
    assert float((probability * elbo_sampled(there)).sum().detach()) < log_p
    assert float((probability * there.log_w[0].exp()).sum().log().detach()) == pytest.approx(log_p, abs=1e-10)


@pytest.mark.parametrize(
    ("estimator", "objective", "K"),
    [
        (score_function, elbo_sampled, 1),
        (score_function, elbo, 1),
        (score_function, iwae, 2),
        (leave_one_out, elbo_sampled, 2),
        (leave_one_out, iwae, 2),
        (rao_blackwellised, elbo_sampled, 1),
        (by_family, elbo, 2),
        (partial(enumerated, latent="z2"), elbo_sampled, 1),
    ],
)
def test_gradients_of_chains_are_those_of_the_sum_over_all_paths(estimator: Any, objective: Any, K: int) -> None:
    hmm = HMM(3, 3)
    truth = hmm.exact(objective, K)
    assert truth.abs().max() > 1e-2
    torch.testing.assert_close(hmm.expected(estimator, objective, K), truth, rtol=0, atol=1e-10)
