"""Marks of an objective: whether it is a lower bound on log p(x)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def no_bound(why: Callable[..., str], maximised: bool = True) -> Callable[[F], F]:
    """Mark an objective that is no lower bound: ``why`` says so of its settings, and "" where it is one.

    ``maximised``: whether a fit can maximise it, so that it can be given by its name.
    """

    def mark(function: F) -> F:
        function.no_bound = why  # type: ignore[attr-defined]
        function.is_part = maximised  # type: ignore[attr-defined]
        return function

    return mark


def lower_bound(function: F) -> F:
    """Mark an objective that is a lower bound on log p(x), in expectation, whatever its settings."""
    return no_bound(lambda **_: "")(function)


def why_no_bound(objective: Callable[..., Any]) -> str:
    """Why an objective, given with or without some of its settings, is no lower bound; "" where it is one.

    One that is not marked, by ``lower_bound`` or ``no_bound``, is not known to be one.
    """
    why, settings = _marked(objective)
    if why is None:
        name = getattr(objective, "__name__", type(objective).__name__)
        return f"{name} is not known to be a lower bound: mark it by objectives.lower_bound if it is"
    return why(**settings)


def is_marked_no_bound(objective: Callable[..., Any]) -> bool:
    """Whether an objective says that it is no lower bound."""
    why, settings = _marked(objective)
    return why is not None and bool(why(**settings))


def _marked(objective: Callable[..., Any]) -> tuple[Callable[..., str] | None, dict[str, Any]]:
    """The reason that an objective states for being no bound, and the settings that it was given."""
    settings: dict[str, Any] = {}
    while isinstance(objective, partial):
        settings = {**objective.keywords, **settings}
        objective = objective.func
    return getattr(objective, "no_bound", None), settings
