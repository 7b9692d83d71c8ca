"""Pareto k̂: the tail index of importance weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_ALIKE = 1e-3  # nats: weights that differ by less have no tail; in single precision, less is rounding error
_ROWS = 200  # rows at once; each needs a grid of about 44 × 213 numbers


def tail_size(draws: int) -> int:
    """Return the number of largest weights in the tail: a fifth, at most 3√K."""
    return math.ceil(min(draws / 5, 3 * math.sqrt(draws)))


def threshold(draws: NDArray[np.int64] | int) -> Array:
    """Return the k̂ above which an estimate from K draws is unreliable: min(1 − 1/log₁₀K, 0.7). Vehtari et al. 2024."""
    log_draws = np.log10(np.maximum(np.asarray(draws, dtype=np.float64), 10.0))
    return np.minimum(1 - 1 / log_draws, 0.7)


def pareto_k(largest: Array) -> Array:
    """Estimate k̂ ``[N]`` per row from the logarithms of their ``tail_size(K) + 1`` largest weights, ``[T + 1, N]``.

    k̂ is the shape of a generalised Pareto distribution fitted to the exceedances over the smallest of these weights;
    moments of the weights of order above 1/k do not exist. It is ∞ if fewer than five weights exceed the smallest, and
    −∞ if all are within 0.1 % of each other. It cannot detect a mode that no draw came near. Zhang & Stephens 2009;
    Vehtari et al. 2024.
    """
    ordered = np.sort(np.asarray(largest, dtype=np.float64), 0)
    with np.errstate(invalid="ignore"):  # −∞ − (−∞)
        spread = ordered[-1] - ordered[0]
        relative = ordered - ordered[-1]
    cutoff = np.maximum(relative[0], math.log(np.finfo(np.float64).tiny))
    exceed = relative[1:] > cutoff
    sizes = exceed.sum(0)
    found = np.full(relative.shape[1], math.inf)
    with np.errstate(under="ignore"):
        excess = np.where(exceed, np.exp(relative[1:]) - np.exp(cutoff), 0.0)
    for size in np.unique(sizes[sizes > 4]):
        rows = np.flatnonzero(sizes == size)
        for some in np.array_split(rows, -(-len(rows) // _ROWS)):
            found[some] = _shape(excess[-size:, some])
    return np.where(spread < _ALIKE, -math.inf, found)


def _shape(excess: Array) -> Array:
    """k of a generalised Pareto by Zhang & Stephens, shrunk towards ½ with a weight of 10 values: ``[n, N] → [N]``."""
    n = len(excess)
    steps = 30 + int(math.sqrt(n))
    grid = 1 - np.sqrt(steps / (np.arange(1, steps + 1) - 0.5))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        b = grid[:, None] / (3 * excess[int(n / 4 + 0.5) - 1]) + 1 / excess[-1]
        k = np.log1p(-b[:, None] * excess).mean(1)
        log_lik = n * (np.log(-b / k) - k - 1)
        weight = np.exp(log_lik - log_lik.max(0))
        weight = weight / weight.sum(0)
        weight[weight < 10 * np.finfo(np.float64).eps] = 0
        weight = weight / weight.sum(0)
        shape: Array = np.log1p(-(b * weight).sum(0) * excess).mean(0)
    return (n * shape + 5) / (n + 10)
