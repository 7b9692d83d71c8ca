"""Estimators that differentiate through the draws: z = g_φ(ε, x)."""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound.draw import Draw, in_groups, of_terms
from lowerbound.gradients.base import Objective, estimator, is_summed

_LEAST_WEIGHT = 1e-12  # smallest weight of a draw; weights sum to 1


@estimator()
def reparameterised(draw: Draw, objective: Objective) -> Tensor:
    """Differentiate through the draws: ∂/∂φ E_q[f] = E_ε[∂f(g_φ(ε, x))/∂φ].

    Every latent must have a reparameterisation, but for one whose states the objective sums over. Kingma & Welling
    2013, §2.4; Rezende et al. 2014.
    """
    _needs_path(draw, objective)
    return objective(draw)


@estimator(biased="the term it omits has mean zero only if the objective is a mean over the draws", biased_means=False)
def sticking_the_landing(draw: Draw, objective: Objective) -> Tensor:
    """``reparameterised`` with φ detached inside log q(z|x), for every latent.

    The omitted term has mean zero in an ELBO, so the gradient is unbiased for any K. In a K-sample bound such as IWAE
    it is biased; use ``doubly_reparameterised`` there. If q is the exact posterior, the gradient with respect to φ has
    no variance. Roeder et al. 2017.
    """
    _needs_path(draw, objective)
    return objective(draw.stopped())


@estimator(rescales=True)
def doubly_reparameterised(draw: Draw, objective: Objective) -> Tensor:
    """The doubly reparameterised gradient (DReG), unbiased for any smooth function L of the log-weights log wₖ.

    With gₖ = ∂L/∂log wₖ and hₖ = ∂²L/∂log wₖ², the gradient with respect to φ is
    Σₖ (gₖ − hₖ) ∂(log p − log q̄)(zₖ)/∂zₖ ∂zₖ/∂φ (q̄ is q with detached parameters), and with respect to θ Σₖ gₖ ∂log p.
    For IWAE, gₖ = w̃ₖ and gₖ − hₖ = w̃ₖ²; for the ELBO it equals ``sticking_the_landing``. Tucker et al. 2019.
    """
    _needs_path(draw, objective)
    stopped = draw.stopped()
    first, second = _derivatives(stopped, objective)
    return _weighted(stopped, first, first - second)


@estimator(rescales=True)
def partially_importance_weighted(draw: Draw, objective: Objective, groups: int) -> Tensor:
    """PIWAE: θ maximises ``objective`` with all K draws, φ its mean over ``groups`` groups of K/``groups`` draws.

    A large K tightens the bound for θ, but lowers the signal-to-noise ratio of φ's gradient. Rainforth et al. 2018, §6.
    """
    _needs_path(draw, objective)
    rows = draw.log_lik.shape[1]
    theta, _ = _derivatives(draw, objective)
    phi, _ = _derivatives(draw, lambda whole: objective(in_groups(whole, groups)).view(groups, rows).mean(0))
    at = {node.name: node.z.detach() for node in draw.nodes}
    # q of children must be given detached parents
    there = draw.at(at) if any(node.parents for node in draw.nodes) else draw
    direct = [node.beta * node.q.log_prob(at[node.name]) for node in there.nodes]
    return _weighted(draw.stopped(), theta, phi) - (phi * torch.stack(direct).sum(0)).sum(0)


def _derivatives(draw: Draw, objective: Objective) -> tuple[Tensor, Tensor]:
    """∂L/∂log w and ∂²L/∂log w² of each draw, ``[K, B]``."""
    with torch.enable_grad():
        log_w = draw.log_w.detach().requires_grad_()
        value = objective(of_terms(log_w, torch.zeros_like(log_w), torch.zeros_like(log_w)))
        (first,) = torch.autograd.grad(value.sum(), log_w, create_graph=True)
        if not first.requires_grad:
            return first.detach(), torch.zeros_like(first)
        each = torch.eye(len(log_w), dtype=log_w.dtype, device=log_w.device).unsqueeze(-1).expand(-1, *log_w.shape)
        (second,) = torch.autograd.grad(first, log_w, each, is_grads_batched=True)
    return first.detach(), second.diagonal().mT.detach()


def _weighted(draw: Draw, theta: Tensor, latent: Tensor) -> Tensor:
    """Σₖ θₖ log wₖ, ``[B]``, but with the gradient of Σₖ latentₖ log wₖ with respect to z, in one backward pass.

    A hook rescales the gradient of log w with respect to each z. The gradient that reaches a parent through its
    children's draws has been rescaled at the children and must not be rescaled again; it is not, because children are
    drawn from another tensor than ``node.z`` (``Evaluate``).
    """
    for node in draw.nodes:
        if node.q.has_states:
            raise ValueError(
                f"latent {node.name!r} holds the units of a network, through which parameters of the model have a "
                "gradient that must not be rescaled; use gradients.reparameterised."
            )
    theta = torch.where(theta.abs() < _LEAST_WEIGHT, _LEAST_WEIGHT, theta)
    ratio = latent / theta
    for node in (node for node in draw.nodes if node.z.requires_grad):
        scale = ratio.view(*ratio.shape, *[1] * (node.z.dim() - 2))
        node.z.register_hook(lambda gradient, scale=scale: gradient * scale)
    return (theta * draw.log_w).sum(0)


def _needs_path(draw: Draw, objective: Objective) -> None:
    for node in draw.nodes:
        if node.q.reparameterisation is None and not node.given and not is_summed(node, objective):
            raise ValueError(f"latent {node.name!r} has no reparameterisation; use another gradient estimator.")
