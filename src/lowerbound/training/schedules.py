"""Schedules: a value as a function of time, in epochs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Constant", "Cosine", "Cyclic", "Schedule", "WarmUp", "as_schedule"]

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """``value`` at all times."""

    value: float

    def __call__(self, epochs: float) -> float:
        return self.value


@dataclass(frozen=True)
class WarmUp:
    """From ``start`` to ``end`` in a straight line over the first ``epochs``, then ``end``."""

    epochs: float
    end: float = 1.0
    start: float = 0.0

    def __call__(self, epochs: float) -> float:
        share = min(epochs / self.epochs, 1.0) if self.epochs > 0 else 1.0
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Cosine:
    """From ``start`` to ``end`` along half a cosine over the first ``epochs``, then ``end``."""

    start: float
    epochs: float
    end: float = 0.0

    def __call__(self, epochs: float) -> float:
        share = min(epochs / self.epochs, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Cyclic:
    """Repeated ``WarmUp``: cycles of ``epochs``, rising over the first share ``rising`` of each. Fu et al. 2019.

    After ``cycles`` of them it stays at ``end``.
    """

    epochs: float
    cycles: int = 4
    rising: float = 0.5
    end: float = 1.0
    start: float = 0.0

    def __call__(self, epochs: float) -> float:
        if epochs >= self.epochs * self.cycles:
            return self.end
        share = min(epochs % self.epochs / (self.epochs * self.rising), 1.0)
        return self.start + (self.end - self.start) * share


def as_schedule(value: float | Schedule) -> Schedule:
    """Convert a number to a constant schedule; return a schedule as it is."""
    return value if callable(value) else Constant(float(value))
