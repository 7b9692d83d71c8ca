"""Convolutional networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """x + conv(conv(x)), 3 × 3, with the activation before each: He et al. 2016."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.first(functional.silu(x))
        inner = self.second(functional.silu(inner))
        return x + inner


class ConvEncoder(nn.Module):
    """Residual convolutions, halving the image at each stage: ``[N, *in_shape] → [N, out_features]``.

    ``in_shape``: (H, W) or (C, H, W).
    """

    def __init__(self, in_shape: Sequence[int], out_features: int, channels: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        self.in_shape, self.out_features, self.channels = tuple(in_shape), out_features, tuple(channels)
        n_channels = image_channels(self.in_shape)
        sizes = _image_sizes(self.in_shape, len(self.channels))
        stages: list[nn.Module] = []
        for n_in, n_out in pairwise((n_channels, *self.channels)):
            stages += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), ResidualBlock(n_out)]
        self.stages = nn.Sequential(*stages, nn.SiLU(), nn.Flatten())
        self.head = nn.Linear(self.channels[-1] * math.prod(sizes[-1]), out_features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stages(x.unflatten(1, (1, -1)) if x.dim() == 3 else x))
        return out


class ConvDecoder(nn.Module):
    """The mirror of ``ConvEncoder``: ``[N, in_features] → [N, *out_shape]``.

    ``out_shape``: (H, W), (C, H, W) or, with P parameters a value, (P, H, W) or (P, C, H, W): the last two axes are
    the image, all before them its channels.
    """

    def __init__(self, in_features: int, out_shape: Sequence[int], channels: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        self.in_features, self.out_shape, self.channels = in_features, tuple(out_shape), tuple(channels)
        self.sizes = _image_sizes(self.out_shape, len(self.channels))[::-1]
        self.head = nn.Linear(in_features, self.channels[0] * math.prod(self.sizes[0]))
        n_outputs = math.prod(self.out_shape[:-2])
        self.blocks = nn.ModuleList(ResidualBlock(c) for c in self.channels)
        widths = pairwise((*self.channels, n_outputs))
        self.widen = nn.ModuleList(nn.Conv2d(n_in, n_out, 3, padding=1) for n_in, n_out in widths)
        self.bias = nn.Parameter(torch.zeros(self.out_shape))

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.head(z).unflatten(1, (self.channels[0], *self.sizes[0]))
        for block, widen, size in zip(self.blocks, self.widen, self.sizes[1:], strict=True):
            out = widen(functional.interpolate(functional.silu(block(out)), size=size, mode="nearest"))
        return out.reshape(len(out), *self.out_shape) + self.bias

    @torch.no_grad()
    def init_bias(self, values: Tensor) -> None:
        """Start with the output near ``values [*out_shape]``, whatever the input."""
        self.bias.copy_(values.reshape(self.bias.shape))


def image_channels(shape: tuple[int, ...]) -> int:
    """C of a row of shape (H, W) or (C, H, W)."""
    if len(shape) not in (2, 3):
        raise ValueError(f"a convolutional network needs rows of shape (H, W) or (C, H, W), not {shape}.")
    return 1 if len(shape) == 2 else shape[0]


def _image_sizes(shape: tuple[int, ...], stages: int) -> list[tuple[int, int]]:
    """(H, W) before each stage and after the last: each halves, rounding up."""
    sizes = [(shape[-2], shape[-1])]
    for _ in range(stages):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes
