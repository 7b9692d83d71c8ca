"""Random numbers for kernels, compiled by numba: one xoshiro256++ generator (Blackman and Vigna 2021) per document.

A generator is an array of four uint64, which each draw changes in place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.topics.kernels.compiled import compiled

Array = NDArray[Any]
_FEW = 32  # trials of a binomial that are drawn one by one
_MOST = 16.0  # mean of a Poisson that is drawn by multiplying uniforms


@compiled
def word(s: Array) -> Any:
    """The next 64 bits."""
    total = s[0] + s[3]
    result = ((total << np.uint64(23)) | (total >> np.uint64(41))) + s[0]
    shifted = s[1] << np.uint64(17)
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= shifted
    s[3] = (s[3] << np.uint64(45)) | (s[3] >> np.uint64(19))
    return result


@compiled
def uniform(s: Array) -> float:
    """A uniform number in (0, 1)."""
    return float(((word(s) >> np.uint64(12)) + 0.5) * 2.0**-52)


@compiled
def normal(s: Array) -> float:
    """A standard normal number, by the polar method."""
    while True:
        x, y = 2 * uniform(s) - 1, 2 * uniform(s) - 1
        square = x * x + y * y
        if square < 1:
            return x * math.sqrt(-2 * math.log(square) / square)


@compiled
def gamma(shape: float, s: Array) -> float:
    """A Gamma(shape, 1) number. Marsaglia and Tsang 2000; below shape 1 times a power of a uniform number."""
    scale = 1.0
    if shape < 1:
        scale = math.exp(math.log(uniform(s)) / shape)
        shape += 1
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        x = normal(s)
        v = 1 + c * x
        if v <= 0:
            continue
        v = v * v * v
        u = uniform(s)
        if u < 1 - 0.0331 * x * x * x * x or math.log(u) < 0.5 * x * x + d * (1 - v + math.log(v)):
            return d * v * scale


@compiled
def binomial(n: int, p: float, s: Array) -> int:
    """A Binomial(n, p) number, in log n steps: each draws the median of the n uniforms (Relles 1972)."""
    found = 0
    while n > _FEW:
        middle = n // 2 + 1
        a, b = gamma(middle, s), gamma(n + 1 - middle, s)
        y = a / (a + b)
        if y <= p:
            found += middle
            n -= middle
            p = (p - y) / (1 - y)
        else:
            n = middle - 1
            p = p / y
    for _ in range(n):
        if uniform(s) < p:
            found += 1
    return found


@compiled
def poisson(mean: float, s: Array) -> int:
    """A Poisson number; a large mean is reduced by the time of an arrival (Ahrens and Dieter 1974)."""
    found = 0
    while mean > _MOST:
        ahead = int(0.875 * mean)
        time = gamma(ahead, s)
        if time > mean:
            return found + binomial(ahead - 1, mean / time, s)
        found += ahead
        mean -= time
    limit, product = math.exp(-mean), uniform(s)
    while product > limit:
        found += 1
        product *= uniform(s)
    return found


@compiled
def tables(customers: int, shape: float, s: Array) -> int:
    """CRT(m, a) = Σ_{i<m} Bernoulli(a/(a + i)); far customers in jumps, at most some a·log₂ m of them."""
    found = 1 if customers > 0 else 0
    near = min(customers, _FEW)
    for i in range(1, near):
        if uniform(s) * (shape + i) < shape:
            found += 1
    i = near
    while i < customers:
        end = min(2 * i, customers)
        bound = shape / (shape + i)  # of the probabilities from i to end
        step = math.log1p(-bound)
        while True:
            skip = math.log(uniform(s)) / step
            if skip >= end - i:
                break
            i += int(skip)
            if uniform(s) * (shape + i) * bound < shape:
                found += 1
            i += 1
        i = end
    return found


@compiled
def bessel(z: float, s: Array) -> int:
    """A number x ≥ 1 of probability ∝ z^x/(x! Γ(x)), by inversion from the mode."""
    mode = int((math.sqrt(1 + 4 * z) - 1) / 2) + 1
    total, weight, x = 1.0, 1.0, mode
    while weight > 1e-17:
        weight *= z / ((x + 1.0) * x)
        total += weight
        x += 1
    weight, x = 1.0, mode
    while x > 1 and weight > 1e-17:
        weight *= x * (x - 1.0) / z
        total += weight
        x -= 1
    left = uniform(s) * total - 1
    up, down, high, low = 1.0, 1.0, mode, mode
    while left > 0:
        up *= z / ((high + 1.0) * high)
        high += 1
        left -= up
        if left <= 0:
            return high
        if low > 1:
            down *= low * (low - 1.0) / z
            low -= 1
            left -= down
            if left <= 0:
                return low
        if up < 1e-18 and (low == 1 or down < 1e-18):
            return mode
    return mode
