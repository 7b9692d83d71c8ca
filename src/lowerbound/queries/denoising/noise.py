"""Noise models p(y|x) of corrupted rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Gaussian noise: y = A x + N(0, ``scale``²).

    ``scale``: a number above 0, or one per value of y. ``operator``: A ``[M, D]``, applied to the flattened row; None:
    the identity. Supported likelihoods:

    - ``Normal``: p(y|z) = N(Aμ, A diag(σ²) Aᵀ + scale² I); practical for M up to some hundreds.
    - ``Bernoulli``, without operator: p(y|z) = Π_j [π_j N(y_j; 1, scale²) + (1 − π_j) N(y_j; 0, scale²)].
    - ``Product``, without operator: noise on its normal columns only.
    """

    scale: float | Tensor
    operator: Tensor | None = None

    def __post_init__(self) -> None:
        scale = torch.as_tensor(self.scale)
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise ValueError(f"scale must be above 0 and finite; got {self.scale}.")
        if self.operator is not None and (self.operator.dim() != 2 or not bool(self.operator.isfinite().all())):
            shape = list(self.operator.shape)
            raise ValueError(f"operator must be a matrix [M, D] of finite numbers; got one of shape {shape}.")


@dataclass(frozen=True)
class Flips:
    """Each bit of x is flipped with probability ``rate`` in [0, ½): p(y = 1|z) = π(1 − rate) + (1 − π) rate.

    For ``Bernoulli`` likelihoods, and the Bernoulli columns of a ``Product``; other columns are not changed.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 0.5:
            raise ValueError(f"rate must be in [0, 0.5); got {self.rate}. At 0.5, y has no information about x.")


Noise = Gaussian | Flips


def average_pooling(shape: tuple[int, ...], factor: int) -> Tensor:
    """The operator ``[M, D]``, in float64, that averages blocks of ``factor`` × ``factor`` pixels.

    ``shape``: that of the image, (H, W) or (C, H, W). Use it as ``Gaussian(scale, average_pooling(…))``.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"shape must be (H, W) or (C, H, W); got {shape}.")
    if factor < 1 or shape[-2] % factor or shape[-1] % factor:
        raise ValueError(f"factor must be a whole number that divides both sides of {shape}; got {factor}.")
    eye = partial(torch.eye, dtype=torch.float64)
    high, wide = (torch.kron(eye(side // factor), eye(1).expand(1, factor) / factor) for side in shape[-2:])
    return torch.kron(eye(math.prod(shape[:-2])), torch.kron(high, wide))
