"""Normal likelihood whose covariance depends on z."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowerbound.distributions import inverse_positive, positive
from lowerbound.distributions.densities import HALF_LOG_2PI
from lowerbound.likelihoods.correlated import Correlated
from lowerbound.likelihoods.moments import TINY

_LEAST = 1e-12  # of the diagonal of L above its floor: its raw value stays finite


class CholeskyNormal(Correlated):
    """N(μ, S L Lᵀ S), L lower triangular: the decoder gives μ and the D rows of L, so 1 + D parameters per value.

    The diagonal of L is softplus(raw + c) + ``min_scale``; entries above it are not used. The arguments are those of
    ``Correlated``. It needs memory of K·B·D² numbers and, with a mask, K·B·D³ operations. With a ``Table`` for a
    decoder the model is a mixture of normals with full covariances.
    """

    def __init__(self, shape: tuple[int, ...], min_scale: float = 1e-3) -> None:
        super().__init__(shape, min_scale)
        self.n_parameters = 1 + math.prod(self.shape)

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        factor, known = self._factor(params), x if mask is None else torch.where(mask, x, 0)
        residual = ((known - self.mean(params)) / self.spread).flatten(2)
        unit = (self.spread.log() + HALF_LOG_2PI).flatten()
        if mask is not None:
            seen = mask.flatten(1)
            both, one = seen.unsqueeze(1) & seen.unsqueeze(2), torch.eye(len(unit)).to(factor)
            factor = torch.linalg.cholesky(torch.where(both, factor @ factor.mT, one))
            residual, unit = torch.where(seen, residual, 0), torch.where(seen, unit, 0)
        white = torch.linalg.solve_triangular(factor, residual.double().unsqueeze(3), upper=False)
        log_scale = factor.diagonal(dim1=2, dim2=3).log().sum(2)
        value: Tensor = -0.5 * white.square().flatten(2).sum(2) - log_scale
        return value.to(residual.dtype) - unit.sum(-1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(params)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        away = self._factor(params).to(mean.dtype) @ noise.flatten(2).unsqueeze(3)
        return mean + self.spread * away.view(mean.shape)

    def statistics(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """1, u and u uᵀ with u = (x − shift)/spread; None where values are missing."""
        if mask is not None:
            return None
        u = (x.double() - self.shift) / self.spread
        outer = u.flatten(1).unsqueeze(2) * u.flatten(1).unsqueeze(1)
        return torch.cat([torch.stack([torch.ones_like(u), u], 1), outer.unflatten(2, self.shape)], 1)

    def natural(self, params: Tensor) -> Tensor:
        """With P = (L Lᵀ)⁻¹: the constant −(mᵀPm)/2 − log|L| − Σ log spread − D log(2π)/2 by value, P m, and −P/2."""
        factor, mean = self._factor(params.unsqueeze(1))[:, 0], params[:, :1].flatten(2).double()
        precision = torch.cholesky_inverse(factor)
        linear = mean @ precision
        log_scale = factor.diagonal(dim1=1, dim2=2).log() + self.spread.flatten().log() + HALF_LOG_2PI
        constant = -0.5 * linear * mean - log_scale.unsqueeze(1)
        found: Tensor = torch.cat([constant, linear, -0.5 * precision], 1).unflatten(2, self.shape)
        return found

    def maximised(self, sums: Tensor) -> Tensor:
        count = sums[:, :1].clamp(min=TINY)
        mean, second = sums[:, 1:2] / count, sums[:, 2:] / count
        mean, second = mean.flatten(2), second.flatten(2)
        covariance = second - mean * mean.mT
        factor, singular = torch.linalg.cholesky_ex(covariance)
        if singular.any():
            floor = self.min_scale**2 * torch.eye(mean.shape[2]).to(covariance)
            factor = torch.linalg.cholesky(covariance + floor)
        diagonal = inverse_positive((factor.diagonal(dim1=1, dim2=2) - self.min_scale).clamp(min=_LEAST))
        found: Tensor = torch.cat([mean, factor.tril(-1) + diagonal.diag_embed()], 1).unflatten(2, self.shape)
        return found

    def _factor(self, params: Tensor) -> Tensor:
        """L ``[K, B, D, D]``, in double precision."""
        rows = params[:, :, 1:].flatten(3).double()
        return rows.tril(-1) + (positive(rows.diagonal(dim1=2, dim2=3)) + self.min_scale).diag_embed()
