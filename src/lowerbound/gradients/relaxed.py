"""Gradient estimators for discrete latents: continuous relaxations, and enumeration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lowerbound.distributions import Discrete, Distribution
from lowerbound.draw import Draw, Node
from lowerbound.gradients.base import Objective, estimator, needs_mean, only_node, per_draw

Relaxation = Callable[[Distribution], Tensor]

_RELAXED = "it is the gradient for a continuous relaxation of the latent"


@estimator(biased=_RELAXED)
def relaxed(draw: Draw, objective: Objective, temperature: float = 0.5) -> Tensor:
    """Replace discrete latents by continuous relaxations: Gumbel-softmax, or the binary concrete distribution.

    Has a low variance but is biased. A lower ``temperature`` decreases the bias and increases the variance. The metrics
    of a fit are still computed with the discrete latent. Jang et al. 2017; Maddison et al. 2017.
    """
    return objective(draw.redrawn({node.name: partial(_soft, node, temperature) for node in _finite(draw)}))


@estimator(biased="its backward pass uses a relaxed latent, its forward pass the discrete one")
def straight_through(draw: Draw, objective: Objective, temperature: float = 0.5) -> Tensor:
    """Discrete latents in the forward pass, relaxed ones in the backward pass: z + soft − soft.detach().

    Bengio et al. 2013.
    """

    def hard(node: Node, q: Distribution) -> Tensor:
        soft = _soft(node, temperature, q)
        return node.z + (soft - soft.detach())

    return objective(draw.redrawn({node.name: partial(hard, node) for node in _finite(draw)}))


@estimator()
def rebar(draw: Draw, objective: Objective, temperature: float = 0.5, coefficient: float = 1.0) -> Tensor:
    """The score function with the relaxed objective as a control variate: unbiased at any temperature.

    [f(z) − η f(z̃)] ∂log q(z) + η ∂f(soft) − η ∂f(z̃), where soft is the relaxation of z, z̃ a relaxation drawn given z,
    and η the ``coefficient``. Children of a relaxed latent are drawn given the relaxed value. If children are discrete
    too, each latent has its own control variate, in which it and its descendants are relaxed. Tucker et al. 2017.
    """
    needs_mean("rebar", objective)
    finite = _finite(draw)
    if any(_finite_below(node, draw) for node in finite):
        return _rebar_by_layer(draw, objective, temperature, coefficient)
    soft = {node.name: partial(_soft, node, temperature) for node in finite}
    given = {node.name: partial(_soft_given, node, temperature) for node in finite}
    f = per_draw(draw, objective)
    at_soft, at_given = (per_draw(draw.redrawn(each), objective) for each in (soft, given))
    log_q = sum((node.log_density for node in finite), torch.zeros_like(f))
    signal = (f - coefficient * at_given).detach()
    return (signal * log_q + f + coefficient * (at_soft - at_given)).mean(0)


@estimator()
def enumerated(draw: Draw, objective: Objective, latent: str | None = None) -> Tensor:
    """The exact expectation over all states of a discrete latent, Σ_z q(z|x) f(x, z), for 2^d or C^d states.

    ``latent``: its name, if there are several latents. Latents that depend on it are drawn again given each state; the
    others keep their draws. Their gradients use reparameterisation if their family allows it, else the score function.
    """
    needs_mean("enumerated", objective)
    node = only_node("enumerated", draw) if latent is None else draw.node(latent)
    if node.q.states() is None:
        raise ValueError(
            f"enumerated needs a discrete latent, but {node.name!r} is continuous; use another gradient estimator."
        )
    there, own = draw.sampled().at_states(node.name)
    draws = len(draw.log_lik) if len(draw.nodes) > 1 else 1
    weighted = own.log_density.exp() * per_draw(there, objective) / draws
    scored = [each.log_density for each in _finite(there) if each.name != node.name]
    return (weighted + weighted.detach() * torch.stack(scored).sum(0) if scored else weighted).sum(0)


def _rebar_by_layer(draw: Draw, objective: Objective, temperature: float, coefficient: float) -> Tensor:
    """``rebar`` with a control variate c_i for each latent i: f with latent i and its descendants relaxed.

    η ∂c_i(soft) − η ∂c_i(z̃) is differentiated with respect to the logits of latent i only.
    """
    f = per_draw(draw, objective)
    total = f.mean(0)
    for node in _finite(draw):
        below = {each.name: partial(_soft, each, temperature) for each in _finite_below(node, draw)}
        logits = _family(node, node.q).logits
        at_soft, at_given = (
            per_draw(draw.redrawn(below | {node.name: partial(value, node, temperature)}), objective)
            for value in (_soft_own, _soft_given)
        )
        total = total + ((f - coefficient * at_given).detach() * node.log_density).mean(0)
        (slope,) = torch.autograd.grad((at_soft - at_given).sum(), logits, retain_graph=True)
        own = (slope.detach() * logits * (coefficient / len(f))).flatten(node.q.batch_dims).sum(node.q.batch_dims)
        total = total + (own.sum(0) if own.dim() == 2 else own)
    return total


def _finite_below(node: Node, draw: Draw) -> list[Node]:
    """The descendants of this latent that have no reparameterisation."""
    below = draw.below(node.name)
    return [each for each in draw.nodes if each.name in below and each.q.reparameterisation is None]


def _soft(node: Node, temperature: float, q: Distribution) -> Tensor:
    assert node.noise is not None
    return _family(node, q).relaxed(node.noise, temperature)


def _soft_own(node: Node, temperature: float, _: Distribution) -> Tensor:
    """The relaxation by the q from which the latent was drawn, differentiable with respect to its parameters."""
    return _soft(node, temperature, node.q)


def _soft_given(node: Node, temperature: float, _: Distribution) -> Tensor:
    assert node.noise is not None
    return _family(node, node.q).relaxed_given(node.z, node.noise, temperature)


def _finite(draw: Draw) -> list[Node]:
    """The latents to relax: those that have no reparameterisation and are not fixed."""
    return [node for node in draw.nodes if not node.path and not node.given]


def _family(node: Node, q: Distribution) -> Discrete:
    if not isinstance(q, Discrete):
        raise ValueError(
            f"latent {node.name!r} has no relaxation, because it is a {type(q).__name__}; use another gradient "
            "estimator."
        )
    return q
