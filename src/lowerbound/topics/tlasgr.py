"""Topic-layer-adaptive stochastic gradient Riemannian MCMC. Cong, Chen, Liu and Zhou 2017."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.topics.minibatch import MinibatchSampler, Past, blocks

Array = NDArray[Any]
_LEAST = 1e-18  # what replaces a coordinate that leaves the simplex


@dataclass(frozen=True)
class TLASGR(MinibatchSampler):
    """Riemannian Langevin steps on the simplex, each topic with its own step size ε_t/M_k.

    φ̃ = φ + (ε/M_k)[(n_k + η) − (n_·k + ηV)φ] + √(2εφ/M_k)·ξ, φ ← φ̃ − (1ᵀφ̃ − 1)φ, with M_k the running mean of the
    topic's counts n_·k, at least 1. A coordinate of 0 or less becomes 1e-18 and the topic sums to 1 again; cells whose
    posterior is near that boundary are therefore too large on average, by a factor that falls slowly with ε
    (``SCIR`` has no such error).
    """

    def update(self, past: Past, layer: int, phi: Array, n: Array, eta: float, rng: np.random.Generator) -> None:
        langevin_step(phi, n, self.mass(past, layer), eta, self.step_size(int(past.steps)), rng)

    def mass(self, past: Past, layer: int) -> Array:
        """M_k of a layer ``[K]``, at least 1: a topic without words would divide by 0."""
        return np.maximum(past.mass(layer), 1.0)


@dataclass(frozen=True)
class TLFSGR(TLASGR):
    """``TLASGR`` with one M for all topics and layers: the running mean of the mean count of the first layer's."""

    def mass(self, past: Past, layer: int) -> Array:
        return np.full(len(past.mass(layer)), max(float(past.mass(0).mean()), 1.0))


def langevin_step(phi: Array, n: Array, mass: Array, eta: float, step: float, rng: np.random.Generator) -> None:
    """The step of ``TLASGR``, in place: ``phi [V, K]`` given counts ``n [V, K]`` and M ``[K]``."""
    for part in blocks(*phi.shape):
        old, counts, size = phi[:, part].astype(np.float64), n[:, part], step / mass[part]
        new = rng.standard_normal(old.shape) * np.sqrt(2 * size * old)
        new += old + size * (counts + eta - (counts.sum(0) + eta * len(phi)) * old)
        new -= (new.sum(0) - 1) * old
        np.maximum(new, _LEAST, out=new)
        new /= new.sum(0)
        phi[:, part] = new
