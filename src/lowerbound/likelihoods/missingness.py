"""P(missing|x) for the columns of one likelihood: logistic in x, log x or logit x, or one logit per class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowerbound.likelihoods.logistic import count_expectation

Of = Literal["value", "log", "logit"]
"""The quantity in which logit P(missing|x) is linear: x, log x or logit x."""
_DRAWS = 64
_AT_ONCE = 2**20  # the most parameter values for which draws are made in one call


class Part(Protocol):
    """The methods of a likelihood that are used here; see ``Factorised``."""

    def log_probs(self, params: Tensor) -> Tensor: ...
    def log_missing(self, params: Tensor, line: Line) -> Tensor: ...
    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor: ...
    def centre_and_unit(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]: ...


class Curve(nn.Module, ABC):
    """P(missing|x) for the d columns of one likelihood; ``learned [d]``: for which columns it is not constant."""

    learned: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("learned", torch.ones(columns, dtype=torch.bool))

    @abstractmethod
    def logit(self, x: Tensor) -> Tensor:
        """logit P(missing|x), ``[…, d]``."""

    @abstractmethod
    def log_missing(self, part: Part, params: Tensor) -> Tensor:
        """log ∫ P(missing|x) p(x|z) dx, ``[K, B, …, d]``."""

    @abstractmethod
    def sample_missing(self, part: Part, params: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from p(x|z, missing), ``[K, B, …, d]``."""

    @abstractmethod
    def initialise(self, part: Part, x: Tensor, mask: Tensor) -> None:
        """Start at the share of missing cells of each column, independent of x."""

    def _share(self, mask: Tensor) -> Tensor:
        """The logit of each column's share of missing cells, kept away from 0 and 1; sets ``learned``."""
        rows = mask.flatten(0, -2)
        share = (~rows).double().mean(0)
        self.learned.copy_((share > 0) & (share < 1))
        half = 0.5 / (len(rows) + 1)
        return share.clamp(half, 1 - half).logit()


class Classes(Curve):
    """logit P(missing|x) is a parameter for each class."""

    def __init__(self, columns: int, n_classes: int) -> None:
        super().__init__(columns)
        self.logits = nn.Parameter(torch.zeros(columns, n_classes))

    def logit(self, x: Tensor) -> Tensor:
        logits = self._logits()
        index = x.long().clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
        return logits.expand(*x.shape, logits.shape[-1]).gather(-1, index).squeeze(-1)

    def log_missing(self, part: Part, params: Tensor) -> Tensor:
        return self._joint(part, params).logsumexp(-1)

    def sample_missing(self, part: Part, params: Tensor, generator: torch.Generator) -> Tensor:
        probs = self._joint(part, params).softmax(-1)
        drawn = torch.multinomial(probs.flatten(0, -2), 1, generator=generator)
        return drawn.view(probs.shape[:-1]).to(params.dtype)

    @torch.no_grad()
    def initialise(self, part: Part, x: Tensor, mask: Tensor) -> None:
        self.logits.copy_(self._share(mask).unsqueeze(-1).expand_as(self.logits))

    def _logits(self) -> Tensor:
        return torch.where(self.learned.unsqueeze(-1), self.logits, self.logits.detach())

    def _joint(self, part: Part, params: Tensor) -> Tensor:
        """log p(x = c, missing|z), ``[K, B, …, d, C]``."""
        return part.log_probs(params) + functional.logsigmoid(self._logits())


class Line(Curve):
    """logit P(missing|x) = ``intercept`` + ``slope`` · (u − ``centre``)/``unit`` with u = x, log x or logit x.

    ``at_zero`` and ``at_one``: the logits at x = 0 and x = 1, if these have a positive probability. ``centre`` and
    ``unit`` are 0 and 1 until ``initialise`` sets them.
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, columns: int, of: Of = "value", atoms: int = 0) -> None:
        super().__init__(columns)
        self.of = of
        self.register_buffer("centre", torch.zeros(columns))
        self.register_buffer("unit", torch.ones(columns))
        self.intercept = nn.Parameter(torch.zeros(columns))
        self.slope = nn.Parameter(torch.zeros(columns))
        self.at_zero = nn.Parameter(torch.zeros(columns)) if atoms > 0 else None
        self.at_one = nn.Parameter(torch.zeros(columns)) if atoms > 1 else None

    def logit(self, x: Tensor) -> Tensor:
        logit = self.of_value(self._value(x))
        logit = logit if self.at_zero is None else torch.where(x == 0, self._held(self.at_zero), logit)
        return logit if self.at_one is None else torch.where(x == 1, self._held(self.at_one), logit)

    def of_value(self, u: Tensor) -> Tensor:
        """logit P(missing|x), given u = x, log x or logit x."""
        return self._held(self.intercept) + self._held(self.slope) * (u - self.centre) / self.unit

    def _value(self, x: Tensor) -> Tensor:
        """The quantity in which the logit is linear; an arbitrary number where it is undefined."""
        if self.of == "log":
            return torch.where(x > 0, x, 1).log()
        return torch.where((x > 0) & (x < 1), x, 0.5).logit() if self.of == "logit" else x

    def log_missing(self, part: Part, params: Tensor) -> Tensor:
        return part.log_missing(params, self)

    def sample_missing(self, part: Part, params: Tensor, generator: torch.Generator) -> Tensor:
        """Choose one of ``_DRAWS`` draws of x in proportion to P(missing|x), as the maximum of log P + Gumbel noise."""
        chosen, best = torch.zeros((), device=params.device), torch.full((), -torch.inf, device=params.device)
        together = max(1, min(_DRAWS, _AT_ONCE // max(1, params.numel())))
        for first in range(0, _DRAWS, together):
            count = min(together, _DRAWS - first)
            x = part.sample(params.repeat(count, *[1] * (params.dim() - 1)), generator).unflatten(0, (count, -1))
            uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            score, place = (functional.logsigmoid(self.logit(x)) - (-uniform.log()).log()).max(0, keepdim=True)
            chosen = torch.where(score > best, x.gather(0, place), chosen)
            best = torch.maximum(score, best)
        return chosen.squeeze(0)

    @torch.no_grad()
    def initialise(self, part: Part, x: Tensor, mask: Tensor) -> None:
        """Also set ``centre`` and ``unit``."""
        centre, unit = part.centre_and_unit(x, mask)
        self.centre.copy_(centre)
        self.unit.copy_(torch.where(unit > 0, unit, 1.0))
        self.slope.zero_()
        self.intercept.copy_(self._share(mask))
        for atom in (self.at_zero, self.at_one):
            if atom is not None:
                atom.copy_(self.intercept)

    def _held(self, parameter: Tensor) -> Tensor:
        return torch.where(self.learned, parameter, parameter.detach())

    def image(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of the logit, given those of x (or log x, or logit x) given z."""
        slope = self._held(self.slope) / self.unit
        return self._held(self.intercept) + slope * (loc - self.centre), (slope * scale).expand_as(loc)

    def at(self, x: Tensor) -> Tensor:
        """logit P(missing|x) for values ``[…, d, L]``, or for the same values ``[L]`` in each column."""
        return self.logit(x.movedim(-1, 0) if x.dim() > 1 else x.unsqueeze(-1)).movedim(0, -1)

    def of_counts(self, log_prob: Callable[[Tensor], Tensor], mean: Tensor, deviation: Tensor, tail: Tensor) -> Tensor:
        """log P(missing|z) for counts; the arguments are those of ``count_expectation``."""
        return count_expectation(log_prob, mean, deviation, tail, self.at)

    def with_zeros(self, logit: Tensor, log_missing: Tensor) -> Tensor:
        """log P(missing|z) if x is 0 with probability σ(``logit``); ``log_missing`` is that of other x."""
        zero = functional.logsigmoid(logit) + functional.logsigmoid(self.logit(torch.zeros_like(self.centre)))
        return torch.logaddexp(zero, functional.logsigmoid(-logit) + log_missing)
