"""Encoders of hierarchies: a deterministic path from the rows up, with outputs at each layer of latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lowerbound.nn.dense import MLP
from lowerbound.nn.images import ResidualBlock, image_channels
from lowerbound.nn.precision import apply


class BottomUp(nn.Module):
    """h_l = R_l h_{l−1} + f_l(h_{l−1}), h_0 = x, and outputs o_l = A_l h_l + a_l: ``[N, *in_shape] → [N, Σ_l F_l]``.

    ``out_features``: F_l, the numbers of each layer, joined from the rows up. ``widths``: the size of each h_l; none:
    all outputs are linear in the rows. f_l has two dense layers, each followed by the activation; R_l is linear, and
    the identity where h_l and h_{l−1} have one size. Sønderby et al. 2016, eq. 5, with He et al. 2016's shortcuts.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: Sequence[int],
        widths: Sequence[int] = (),
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_features, self.widths = tuple(in_shape), tuple(out_features), tuple(widths)
        self.activation = activation
        if self.widths:
            _one_each(self.out_features, "widths", self.widths)
        sizes = [math.prod(self.in_shape), *self.widths]
        self.steps, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        for n_in, n_out in pairwise(sizes):
            self.steps.append(nn.Sequential(MLP((n_in,), (n_out,), (n_out,), activation), activation()))
            self.shortcuts.append(nn.Identity() if n_in == n_out else nn.Linear(n_in, n_out, bias=False))
        read = self.widths or [sizes[0]] * len(self.out_features)
        self.heads = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in zip(read, self.out_features, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        if not self.widths:
            return torch.cat([head(h) for head in self.heads], 1)
        found = []
        for step, shortcut, head in zip(self.steps, self.shortcuts, self.heads, strict=True):
            h = shortcut(h) + step(h)
            found.append(head(h))
        return torch.cat(found, 1)


class ConvBottomUp(nn.Module):
    """``BottomUp`` of images: h_l = residual convolutions of h_{l−1}, and outputs that are linear in h_l.

    ``in_shape``: (H, W) or (C, H, W). ``out_features``, ``channels``: the numbers and the channels of each layer, from
    the rows up. Layer by layer the image is halved, for as long as its shorter side stays at ``smallest`` or more.
    """

    def __init__(
        self, in_shape: Sequence[int], out_features: Sequence[int], channels: Sequence[int], smallest: int = 7
    ) -> None:
        super().__init__()
        self.in_shape, self.out_features, self.channels = tuple(in_shape), tuple(out_features), tuple(channels)
        self.smallest = smallest
        _one_each(self.out_features, "channels", self.channels)
        self.steps, self.heads = nn.ModuleList(), nn.ModuleList()
        layers = zip(pairwise((image_channels(self.in_shape), *self.channels)), self.out_features, strict=True)
        height, width, self.halved = *self.in_shape[-2:], 0
        for (n_in, n_out), size in layers:
            halves = (min(height, width) + 1) // 2 >= smallest
            if halves:
                height, width, self.halved = (height + 1) // 2, (width + 1) // 2, self.halved + 1
            widen = [nn.Conv2d(n_in, n_out, 3, stride=1 + halves, padding=1)] if halves or n_in != n_out else []
            self.steps.append(nn.Sequential(*widen, ResidualBlock(n_out)))
            self.heads.append(nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(n_out * height * width, size)))

    def forward(self, x: Tensor) -> Tensor:
        h, found = x.unflatten(1, (1, -1)) if x.dim() == 3 else x, []
        for step, head in zip(self.steps, self.heads, strict=True):
            h = step(h)
            found.append(head(h))
        return torch.cat(found, 1)


class OfContext(nn.Module):
    """``network`` of the context alone, ``[N, context] → [N, …]``; the rows are not read.

    As the encoder of a latent with parents it makes q(z|parents), which depends on x through the parents only.
    """

    def __init__(self, network: nn.Module, context: int) -> None:
        super().__init__()
        self.network, self.context = network, context

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return apply(self.network, context)


def _one_each(out_features: tuple[int, ...], name: str, given: tuple[int, ...]) -> None:
    if len(given) != len(out_features):
        raise ValueError(f"{name} has {len(given)} numbers for {len(out_features)} layers of latents; give one each.")
