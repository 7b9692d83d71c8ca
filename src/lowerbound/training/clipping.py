"""Gradient clipping by norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_by_norm(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scale the gradients of ``parameters`` so that their joint norm is at most ``most``; give the norm before.

    The gradients are replaced, not changed in place: a compiled step may give two parameters the same tensor.
    """
    learned = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in learned if parameter.grad is not None]
    norm: Tensor = torch.stack([gradient.norm() for gradient in gradients]).norm()
    scale = (most / norm).clamp(max=1)
    for parameter, scaled in zip(learned, torch._foreach_mul(gradients, scale), strict=True):
        parameter.grad = scaled
    return norm
