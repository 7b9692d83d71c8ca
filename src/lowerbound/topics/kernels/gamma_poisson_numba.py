"""Gibbs updates of documents in a gamma-Poisson network, compiled by numba: the functions of ``gamma_poisson.py``.

Document j draws from its own generator, ``streams[j]``.
"""

from __future__ import annotations

import math

import numpy as np

from lowerbound.topics.csr import Csr
from lowerbound.topics.kernels.compiled import compiled
from lowerbound.topics.kernels.gamma_poisson import TINY
from lowerbound.topics.kernels.random_numba import Array, bessel, binomial, gamma, poisson, tables, uniform

BY_ROW = True
"""Whether each document has a generator of its own."""
_MANY = 32  # counts above this number of times K are split by binomials
_NONE = np.zeros((1, 0))


def streams(seed: Array, rows: int, same: bool = False) -> Array:
    """Generators of ``rows`` documents ``[rows, 4]`` from four numbers; ``same``: of the same numbers for each."""
    sequence = np.random.SeedSequence([int(part) & (2**64 - 1) for part in seed])
    if same:
        return np.tile(sequence.generate_state(4, np.uint64), (rows, 1))
    return sequence.generate_state(4 * rows, np.uint64).reshape(rows, 4)


def split(csr: Csr, phi: Array, theta: Array, streams: Array, n: Array | None = None) -> Array:
    found = np.zeros(theta.shape)
    _split(csr.indptr, csr.indices, csr.counts, phi, theta, streams, found, _NONE if n is None else n)
    return found


@compiled
def _split(
    indptr: Array, indices: Array, counts: Array, phi: Array, theta: Array, streams: Array, m: Array, n: Array
) -> None:
    rows, topics = theta.shape
    blocks = (topics + 7) // 8
    weights, p = np.zeros(topics, phi.dtype), np.zeros(8 * blocks, phi.dtype)
    ends, zero = np.zeros(blocks, phi.dtype), phi.dtype.type(0)
    for j in range(rows):
        s, of_row = streams[j], m[j]
        for k in range(topics):
            weights[k] = max(theta[j, k], TINY)
        for i in range(indptr[j], indptr[j + 1]):
            row, of_word = phi[indices[i]], n[indices[i] if n.size > 0 else 0]
            for k in range(topics):
                p[k] = row[k] * weights[k]
            total = zero
            for block in range(blocks):
                a = 8 * block  # a tree of sums, which are independent of each other
                left, right = (p[a] + p[a + 1]) + (p[a + 2] + p[a + 3]), (p[a + 4] + p[a + 5]) + (p[a + 6] + p[a + 7])
                total += left + right
                ends[block] = total
            count = int(counts[i])
            if count > _MANY * topics:
                _split_many(count, p, s, of_row, of_word)
                continue
            for _ in range(count):
                u, block = phi.dtype.type(uniform(s)) * total, 0
                for b in range(blocks - 1):
                    block += ends[b] <= u
                k = 8 * block  # the first k at which the sum of p exceeds u
                last, reached = min(k + 7, topics - 1), p[k] + (ends[block - 1] if block > 0 else zero)
                while reached <= u and k < last:
                    k += 1
                    reached += p[k]
                of_row[k] += 1
                if n.size > 0:
                    of_word[k] += 1


@compiled
def _split_many(count: int, p: Array, s: Array, of_row: Array, of_word: Array) -> None:
    """Split a large count by a binomial for each topic."""
    topics = of_row.size
    rest = np.zeros(topics + 1)
    for k in range(topics - 1, -1, -1):
        rest[k] = rest[k + 1] + p[k]
    for k in range(topics):
        share = 1.0 if rest[k + 1] <= 0 else p[k] / rest[k]
        drawn = count if share >= 1 else binomial(count, share, s)
        count -= drawn
        of_row[k] += drawn
        if of_word.size > 0:
            of_word[k] += drawn


def crt(m: Array, shape: Array, streams: Array) -> Array:
    return _crt(m, np.broadcast_to(shape, m.shape), streams)


@compiled
def _crt(m: Array, shape: Array, streams: Array) -> Array:
    found = np.zeros(m.shape)
    for j in range(m.shape[0]):
        for k in range(m.shape[1]):
            if m[j, k] > 0:
                found[j, k] = tables(int(m[j, k]), shape[j, k], streams[j])
    return found


@compiled
def gammas(shape: Array, streams: Array) -> Array:
    found = np.empty(shape.shape)
    for j in range(shape.shape[0]):
        for k in range(shape.shape[1]):
            found[j, k] = gamma(shape[j, k], streams[j])
    return found


@compiled
def product(phi: Array, theta: Array) -> Array:
    rows, topics = theta.shape
    columns = np.ascontiguousarray(phi.T)
    found = np.zeros((rows, phi.shape[0]))
    for j in range(rows):
        for k in range(topics):
            weight, column, out = theta[j, k], columns[k], found[j]
            for v in range(phi.shape[0]):
                out[v] += weight * column[v]
    return found


def rates(csr: Csr, phi: Array, theta: Array) -> Array:
    return _rates(csr.indptr, csr.indices, phi, theta)


@compiled
def _rates(indptr: Array, indices: Array, phi: Array, theta: Array) -> Array:
    found = np.zeros(indices.size)
    for j in range(theta.shape[0]):
        for i in range(indptr[j], indptr[j + 1]):
            row, total = phi[indices[i]], 0.0
            for k in range(theta.shape[1]):
                total += row[k] * theta[j, k]
            found[i] = total
    return found


def at_least_one(csr: Csr, rates: Array, streams: Array) -> Array:
    return _at_least_one(csr.indptr, rates, streams)


@compiled
def _at_least_one(indptr: Array, rates: Array, streams: Array) -> Array:
    found = np.empty(rates.size)
    for j in range(indptr.size - 1):
        for i in range(indptr[j], indptr[j + 1]):
            first = -math.log1p(uniform(streams[j]) * math.expm1(-rates[i]))  # λ times the time of the first arrival
            found[i] = 1 + poisson(max(rates[i] - first, 0.0), streams[j])
    return found


def bessels(csr: Csr, z: Array, streams: Array) -> Array:
    return _bessels(csr.indptr, z, streams)


@compiled
def _bessels(indptr: Array, z: Array, streams: Array) -> Array:
    found = np.empty(z.size)
    for j in range(indptr.size - 1):
        for i in range(indptr[j], indptr[j + 1]):
            found[i] = bessel(z[i], streams[j])
    return found
