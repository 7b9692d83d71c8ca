"""Gibbs updates of documents in a gamma-Poisson network, for all documents at once, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from lowerbound.topics.csr import Csr

Array = NDArray[Any]
Random = np.random.Generator
TINY = 1e-18
"""The least factor of a product φθ in single precision: smaller products are subnormal numbers, which are slow."""
BY_ROW = False
"""Whether each document has a generator of its own."""
_AT_ONCE = 2**21  # numbers in one temporary array
_NEAR, _RARE = 1000, 10.0  # customers who are seated one by one; for shapes below _RARE, the others in jumps
_MANY = 32  # counts above this number of times K are split by binomials


def streams(seed: Array, rows: int, same: bool = False) -> Random:
    """The generator of all documents, from four numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([int(part) & (2**64 - 1) for part in seed])))


def split(csr: Csr, phi: Array, theta: Array, streams: Random, n: Array | None = None) -> Array:
    """Divide the counts among topics: n_vkj ~ Mult(x_vj; ∝ φ_vk θ_kj); return m_kj = Σ_v n_vkj as ``[J, K]``.

    ``phi [V, K]``, ``theta [J, K]``. Σ_j n_vkj is added to ``n [V, K]``, if given.
    """
    rows, topics = theta.shape
    m = np.zeros(rows * topics)
    row = np.repeat(np.arange(rows), np.diff(csr.indptr))
    step = max(1, _AT_ONCE // topics)
    weights = np.maximum(theta, TINY).astype(phi.dtype)
    for start in range(0, len(row), step):
        words, of = csr.indices[start : start + step], row[start : start + step]
        counts = csr.counts[start : start + step].astype(np.int64)
        p = phi[words] * weights[of]
        few = np.where(counts > _MANY * topics, 0, counts)
        found = [_few(few, p.cumsum(-1), streams)]
        if (many := np.flatnonzero(few < counts)).size:
            shares = p[many].astype(np.float64)
            drawn = streams.multinomial(counts[many], shares / shares.sum(-1, keepdims=True))
            found.append((np.repeat(many, topics), np.tile(np.arange(topics), len(many)), drawn.ravel()))
        for entry, topic, number in found:
            m += np.bincount(of[entry] * topics + topic, number, m.size)
            if n is not None:
                n += np.bincount(words[entry].astype(np.int64) * topics + topic, number, n.size).reshape(n.shape)
    return m.reshape(rows, topics)


def _few(counts: Array, sums: Array, streams: Random) -> tuple[Array, Array, Array | None]:
    """The entry and the topic of each token, of ``sums`` of probabilities, token by token."""
    entry = np.repeat(np.arange(len(counts)), counts)
    topic = np.empty(len(entry), np.int64)
    step = max(1, _AT_ONCE // sums.shape[1])
    for start in range(0, len(entry), step):
        part = sums[entry[start : start + step]]
        u = streams.random(len(part), dtype=np.float32) * part[:, -1]
        topic[start : start + step] = (part[:, :-1] <= u[:, None]).sum(-1)
    return entry, topic, None


def crt(m: Array, shape: Array, streams: Random) -> Array:
    """Tables of a Chinese restaurant, x_jk ~ CRT(m_jk, a_jk) = Σ_{i<m} Bernoulli(a/(a + i)); m and a ``[J, K]``."""
    a, found, customers = np.broadcast_to(shape, m.shape).ravel(), np.zeros(m.size), m.ravel().astype(np.int64)
    cells, near = np.flatnonzero(customers), np.where(a < _RARE, np.minimum(customers, _NEAR), customers)
    ends = near[cells].cumsum()
    for part in np.split(cells, np.unique(ends // _AT_ONCE, return_index=True)[1][1:]):
        number = near[part]
        before = number.cumsum() - number
        i = np.arange(number.sum()) - np.repeat(before, number)
        sits = streams.random(len(i)) * (np.repeat(a[part], number) + i) < np.repeat(a[part], number)
        if len(part):
            found[part] = np.add.reduceat(sits, before, dtype=np.float64)
    far = np.flatnonzero(customers > near)
    found[far] += _far(customers[far].astype(np.float64), a[far], streams)
    return found.reshape(m.shape)


def _far(customers: Array, a: Array, streams: Random) -> Array:
    """Σ_{_NEAR ≤ i < m} Bernoulli(a/(a + i)) in jumps from one candidate to the next, some a·log₂ m of them."""
    found, i = np.zeros(len(a)), np.full(len(a), float(_NEAR))
    end, bound = np.minimum(2 * i, customers), a / (a + i)  # of the probabilities from i to end
    cells = np.arange(len(a))
    while len(cells):
        i[cells] += np.floor(np.log1p(-streams.random(len(cells))) / np.log1p(-bound[cells]))
        past = i[cells] >= end[cells]
        new, over = cells[~past], cells[past]
        found[new] += streams.random(len(new)) * (a[new] + i[new]) * bound[new] < a[new]
        i[new] += 1
        i[over] = end[over]
        end[over], bound[over] = np.minimum(2 * i[over], customers[over]), a[over] / (a[over] + i[over])
        cells = cells[i[cells] < customers[cells]]
    return found


def gammas(shape: Array, streams: Random) -> Array:
    """Gamma(a, 1) numbers of the shapes a ``[J, K]``."""
    drawn: Array = streams.standard_gamma(shape)
    return drawn


def product(phi: Array, theta: Array) -> Array:
    """Φθ_j of each document, ``[J, V]``."""
    found: Array = theta @ phi.T
    return found


def rates(csr: Csr, phi: Array, theta: Array) -> Array:
    """(Φθ_j)_v of each word of each document, ``[nonzeros]``."""
    row, found = np.repeat(np.arange(len(theta)), np.diff(csr.indptr)), np.empty(len(csr.indices))
    step = max(1, _AT_ONCE // theta.shape[1])
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        found[part] = np.einsum("ik,ik->i", phi[csr.indices[part]], theta[row[part]])
    return found


def at_least_one(csr: Csr, rates: Array, streams: Random) -> Array:
    """Poisson numbers given that they are not 0: 1 and those after the first arrival, ``[nonzeros]``."""
    first = -np.log1p(streams.random(len(rates)) * np.expm1(-rates))
    found: Array = 1.0 + streams.poisson(np.maximum(rates - first, 0))
    return found


def bessels(csr: Csr, z: Array, streams: Random) -> Array:
    """Numbers x ≥ 1 of probabilities ∝ z^x/(x! Γ(x)), by inversion of their sums near the mode, ``[nonzeros]``."""
    found, mode = np.empty(len(z)), (np.sqrt(1 + 4 * z) - 1) // 2 + 1
    for part in np.array_split(np.argsort(mode), len(z) // 1000 + 1):
        width = int(12 * np.sqrt(mode[part].max(initial=0))) + 20
        x = mode[part][:, None] + np.arange(-width, width + 1)
        safe = np.maximum(x, 1)
        log_p = x * np.log(z[part])[:, None] - gammaln(safe + 1) - gammaln(safe)
        log_p[x < 1] = -np.inf
        sums = np.exp(log_p - log_p.max(-1, keepdims=True)).cumsum(-1)
        place = (sums <= (streams.random(len(part)) * sums[:, -1])[:, None]).sum(-1)
        found[part] = x[np.arange(len(part)), place]
    return found
