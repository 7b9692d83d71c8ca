"""Exact E-steps of EM: p(z|x) of latents that can be enumerated, and of linear normal models.

Dempster, Laird & Rubin 1977; Ghahramani & Hinton 1996.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions.densities import HALF_LOG_2PI
from lowerbound.draw import Batch
from lowerbound.likelihoods import Normal
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, Table


def of_states(model: LatentVariableModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """All states of a finite latent ``[S, *E]``, and log p(x, z) at each of them ``[S, B]``."""
    states = model.prior_given(batch.context).states()
    assert states is not None
    z = states.unsqueeze(1).expand(-1, len(batch.x), *states.shape[1:])
    return states, model.log_joint(z, batch.x, batch.mask, batch.context)


def of_normal(model: LatentVariableModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x) ``[B]`` of a linear decoder with a normal prior and likelihood; mean and covariance of p(z|x).

    With a = (x − b − W m)/ψ and A = W/ψ over the observed values, prior N(m, diag s²) and Λ = Aᵀ A + diag s⁻²:
    Cov[z|x] = Λ⁻¹, E[z|x] = m + Λ⁻¹ Aᵀ a, and log p(x) = −½ (‖a‖² − aᵀ A Λ⁻¹ Aᵀ a + log|Λ| + Σ log 2πσ² + Σ log s²).
    """
    likelihood, prior = model.likelihood, model.prior_given()
    assert isinstance(likelihood, Normal)
    assert isinstance(prior, distributions.Normal)
    weight, bias = (each.double() for each in linear_map(model.decoder))
    sigma, spread = (
        each.double().expand(batch.x.shape[1:]).flatten() for each in (likelihood.sigma(), likelihood.spread)
    )
    scale, (loc, deviation) = sigma / spread, (prior.loc.double(), prior.scale.double())
    u, seen = likelihood.standardised(batch.x).flatten(1), None if batch.mask is None else batch.mask.flatten(1)
    white, scaled, log_sigma = (
        (u - bias - weight @ loc) / scale,
        weight / scale.unsqueeze(1),
        sigma.log() + HALF_LOG_2PI,
    )
    if seen is None:
        precision = (scaled.T @ scaled).unsqueeze(0)
        constant = log_sigma.sum()
    else:
        white = torch.where(seen, white, 0)
        precision = torch.einsum("bd,di,dj->bij", seen.double(), scaled, scaled)
        constant = seen.double() @ log_sigma
    lower = torch.linalg.cholesky(precision + deviation.square().reciprocal().diag())
    covariance = torch.cholesky_inverse(lower)
    pulled = white @ scaled
    moved = pulled @ covariance[0] if seen is None else (covariance @ pulled.unsqueeze(2)).squeeze(2)
    half_log_det = lower.diagonal(dim1=1, dim2=2).log().sum(1) + deviation.log().sum()
    log_p = -0.5 * (white.square().sum(1) - (pulled * moved).sum(1)) - half_log_det - constant
    return log_p, loc + moved, covariance


def linear_map(decoder: nn.Module) -> tuple[Tensor, Tensor]:
    """The weight ``[D, d]`` and bias ``[D]`` of a linear decoder, live; the bias of a ``Table`` is 0, and not learned.

    Raises TypeError if the decoder is not linear.
    """
    if isinstance(decoder, Table):
        return decoder.values.flatten(1).T, decoder.values.new_zeros(())
    layer, *more = decoder.layers if isinstance(decoder, MLP) and decoder.direct is None else [decoder]
    if more or not isinstance(layer, nn.Linear):
        raise TypeError(f"{type(decoder).__name__} is no linear decoder; give an MLP with hidden=(), or a Table.")
    bias: Tensor | None = layer.bias
    return layer.weight, layer.weight.new_zeros(()) if bias is None else bias


def is_linear(decoder: nn.Module) -> bool:
    """Whether ``linear_map`` takes the decoder."""
    try:
        linear_map(decoder)
    except TypeError:
        return False
    return True
