"""Networks for sequences ``[N, T, …]``: recurrent encoders, transitions of latents, and decoders of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowerbound.nn.inputs import Cells
from lowerbound.nn.precision import apply


def until_last(x: Tensor, mask: Tensor | None) -> Tensor:
    """Whether a step is not after the last observed step of its row, ``[B, T]``, of ``x`` and ``mask [B, T, *X]``."""
    if mask is None:
        return x.new_ones(x.shape[:2], dtype=torch.bool)
    return mask.flatten(2).any(2).flip(1).cumsum(1).flip(1) > 0


def whole_steps(live: Tensor) -> int:
    """The number of first steps at which all rows are live, from ``until_last``; 0 where to ask would cost more: on a
    GPU, or when a step is traced for any rows."""
    return int(live.all(0).sum()) if type(live) is Tensor and not live.is_cuda else 0


class EachStep(nn.Module):
    """The same ``network`` at each step: ``[N, T, *E] → [N, P, T, *X]``, P = ``n_parameters`` (``[N, T, *X]`` if 1)."""

    def __init__(self, network: nn.Module, n_parameters: int = 1) -> None:
        super().__init__()
        self.network, self.n_parameters = network, n_parameters

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = apply(self.network, z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return out if self.n_parameters == 1 else out.movedim(2, 1)

    def init_bias(self, values: Tensor) -> None:
        """Start with the output of each step near ``values [P, *X]``, where the network can."""
        if (own := getattr(self.network, "init_bias", None)) is not None:
            own(values)


class LinearTransition(nn.Module):
    """μ = A z + b and a constant raw σ: z_{t−1} ``[N, d]`` → ``[N, 2d]``, as in a Kalman filter. A starts as 0.9 I."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.weight = nn.Parameter(0.9 * torch.eye(latent_dim))
        self.bias = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, z: Tensor) -> Tensor:
        loc = functional.linear(z, self.weight, self.bias)
        return torch.cat([loc, self.raw_scale.expand_as(loc)], -1)


class GatedTransition(nn.Module):
    """μ = (1 − g) ⊙ (W z + b) + g ⊙ h(z) with the gate g(z) ∈ (0, 1), and a raw σ of relu(h(z)).

    z_{t−1} ``[N, d]`` → ``[N, 2d]``; g and h have ``hidden`` units. W starts as I. Krishnan, Shalit & Sontag 2017.
    """

    def __init__(self, latent_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.latent_dim, self.hidden = latent_dim, hidden
        self.first = nn.Linear(latent_dim, 2 * hidden)
        self.gate, self.proposal = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)
        self.raw_scale = nn.Linear(latent_dim, latent_dim)
        self.linear = nn.Linear(latent_dim, latent_dim)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        of_gate, of_proposal = self.first(z).relu().chunk(2, -1)
        gate, proposal = self.gate(of_gate).sigmoid(), self.proposal(of_proposal)
        loc = torch.lerp(self.linear(z), proposal, gate)
        return torch.cat([loc, self.raw_scale(proposal.relu())], -1)


class StepReader(nn.Module):
    """Features of each step by itself: ``[N, T, *in_shape] → [N, T, out_features]``, with a hidden layer.

    It reads the values, 0 where missing, and which are observed.
    """

    masked = True

    def __init__(self, in_shape: Sequence[int], out_features: int, hidden: int = 64) -> None:
        super().__init__()
        self.in_shape, self.out_features, self.hidden = tuple(in_shape), out_features, hidden
        self.layers = nn.Sequential(
            nn.Linear(2 * math.prod(self.in_shape), hidden), nn.ReLU(), nn.Linear(hidden, out_features)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(_values_and_flags(x, mask))
        return out


def _values_and_flags(x: Tensor, mask: Tensor | None) -> Tensor:
    """The values of each step, 0 where missing, and 1 where they are observed, ``[N, T, 2 · values]``."""
    seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    return torch.cat([(x * seen).flatten(2), seen.flatten(2)], 2)


class Recurrent(nn.Module):
    """Features of each step by a GRU of ``hidden`` units: ``[N, T, *in_shape] → [N, T, out_features]``.

    ``direction``: "backward", from the last observed step of a row to its first, so that the features of step t are of
    x_{t:T}; "forward", of x_{1:t}; or "both". It reads the values, 0 where missing, and which are observed; with
    ``cells`` (``nn.Cells``), what these make of each step of a table. Steps after the last observed one change nothing:
    a row's features do not depend on its padding. Krishnan et al. 2017.
    """

    masked = True

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        hidden: int = 64,
        direction: str = "backward",
        cells: Cells | None = None,
    ) -> None:
        super().__init__()
        if direction not in ("backward", "forward", "both"):
            raise ValueError(f'direction is {direction!r}; it takes "backward", "forward" or "both".')
        self.in_shape, self.out_features = tuple(in_shape), out_features
        self.hidden, self.direction, self.cells = hidden, direction, cells
        n_in = 2 * math.prod(self.in_shape) if cells is None else cells.out_features
        self.directions = ("backward", "forward") if direction == "both" else (direction,)
        self.units = nn.ModuleList(nn.GRU(n_in, hidden, batch_first=True) for _ in self.directions)
        self.head = nn.Linear(hidden * len(self.units), out_features)

    def states(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The units after each step, ``[N, T, hidden]`` of each direction, joined."""
        inputs, found = self._inputs(x, mask), []
        for direction, cell in zip(self.directions, self.units, strict=True):
            if direction == "forward":
                found.append(cell(inputs)[0])
                continue
            order = _reversed(until_last(x, mask))
            found.append(_in_order(cell(_in_order(inputs, order))[0], order))
        return torch.cat(found, 2)

    def _inputs(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the GRU reads of each step, ``[N, T, F]``."""
        if self.cells is not None:
            own = self.cells(x.flatten(0, 1), None if mask is None else mask.flatten(0, 1))
            found: Tensor = own.unflatten(0, x.shape[:2])
            return found
        return _values_and_flags(x, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self.states(x, mask))
        return out


def _reversed(live: Tensor) -> Tensor:
    """The order ``[N, T]`` that reverses the steps of each row up to its last observed one, and keeps those after."""
    steps = torch.arange(live.shape[1], device=live.device)
    return torch.where(live, live.sum(1, keepdim=True) - 1 - steps, steps)


def _in_order(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]))


class Summary(nn.Module):
    """Numbers of a whole sequence, ``[N, T, *in_shape] → [N, out_features]``: the last units of a GRU each way.

    It reads what ``Recurrent`` reads, and padding changes nothing.
    """

    masked = True

    def __init__(self, in_shape: Sequence[int], out_features: int, hidden: int = 64) -> None:
        super().__init__()
        self.in_shape, self.out_features, self.hidden = tuple(in_shape), out_features, hidden
        self.recurrent = Recurrent(in_shape, out_features, hidden, "both")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        backward, forward = self.recurrent.states(x, mask).split(self.hidden, 2)
        last = (until_last(x, mask).sum(1) - 1).clamp(min=0)
        ends = [backward[:, 0], forward[torch.arange(len(x), device=x.device), last]]
        out: Tensor = self.recurrent.head(torch.cat(ends, 1))
        return out


class Unrolled(nn.Module):
    """A sequence from one latent: ``[N, latent_dim] → [N, P, T, *X]``, with ``out_shape`` (P, *X), or X where P = 1.

    A GRU of ``hidden`` units starts at a linear function of z, and reads z at each of its T = ``steps`` steps.
    """

    def __init__(
        self, latent_dim: int, steps: int, out_shape: Sequence[int], n_parameters: int = 1, hidden: int = 64
    ) -> None:
        super().__init__()
        self.latent_dim, self.steps, self.out_shape = latent_dim, steps, tuple(out_shape)
        self.n_parameters, self.hidden = n_parameters, hidden
        self.start = nn.Linear(latent_dim, hidden)
        self.cell = nn.GRU(latent_dim, hidden, batch_first=True)
        self.head = nn.Linear(hidden, math.prod(self.out_shape))

    def forward(self, z: Tensor) -> Tensor:
        states, _ = self.cell(z.unsqueeze(1).expand(-1, self.steps, -1), self.start(z).tanh().unsqueeze(0))
        out: Tensor = self.head(states).unflatten(2, self.out_shape)
        return out if self.n_parameters == 1 else out.movedim(2, 1)

    @torch.no_grad()
    def init_bias(self, values: Tensor) -> None:
        """Start with the output of each step near ``values [P, *X]``."""
        self.head.bias.copy_(values.flatten())
