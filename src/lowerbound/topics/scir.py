"""Stochastic Cox–Ingersoll–Ross dynamics of the expanded mean. Baker, Fearnhead, Fox and Nemeth 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.topics.minibatch import MinibatchSampler, Past, blocks

Array = NDArray[Any]


@dataclass(frozen=True)
class SCIR(MinibatchSampler):
    """Exact steps of a Cox–Ingersoll–Ross process of g, of which Φ are the shares; each topic has its own time h.

    g ← ½(1 − e^(−h)) X, X ~ χ²(2(n + η) + 2J), J ~ Pois(g e^(−h)/(1 − e^(−h))), h = ε(n_· + ηV)/(M_k + ηV), with M_k
    the running mean of n_·k. With fixed counts its law is Dir(n + η) at every ε, also near the boundary of the simplex.
    """

    def has_mean(self) -> bool:
        return True

    def update(self, past: Past, layer: int, phi: Array, n: Array, eta: float, rng: np.random.Generator) -> None:
        mean, prior, step = past.mean(layer), eta * len(phi), self.step_size(int(past.steps))
        totals = n.sum(0)
        times = step * (totals + prior) / (past.mass(layer) + prior)
        for part in blocks(*phi.shape):
            if int(past.steps) == 1:
                mean[:, part] = phi[:, part] * (totals[part] + prior)
            mean[:, part] = process_step(mean[:, part], n[:, part] + eta, times[part], rng)
            total = mean[:, part].sum(0, dtype=np.float64)
            phi[:, part] = np.maximum(mean[:, part] / total, 1e-18)

    def update_r(self, past: Past, r: Array, shape: Array, rate: float, step: float, rng: np.random.Generator) -> Array:
        times = np.full(r.shape, step * rate / max(float(past.top_rate), 1e-12))
        return np.maximum(process_step(r * rate, shape, times, rng) / rate, 1e-18)


def process_step(g: Array, shape: Array, time: Array, rng: np.random.Generator) -> Array:
    """g after ``time`` of dg = (a − g) dt + √(2g) dW, whose law in the end is Gam(a, 1); a = ``shape``."""
    left = -np.expm1(-time)
    jumps = rng.poisson(g * np.exp(-time) / left)
    found: Array = left * np.maximum(rng.standard_gamma(shape + jumps), 1e-18)
    return found
