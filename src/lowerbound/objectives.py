"""Objectives: a draw → a bound on log p(x) in nats per row, ``[B]``, to be maximised.

They see tensors only. A penalty couples the rows of a batch: it is a scalar of its own, and no bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowerbound.draw import Draw

_NEGLIGIBLE = 46.0  # nats: e⁻⁴⁶ ≈ 1e-20


def elbo(draw: Draw) -> Tensor:
    """The evidence lower bound with the KL in closed form (SGVB-B of Kingma & Welling 2013, eq. 7).

    mean_K log p(x|z) − KL(q(z|x) ‖ p(z)); where a latent has no closed-form KL, ``elbo_sampled``.
    """
    return elbo_sampled(draw) if draw.kl is None else draw.log_lik.mean(0) - draw.kl


def elbo_sampled(draw: Draw) -> Tensor:
    """The evidence lower bound by sampling alone (SGVB-A, eq. 6): mean_K [log p(x, z) − log q(z|x)]."""
    return draw.log_w.mean(0)


def elbo_entropy(draw: Draw) -> Tensor:
    """The evidence lower bound with the entropy in closed form: mean_K log p(x, z) + H(q(z|x))."""
    if draw.entropy is None:
        raise ValueError("elbo_entropy needs a posterior whose entropy has a closed form; use elbo_sampled.")
    return (draw.log_lik + draw.log_prior).mean(0) + draw.entropy


def iwae(draw: Draw) -> Tensor:
    """The importance-weighted bound: log mean_K w. With K = 1 it is ``elbo_sampled``. Burda et al. 2016.

    Weights below 1e-20 of the largest get an exactly zero gradient: left alone they become subnormal numbers,
    which slow every product that meets them; the value moves by less than K·1e-20.
    """
    log_w = draw.log_w
    floor = log_w.detach().amax(0) - _NEGLIGIBLE
    return torch.maximum(log_w, floor).logsumexp(0) - math.log(len(log_w))


def free_bits(draw: Draw, weight: Tensor, floor: float) -> Tensor:
    """A penalty, in nats, that makes ELBO − penalty charge each latent dimension at least ``floor`` nats.

    Σ_g max(0, floor − mean_B KL_g), so that Σ_g mean_B KL_g + penalty = Σ_g max(floor, mean_B KL_g); the mean is
    taken with ``weight [B]``. Where β weighs the KL, KL_g here is β·KL_g. It couples the rows: no bound, and no row's
    own. Kingma et al. 2016, eq. 15.
    """
    shortfall = torch.zeros((), device=weight.device)
    for node in draw.nodes:
        if node.kl_per_dim is None:
            raise ValueError(f"free_bits needs a KL in closed form, and latent {node.name!r} has none.")
        mean_kl = weight @ node.kl_per_dim.flatten(1)
        shortfall = shortfall + (floor - mean_kl).clamp(min=0).sum()
    return shortfall
