"""Normal likelihoods whose values are correlated given z."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from lowerbound.distributions import positive
from lowerbound.distributions.densities import HALF_LOG_2PI
from lowerbound.likelihoods.base import Likelihood
from lowerbound.likelihoods.moments import deviation_of, mean_of


class Correlated(Likelihood):
    """Interface of x ∈ ℝ^D, N(μ, S R S), with S = diag(``spread``) and μ = ``shift`` + ``spread`` · (first parameter).

    ``shape``: the shape of a row, of D values. Unobserved values are integrated out: their rows and columns of R are
    omitted. ``min_scale`` is a floor of R; without it, the density can grow without bound if the data lie in a
    subspace. ``shift`` and ``spread`` are 0 and 1 until ``initialise`` sets them from data. R is initialised as I, so
    that the latents explain correlations first.
    """

    measure = "Lebesgue"
    needs = "shape"
    support = constraints.real
    shift: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...], min_scale: float = 1e-3) -> None:
        super().__init__()
        if not shape:
            raise ValueError("correlated values need the shape of a row of data, as shape=(D,).")
        self.shape = tuple(shape)
        self.min_scale = min_scale
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """For rows of shape ``given``."""
        return cls(given)

    def mean(self, params: Tensor) -> Tensor:
        return self.shift + self.spread * params[:, :, 0]

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        deviation = deviation_of(x, mask)
        self.shift.copy_(mean_of(x, mask))
        self.spread.copy_(torch.where(deviation > 0, deviation, 1.0))
        return x.new_zeros(self.n_parameters, *x.shape[1:])


class CorrelatedNormal(Correlated):
    """One learned R for all rows, whose eigenvalues are at least ``min_scale``²; the decoder's parameter is μ.

    The other arguments are those of ``Correlated``.
    """

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        known = x if mask is None else torch.where(mask, x, 0)
        residual = ((known - self.mean(params)) / self.spread).flatten(2)
        unit = (self.spread.log() + HALF_LOG_2PI).flatten()
        if mask is None:  # all rows share one covariance, so they can be treated as K·B draws of one row
            seen = torch.ones(1, len(unit), dtype=torch.bool, device=unit.device)
            value = self._log_prob_in_units(residual.flatten(0, 1).unsqueeze(1), seen).view(residual.shape[:2])
            return value - unit.sum()
        seen = mask.flatten(1)
        value = self._log_prob_in_units(torch.where(seen, residual, 0), seen)
        return value - torch.where(seen, unit, 0).sum(1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(params)
        return mean + self.spread * self._noise(mean.flatten(2), generator).view(mean.shape)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self._start()
        return super().initialise(x, mask)

    @abstractmethod
    def _log_prob_in_units(self, residual: Tensor, seen: Tensor) -> Tensor:
        """−½ eᵀ R⁻¹ e − ½ log|R|, ``[K, B]``, for ``residual [K, B, D]``, which is 0 where ``seen [B, D]`` is False."""

    @abstractmethod
    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from N(0, R), with the shape of ``like``, ``[K, B, D]``."""

    @abstractmethod
    def _start(self) -> None:
        """Set R to I."""


class FullNormal(CorrelatedNormal):
    """N(μ, S (L Lᵀ + ``min_scale``² I) S), L lower triangular; the arguments are those of ``CorrelatedNormal``.

    With a mask it needs memory of B·D² numbers and B·D³ operations; without a mask, D² and D³.
    """

    def __init__(self, shape: tuple[int, ...], min_scale: float = 1e-3) -> None:
        super().__init__(shape, min_scale)
        size = math.prod(self.shape)
        self.raw_scale = nn.Parameter(torch.zeros(size))  # the diagonal
        self.below = nn.Parameter(torch.zeros(size, size))  # only entries below the diagonal are used

    def _factor(self) -> Tensor:
        """L, ``[D, D]``."""
        return self.below.tril(-1) + positive(self.raw_scale).diag()

    def _log_prob_in_units(self, residual: Tensor, seen: Tensor) -> Tensor:
        factor = self._factor().double()  # in single precision, L Lᵀ would lose its small eigenvalues
        one = torch.eye(len(factor)).to(factor)
        both = seen.unsqueeze(1) & seen.unsqueeze(2)
        cholesky = torch.linalg.cholesky(torch.where(both, factor @ factor.T + self.min_scale**2 * one, one))
        white = torch.linalg.solve_triangular(cholesky, residual.double().permute(1, 2, 0), upper=False)
        log_scale = cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        value: Tensor = -0.5 * white.square().sum(1).T - log_scale
        return value.to(residual.dtype)

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn((2, *like.shape), generator=generator, device=like.device, dtype=like.dtype)
        return noise[0] @ self._factor().T + self.min_scale * noise[1]

    def _start(self) -> None:
        self.raw_scale.zero_()
        self.below.zero_()


class LowRankNormal(CorrelatedNormal):
    """N(μ, S (diag(d²) + W Wᵀ) S), W with ``rank`` columns; the other arguments are those of ``CorrelatedNormal``.

    eᵀ R⁻¹ e = min over v of ‖(e − Wv)/d‖² + ‖v‖², attained at v = C⁻¹ Wᵀ (e/d²) with C = I + Wᵀ diag(d⁻²) W, and
    log|R| = log|C| + Σ log d². This form of Woodbury's formula has no differences of large numbers.
    """

    def __init__(self, shape: tuple[int, ...], rank: int, min_scale: float = 1e-3) -> None:
        super().__init__(shape, min_scale)
        size = math.prod(self.shape)
        if not 1 <= rank <= size:
            raise ValueError(f"rank must be from 1 to {size}, the number of values of a row; got {rank}.")
        self.rank = rank
        self.raw_scale = nn.Parameter(torch.zeros(size))
        self.factors = nn.Parameter(self._first_factors())

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """For rows of shape ``given``, with rank 1."""
        return cls(given, rank=1)

    def _first_factors(self) -> Tensor:
        """Cosines that add at most 1 % to the variance. They are not 0, because the gradient at W = 0 is 0."""
        size = math.prod(self.shape)
        angles = torch.outer(torch.arange(size) + 0.5, torch.arange(self.rank)) * (math.pi / size)
        return angles.cos() * (0.1 / math.sqrt(self.rank))

    def _scale(self) -> Tensor:
        return positive(self.raw_scale) + self.min_scale

    def _log_prob_in_units(self, residual: Tensor, seen: Tensor) -> Tensor:
        scale = self._scale()
        scaled, white = self.factors / scale.unsqueeze(1), residual / scale
        exact = scaled.double()  # small scales make C so large that single precision would lose I
        inner = torch.einsum("bd,dr,ds->brs", seen.double(), exact, exact) + torch.eye(self.rank).to(exact)
        cholesky = torch.linalg.cholesky(inner)
        best = torch.cholesky_solve((white.double() @ exact).permute(1, 2, 0), cholesky).permute(2, 0, 1)
        left = torch.where(seen, white - best.to(white.dtype) @ scaled.T, 0)
        square = left.square().sum(2) + best.square().sum(2).to(white.dtype)
        log_scale = torch.where(seen, scale.log(), 0).sum(1)
        log_inner: Tensor = cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        return -0.5 * square - log_scale - log_inner.to(white.dtype)

    def _noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        own = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
        shared = torch.randn((*like.shape[:2], self.rank), generator=generator, device=like.device, dtype=like.dtype)
        return own * self._scale() + shared @ self.factors.T

    def _start(self) -> None:
        self.raw_scale.zero_()
        self.factors.copy_(self._first_factors())
