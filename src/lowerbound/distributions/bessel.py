"""The modified Bessel function of the first kind, of any order, in logarithms."""

from __future__ import annotations

import math
from functools import cache

import torch
from numpy.polynomial import Polynomial
from torch import Tensor

_LARGE, _TERMS = 16, 10  # from order 16, ten terms of the expansion have a relative error below 1e-12


def log_bessel(order: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """log(I_ν(x) x⁻ᵛ e⁻ˣ) and I_{ν+1}(x)/I_ν(x), elementwise, for x ≥ 0 and ν ≥ 0; differentiable in x.

    Large orders are computed by Debye's expansion, which is accurate for all x (DLMF 10.41.3). Lower orders follow from
    them by the recurrence I_{ν−1}(x) = I_{ν+1}(x) + (2ν/x) I_ν(x), which is stable downwards (DLMF 10.29.1).
    """
    steps = max(0, math.ceil(_LARGE - order))
    value = _debye(order + steps, x)
    ratio = (_debye(order + steps + 1, x) - value).exp()  # I_{ν+1}(x)/(x I_ν(x)), which is finite at 0
    for step in range(steps):
        inverse = x.square() * ratio + 2 * (order + steps - step)
        value, ratio = value + inverse.log(), 1 / inverse
    return value, x * ratio


def _debye(order: float, x: Tensor) -> Tensor:
    """log(I_ν(x) x⁻ᵛ e⁻ˣ) = s − x − ν log(ν + s) − ½ log 2πs + log Σ_k U_k(ν/s)/νᵏ, with s = √(ν² + x²)."""
    s = torch.hypot(x, torch.full_like(x, order))
    series = torch.zeros_like(x)
    for coefficient in reversed(_series(order)):
        series = series * (order / s) + coefficient
    return order**2 / (s + x) - order * (order + s).log() - 0.5 * (2 * math.pi * s).log() + series.log()


@cache
def _series(order: float) -> tuple[float, ...]:
    """The coefficients of Σ_k U_k(t)/νᵏ, a polynomial in t. DLMF 10.41.9."""
    term = total = Polynomial([1.0])
    for k in range(1, _TERMS + 1):
        term = Polynomial([0, 0, 0.5, 0, -0.5]) * term.deriv() + (Polynomial([1, 0, -5]) * term).integ() / 8
        total = total + term / order**k
    return tuple(float(coefficient) for coefficient in total.coef)
