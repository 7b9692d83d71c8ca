"""Estimators for finite latents through their relaxations, and by enumeration."""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound.distributions import Discrete
from lowerbound.draw import Draw, Node
from lowerbound.gradients.base import Objective, estimator, needs_mean, only_node, per_draw

_RELAXED = "it is the gradient of the objective of a relaxed, continuous latent"


@estimator(biased=_RELAXED)
def relaxed(draw: Draw, objective: Objective, temperature: float = 0.5) -> Tensor:
    """Gumbel-softmax, or the binary concrete: the latent is a continuous variable near its finite values.

    Differentiable, of low variance, and biased; less so, and noisier, the lower ``temperature``. The metrics stay
    those of the finite latent. Jang et al. 2017; Maddison et al. 2017.
    """
    soft = {node.name: _soft(node, temperature) for node in _finite(draw)}
    return objective(draw.at(_latents(draw) | soft))


@estimator(biased="its backward pass is that of a relaxed latent, its forward pass that of the finite one")
def straight_through(draw: Draw, objective: Objective, temperature: float = 0.5) -> Tensor:
    """The finite latent forward, the relaxed one backward: z + soft − stop(soft). Bengio et al. 2013."""
    latents = _latents(draw)
    for node in _finite(draw):
        soft = _soft(node, temperature)
        latents[node.name] = node.z + (soft - soft.detach())
    return objective(draw.at(latents))


@estimator()
def rebar(draw: Draw, objective: Objective, temperature: float = 0.5, coefficient: float = 1.0) -> Tensor:
    """The score function with the relaxed objective as a control variate: unbiased at any temperature.

    [f(z) − η f(z̃)] ∂log q(z) + η ∂f(soft) − η ∂f(z̃), where z̃ is the relaxed variable drawn anew given z.
    Tucker et al. 2017.
    """
    needs_mean("rebar", objective)
    soft, given = _latents(draw), _latents(draw)
    for node in _finite(draw):
        family, noise = _family(node), node.noise
        assert noise is not None
        soft[node.name] = family.relaxed(noise, temperature)
        given[node.name] = family.relaxed_given(node.z, noise, temperature)
    f = per_draw(draw, objective)
    at_soft, at_given = per_draw(draw.at(soft), objective), per_draw(draw.at(given), objective)
    log_q = sum((node.log_density for node in _finite(draw)), torch.zeros_like(f))
    signal = (f - coefficient * at_given).detach()
    return (signal * log_q + f + coefficient * (at_soft - at_given)).mean(0)


@estimator(detached=True)
def enumerated(draw: Draw, objective: Objective) -> Tensor:
    """The expectation itself, Σ_z q(z|x) f(x, z) over all states of a finite latent: no variance, 2^d or C^d states."""
    needs_mean("enumerated", objective)
    node = only_node("enumerated", draw)
    states = node.q.states()
    if states is None:
        raise ValueError(f"enumerated needs a latent with finitely many values, and {node.name!r} has more.")
    rows = draw.log_lik.shape[1]
    there = draw.at({node.name: states.unsqueeze(1).expand(-1, rows, *states.shape[1:])})
    log_q = there.nodes[0].log_density
    return (log_q.exp() * per_draw(there.sampled(), objective)).sum(0)


def _soft(node: Node, temperature: float) -> Tensor:
    assert node.noise is not None
    return _family(node).relaxed(node.noise, temperature)


def _finite(draw: Draw) -> list[Node]:
    """The latents to relax: not those that gradients flow through, nor those that are given."""
    return [node for node in draw.nodes if not node.path and not node.given]


def _latents(draw: Draw) -> dict[str, Tensor]:
    return {node.name: node.z for node in draw.nodes}


def _family(node: Node) -> Discrete:
    if not isinstance(node.q, Discrete):
        raise ValueError(f"latent {node.name!r} has no relaxation: it is a {type(node.q).__name__}.")
    return node.q
