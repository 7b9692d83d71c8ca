"""What is said of an objective: whether it is a lower bound on log p(x)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def no_bound(why: Callable[..., str]) -> Callable[[F], F]:
    """Mark an objective that is no lower bound: ``why`` says so of its settings, and "" where it is one."""

    def mark(function: F) -> F:
        function.no_bound = why  # type: ignore[attr-defined]
        return function

    return mark


def why_no_bound(objective: Callable[..., Any]) -> str:
    """Why an objective, given with or without some of its settings, is no lower bound; "" where it is one."""
    settings: dict[str, Any] = {}
    while isinstance(objective, partial):
        settings = {**objective.keywords, **settings}
        objective = objective.func
    why: Callable[..., str] | None = getattr(objective, "no_bound", None)
    return "" if why is None else why(**settings)
