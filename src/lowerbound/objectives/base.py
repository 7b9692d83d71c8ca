"""Marks of an objective: whether it is a lower bound on log p(x)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def no_bound(why: Callable[..., str], maximised: bool = True) -> Callable[[F], F]:
    """Decorator that marks an objective as not a lower bound on log p(x).

    ``why``: a function of the objective's settings that returns the reason, or "" for settings with which it is a lower
    bound. ``maximised``: whether a fit can maximise it, and it can be chosen by name.
    """

    def mark(function: F) -> F:
        function.no_bound = why  # type: ignore[attr-defined]
        function.is_part = maximised  # type: ignore[attr-defined]
        return function

    return mark


def lower_bound(function: F) -> F:
    """Decorator that marks an objective as a lower bound on log p(x) in expectation, for all settings."""
    return no_bound(lambda **_: "")(function)


def sums_states(function: F) -> F:
    """Decorator that marks an objective as a sum over the states of the latent that is its argument ``latent``."""
    function.sums_states = True  # type: ignore[attr-defined]
    return function


def why_no_bound(objective: Callable[..., Any]) -> str:
    """Why an objective (or a partial of one, with settings) is not a lower bound on log p(x); "" if it is one.

    An objective without the mark ``lower_bound`` or ``no_bound`` is treated as not a bound.
    """
    why, settings = _marked(objective)
    if why is None:
        name = getattr(objective, "__name__", type(objective).__name__)
        return f"{name} is not marked as a lower bound; if it is one, decorate it with objectives.lower_bound"
    return why(**settings)


def is_marked_no_bound(objective: Callable[..., Any]) -> bool:
    """Whether an objective is explicitly marked as not a lower bound."""
    why, settings = _marked(objective)
    return why is not None and bool(why(**settings))


def _marked(objective: Callable[..., Any]) -> tuple[Callable[..., str] | None, dict[str, Any]]:
    """The function ``why`` of a marked objective, and the settings that were bound by ``functools.partial``."""
    settings: dict[str, Any] = {}
    while isinstance(objective, partial):
        settings = {**objective.keywords, **settings}
        objective = objective.func
    return getattr(objective, "no_bound", None), settings
