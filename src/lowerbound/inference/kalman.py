"""The exact posterior of a linear normal state space (a Kalman filter), as a posterior and as a function of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import distributions, priors
from lowerbound.distributions.state_space import StateSpace
from lowerbound.inference.e_steps import is_linear, linear_map
from lowerbound.likelihoods import EachStep, Normal
from lowerbound.model import LatentVariableModel
from lowerbound.nn import EachStep as StepDecoder
from lowerbound.nn import LinearTransition
from lowerbound.posteriors import Posterior

__all__ = ["KalmanSmoother", "is_state_space", "state_space"]


def is_state_space(model: LatentVariableModel) -> bool:
    """Whether ``state_space`` takes the model."""
    prior, decoder, likelihood = model.prior, model.decoder, model.likelihood
    return (
        isinstance(prior, priors.Markov)
        and isinstance(prior.network, LinearTransition)
        and isinstance(decoder, StepDecoder)
        and is_linear(decoder.network)
        and isinstance(likelihood, EachStep)
        and isinstance(likelihood.of, Normal)
        and likelihood.of.scale not in ("entry", "row")
    )


def state_space(model: LatentVariableModel) -> StateSpace:
    """The matrices of a linear model of sequences, live and in double precision.

    Its prior is a ``priors.Markov`` with an ``nn.LinearTransition``, its decoder an ``nn.EachStep`` of an ``nn.MLP``
    without hidden layers, and its likelihood an ``EachStep`` of a ``Normal`` whose scale is not the decoder's. Raises
    ValueError for another model.
    """
    if not is_state_space(model):
        raise ValueError(
            "this is no linear normal model of sequences; take priors.Markov with nn.LinearTransition, the decoder "
            "nn.EachStep(nn.MLP((d,), (D,), ())) and likelihoods.EachStep(likelihoods.Normal())."
        )
    p = model.prior_given()
    assert isinstance(p, distributions.Markov)
    transition, normal = p.network, model.likelihood.of
    assert isinstance(transition, LinearTransition)
    assert isinstance(normal, Normal)
    weight, bias = (each.double() for each in linear_map(model.decoder.network))  # type: ignore[arg-type]
    size = len(weight)
    shift, spread, sigma = (
        each.double().flatten().expand(size) for each in (normal.shift, normal.spread, normal.sigma())
    )
    _, scale = p.moments(p.loc.new_zeros(1, 1, 1, len(p.loc)), 1)
    return StateSpace(
        p.loc.double(),
        p.scale.double().square(),
        transition.weight.double(),
        transition.bias.double(),
        scale.flatten().double().square(),
        spread.unsqueeze(1) * weight,
        shift + spread * bias,
        sigma.square(),
    )


class KalmanSmoother(Posterior):
    """q(z|x) = p(z|x) of a linear normal model of sequences: no encoder, and nothing of its own to be learned.

    With it the ELBO is log p(x), for each draw, so that ``AEVB`` maximises the likelihood of a Kalman filter.
    """

    family = distributions.LinearMarkov
    needs_model = True

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__(latent_dim, nn.Identity())
        self.steps = steps

    @property
    def event(self) -> tuple[int, ...]:
        return (self.steps, self.latent_dim)

    @property
    def n_outputs(self) -> int:
        return self.latent_dim

    @property
    def how(self) -> str:
        return "exact, by a Kalman smoother"

    def distribution(self, out: Tensor) -> distributions.Distribution:
        raise ValueError("a KalmanSmoother is made with its model; use model.distributions_of.")

    def forward(
        self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None, model: Any = None
    ) -> distributions.Distribution:
        if model is None:
            raise ValueError("a KalmanSmoother is made with its model; use model.distributions_of.")
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        return state_space(model).posterior(x.flatten(2), seen.flatten(2), model.prior_given())
