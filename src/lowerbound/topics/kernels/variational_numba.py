"""Variational inference of the topics in documents, compiled by numba: the functions of ``variational.py``."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from lowerbound.topics.kernels.compiled import compiled

Array = NDArray[Any]
FLOOR = 1e-18
_LEAST = 0.0243  # exp ψ is below the floor there


@compiled
def exp_digamma(x: float) -> float:
    """exp ψ(x), at least ``FLOOR``: ψ(x) = ψ(x + 6) − Σ_{i<6} 1/(x + i), and a series of exp ψ(x + 6)."""
    if x < _LEAST:
        return FLOOR
    t = x * (x + 5.0)
    shift = (2 * x + 5) * (3 * t * t + 20 * t + 24) / (t * (t + 4) * (t + 6))
    y = x + 5.5
    r = 1 / (y * y)
    series = y * (1 + r * (1 / 24 - r * (37 / 5760 - r * (10313 / 2903040 - r * 5509121 / 1393459200))))
    return max(series * math.exp(-shift), FLOOR)


@compiled
def exp_log_topics(weights: Array, used: Array, totals: Array) -> Array:
    """See ``variational.py``."""
    found = np.empty((weights.shape[0], used.size), weights.dtype)
    for k in range(weights.shape[0]):
        scale = 1 / exp_digamma(totals[k])
        for u in range(used.size):
            found[k, u] = max(exp_digamma(weights[k, used[u]]) * scale, FLOOR)
    return found


@numba.njit(fastmath={"reassoc"}, cache=True, nogil=True)  # a sum in any order
def _dot(a: Array, b: Array) -> float:
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total  # type: ignore[no-any-return]


@compiled
def _divide(counts: Array, block: Array, theta: Array, live: Array, share: Array) -> None:
    """Set ``share [n]`` to n_w/Σ_k θ_k β_kw over the topics ``live``."""
    share[:] = 0
    for k in live:
        row, weight = block[k], theta[k]
        for i in range(share.size):
            share[i] += weight * row[i]
    for i in range(share.size):
        share[i] = counts[i] / share[i]


@compiled
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
    """See ``variational.py``. A topic whose exp ψ(γ_k) is at the floor is left out from then on: its γ_k is α_k."""
    n_topics, longest = alpha.size, 0
    for d in range(gamma.shape[0]):
        longest = max(longest, indptr[d + 1] - indptr[d])
    blocks, shares = np.empty(longest * n_topics, topics.dtype), np.empty(longest, topics.dtype)
    theta, live, bound = np.empty(n_topics, topics.dtype), np.empty(n_topics, np.int64), np.empty(gamma.shape[0])
    floor = theta.dtype.type(FLOOR)
    for d in range(gamma.shape[0]):
        words, n = indices[indptr[d] : indptr[d + 1]], counts[indptr[d] : indptr[d + 1]]
        block, share, shape = (
            blocks[: words.size * n_topics].reshape(n_topics, words.size),
            shares[: words.size],
            gamma[d],
        )
        for k in range(n_topics):
            for i in range(words.size):
                block[k, i] = topics[k, words[i]]
            theta[k], live[k] = exp_digamma(shape[k]), k
        alive = n_topics
        for _ in range(iterations):
            _divide(n, block, theta, live[:alive], share)
            change, left = 0.0, 0
            for j in range(alive):
                k = live[j]
                fresh = alpha[k] + theta[k] * _dot(share, block[k])
                change += abs(fresh - shape[k])
                before, theta[k], shape[k] = theta[k], exp_digamma(fresh), fresh
                live[left] = k
                left += before > floor or theta[k] > floor
            alive = left
            if change < tolerance * n_topics:
                break
        _divide(n, block, theta, live[:alive], share)
        found = 0.0
        for i in range(words.size):
            found += n[i] * math.log(n[i] / share[i])
        for k in live[:alive]:
            for i in range(words.size):
                totals[k, words[i]] += share[i] * theta[k]
            found += math.lgamma(shape[k]) - math.lgamma(alpha[k]) - (shape[k] - alpha[k]) * math.log(theta[k])
        bound[d] = found + math.lgamma(alpha.sum()) - math.lgamma(shape.sum())
    return bound
