"""Penalties: (draw, weight of each row) → nats. They depend on all rows of a batch together, so they are scalars.

Penalties that compare rows are 0 for a batch with a single row of positive weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from lowerbound.distributions import Normal, Observed
from lowerbound.distributions.kl import batch_dims
from lowerbound.draw import Draw, Node, over_draws

F = TypeVar("F", bound=Callable[..., Any])


def compares_rows(penalty: F) -> F:
    """Decorator that marks a penalty as 0 for a batch of one row."""
    penalty.least_rows = 2  # type: ignore[attr-defined]
    return penalty


def least_rows(penalty: Callable[..., Any]) -> int:
    """The smallest number of rows for which ``penalty`` can be above 0."""
    while isinstance(penalty, partial):
        penalty = penalty.func
    return int(getattr(penalty, "least_rows", 1))


def free_bits(
    draw: Draw,
    weight: Tensor,
    floor: float | Mapping[str, float],
    groups: Literal["dimensions", "latents"] = "dimensions",
) -> Tensor:
    """Free bits: a KL below ``floor`` nats of a latent dimension brings no gain. Kingma et al. 2016, eq. 15.

    The penalty is Σ_g max(0, floor − mean_B KL_g), so that Σ_g mean_B KL_g + penalty = Σ_g max(floor, mean_B KL_g),
    where g are the latent dimensions and the mean has the weights ``weight [B]``. If the KL is weighted by β, KL_g
    stands for β·KL_g. ``floor``: of all latents, or by their names, 0 for those that are not named. ``groups``:
    "latents" for one floor per named latent, such as a layer of a ladder, in place of one per dimension; where there is
    no closed form, its KL is the mean of log q − log p over the draws.
    """
    if groups not in ("dimensions", "latents"):
        raise ValueError(f'groups is {groups!r}; give "dimensions" or "latents".')
    names = [node.name for node in draw.nodes]
    floors = floor if isinstance(floor, Mapping) else dict.fromkeys(names, floor)
    if unknown := sorted(floors.keys() - set(names)):
        raise ValueError(f"floor= names {unknown[0]!r}, which is not a latent; the latents are {', '.join(names)}.")
    shortfall = torch.zeros((), device=weight.device)
    for node in draw.nodes:
        if node.name not in floors:
            continue
        if groups == "latents":
            if node.kl is None and node.q.reparameterisation is None:
                raise ValueError(
                    f"free_bits needs a closed-form KL or a reparameterisation, but latent {node.name!r} has neither."
                )
            shortfall = shortfall + (floors[node.name] - weight @ node.mean_kl).clamp(min=0)
            continue
        if node.kl_per_dim is None:
            raise ValueError(f"free_bits needs a closed-form KL per dimension, but latent {node.name!r} has none.")
        mean_kl = weight @ _per_row(node.kl_per_dim, batch_dims(node.q, node.p))
        shortfall = shortfall + (floors[node.name] - mean_kl).clamp(min=0).sum()
    return shortfall


def cross_entropy(draw: Draw, weight: Tensor, strength: float, latent: str | None = None) -> Tensor:
    """−``strength`` · Σ_b weight_b log q(y_b|x_b) over the rows whose class y_b was observed (``Batch.labels``).

    The bound on log p(x, y) does not depend on q(y|x), so that only this term teaches q(y|x) from the labelled rows
    directly. With ``strength`` = α · (number of rows)/(number of labelled rows), it is α times the mean over the
    labelled rows. ``latent``: the name of y; None for each latent that is observed. Kingma et al. 2014, eq. 9.
    """
    found = torch.zeros((), device=weight.device, dtype=weight.dtype)
    for node in draw.nodes:
        q = node.q
        if latent not in (None, node.name) or not isinstance(q, Observed) or q.inferred is None or q.seen is None:
            continue
        log_q = over_draws((q.probabilities * q.inferred.logits.log_softmax(-1)).flatten(q.batch_dims).sum(-1))
        found = found - strength * (weight @ torch.where(q.seen, log_q, 0))
    return found


def _per_row(kl_per_dim: Tensor, batch_dims: int) -> Tensor:
    """KL of each dimension, ``[B, d]``, averaged over the draws of parents."""
    return kl_per_dim.flatten(batch_dims) if batch_dims == 1 else kl_per_dim.mean(0).flatten(1)


class Decomposition(NamedTuple):
    """Three terms, in nats, whose sum is the mean of KL(q(z|x) ‖ p(z)) over rows. Chen et al. 2018, eq. 2."""

    mutual_information: Tensor
    """E[log q(z|x) − log q(z)]"""
    total_correlation: Tensor
    """E[log q(z) − Σ_d log q(z_d)]"""
    dimension_kl: Tensor
    """E[Σ_d log q(z_d) − log p(z_d)]"""


def decomposition(node: Node, weight: Tensor) -> Decomposition:
    """Decompose the mean KL, with q(z) = Σ_b weight_b q(z|x_b) the aggregate posterior of this batch.

    In a batch of B rows the mutual information is at most log B. Needs independent dimensions in q and p.
    """
    _needs_no_parents("the decomposition", node)
    pairs = node.q.log_prob_per_dim(node.z.unsqueeze(2))  # [K, B of z, B of q, *E]
    log_p = node.p.log_prob_per_dim(node.z)
    if pairs is None or log_p is None:
        raise ValueError(
            f"the decomposition needs independent dimensions, but those of latent {node.name!r} are dependent."
        )
    pairs, log_p, log_weight = pairs.flatten(3), log_p.flatten(2), weight.log()
    joint = (pairs.sum(3) + log_weight).logsumexp(2)
    each = (pairs + log_weight.unsqueeze(1)).logsumexp(2)
    parts = (node.log_density - joint, joint - each.sum(2), (each - log_p).sum(2))
    return Decomposition(*(weight @ part.mean(0) for part in parts))


@compares_rows
def total_correlation(draw: Draw, weight: Tensor, strength: float) -> Tensor:
    """``strength`` · the total correlation of the batch's aggregate posterior: β-TCVAE with β = 1 + ``strength``.

    Chen et al. 2018. See ``decomposition`` for the aggregate posterior of a batch.
    """
    parts = [decomposition(node, weight).total_correlation for node in draw.nodes]
    return strength * torch.stack(parts).sum()


@compares_rows
def disentangled(draw: Draw, weight: Tensor, off: float, on: float, kind: Literal["i", "ii"] = "i") -> Tensor:
    """DIP-VAE: ``off`` Σ_{i≠j} C_ij² + ``on`` Σ_i (C_ii − 1)², C being a covariance over rows. Kumar et al. 2018.

    ``kind``: C is the covariance of q's means ("i"), or of its draws ("ii").
    """
    total = torch.zeros((), device=weight.device)
    for node in draw.nodes:
        if not isinstance(node.q, Normal):
            raise ValueError(
                f"disentangled needs a diagonal normal posterior, but latent {node.name!r} has a "
                f"{type(node.q).__name__}."
            )
        _needs_no_parents("this penalty", node)
        loc = node.q.loc.flatten(1)
        centred = loc - weight @ loc
        covariance = centred.T @ (weight.unsqueeze(1) * centred)
        if kind == "ii":
            covariance = covariance + torch.diag(weight @ node.q.scale.flatten(1).square())
        diagonal = covariance.diagonal()
        total = total + off * (covariance.square().sum() - diagonal.square().sum()) + on * (diagonal - 1).square().sum()
    return torch.where((weight > 0).sum() > 1, total, 0)


@compares_rows
def maximum_mean_discrepancy(
    draw: Draw, weight: Tensor, strength: float, scales: tuple[float, ...] = (0.5, 1.0, 2.0)
) -> Tensor:
    """InfoVAE: ``strength`` · MMD² between the batch's draws and a normal prior, unbiased. Zhao et al. 2019.

    The kernel is Σ_s exp(−|a − b|²/(2 s² d)), with s in ``scales``. Terms with the prior are in closed form. Only pairs
    of different rows are used, because draws of one row are not independent draws of the aggregate posterior.
    """
    total = torch.zeros((), device=weight.device)
    for node in draw.nodes:
        if not isinstance(node.p, Normal):
            raise ValueError(
                f"maximum_mean_discrepancy needs a diagonal normal prior, but latent {node.name!r} has a "
                f"{type(node.p).__name__}."
            )
        z = ((node.z - node.p.loc) / node.p.scale).flatten(2).flatten(0, 1)
        draws = len(node.z)
        pairs = (weight.unsqueeze(1) * weight).fill_diagonal_(0).repeat(draws, draws) / draws**2
        total = total + _mmd(z, weight.repeat(draws) / draws, pairs, scales)
    return strength * torch.where((weight > 0).sum() > 1, total, 0)


def _needs_no_parents(what: str, node: Node) -> None:
    if node.parents:
        raise ValueError(
            f"{what} compares q of different rows, but q of latent {node.name!r} depends on its parents' draws; use a "
            "model with independent latents."
        )


def _mmd(z: Tensor, weight: Tensor, pairs: Tensor, scales: tuple[float, ...]) -> Tensor:
    """MMD² between weighted ``z [N, d]`` and N(0, I): E k(z, z') over ``pairs [N, N]`` − 2 E k(z, ε) + E k(ε, ε')."""
    size = z.shape[1]
    norms = z.square().sum(1)
    distances = (norms.unsqueeze(1) + norms - 2 * z @ z.T).clamp(min=0)
    pairs = pairs / pairs.sum().clamp(min=torch.finfo(z.dtype).tiny)
    total = torch.zeros((), device=z.device, dtype=z.dtype)
    for scale in scales:
        width = scale**2 * size
        own = (pairs * (-distances / (2 * width)).exp()).sum()
        crossed = weight @ (-norms / (2 * (width + 1))).exp() * (width / (width + 1)) ** (size / 2)
        total = total + own - 2 * crossed + (width / (width + 2)) ** (size / 2)
    return total
