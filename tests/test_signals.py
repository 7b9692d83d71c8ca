"""What each draw's score is multiplied by, draw by draw: a wrong baseline leaves the mean gradient as it is."""

from __future__ import annotations

import math

import pytest
import torch
from enumeration import MODELS, Enumerable
from oracles import rng

from lowerbound.draw import Draw
from lowerbound.gradients import leave_one_out, score_function
from lowerbound.objectives import elbo, elbo_sampled, iwae


def scores(toy: Enumerable, signal: torch.Tensor) -> torch.Tensor:
    """The gradient of Σ signal · log q at the draws of ``drawn``."""
    return toy.gradient((signal * drawn(toy, len(signal)).nodes[0].log_density).sum())


def drawn(toy: Enumerable, draws: int) -> Draw:
    """The same draws each time, with a graph of their own."""
    return toy.draw(rng(draws), draws, 7)


@pytest.mark.parametrize("draws", [2, 3, 5])
@pytest.mark.parametrize("model", MODELS)
def test_the_baseline_of_a_draw_is_the_mean_of_the_others(model, draws):
    """RLOO: (f_k − mean of the other f)/K. VIMCO: L less the bound with w_k replaced by the others' geometric mean."""
    toy = MODELS[model]()
    for objective in (elbo, elbo_sampled, iwae):
        there = drawn(toy, draws)
        log_w = there.log_w.detach()
        if objective is elbo:
            log_w = (there.log_lik - there.kl).detach()
        signal = torch.empty_like(log_w)
        for k in range(draws):
            others = torch.cat([log_w[:k], log_w[k + 1 :]])
            if objective is iwae:
                without = torch.cat([others, others.mean(0, keepdim=True)])
                signal[k] = log_w.logsumexp(0) - without.logsumexp(0)
            else:
                signal[k] = (log_w[k] - others.mean(0)) / draws
        found = toy.gradient((leave_one_out(there, objective) - objective(drawn(toy, draws))).sum())
        torch.testing.assert_close(found, scores(toy, signal), rtol=1e-9, atol=1e-11)
        over_all = torch.stack([(log_w[k] - (log_w.sum(0) - log_w[k]) / draws) / draws for k in range(draws)])
        assert not torch.allclose(found, scores(toy, over_all), rtol=1e-3), "a baseline over the wrong count"


def test_the_score_function_has_no_baseline():
    toy = MODELS["belief net"]()
    there = drawn(toy, 3)
    f = (there.log_lik - there.kl).detach()
    for objective, signal in ((elbo, f / 3), (iwae, (there.log_w.detach().logsumexp(0) - math.log(3)).expand(3, 7))):
        found = toy.gradient((score_function(drawn(toy, 3), objective) - objective(drawn(toy, 3))).sum())
        torch.testing.assert_close(found, scores(toy, signal), rtol=1e-9, atol=1e-11)
