"""What may have happened to clean rows: p(y|x)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """y = A x + N(0, ``scale``²): a number above 0, or one for each value of y.

    ``operator``: A ``[M, D]`` over the values of a row, flattened, or None for x itself. Of ``Normal`` likelihoods
    p(y|z) = N(Aμ, A diag(σ²) Aᵀ + scale² I), for M of some hundreds at most; without an operator of ``Bernoulli`` too,
    p(y|z) = Π_j [π_j N(y_j; 1, scale²) + (1 − π_j) N(y_j; 0, scale²)], and of a ``Product``, whose normal columns it
    blurs and whose columns of classes and counts it leaves as they are.
    """

    scale: float | Tensor
    operator: Tensor | None = None

    def __post_init__(self) -> None:
        scale = torch.as_tensor(self.scale)
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise ValueError(f"the noise's scale must be above 0 and finite, got {self.scale}.")
        if self.operator is not None and (self.operator.dim() != 2 or not bool(self.operator.isfinite().all())):
            shape = list(self.operator.shape)
            raise ValueError(f"the operator must be a matrix [M, D] of finite numbers, got one of shape {shape}.")


@dataclass(frozen=True)
class Flips:
    """Each bit of x is flipped with probability ``rate``, from 0 to below ½: p(y = 1|z) = π(1 − rate) + (1 − π) rate.

    Of ``Bernoulli`` likelihoods, and of those columns of a ``Product``, whose other columns it leaves as they are.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 0.5:
            raise ValueError(f"the rate of flips must be in [0, 0.5), got {self.rate}: at a half y says nothing of x.")


Noise = Gaussian | Flips


def average_pooling(shape: tuple[int, ...], factor: int) -> Tensor:
    """The operator ``[M, D]``, in float64, that averages blocks of ``factor`` × ``factor`` pixels of an image of
    ``shape`` (H, W) or (C, H, W): y of ``Gaussian(scale, average_pooling(…))`` is an image of that much less."""
    if len(shape) not in (2, 3):
        raise ValueError(f"an image has the shape (H, W) or (C, H, W), and not {shape}.")
    if factor < 1 or shape[-2] % factor or shape[-1] % factor:
        raise ValueError(f"the factor must be a whole number that divides both sides of {shape}, got {factor}.")
    eye = partial(torch.eye, dtype=torch.float64)
    high, wide = (torch.kron(eye(side // factor), eye(1).expand(1, factor) / factor) for side in shape[-2:])
    return torch.kron(eye(math.prod(shape[:-2])), torch.kron(high, wide))
