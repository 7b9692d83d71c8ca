"""A sweep of collapsed Gibbs sampling of LDA, compiled by numba. Its steps depend on each other: there is no other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.topics.kernels.compiled import compiled
from lowerbound.topics.kernels.random_numba import uniform

Array = NDArray[Any]
_LANES = 8  # partial sums, which are independent of each other
NONE = -1
"""The topic of a token that has none yet."""


@compiled
def _weigh(mine: Array, alpha: Array, row: Array, eta: np.float32, inverse: Array, p: Array, lanes: Array) -> None:
    """Set ``p [K]`` to (n_dk + α_k)(n_kw + η)/(n_k + Vη), and ``lanes [8]`` to the sums of every eighth."""
    for k in range(row.size):
        p[k] = (np.float32(mine[k]) + alpha[k]) * (np.float32(row[k]) + eta) * inverse[k]
    lanes[:] = 0
    for start in range(0, p.size, _LANES):
        for j in range(_LANES):
            lanes[j] += p[start + j]


@compiled
def _choose(p: Array, lanes: Array, u: float) -> int:
    """The k at which the sum of p, taken lane by lane, exceeds u."""
    lane = 0
    while lane < _LANES - 1 and u >= lanes[lane]:
        u -= lanes[lane]
        lane += 1
    last = lane
    for k in range(lane, p.size, _LANES):
        if p[k] > 0:
            last = k
            u -= p[k]
            if u < 0:
                break
    return last


@compiled
def sweep(
    indptr: Array,
    indices: Array,
    counts: Array,
    starts: Array,
    z: Array,
    words: Array,
    totals: Array,
    alpha: Array,
    eta: float,
    random: Array,
    documents: Array,
) -> Array:
    """Draw the topic of each token given all others, one after the other.

    The tokens of document d of the batch have the topics ``z[starts[d]:]``, in the order of its words; ``NONE`` before
    the first sweep. Updates z, n_kw ``words [V, K]`` and n_k ``totals [K]``, and sets ``documents [B, K]`` to n_dk.
    ``random``: the state of a generator, four uint64. Returns Σ_i log p(w_i|all other tokens) of each document ``[B]``.
    """
    n_topics = alpha.size
    padded = (n_topics + _LANES - 1) // _LANES * _LANES
    p, lanes, inverse = np.zeros(padded, np.float32), np.zeros(_LANES, np.float32), np.empty(n_topics, np.float32)
    small, total = np.float32(eta), eta * words.shape[0]
    found = np.empty(documents.shape[0])
    for k in range(n_topics):
        inverse[k] = 1 / (totals[k] + total)
    for d in range(documents.shape[0]):
        mine, first, t = documents[d], starts[d], starts[d]
        length = 0
        for i in range(indptr[d], indptr[d + 1]):
            length += int(counts[i])
        mine[:] = 0
        others = alpha.sum()  # the tokens of this document that have a topic, and Σ_k α_k
        for t in range(first, first + length):
            if z[t] >= 0:
                mine[z[t]] += 1
                others += 1
        t, product, found[d] = first, 1.0, 0.0
        for i in range(indptr[d], indptr[d + 1]):
            row = words[indices[i]]
            for _ in range(int(counts[i])):
                k = z[t]
                if k >= 0:
                    mine[k] -= 1
                    row[k] -= 1
                    totals[k] -= 1
                    inverse[k] = 1 / (totals[k] + total)
                    others -= 1
                _weigh(mine, alpha, row, small, inverse, p, lanes)
                weight = lanes.sum()
                k = _choose(p, lanes, uniform(random) * weight)
                z[t] = k
                mine[k] += 1
                row[k] += 1
                totals[k] += 1
                inverse[k] = 1 / (totals[k] + total)
                product *= weight / others
                others += 1
                t += 1
                if product < 1e-200:
                    found[d] += math.log(product)
                    product = 1.0
        found[d] += math.log(product)
    return found
