"""Normalising flows: normal values transformed by a chain of invertible networks."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowerbound.distributions.closed_gradients import HALF_LOG_2PI, inverse_affine
from lowerbound.distributions.family import Distribution, standard_normal

Kind = Literal["iaf", "realnvp", "nsf"]
_BINS = 8
_IMPORTING = threading.Lock()  # a second thread must not save the settings that the import has changed


class Transforms(nn.Module):
    """A chain of invertible maps of ``[…, d]``.

    Each map divides the dimensions into groups and transforms a group conditional on the groups before it and a
    context. Every second map has the groups in reverse order. The chain is initialised as the identity.

    - "iaf": affine; each dimension is a group; one network pass forwards, d passes for the inverse. Kingma et al. 2016.
    - "realnvp": affine; two groups; one pass forwards, two for the inverse (one without a context). Dinh et al. 2017.
    - "nsf": as "realnvp", with rational quadratic splines on [−5, 5]. Durkan et al. 2019.
    """

    def __init__(
        self, dim: int, kind: Kind = "iaf", transforms: int = 2, hidden: Sequence[int] = (64,), context: int = 0
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"kind is {kind!r}; give one of {', '.join(get_args(Kind))}.")
        if transforms < 1:
            raise ValueError(f"transforms must be at least 1, got {transforms}.")
        self.dim, self.kind = dim, kind
        self.groups = dim if kind == "iaf" else min(2, dim)
        self.sizes = (_BINS, _BINS, _BINS - 1) if kind == "nsf" else (1, 1)
        of = torch.arange(dim) // math.ceil(dim / self.groups) + 1
        self.networks = nn.ModuleList(
            _Masked(self.groups + 1 - of if step % 2 else of, self.groups, hidden, sum(self.sizes), context)
            for step in range(transforms)
        )

    def forward(self, x: Tensor, context: Tensor | None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """The image of ``x […, d]`` and the log-determinant of the Jacobian, ``[…]``."""
        if inverse and self.groups <= 2 and context is None:
            return self._inverse_of_halves(x) if self.kind == "realnvp" and self.groups == 2 else self._inverse(x)
        maps = _zuko()
        steps = [partial(self._map, network, context) for network in self.networks]
        chain = maps.ComposedTransform(*[maps.AutoregressiveTransform(step, self.groups) for step in steps])
        image, log_det = (chain.inv if inverse else chain).call_and_ladj(x)
        return image, log_det

    def _inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse, with one network pass per map for all rows: without a context, the first group has one map."""
        log_det = torch.zeros_like(y[..., 0])
        for network in reversed(self.networks):
            first = self._map(network, None, y.new_zeros(self.dim)).inv(y)  # right in the first group alone
            y, change = self._map(network, None, first).inv.call_and_ladj(y)
            log_det = log_det + change
        return y, log_det

    def _inverse_of_halves(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``_inverse`` of affine maps of two groups; what does not depend on a row is computed once for all rows."""
        middle = math.ceil(self.dim / 2)
        places = slice(0, middle), slice(middle, self.dim)
        halves, log_det = [y[..., place] for place in places], y.new_zeros(())
        for step in range(len(self.networks) - 1, -1, -1):
            network, one, two = self.networks[step], step % 2, 1 - step % 2  # the first group, and the second
            assert isinstance(network, _Masked)
            offsets, first, second = network.offsets(), places[one], places[two]
            halves[one], log_scale = inverse_affine(halves[one], offsets[-1][network.outputs(first)])
            log_det = log_det - log_scale.sum()
            given = network.of_second(halves[one], offsets, first, second)
            halves[two], log_scale = inverse_affine(halves[two], given)
            log_det = log_det - log_scale.sum(-1)
        return torch.cat(halves, -1), log_det

    def _map(self, network: nn.Module, context: Tensor | None, x: Tensor) -> Any:
        """The map of each dimension, given the groups before it in ``x``."""
        parameters = network(x, context).unflatten(-1, (self.dim, -1)).split(self.sizes, -1)
        if self.kind == "nsf":
            each = _zuko().MonotonicRQSTransform(*parameters)
        else:
            each = _zuko().MonotonicAffineTransform(*(parameter.squeeze(-1) for parameter in parameters))
        return _zuko().DependentTransform(each, 1)


@dataclass(frozen=True)
class Flow(Distribution):
    """z = loc + scale · T(ε; context), ε ~ N(0, I): ``loc`` and ``scale`` ``[B, d]``, ``context [B, C]`` or None.

    log q(z) = log N(ε; 0, I) − log |∂T/∂ε| − Σ log scale. For its own draws this is computed while sampling; for other
    values the flow must be inverted.
    """

    domain = "real numbers"
    loc: Tensor
    scale: Tensor
    context: Tensor | None
    transforms: Transforms
    batch_dims: int = 1
    drawn: dict[str, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)
    """The last draw: its noise, its z and its log q(z)."""
    reparameterisation = "composition"
    unconstrained = True

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return standard_normal(lead + event, generator, dtype)

    def sample(self, noise: Tensor) -> Tensor:
        moved, log_det = self._transform(noise)
        z = self.loc + self.scale * moved
        self.drawn.update(noise=noise, z=z, log_q=self._log_normal(noise) - log_det)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        noise, log_det = self._transform((z - self.loc) / self.scale, inverse=True)
        return self._log_normal(noise) + log_det

    def log_prob_of_sample(self, z: Tensor, noise: Tensor) -> Tensor:
        # If z is detached from the parameters, the gradient of log q(z) differs, and the flow must be inverted.
        same = self.drawn.get("z") is z or (not torch.is_grad_enabled() and self.drawn.get("noise") is noise)
        return self.drawn["log_q"] if same else self.log_prob(z)

    def _transform(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        x = x.expand(torch.broadcast_shapes(x.shape, self.loc.shape))  # noise may be shared by the rows
        image, log_det = self.transforms(x, self.context, inverse)
        return image, log_det

    def _log_normal(self, noise: Tensor) -> Tensor:
        return (-0.5 * noise.square() - HALF_LOG_2PI - self.scale.log()).sum(-1)


class _Masked(nn.Module):
    """A masked network ``[…, d] → […, d · n]``: outputs of a group depend only on inputs of earlier groups.

    Germain et al. 2015.
    """

    def __init__(self, of: Tensor, groups: int, hidden: Sequence[int], n: int, context: int) -> None:
        super().__init__()
        see = [of, *(torch.arange(size) % groups for size in hidden)]  # the last group on which each unit depends
        masks = [later.unsqueeze(-1) >= earlier for earlier, later in pairwise(see)]
        masks.append(of.repeat_interleave(n).unsqueeze(-1) > see[-1])
        self.n = n
        self.layers = nn.ModuleList(nn.Linear(mask.shape[1], mask.shape[0]) for mask in masks)
        self.context = nn.Linear(context, masks[0].shape[0], bias=False) if context else None
        for index, mask in enumerate(masks):
            self.register_buffer(f"mask_{index}", mask, persistent=False)
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            weight = torch.where(self.get_buffer(f"mask_{index}"), layer.weight, 0)
            x = functional.linear(functional.elu(x) if index else x, weight, layer.bias)
            if index == 0 and self.context is not None:
                x = x + self.context(context)  # once for each row, not for each draw
        return x

    def offsets(self) -> list[Tensor]:
        """For two groups, what is added to each layer's product with the units that depend on the first group.

        In hidden layers these are the units 1, 3, …; units 0, 2, … depend on no input.
        """
        found: list[Tensor] = []
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            if found:
                found.append(torch.addmv(layer.bias, layer.weight[:, ::2], functional.elu(found[-1][::2])))
            else:
                found.append(layer.bias)
        return found

    def of_second(self, x: Tensor, offsets: Sequence[Tensor], first: slice, second: slice) -> Tensor:
        """For two groups, the outputs of the ``second`` ``[…, d₂ · n]`` given the ``first``, ``x […, d₁]``."""
        columns, last = first, len(self.layers) - 1
        for index, (layer, offset) in enumerate(zip(self.layers, offsets, strict=True)):
            assert isinstance(layer, nn.Linear)
            rows = self.outputs(second) if index == last else slice(1, None, 2)
            x = functional.linear(functional.elu(x) if index else x, layer.weight[rows, columns], offset[rows])
            columns = slice(1, None, 2)
        return x

    def outputs(self, group: slice) -> slice:
        """The places of a group's outputs in the last layer."""
        return slice(group.start * self.n, group.stop * self.n)


@cache
def _zuko() -> Any:
    """Import zuko's transforms, and undo its change of torch's argument checks for the whole process."""
    shared: Any = torch.distributions.Distribution
    with _IMPORTING:
        before = {name: vars(shared)[name] for name in ("_validate_args", "arg_constraints")}
        try:
            from zuko import transforms
        finally:
            for name, value in before.items():
                setattr(shared, name, value)
    return transforms
