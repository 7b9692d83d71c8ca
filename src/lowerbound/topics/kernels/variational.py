"""Variational inference of the topics in documents, in NumPy.

Arrays: words ``indices`` and ``counts`` of documents whose bounds are ``indptr [B + 1]``, as in ``Csr``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, psi

Array = NDArray[Any]
FLOOR = np.float32(1e-18)
"""The least value of exp E log: products of two stay above the subnormal numbers, which cost five times the time."""


def exp_log_topics(weights: Array, used: Array, totals: Array) -> Array:
    """exp E_q[log β_kw] ``[K, U]`` of words ``used [U]``; λ = ``weights [K, V]``, whose sums over V are ``totals``."""
    found = np.exp(psi(weights[:, used]) - psi(totals)[:, None])
    floored: Array = np.maximum(found, FLOOR).astype(weights.dtype)
    return floored


def infer(
    indptr: Array,
    indices: Array,
    counts: Array,
    topics: Array,
    alpha: Array,
    gamma: Array,
    totals: Array,
    tolerance: float,
    iterations: int,
) -> Array:
    """Maximise each document's bound over q(θ) = Dir(γ) and q(z), from ``gamma [B, K]``, in place.

    φ_wk ∝ exp(ψ(γ_k)) ``topics [K, U]``, γ_k = α_k + Σ_w n_w φ_wk, until the mean of |Δγ_k| is below ``tolerance``, or
    ``iterations`` times. Adds Σ n_w φ_wk / topics_kw to ``totals [K, U]``. Returns the bound of each document, given
    the topics, without the multinomial coefficient ``[B]``.
    """
    bound = np.empty(len(gamma))
    for d in range(len(gamma)):
        part = slice(indptr[d], indptr[d + 1])
        words, n, shape = indices[part], counts[part], gamma[d]
        block = topics[:, words]
        theta = np.maximum(np.exp(psi(shape)), FLOOR)
        for _ in range(iterations):
            fresh = alpha + theta * (block @ (n / (theta @ block)))
            change = np.abs(fresh - shape).mean()
            shape, theta = fresh, np.maximum(np.exp(psi(fresh)), FLOOR)
            if change < tolerance:
                break
        gamma[d] = shape
        norm = theta @ block
        totals[:, words] += np.outer(theta, n / norm)
        bound[d] = n @ np.log(norm) - (shape - alpha) @ np.log(theta)
    bound += (gammaln(gamma) - gammaln(alpha)).sum(1) + gammaln(alpha.sum()) - gammaln(gamma.sum(1))
    return bound
