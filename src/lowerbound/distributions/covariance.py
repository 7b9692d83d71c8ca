"""Normal distributions with correlated dimensions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions.densities import HALF_LOG_2PI
from lowerbound.distributions.family import Distribution, standard_normal
from lowerbound.distributions.normal import Normal


class CorrelatedNormal(Distribution):
    """Interface of N(loc, Σ) with ``loc [B, d]``; subclasses choose a parameterisation of Σ."""

    domain = "real numbers"
    loc: Tensor
    reparameterisation = "location-scale"
    unconstrained = True

    @abstractmethod
    def squared(self, x: Tensor) -> Tensor:
        """xᵀ Σ⁻¹ x, ``[…, d] → […]``."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """log |Σ|, ``[B]``."""

    @abstractmethod
    def root(self) -> Tensor:
        """A matrix ``[B, d, m]`` whose product with its transpose is Σ."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (self.squared(z - self.loc) + self.log_det()) - HALF_LOG_2PI * z.shape[-1]

    def entropy(self) -> Tensor:
        """½ log |2πe Σ|, ``[B]``."""
        return 0.5 * self.log_det() + (HALF_LOG_2PI + 0.5) * self.loc.shape[-1]

    def mean(self) -> Tensor:
        return self.loc

    def covariance(self) -> Tensor:
        root = self.root().double()
        return root @ root.mT


@dataclass(frozen=True)
class FullNormal(CorrelatedNormal):
    """N(loc, L Lᵀ): ``loc [B, d]``, ``scale_tril`` L ``[B, d, d]``, lower triangular with a positive diagonal.

    z = loc + L ε, ε ~ N(0, I).
    """

    loc: Tensor
    scale_tril: Tensor
    batch_dims: int = 1

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return standard_normal(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        return self.loc + _times(self.scale_tril, noise)

    def log_prob_of_sample(self, z: Tensor, noise: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.log_prob(z)
        # accurate for any L: L⁻¹ (z − loc) would lose digits if L is nearly singular
        return -0.5 * (noise.square().sum(-1) + self.log_det()) - HALF_LOG_2PI * z.shape[-1]

    def squared(self, x: Tensor) -> Tensor:
        # one inverse and one product for all K draws, which is faster than K solves
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return _times(torch.linalg.solve_triangular(self.scale_tril, eye, upper=False), x).square().sum(-1)

    def log_det(self) -> Tensor:
        return 2 * _log_diagonal(self.scale_tril)

    def root(self) -> Tensor:
        return self.scale_tril


@dataclass(frozen=True)
class LowRankNormal(CorrelatedNormal):
    """N(loc, diag s² + F Fᵀ): ``loc`` and ``scale`` s ``[B, d]``, ``factor`` F ``[B, d, r]``, r ≤ d.

    z = loc + s ε + F ε'. The density needs only r × r matrices: with C = I + Fᵀ diag(s⁻²) F,
    |Σ| = |C| Π s², and Σ⁻¹ follows from the Woodbury identity.
    """

    loc: Tensor
    factor: Tensor
    scale: Tensor
    batch_dims: int = 1

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """2d values: d for s, and d for F, of which r are used (the shapes of the parameters are not known here)."""
        return standard_normal((*lead, 2 * event[-1]), generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        dim, rank = self.factor.shape[-2:]
        return self.loc + self.scale * noise[..., :dim] + _times(self.factor, noise[..., dim : dim + rank])

    def squared(self, x: Tensor) -> Tensor:
        """|(x − F y)/s|² + |y|² with y = C⁻¹ Fᵀ x/s²: a sum, which is more accurate than Woodbury's difference."""
        weighted = self.factor / self.scale.square().unsqueeze(-1)
        y = _times(torch.cholesky_solve(weighted.mT, self._capacitance()), x)
        return ((x - _times(self.factor, y)) / self.scale).square().sum(-1) + y.square().sum(-1)

    def log_det(self) -> Tensor:
        return 2 * (_log_diagonal(self._capacitance()) + self.scale.log().sum(-1))

    def root(self) -> Tensor:
        return torch.cat([self.factor, torch.diag_embed(self.scale)], -1)

    def _capacitance(self) -> Tensor:
        """The Cholesky factor of C, ``[B, r, r]``, in double precision because FᵀF/s² can be far larger than I."""
        scaled = (self.factor / self.scale.unsqueeze(-1)).double()
        eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
        lower: Tensor = torch.linalg.cholesky_ex(eye + scaled.mT @ scaled).L  # NaN gives NaN instead of an exception
        return lower.to(self.factor.dtype)


def kl_normals(q: CorrelatedNormal | Normal, p: CorrelatedNormal | Normal) -> Tensor:
    """KL(q ‖ p) = ½(tr(Σ_p⁻¹Σ_q) + (μ_q − μ_p)ᵀ Σ_p⁻¹ (μ_q − μ_p) − d + log |Σ_p|/|Σ_q|), ``[B]``."""
    q, p = _correlated(q), _correlated(p)
    trace = p.squared(q.root().movedim(-1, 0)).sum(0)
    return 0.5 * (trace + p.squared(q.loc - p.loc) - q.loc.shape[-1] + p.log_det() - q.log_det())


def _correlated(normal: CorrelatedNormal | Normal) -> CorrelatedNormal:
    return FullNormal(normal.loc, torch.diag_embed(normal.scale)) if isinstance(normal, Normal) else normal


def _log_diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("...ij,...j->...i", matrix, vector)
