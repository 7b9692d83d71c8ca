"""Gibbs updates of a Poisson gamma belief network (deep LDA). Zhou, Cong and Chen 2016.

θᵀ ~ Gam(r, 1/cᵀ⁺¹), θˡ ~ Gam(Φˡ⁺¹θˡ⁺¹, 1/cˡ⁺¹), x ~ Pois(Φ¹θ¹); c² = (1 − p)/p, p ~ Beta(a₀, b₀);
cˡ ~ Gam(e₀, 1/f₀) for l ≥ 3. Layers have K₁ ≥ … ≥ K_T topics; J documents are in rows: θˡ ``[J, K_l]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.topics.csr import Csr
from lowerbound.topics.kernels.gamma_poisson import TINY

Array = NDArray[Any]
_SMALLEST = 1e-300  # of θ and of the gamma numbers whose shares are φ
_LEAST, _LARGEST = 1e-30, 1e8  # of c


@dataclass(frozen=True)
class Hyper:
    """Parameters of the priors of p (``a0``, ``b0``) and of cˡ, l ≥ 3 (``e0``, ``f0``)."""

    a0: float = 0.01
    b0: float = 0.01
    e0: float = 1.0
    f0: float = 1.0


@dataclass
class Documents:
    """The local variables of J documents: θ, c and the counts of the last upward pass.

    ``theta``: a ``[J, K_l]`` for each layer; ``c [J, T]``: c², …, cᵀ⁺¹; ``m``: mˡ_kj, a ``[J, K_l]`` for each layer;
    ``top [J, K_T]``: xᵀ⁺¹. ``kernels``: a module of kernels; ``streams``: its random numbers. One sweep is ``up``,
    ``scale``, an update of Φ and r if they are not fixed, and ``down``, in this order: Φ and r are drawn with θ
    integrated out, and r given the new c, so that every θ must be drawn again after both.
    """

    theta: list[Array]
    c: Array
    kernels: ModuleType
    streams: Any
    hyper: Hyper
    m: list[Array] = field(default_factory=list)
    top: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @classmethod
    def begin(cls, rows: int, layers: Sequence[int], kernels: ModuleType, streams: Any, hyper: Hyper) -> Documents:
        """Documents at the start of a chain: θˡ = 1/K_l, c = 1."""
        return cls([np.full((rows, k), 1 / k) for k in layers], np.ones((rows, len(layers))), kernels, streams, hyper)

    def up(self, x: Csr, phi: Sequence[Array], r: Array, n: Sequence[Array] | None = None) -> None:
        """Draw nˡ and xˡ⁺¹ of all layers: nˡ_vkj ~ Mult(xˡ_vj; ∝ φˡ_vk θˡ_kj), xˡ⁺¹_kj ~ CRT(mˡ_kj, shape of θˡ_kj).

        ``phi``: Φˡ ``[K_(l-1), K_l]``; ``r [K_T]``. Σ_j nˡ_vkj is added to ``n``, arrays as those of ``phi``.
        """
        self.m = []
        for layer, theta in enumerate(self.theta):
            self.m.append(self.kernels.split(x, phi[layer], theta, self.streams, None if n is None else n[layer]))
            self.top = self.kernels.crt(self.m[-1], self._shape(layer, phi, r), self.streams)
            if layer + 1 < len(self.theta):
                x = nonzeros(self.top)

    def scale(self, r: Array) -> None:
        """Draw p with θ¹ integrated out, and cˡ, l ≥ 3, given the θ of the last downward pass."""
        totals = [theta.sum(-1) for theta in self.theta]
        totals.append(np.broadcast_to(r.sum(-1), totals[0].shape))
        hyper, shape = self.hyper, np.empty((len(self.c), len(self.theta) + 1))
        shape[:, 0] = hyper.a0 + self.m[0].sum(-1)
        shape[:, 1] = hyper.b0 + totals[1]
        shape[:, 2:] = hyper.e0 + np.stack(totals[2:], -1) if len(totals) > 2 else 0
        drawn = np.maximum(self.kernels.gammas(shape, self.streams), _LEAST)
        self.c[:, 0] = drawn[:, 1] / drawn[:, 0]
        for layer in range(1, len(self.theta)):
            self.c[:, layer] = drawn[:, layer + 1] / (hyper.f0 + totals[layer])
        np.clip(self.c, _LEAST, _LARGEST, out=self.c)

    def down(self, phi: Sequence[Array], r: Array) -> None:
        """Draw θ from the top layer to the first: θˡ_j ~ Gam(shape + mˡ_j, 1/(cˡ⁺¹_j + qˡ_j))."""
        q = self.q()
        for layer in reversed(range(len(self.theta))):
            drawn = self.kernels.gammas(self._shape(layer, phi, r) + self.m[layer], self.streams)
            drawn /= (self.c[:, layer] + q[:, layer])[:, None]
            self.theta[layer] = np.maximum(drawn, _SMALLEST, out=drawn)

    def q(self) -> Array:
        """q¹ = 1, qˡ⁺¹ = ln(1 + qˡ/cˡ⁺¹), up to qᵀ⁺¹, ``[J, T + 1]``."""
        q = np.ones((len(self.c), len(self.theta) + 1))
        for layer in range(len(self.theta)):
            q[:, layer + 1] = np.log1p(q[:, layer] / self.c[:, layer])
        return q

    def _shape(self, layer: int, phi: Sequence[Array], r: Array) -> Array:
        """The shape of θ of a layer, Φˡ⁺¹θˡ⁺¹ or r, ``[J, K_l]`` or ``[K_T]``."""
        if layer + 1 == len(self.theta):
            return r
        found: Array = self.kernels.product(phi[layer + 1], self.theta[layer + 1])
        return found


def nonzeros(counts: Array) -> Csr:
    """Dense counts ``[J, K]`` as sparse rows."""
    row, column = np.nonzero(counts)
    indptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=len(counts)), out=indptr[1:])
    return Csr(indptr, column.astype(np.int32), counts[row, column])


def draw_phi(n: Array, eta: float, rng: np.random.Generator) -> Array:
    """Draw Φ from its columns' law Dir(η + n_·k) given counts n ``[…, V, K]``, with θ integrated out."""
    drawn = np.maximum(rng.standard_gamma(n + eta), _SMALLEST)
    found: Array = np.maximum(drawn / drawn.sum(-2, keepdims=True), TINY)
    return found


def draw_r(top: Array, q: Array, gamma0: float, c0: float, rng: np.random.Generator) -> Array:
    """Draw r_k ~ Gam(γ₀/K_T + Σ_j xᵀ⁺¹_kj, 1/(c₀ + Σ_j qᵀ⁺¹_j)), given those sums: ``top [K_T]`` and ``q``."""
    drawn = rng.standard_gamma(gamma0 / top.shape[-1] + top) / (c0 + q)
    found: Array = np.maximum(drawn, TINY)
    return found
