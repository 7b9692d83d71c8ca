"""Measure a column of numbers: its precision, repeated values, tails, location and spread."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]
FEW = 20
"""The smallest number of values from which precision, tails and keys are inferred."""
_NICE = tuple(sorted({base * 10**power for base in (1, 2, 5, 25) for power in range(15)}, reverse=True))
_MOST_DECIMALS = 22  # powers of ten up to here are exact in double precision
_ULPS = 50
_NOISE, _MOST_NOISE = 2e-7, 0.2  # rounding of single precision, relative to a value; its largest share of a step
_FINEST_SINGLE, _QUARTERS = 1 / (_ULPS * float(np.finfo(np.float32).eps)), 2  # every binary fraction is also decimal
_MULTIPLES = 5
_LOOK, _CLEARLY_OFF, _MOST_CELLS = 100, 0.2, 0.9  # values looked at first, share on a grid below which it is none
_SPIKE, _BESIDE = 0.05, 3
_HEAPED = ((_SPIKE, 5), (0.02, 8))  # share of the cells, and how many times the neighbours'
_MOST_HEAVY, _CANDIDATES = 5, 50
_HEAVY, _HEAVY_OF_FEW = 3.31, 9.0
_CURVED, _FEWEST_CURVED = (0.05, 0.1), 30


def precision(values: Array, dtype: np.dtype[Any] | None = None) -> float | None:
    """The coarsest grid of steps 10^−d, 2·10^−d, 5·10^−d or 25·10^−d on which the values lie; None if there is none.

    The grid contains every value, or at least 90 % of them. In the second case 20 or more cells other than 0 (which is
    on every grid) must lie on it and have 5 or more different values, and a value of more than 5 % frequency counts as
    5 %, because it alone shows nothing about the others.

    ``dtype``: the floating-point type in which the values were recorded. Grids finer than 50 units in the last place of
    the largest value are not considered, because values that were never rounded lie on them too. Steps other than 10^−d
    need 20 different values, so that they are not found by chance. With 20 or more values, deviations from the grid by
    the rounding of single precision are accepted (0.1 stored in single precision is 0.10000000149).
    """
    dtype = np.dtype(np.float64) if dtype is None else dtype
    largest, finest = float(np.abs(values).max()), 1 / (_ULPS * float(np.finfo(dtype).eps))
    levels, counts = np.unique(values, return_counts=True)
    some = values[:: max(1, len(values) // _LOOK)]
    with np.errstate(over="ignore"):
        single = bool((levels == levels.astype(np.float32)).all())
    for decimals in range(_MOST_DECIMALS + 1):
        if largest > (_FINEST_SINGLE if single and decimals > _QUARTERS else finest) / 10**decimals:
            return None
        if _on_grid(some, decimals, dtype).mean() < _CLEARLY_OFF:
            continue
        kept = _on_grid(levels, decimals, dtype)
        if kept.all() or _are_most(levels, counts, kept, decimals):
            return float(Decimal(_step(levels[kept], decimals)).scaleb(-decimals))
    return None


def off_grid(values: Array, step: float, dtype: np.dtype[Any] | None = None) -> float:
    """The share of values that do not lie on the grid of a ``precision``."""
    dtype, found = np.dtype(np.float64) if dtype is None else dtype, snap(values, step)
    near = np.abs(values - found) <= np.minimum(_NOISE * np.abs(values), _MOST_NOISE * step)
    return float(1 - (near | (found.astype(dtype) == values.astype(dtype))).mean())


def snap(values: Array, step: float) -> Array:
    """Round to multiples of a ``precision``: to the double nearest to the decimal fraction, so that 3 · 0.1 is 0.3."""
    whole, decimals = _grid(step)
    ten = float(f"1e{decimals}")
    with np.errstate(over="ignore", invalid="ignore"):
        found: Array = np.rint(values * ten / whole) * whole / ten
    return np.where(np.isfinite(found), found, values)


def most_repeated(values: Array) -> tuple[float, float]:
    """The most frequent value (the smallest of several), and its share."""
    levels, counts = np.unique(values, return_counts=True)
    at = int(np.argmax(counts))
    return float(levels[at]), float(counts[at] / len(values))


def heavy(values: Array, step: float | None) -> tuple[float, ...]:
    """The values, at most five, so frequent that neither a density nor rounding explains it; the most frequent first.

    There must be 20 or more values. A value is heavy if significantly more than 5 % of all are equal to it (3 standard
    errors) and it is more than 5 times as frequent as its neighbours, or if more than 2 % are and it is 8 times as
    frequent. The neighbours are the three next values on either side, after rounding to ``step``; the comparison is
    with the most frequent of the nearest two and with the second of all six, so that one heaped neighbour does not
    count (of working hours, 48 next to 45).
    """
    if len(values) < FEW:
        return ()
    levels, counts = np.unique(values, return_counts=True)
    at = np.arange(len(levels)) if step is None else np.unique(np.rint(levels / step), return_inverse=True)[1]
    cells = np.pad(np.bincount(at, counts), _BESIDE)
    found = []
    for k in np.argsort(-counts, kind="stable")[:_CANDIDATES]:
        around = np.delete(cells[at[k] : at[k] + 2 * _BESIDE + 1], _BESIDE)
        most = max(around[_BESIDE - 1], around[_BESIDE], np.sort(around)[-2])
        if any(counts[k] > max(_significant(share, len(values)), times * most) for share, times in _HEAPED):
            found.append(float(levels[k]))
    return tuple(found[:_MOST_HEAVY])


def _significant(share: float, n: int) -> float:
    return share * n + 3 * math.sqrt(share * n)


def kurtosis(values: Array) -> float:
    """The quantile kurtosis of Crow & Siddiqui (1967): (q.975 − q.025) / (q.75 − q.25), where q are quantiles.

    It is 2.91 for a normal distribution and 4.16 for Student's t with 3 degrees of freedom. It exists for every
    distribution, and a single outlier does not change it. It is ∞ if the middle half of the values are equal, and 0 if
    the outer quantiles are equal too.
    """
    far_low, low, high, far_high = np.quantile(_unit(values)[0], [0.025, 0.25, 0.75, 0.975])
    if high > low:
        return float((far_high - far_low) / (high - low))
    return math.inf if far_high > far_low else 0.0


def heavy_tailed(values: Array) -> bool:
    """Whether ``kurtosis`` is above 3.31 + 9/√n, for n ≥ 20 values; a value of more than 10 % frequency is left out.

    False positives for normal values: 1 column in 100 at n = 20, fewer than 1 in 1,000 for n ≥ 200. Power for Student's
    t with 3 degrees of freedom: 70 % at n = 300, 99 % at n = 1,000.
    """
    atom, share = most_repeated(values)
    kept = values[values != atom] if share > 0.1 else values
    return len(kept) >= FEW and kurtosis(kept) > _HEAVY + _HEAVY_OF_FEW / math.sqrt(len(kept))


def curved(values: Array) -> bool:
    """Whether the CDF of n ≥ 30 values differs somewhere from that of a normal by more than a threshold.

    The threshold is 1/√n up to n = 100, 0.1 up to n = 400, then 2/√n, and 0.05 from n = 1,600 on. The normal has their
    mean and variance. Equal values count at the middle of their step of the CDF, so that rounding makes little
    difference. False positives for normal values: fewer than 1 column in 100, and than 1 in 1,000 for n ≥ 200.
    """
    levels, counts = np.unique(_unit(values)[0], return_counts=True)
    error = 1 / math.sqrt(len(values)) if len(values) else math.inf
    if len(values) < _FEWEST_CURVED or len(levels) < 3:
        return False
    mean = np.average(levels, weights=counts)
    deviation = math.sqrt(np.average(np.square(levels - mean), weights=counts))
    if not deviation > 0:
        return False
    shares, standard = (counts.cumsum() - counts / 2) / len(values), (levels - mean) / deviation
    return bool(np.abs(shares - ndtr(standard)).max() > max(error, np.clip(2 * error, *_CURVED)))


def centre_and_scale(values: Array) -> tuple[float, float]:
    """Median, and interquartile range / 1.349 (the standard deviation of a normal distribution).

    If the interquartile range is 0: mean and standard deviation.
    """
    unit, largest = _unit(values)
    low, median, high = np.quantile(unit, [0.25, 0.5, 0.75])
    centre, spread = float(median), float(high - low) / 1.349
    if not spread > 0:
        centre, spread = float(unit.mean()), float(unit.std())
    return centre * largest, usable(spread * largest)


def usable(scale: float) -> float:
    """A scale that is safe to divide by: 1 if it is 0, else clipped to the normal floating-point numbers."""
    limits = np.finfo(np.float64)
    return min(max(scale, float(limits.tiny)), float(limits.max)) if scale > 0 else 1.0


def _unit(values: Array) -> tuple[Array, float]:
    """The values divided by their largest magnitude, so that differences do not overflow; and that magnitude."""
    largest = float(np.abs(values).max())
    return (values / largest, largest) if largest > 0 else (values, 1.0)


def _on_grid(values: Array, decimals: int, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Which values are multiples of 10^−``decimals``.

    For 20 values or more with 5 different multiples, up to the rounding of single precision.
    """
    ten = float(f"1e{decimals}")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        scaled = values * ten
        whole = np.rint(scaled)
        on: NDArray[np.bool_] = (whole / ten).astype(dtype) == values.astype(dtype)
        near = np.abs(scaled - whole) <= _NOISE * np.abs(scaled)
    few = len(values) < FEW or float(np.abs(scaled).max()) * _NOISE > _MOST_NOISE
    return on if on.all() or few or len(np.unique(whole[near])) < _MULTIPLES else near


def _are_most(levels: Array, counts: NDArray[np.int64], kept: NDArray[np.bool_], decimals: int) -> bool:
    """Whether the ``kept`` levels, which lie on a grid, are those of most cells; ``counts``: cells of each level."""
    kept, total = kept & (levels != 0), counts.sum()
    weights = np.where(levels == 0, 0, np.minimum(counts, _SPIKE * total))
    different = len(np.unique(np.rint(levels[kept] * float(f"1e{decimals}"))))
    return bool(
        counts[kept].sum() >= FEW and different >= _MULTIPLES and weights[kept].sum() >= _MOST_CELLS * weights.sum()
    )


def _step(values: Array, decimals: int) -> int:
    whole = np.rint(np.abs(values) * float(f"1e{decimals}")).astype(np.int64)
    levels = np.unique(whole)
    divisor = int(np.gcd.reduce(levels)) if len(levels) >= FEW else 1
    return next((nice for nice in _NICE if divisor and divisor % nice == 0), 1)


def _grid(step: float) -> tuple[float, int]:
    """A step as whole · 10^−decimals."""
    _, digits, power = Decimal(repr(float(step))).normalize().as_tuple()
    whole = int("".join(map(str, digits)))
    assert isinstance(power, int)
    return (float(whole), -power) if power < 0 else (float(whole * 10**power), 0)
