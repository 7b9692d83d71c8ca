"""Score-function gradient estimators, ∂/∂φ E_q[f] = E_q[f ∂log q], for any latent and any objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lowerbound.distributions import Normal
from lowerbound.draw import Draw, Node, of_terms
from lowerbound.gradients.base import (
    Objective,
    Sensitivity,
    Traits,
    estimator,
    is_mean,
    needs_mean,
    only_node,
    per_draw,
    sensitivity,
)
from lowerbound.shapes import expect

Control = Callable[[Draw], tuple[Tensor, Tensor]]
"""A draw → g(z) ``[K, B]`` and E_q[g] ``[B]``; the latter is differentiable with respect to q's parameters."""


@estimator(detached=True)
def score_function(draw: Draw, objective: Objective) -> Tensor:
    """E_q[f ∂log q] without a baseline: unbiased, with a high variance. Williams 1992; Ranganath et al. 2014."""
    return _surrogate(draw, objective, _signal(draw, objective))


@estimator(detached=True, least_draws=2)
def leave_one_out(draw: Draw, objective: Objective) -> Tensor:
    """The score function with a leave-one-out baseline: the objective L computed from the other draws.

    Lₖ is L with the terms of draw k replaced by the mean of the other draws'; the learning signal is L − Lₖ. For the
    ELBO this is RLOO, for the IWAE bound VIMCO. Latents that have a reparameterisation use it. Mnih & Rezende 2016;
    Kool et al. 2019.
    """
    return _surrogate(draw, objective, _leave_one_out(draw, objective))


@estimator(detached=True, least_draws=2)
def control_variate(draw: Draw, objective: Objective) -> Tensor:
    """The score function with the baseline a* that minimises the variance: the signal is f − a*.

    a* = Cov(f·h, h)/Var(h), where h is the gradient of log q with respect to q's parameters. Because E[h] = 0,
    a* = E[f·|h|²]/E[|h|²], a mean of f with weights |h|². It is estimated for each row and draw from the other draws.
    Ranganath et al. 2014, §3.2.
    """
    needs_mean("control_variate", objective)
    with torch.no_grad():
        f = per_draw(draw, objective)
        weight = sum((node.q.score(node.z).square().sum(2) for node in _scored(draw)), torch.zeros_like(f))
        total, weighted = weight.sum(0) - weight, (f * weight).sum(0) - f * weight
        a = weighted / total.clamp(min=torch.finfo(f.dtype).tiny)
    return _surrogate(draw, objective, (f - a) / len(f))


@estimator(detached=True)
def rao_blackwellised(draw: Draw, objective: Objective) -> Tensor:
    """The score function, where the signal of component z_i contains only the terms of f that depend on z_i.

    These are z_i's own terms of log p and log q (components must be independent in both), the terms of latents whose p
    or q depends on it, directly or through other latents, and the likelihood if the decoder depends on it. For latents
    that are independent in q, they are the Markov blanket. Ranganath et al. 2014, §3.1.
    """
    needs_mean("rao_blackwellised", objective)
    sampled = draw.sampled()
    whole = per_draw(sampled, objective).detach()
    share = sensitivity(sampled, objective)
    score = torch.zeros_like(whole)
    for node in _scored(draw):
        log_p, log_q = node.p.log_prob_per_dim(node.z), node.q.log_prob_per_dim(node.z)
        if log_p is None or log_q is None:
            raise ValueError(
                f"rao_blackwellised needs latents with independent components, but those of {node.name!r} are "
                "dependent; use leave_one_out."
            )
        log_q = log_q.flatten(2)
        own = _of_each(share.log_q, node, log_q)
        if node.closed:  # otherwise log p depends on latents that are drawn given every component
            own = own + _of_each(share.log_p, node, log_p.flatten(2))
        signal = whole.unsqueeze(2) / len(whole) - _left_out(node, sampled, share).unsqueeze(2) + own
        score = score + (signal.detach() * log_q).sum(2)
    return objective(sampled) + score.sum(0)


@estimator(detached=True)
def bounded(draw: Draw, objective: Objective, control: Control, coefficient: float = 1.0) -> Tensor:
    """The score function with the control variate g: the signal is f − a(g − E_q[g]), where a is ``coefficient``.

    ``control`` gives g(z), which should be close to f, and its mean in closed form: a bound on f, or ``second_order``.
    Paisley, Blei & Jordan 2012.
    """
    needs_mean("bounded", objective)
    g, mean = control(draw)
    signal = (per_draw(draw.sampled(), objective) - coefficient * g) / len(g)
    return _surrogate(draw.sampled(), objective, signal) + coefficient * mean


def second_order(draw: Draw) -> tuple[Tensor, Tensor]:
    """A ``control`` for ``bounded``: log p(x, z) expanded to second order around the mean of a normal q.

    Of the Hessian only the diagonal is used.
    """
    node = only_node("second_order", draw)
    if not isinstance(node.q, Normal):
        raise ValueError(
            f"second_order needs a diagonal normal posterior, but latent {node.name!r} has a {type(node.q).__name__}."
        )
    with torch.enable_grad():
        centre = node.q.loc.detach().unsqueeze(0).requires_grad_()
        there = draw.at({node.name: centre})
        value = there.log_lik + there.log_prior
        (slope,) = torch.autograd.grad(value.sum(), centre, create_graph=True)
        flat = slope.flatten(2)
        size = flat.shape[2]
        each = torch.eye(size, dtype=flat.dtype, device=flat.device).view(size, 1, 1, size).expand(size, *flat.shape)
        (bend,) = torch.autograd.grad(flat, centre, each, is_grads_batched=True)
    bend = bend.flatten(3).diagonal(dim1=0, dim2=3).detach()
    slope, value, centre = slope.flatten(2).detach(), value.detach(), centre.flatten(2).detach()
    away = node.z.detach().flatten(2) - centre
    g = value + (slope * away + 0.5 * bend * away.square()).sum(2)
    shift, variance = node.q.loc.flatten(1) - centre[0], node.q.scale.flatten(1).square()
    mean = value[0] + (slope[0] * shift + 0.5 * bend[0] * (variance + shift.square())).sum(1)
    return g, mean


class LearnedBaseline(nn.Module):
    """NVIL: the score function with a learned baseline; the signal is f − b_ψ(x) − c.

    b_ψ is ``network``, ``[B, *X] → [B, 1]``, trained by least squares together with the model; c is a running mean with
    the decay rate ``decay``. ``normalise`` divides the signal by its running standard deviation if that is above 1, as
    in the paper; it is off by default because it rescales φ's gradient. Mnih & Gregor 2014.
    """

    traits = Traits(detached=True)
    mean: Tensor
    variance: Tensor

    def __init__(self, network: nn.Module, decay: float = 0.8, normalise: bool = False) -> None:
        super().__init__()
        self.network, self.decay, self.normalise = network, decay, normalise
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))

    def forward(self, draw: Draw, objective: Objective) -> Tensor:
        if draw.x is None:
            raise ValueError("LearnedBaseline needs the rows of the batch, but this draw has none; set x on the draw.")
        f = _signal(draw, objective) * len(draw.log_lik)
        predicted: Tensor = self.network(draw.x)
        expect("the network of LearnedBaseline", predicted, (len(draw.x), 1), "[B, 1]")
        predicted = predicted.squeeze(1)
        error = f - predicted - self.mean
        signal = error.detach()
        if self.normalise:
            signal = signal / self.variance.sqrt().clamp(min=1)
        found: Tensor = _surrogate(draw, objective, signal / len(f)) - 0.5 * error.square().mean(0)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(f.mean(), 1 - self.decay)
                self.variance.lerp_(error.var(correction=0), 1 - self.decay)
        return found


def _surrogate(draw: Draw, objective: Objective, signal: Tensor) -> Tensor:
    """L + Σₖ signalₖ log q(zₖ): its gradient is that of the objective at fixed z, plus the score-function term."""
    log_q = sum((node.log_density for node in _scored(draw)), torch.zeros_like(signal))
    return objective(draw) + (signal.detach() * log_q).sum(0)


def _scored(draw: Draw) -> list[Node]:
    """The latents whose gradient is by the score function: not reparameterised and not fixed."""
    return [node for node in draw.nodes if not node.path and not node.given]


@torch.no_grad()
def _signal(draw: Draw, objective: Objective) -> Tensor:
    """The factor of each draw's score, ``[K, B]``: its term if the objective is a mean, else the whole objective."""
    if is_mean(objective):
        return per_draw(draw, objective) / len(draw.log_lik)
    return objective(draw).expand_as(draw.log_lik)


@torch.no_grad()
def _leave_one_out(draw: Draw, objective: Objective) -> Tensor:
    """L − Lₖ, ``[K, B]``."""
    draws, rows = draw.log_lik.shape
    if draws < 2:
        raise ValueError("leave_one_out computes its baseline from the other draws; use draws of at least 2.")

    own = torch.eye(draws, dtype=torch.bool, device=draw.log_lik.device).unsqueeze(2)

    def without_each(term: Tensor) -> Tensor:
        others = (term.sum(0) - term) / (draws - 1)
        return torch.where(own, others, term.unsqueeze(1)).flatten(1)

    def closed(term: Tensor | None) -> Tensor | None:
        if term is None:
            return None
        return term.expand(draws, rows).flatten() if term.dim() == 1 else without_each(term.expand(draws, rows))

    kl, entropy = closed(draw.kl), closed(draw.entropy)
    log_lik, log_prior, log_q = map(without_each, (draw.log_lik, draw.log_prior, draw.log_q))
    return objective(draw) - objective(of_terms(log_lik, log_prior, log_q, kl, entropy)).view(draws, rows)


def _left_out(node: Node, draw: Draw, share: Sensitivity) -> Tensor:
    """The terms of the objective that do not depend on a latent, or that are added per component, ``[K, B]``."""
    depends = {node.name} | draw.below(node.name)
    found = torch.zeros_like(draw.log_lik)
    for other in draw.nodes:
        itself, free = other.name == node.name, other.name not in depends
        if (itself and node.closed) or (free and depends.isdisjoint(other.prior_parents)):
            found = found + share.log_p * other.log_p
        if itself or free:
            found = found + share.log_q * other.log_q
    if draw.read is not None and depends.isdisjoint(draw.read):
        found = found + share.log_lik * draw.log_lik
    return found


def _of_each(share: Tensor, node: Node, term: Tensor) -> Tensor:
    return (share * node.beta).unsqueeze(2) * term
