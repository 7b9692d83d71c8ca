"""The Dirichlet priors of topics in documents and of words in topics, and what makes their numbers most likely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, polygamma, psi

Array = NDArray[Any]
_LEAST, _MOST = 1e-6, 1e6


def kl(weights: Array, prior: Array | float) -> float:
    """Σ_k KL(Dir(``weights [K, V]``_k) ‖ Dir(``prior``)), in nats; ``prior`` is a number or ``[V]``."""
    weights = weights.astype(np.float64)
    prior = np.broadcast_to(np.asarray(prior, np.float64), weights.shape)
    total = weights.sum(1, keepdims=True)
    each = (weights - prior) * (psi(weights) - psi(total)) - gammaln(weights) + gammaln(prior)
    return float(each.sum() + gammaln(total).sum() - gammaln(prior.sum(1)).sum())


def of_logs(prior: Array, logs: Array, steps: int = 100) -> Array:
    """Raise Σ E[log Dir(θ|``prior [K]``)] given the mean of E[log θ_k], ``logs [K]``.

    Each step solves ψ(α_k) = ψ(Σα) + E[log θ_k]; none lowers the expectation. Minka 2000.
    """
    return _repeat(lambda alpha: _inverse_psi(psi(alpha.sum()) + logs), prior, steps)


def of_symmetric_logs(prior: float, size: int, logs: float, steps: int = 100) -> float:
    """As ``of_logs`` of ``size`` equal numbers; ``logs``: the mean of E[log β_kw] over topics and words."""
    found = _repeat(lambda eta: _inverse_psi(psi(size * eta) + logs), np.asarray(prior, np.float64).reshape(1), steps)
    return float(found[0])


def _repeat(step: Callable[[Array], Array], start: Array, steps: int) -> Array:
    """Repeat ``step`` until nothing changes by more than 1e-6 of its value."""
    here = start.astype(np.float64)
    for _ in range(steps):
        there = np.clip(step(here), _LEAST, _MOST)
        if (np.abs(there - here) <= 1e-6 * here).all():
            return there
        here = there
    return here


def _inverse_psi(y: Array) -> Array:
    """The x with ψ(x) = y, by Newton's method. Minka 2000, appendix C."""
    x = np.where(y >= -2.22, np.exp(np.minimum(y, 20)) + 0.5, -1 / (y - psi(1)))
    for _ in range(5):
        x = x - (psi(x) - y) / polygamma(1, x)
    return x
