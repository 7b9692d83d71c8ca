"""Distributions of directions: unit vectors of d dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lowerbound.distributions.bessel import log_bessel
from lowerbound.distributions.densities import HALF_LOG_2PI
from lowerbound.distributions.family import Distribution, standard_normal, uniform

_PROPOSALS = 24
_NODES = 64  # quadrature nodes for dw/dκ
_FAR = 40.0  # nats: e⁻⁴⁰ ≈ 4e-18


@dataclass(frozen=True)
class VonMisesFisher(Distribution):
    """Von Mises-Fisher: unit vectors around the unit vector ``loc [B, d]``, d ≥ 2, with ``concentration`` κ ``[B]``.

    log p(z) = κ⟨loc, z⟩ + (d/2 − 1) log κ − log I_{d/2−1}(κ) − (d/2) log 2π, a density on the surface of the sphere.
    z = w loc + √(1 − w²) v, where v is uniform on the directions orthogonal to loc and w is sampled by rejection, from
    noise that does not depend on κ. The gradient in κ is implicit, with ∂F(w; κ)/∂κ by quadrature. Wood 1994; Davidson
    et al. 2018.
    """

    domain = "unit vectors"
    loc: Tensor
    concentration: Tensor
    batch_dims: int = 1
    reparameterisation = "implicit"

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Proposals (symmetric beta values for d), uniform values to accept them, normal values for v."""
        shape = torch.full((2, *lead, _PROPOSALS), (event[-1] - 1) / 2, dtype=dtype, device=generator.device)
        first, second = torch._standard_gamma(shape, generator=generator)
        uniforms = uniform((*lead, _PROPOSALS), generator, dtype)
        return torch.cat([first / (first + second), uniforms, standard_normal(lead + event, generator, dtype)], -1)

    def sample(self, noise: Tensor) -> Tensor:
        dim = self.loc.shape[-1]
        proposals, uniforms, normals = noise.split([_PROPOSALS, _PROPOSALS, dim], -1)
        kappa = self.concentration.double()  # 1 − w is of order 1/κ; its derivative subtracts nearly equal numbers
        with torch.no_grad():
            gap = _accepted(kappa.unsqueeze(-1), dim, proposals.double(), uniforms.double())
        if torch.is_grad_enabled() and kappa.requires_grad:
            gap = gap - (kappa - kappa.detach()) * _slope(gap, kappa.detach(), dim)
        along, across = (1 - gap).to(noise.dtype).unsqueeze(-1), (gap * (2 - gap)).sqrt().to(noise.dtype).unsqueeze(-1)
        v = functional.normalize(normals - (normals * self.loc).sum(-1, keepdim=True) * self.loc, dim=-1)
        return along * self.loc + across * v

    def log_prob(self, z: Tensor) -> Tensor:
        """Computes ⟨loc, z⟩ − 1 as −½|z − loc|², which is accurate for large κ."""
        return self._log_peak() - 0.5 * self.concentration * (z - self.loc).square().sum(-1)

    def entropy(self) -> Tensor:
        _, mean = self._bessel()
        return (self.concentration.double() * (1 - mean)).to(self.loc.dtype) - self._log_peak()

    def mean(self) -> Tensor:
        return self._bessel()[1].to(self.loc.dtype).unsqueeze(-1) * self.loc

    def _log_peak(self) -> Tensor:
        """log p(loc), ``[B]``."""
        dim = self.loc.shape[-1]
        return (-self._bessel()[0] - dim * HALF_LOG_2PI).to(self.loc.dtype)

    def _bessel(self) -> tuple[Tensor, Tensor]:
        return log_bessel(self.loc.shape[-1] / 2 - 1, self.concentration.double())


@dataclass(frozen=True)
class HypersphericalUniform(Distribution):
    """The uniform distribution of unit vectors of d = ``dim`` dimensions: log p(z) = −log(2 π^(d/2) / Γ(d/2))."""

    domain = "unit vectors"
    dim: int
    batch_dims: int = 0

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return standard_normal(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        return functional.normalize(noise, dim=-1)

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.full_like(z[..., 0], -self.log_area)

    @property
    def log_area(self) -> float:
        """log of the area of the sphere."""
        return math.log(2) + self.dim / 2 * math.log(math.pi) - math.lgamma(self.dim / 2)


def kl_sphere(q: VonMisesFisher, p: HypersphericalUniform) -> Tensor:
    """KL(q ‖ uniform) = log area − H(q), ``[B]``."""
    return p.log_area - q.entropy()


def _accepted(kappa: Tensor, dim: int, proposals: Tensor, uniforms: Tensor) -> Tensor:
    """1 − w, in (0, 2), for the first accepted proposal."""
    b = (dim - 1) / (2 * kappa + (4 * kappa.square() + (dim - 1) ** 2).sqrt())
    t = proposals / (1 - (1 - b) * proposals)
    log_ratio = 2 * kappa * b * (1 / (1 + b) - t) + (dim - 1) * (0.5 * (1 + b) * (1 + (1 - b) * t)).log()
    refused = ((uniforms.log() <= log_ratio).cumsum(-1) == 0).sum(-1, keepdim=True)
    gap = (2 * b * t).gather(-1, refused.clamp(max=_PROPOSALS - 1)).squeeze(-1)
    precision = torch.finfo(gap.dtype)
    return gap.clamp(precision.tiny, 2 - precision.eps)


def _slope(gap: Tensor, kappa: Tensor, dim: int) -> Tensor:
    """dw/dκ = −∂F(w; κ)/∂κ / p(w), for w = 1 − gap = cos θ, with A = E[w]:

    sin θ ∫₀^θ (cos t − A) e^(κ(cos t − cos θ)) (sin t/sin θ)^(d−2) dt. If cos θ < A, it is computed as the equal
    −sin θ ∫_θ^π, whose integrand does not change sign.
    """
    _, mean = log_bessel(dim / 2 - 1, kappa)
    theta = _angle(gap)
    beyond = (_FAR + math.sqrt(_FAR * (dim - 1))) / kappa  # beyond this the integrand is negligible
    end = torch.where(1 - gap > mean, 0, _angle((gap + beyond).clamp(max=2)))
    width, theta, kappa, mean = (each.unsqueeze(-1) for each in (end - theta, theta, kappa, mean))
    nodes, weights = (torch.tensor(each, dtype=gap.dtype, device=gap.device) for each in _quadrature())
    t = theta + width * nodes
    exponent = 2 * kappa * ((theta + t) / 2).sin() * ((theta - t) / 2).sin()  # κ(cos t − cos θ)
    if dim > 2:
        exponent = exponent + (dim - 2) * (t.sin() / theta.sin()).log()
    return -(theta.sin() * width * (t.cos() - mean) * exponent.exp() * weights).sum(-1)


def _angle(gap: Tensor) -> Tensor:
    """The angle θ with 1 − cos θ = gap."""
    return 2 * (gap / 2).sqrt().asin()


@cache
def _quadrature() -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
