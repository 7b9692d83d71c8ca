"""A value that an estimator chose for one of its arguments, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """The value chosen for an argument, and in words why."""

    value: Any
    why: str


def in_words(chosen: Mapping[str, Choice]) -> dict[str, str]:
    """Names and values as words: {"batch_size": Choice(32, …)} → {"batch size": "32"}."""
    return {name.replace("_", " "): _shown(choice.value) for name, choice in chosen.items()}


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " × ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
