"""Networks: tensors → tensors, no probability. Each keeps its arguments as attributes, so that it can be saved."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Identity as Identity
from torch.nn import functional

from lowerbound.process import seeded as seeded

__all__ = [
    "MLP",
    "Cells",
    "Chain",
    "Constant",
    "ConvDecoder",
    "ConvEncoder",
    "Identity",
    "Precision",
    "Standardise",
    "Table",
    "Topics",
    "apply",
    "products",
    "seeded",
]

Precision = Literal["float32", "tf32", "bf16"]
_TF32 = threading.RLock()
_AUTOCAST: ContextVar[bool] = ContextVar("autocast", default=False)


@contextlib.contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Run the block with the matrix products of networks in ``precision``; all else keeps its own.

    "float32": as the parameters are. "tf32": products of float32 numbers rounded to 10 bits, on a GPU. "bf16": operands
    rounded to 8 bits, results to bf16; parameters, their gradients and all that is not a network stay as they are.
    """
    token = _AUTOCAST.set(precision == "bf16")
    try:
        with _tf32(precision == "tf32") if torch.cuda.is_available() else contextlib.nullcontext():
            yield
    finally:
        _AUTOCAST.reset(token)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Run the block with TF32 ``allowed`` or not, in one thread at a time: torch has one setting for the process."""
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    with _TF32:
        before = [kind.allow_tf32 for kind in kinds]
        try:
            for kind in kinds:
                kind.allow_tf32 = allowed
            yield
        finally:
            for kind, was in zip(kinds, before, strict=True):
                kind.allow_tf32 = was


def apply(network: nn.Module, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """``network(x)`` in the type of ``x``, with products in the precision that the block around asks for.

    A network that says how many numbers of ``context`` it takes, as an attribute of that name, is given them too; one
    whose attribute ``masked`` is true is given the ``mask``, True where x is observed.
    """
    inputs = (x,) if context is None or not getattr(network, "context", 0) else (x, context)
    named = {"mask": mask} if mask is not None and getattr(network, "masked", False) else {}
    if not _AUTOCAST.get():
        out: Tensor = network(*inputs, **named)
        return out
    with torch.autocast(x.device.type, torch.bfloat16):
        out = network(*inputs, **named)
    return out.to(x.dtype)


_AT_ONCE = 2**20  # values in double precision


class Tanh(nn.Tanh):
    """tanh x; on a CPU, where no gradient is asked for, as 2σ(2x) − 1: to 2⁻²² (float32), for less time."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype.itemsize < 4 or torch.is_grad_enabled():
            return super().forward(x)
        return (2 * x).sigmoid_().mul_(2).sub_(1)


class MLP(nn.Module):
    """Fully connected layers: ``[N, *in_shape] → [N, *out_shape]``; ``context [N, C]`` is an optional second input.

    ``linear``: add a linear function of the inputs to the output, so that the layers learn only what is not linear.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden: Sequence[int] = (256,),
        activation: type[nn.Module] = nn.Tanh,
        context: int = 0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape, self.linear = tuple(in_shape), tuple(out_shape), bool(linear)
        self.hidden, self.activation, self.context = tuple(hidden), activation, context
        sizes = [math.prod(self.in_shape) + context, *self.hidden, math.prod(self.out_shape)]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), Tanh() if activation is nn.Tanh else activation()]
        self.layers = nn.Sequential(*layers[:-1])
        self.direct = nn.Linear(sizes[0], sizes[-1], bias=False) if linear else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.context:
            if context is None or context.shape[1:] != (self.context,):
                given = "none" if context is None else list(context.shape[1:])
                raise ValueError(
                    f"this network takes a context of [{self.context}] numbers a row, and was given {given}."
                )
            x = torch.cat([x.flatten(1), context], 1)
        x = x.flatten(1)
        out: Tensor = self.layers(x)
        if self.direct is not None:
            out = out + self.direct(x)
        return out.unflatten(1, self.out_shape) if len(self.out_shape) != 1 else out

    @torch.no_grad()
    def init_bias(self, values: Tensor) -> None:
        """Start with the output near ``values [*out_shape]``, whatever the input."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(values.flatten())


class Table(nn.Module):
    """A row of numbers for each of ``n_states`` states: one-hot ``[N, …]`` → ``[N, *shape]``, linear, without a bias.

    As a decoder it makes the model a mixture: ``shape`` is that of the likelihood's parameters, ``(P, *X)``, or X for
    P = 1. Its values start as standard normal numbers, because equal components would stay equal.
    """

    def __init__(self, n_states: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.n_states, self.shape = n_states, tuple(shape)
        self.values = nn.Parameter(torch.empty(n_states, *self.shape))
        nn.init.normal_(self.values)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = (z.flatten(1) @ self.values.flatten(1)).unflatten(1, self.shape)
        return out

    @torch.no_grad()
    def init_bias(self, values: Tensor) -> None:
        """Move all states together, so that their mean is ``values [*shape]``."""
        self.values.add_(values.reshape(self.shape) - self.values.mean(0))


class Topics(nn.Module):
    """Words from topics, ``[N, K] → [N, V]``: Σ_k θ_k φ_kv, φ_k = softmax(w_k); with ``product``, Σ_k θ_k w_kv + b_v.

    ``proportions``: θ is the softmax of the inputs, otherwise the inputs themselves. ``log``: the sum's logarithm.
    """

    def __init__(
        self, n_topics: int, n_words: int, product: bool = False, proportions: bool = True, log: bool = False
    ) -> None:
        super().__init__()
        self.n_topics, self.n_words = n_topics, n_words
        self.product, self.proportions, self.log = product, proportions, log
        self.weights = nn.Parameter(torch.empty(n_topics, n_words))
        self.bias = nn.Parameter(torch.zeros(n_words)) if product else None
        nn.init.normal_(self.weights)

    def topics(self) -> Tensor:
        """The probability of each word where all weight is on one topic, ``[K, V]``; rows sum to 1."""
        return (self.weights if self.bias is None else self.weights + self.bias).softmax(1)

    def shares(self, z: Tensor) -> Tensor:
        """The topics' shares ``[…, K]`` at the inputs ``z […, K]``; they sum to 1."""
        return z.softmax(-1) if self.proportions else z / z.sum(-1, keepdim=True)

    def forward(self, z: Tensor) -> Tensor:
        theta = z.softmax(-1) if self.proportions else z
        out = theta @ self.topics() if self.bias is None else theta @ self.weights + self.bias
        return out.clamp(min=torch.finfo(out.dtype).tiny).log() if self.log else out

    @torch.no_grad()
    def init_bias(self, values: Tensor) -> None:
        """Start near the output ``values [V]``, up to its sum, whatever the inputs."""
        values = values.flatten()
        if self.bias is not None:
            self.bias.copy_(values)
        else:
            self.weights.add_((values if self.log else values.log()) - self.weights.mean(0))


class Standardise(nn.Module):
    """(x − shift)/spread, or (log(1 + x) − shift)/spread with ``log1p``, taken from data and then kept.

    A missing value becomes 0, the mean of the others. Mattei & Frellsen 2019.
    """

    masked = True
    shift: Tensor
    spread: Tensor

    def __init__(self, shape: Sequence[int], log1p: bool = False) -> None:
        super().__init__()
        self.shape, self.log1p = tuple(shape), log1p
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out = ((x.log1p() if self.log1p else x) - self.shift) / self.spread
        return out if mask is None else torch.where(mask, out, 0)

    @torch.no_grad()
    def fit(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take shift and spread from ``x [N, *X]``: for each value of a row, or one of each where shape is ()."""
        x = x.log1p() if self.log1p else x
        if self.shape and x.numel() > _AT_ONCE:  # some columns at a time
            size = max(1, _AT_ONCE // len(x))
            masks = [None] * x[0].numel() if mask is None else mask.flatten(1).split(size, 1)
            parts = [_moments(own, seen, [0]) for own, seen in zip(x.flatten(1).split(size, 1), masks, strict=False)]
            mean, deviation = (torch.cat(each).view(self.shape) for each in zip(*parts, strict=True))
        else:
            mean, deviation = _moments(x, mask, [0] if self.shape else list(range(x.dim())))
        precision = torch.finfo(x.dtype)
        varies = deviation > precision.eps * mean.abs() + 1e3 * precision.tiny  # more than by rounding
        self.shift.copy_(mean)
        self.spread.copy_(torch.where(varies, deviation, 1.0))


def _moments(x: Tensor, mask: Tensor | None, over: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the observed values over some axes, in double precision."""
    wide = x.double()
    if mask is None:
        return wide.mean(over), wide.std(over, correction=0)
    count = mask.sum(over).clamp(min=1)
    mean = torch.where(mask, wide, 0).sum(over) / count
    return mean, (torch.where(mask, wide - mean, 0).square().sum(over) / count).sqrt()


class Cells(nn.Module):
    """Rows of a table as an encoder sees them: ``[N, D]`` → ``[N, Σ_j max(1, C_j) + D + Σ_j m_j]``.

    ``classes [D]``: C_j classes of column j become as many values of 0 and 1; where it is 0, numbers are standardised
    (after log(1 + x) where ``log1p [D]``). What is missing is 0, which is the mean of numbers, and D flags say what is
    there. Nazábal et al. 2020; Mattei & Frellsen 2019. ``atoms [D]``: m_j values of column j that get a flag of 0 or 1
    each, such as those of ``likelihoods.Atoms``; compared in single precision.
    """

    masked = True
    shift: Tensor
    spread: Tensor
    logs: Tensor
    points: Tensor
    marked: Tensor

    def __init__(self, classes: Sequence[int], log1p: Sequence[bool], atoms: Sequence[Sequence[float]] = ()) -> None:
        super().__init__()
        for name, count in (("log1p", len(log1p)), ("atoms", len(atoms or classes))):
            if count != len(classes):
                there = f"there are classes of {len(classes)} columns and {name} of {count}"
                raise ValueError(f"{there}; give one of each per column.")
        self.classes, self.log1p = tuple(classes), tuple(log1p)
        self.atoms = tuple(tuple(float(each) for each in own) for own in atoms)
        marks = [(j, point) for j, own in enumerate(self.atoms) for point in own]
        self.register_buffer("marked", torch.tensor([j for j, _ in marks], dtype=torch.int64), persistent=False)
        self.register_buffer("points", torch.tensor([point for _, point in marks]), persistent=False)
        self.register_buffer("shift", torch.zeros(len(classes)))
        self.register_buffer("spread", torch.ones(len(classes)))
        self.register_buffer("logs", torch.tensor(self.log1p), persistent=False)

    @property
    def out_features(self) -> int:
        """Numbers that a row becomes."""
        return sum(max(1, each) for each in self.classes) + len(self.classes) + len(self.points)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        there = torch.ones_like(x) if mask is None else mask.to(x.dtype)
        numbers = (self._scaled(x) - self.shift) / self.spread * there
        parts = [
            numbers[:, j : j + 1] if count == 0 else self._one_hot(x[:, j : j + 1], count) * there[:, j : j + 1]
            for j, count in enumerate(self.classes)
        ]
        if self.atoms:
            parts.append((x[:, self.marked].float() == self.points.float()) * there[:, self.marked])
        return torch.cat([*parts, there], 1)

    def _scaled(self, x: Tensor) -> Tensor:
        return torch.where(self.logs, x.clamp(min=0).log1p(), x)

    @staticmethod
    def _one_hot(codes: Tensor, count: int) -> Tensor:
        return (codes == torch.arange(count, dtype=codes.dtype, device=codes.device)).to(codes.dtype)

    @torch.no_grad()
    def fit(self, x: Tensor, mask: Tensor) -> None:
        """Take the means and deviations of numbers from observed values of ``x [N, D]``."""
        values, count = self._scaled(torch.where(mask, x, 0)).double(), mask.sum(0).clamp(min=1)
        mean = torch.where(mask, values, 0).sum(0) / count
        deviation = (torch.where(mask, values - mean, 0).square().sum(0) / count).sqrt()
        numbers = torch.tensor([each == 0 for each in self.classes], device=x.device)
        self.shift.copy_(torch.where(numbers, mean, 0))
        self.spread.copy_(torch.where(numbers & (deviation > 0), deviation, 1))


class Chain(nn.Module):
    """One network after another: ``first`` then ``second``."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    @property
    def context(self) -> int:
        """How many numbers of context ``second`` takes."""
        return int(getattr(self.second, "context", 0))

    @property
    def masked(self) -> bool:
        """Whether ``first`` takes a mask."""
        return bool(getattr(self.first, "masked", False))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return apply(self.second, apply(self.first, x, mask=mask), context)


class Constant(nn.Module):
    """The same ``n`` numbers for every row, ``[B, *X] → [B, n]``: 0 until they are set."""

    value: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.register_buffer("value", torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), self.n)


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
        n_channels = _image_channels(self.in_shape)
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


def _image_channels(shape: tuple[int, ...]) -> int:
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
