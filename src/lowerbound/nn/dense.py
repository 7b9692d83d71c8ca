"""Fully connected networks, tables of states, and combinations of networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowerbound.nn.precision import apply


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

    def forward(self, x: Tensor, context: Tensor | None = None, outputs: Tensor | None = None) -> Tensor:
        """``outputs``: the places of some of the flattened outputs, if only these are needed, ``[N, n]``."""
        if self.context:
            if context is None or context.shape[1:] != (self.context,):
                given = "none" if context is None else list(context.shape[1:])
                raise ValueError(
                    f"this network takes a context of [{self.context}] numbers a row, and was given {given}."
                )
            x = torch.cat([x.flatten(1), context], 1)
        x = x.flatten(1)
        if outputs is not None:
            return self._some(x, outputs)
        out: Tensor = self.layers(x)
        if self.direct is not None:
            out = out + self.direct(x)
        return out.unflatten(1, self.out_shape) if len(self.out_shape) != 1 else out

    @property
    def selects(self) -> bool:
        """Whether ``forward`` can compute some of the outputs alone: no other code replaces or watches its layers."""
        parts = list(self.modules())
        watched = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
        return type(self.layers[-1]) is nn.Linear and not watched

    def _some(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Some of the outputs: by the rows of the last layer's weights, which are fewer than its results."""
        last, hidden = self.layers[-1], self.layers[:-1](x)
        assert isinstance(last, nn.Linear)
        out = functional.linear(hidden, last.weight.index_select(0, outputs), last.bias.index_select(0, outputs))
        if self.direct is not None:
            out = out + functional.linear(x, self.direct.weight.index_select(0, outputs))
        return out

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
