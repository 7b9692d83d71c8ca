"""Stochastic gradient Riemannian Langevin dynamics of the expanded mean. Patterson and Teh 2013."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.topics.minibatch import MinibatchSampler, Past, blocks

Array = NDArray[Any]


@dataclass(frozen=True)
class SGRLD(MinibatchSampler):
    """Langevin steps of g, of which Φ are the shares: g ← |g + ε[(n + η) − (n_· + g_·)φ] + √(2εg)·ξ|.

    All topics have the same step size. The defaults are those of Cong et al. 2017 for 20 Newsgroups.
    """

    rate: float = 0.1
    decay: float = 0.9

    def has_mean(self) -> bool:
        return True

    def update(self, past: Past, layer: int, phi: Array, n: Array, eta: float, rng: np.random.Generator) -> None:
        mean, step = past.mean(layer), self.step_size(int(past.steps))
        for part in blocks(*phi.shape):
            phi[:, part] = expanded_step(mean[:, part], n[:, part], eta, step, rng)


def expanded_step(mean: Array, n: Array, eta: float, step: float, rng: np.random.Generator) -> Array:
    """The step of ``SGRLD``: change ``mean [V, K]`` in place, given counts ``n [V, K]``; return its shares."""
    old = mean.astype(np.float64)
    new = old + step * (n + eta - n.sum(0) * old / old.sum(0) - old)
    new += np.sqrt(2 * step * old) * rng.standard_normal(old.shape)
    np.maximum(np.abs(new), 1e-18, out=new)
    mean[...] = new
    shares: Array = np.maximum(new / new.sum(0), 1e-18)
    return shares
