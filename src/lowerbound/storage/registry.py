"""Parts by name: "priors.Normal" is the ``Normal`` of ``lowerbound.priors``.

A name is looked up only in the packages listed here, only in their ``__all__``, and only if it is a part: a concrete
class whose instances are called, an optimiser, or a function marked as an objective or a gradient estimator. A package
is imported when one of its names is first needed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, cast

from torch.optim import Optimizer

from lowerbound.checks import shown
from lowerbound.errors import FormatError

PACKAGES = {
    "activations": "lowerbound.activations",
    "gradients": "lowerbound.gradients",
    "likelihoods": "lowerbound.likelihoods",
    "model": "lowerbound.model",
    "networks": "lowerbound.nn",
    "objectives": "lowerbound.objectives",
    "optimizers": "lowerbound.optimizers",
    "posteriors": "lowerbound.posteriors",
    "priors": "lowerbound.priors",
    "searches": "lowerbound.inference.searched",
    "schedules": "lowerbound.training.schedules",
    "smoothers": "lowerbound.inference.kalman",
    "topics": "lowerbound.topics",
}
"""The package that holds the parts of each kind."""

CALLED_WITH = {"objectives": ("draw",), "gradients": ("draw", "objective"), "optimizers": ("params",)}
"""Arguments that parts of a kind are given when they are called, and never beforehand."""
_SUPPLIED = {
    **CALLED_WITH,
    "posteriors": ("latent_dim", "encoder"),
    "priors": ("latent_dim", "n_classes"),
    "likelihoods": (),
}
"""Arguments without a default that a part of each kind is given by whoever builds it from its name.

A part that has a ``from_data`` of its own is given all of its arguments by that.
"""


def package(kind: str) -> ModuleType:
    """The package that holds the parts of a kind."""
    return importlib.import_module(PACKAGES[kind])


def is_part(value: object) -> bool:
    """Whether ``value`` is a concrete class whose instances are called, an optimiser, or a marked function."""
    if isinstance(value, type):
        if issubclass(value, Optimizer):
            return True
        return not inspect.isabstract(value) and any("__call__" in vars(each) for each in value.__mro__)
    return isinstance(value, FunctionType) and getattr(value, "is_part", False)


def names(kind: str) -> list[str]:
    """The names of the parts of a kind, without its own."""
    module = package(kind)
    return [name for name in module.__all__ if is_part(getattr(module, name))]


def table() -> dict[str, Callable[..., Any]]:
    """Every part by its full name."""
    return {f"{kind}.{name}": getattr(package(kind), name) for kind in PACKAGES for name in names(kind)}


def name_of(part: object) -> str | None:
    """The full name of a part; None if it is not one."""
    name = getattr(part, "__name__", None)
    if not isinstance(name, str) or not is_part(part):
        return None
    for kind in PACKAGES:
        module = package(kind)
        if name in module.__all__ and getattr(module, name) is part:
            return f"{kind}.{name}"
    return None


def named(name: Any, file: str) -> Callable[..., Any]:
    """The part of a full name found in ``file``; ``FormatError`` if there is none."""
    kind, _, own = name.partition(".") if isinstance(name, str) else ("", "", "")
    part: Any = getattr(package(kind), own, None) if kind in PACKAGES and own in package(kind).__all__ else None
    if not is_part(part):
        raise FormatError(f"{file} names {shown(name)}, which is no part of this version; update lowerbound.")
    return cast(Callable[..., Any], part)


def find(kind: str, name: str) -> Callable[..., Any]:
    """The part of a kind ("likelihoods", "objectives", …) by its name, in any case, with or without dashes."""
    there = names(kind)
    plain = {plain_name(each): each for each in there}
    if plain_name(name) in plain:
        return _ready(kind, getattr(package(kind), plain[plain_name(name)]))
    near = difflib.get_close_matches(plain_name(name), plain, n=1, cutoff=0.0)
    raise ValueError(f"{name!r} is none of the {kind} ({', '.join(there)}); did you mean {plain[near[0]]!r}?")


def plain_name(name: str) -> str:
    """A name as names are compared: in lower case, without dashes, underscores and spaces."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _ready(kind: str, part: Callable[..., Any]) -> Callable[..., Any]:
    """``part``, unless its name alone is not enough: it has arguments without a default that nothing supplies."""
    parameters = inspect.signature(part).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    lacking = [name for name in required if name not in _SUPPLIED.get(kind, required)]
    own = sum("from_data" in vars(each) for each in getattr(part, "__mro__", ())) > 1  # and not only its base's
    if lacking and not own:
        if kind == "posteriors" and "parts" in lacking:  # whose first argument is not the number of latents
            raise ValueError(
                f"{part.__name__} needs more than its name: in Python, give a function (latent_dim, encoder=…) that "
                f"returns lowerbound.{kind}.{part.__name__}(parts=…)."
            )
        settings = ", ".join(f"{each}=…" for each in lacking)
        name = f"lowerbound.{kind}.{part.__name__}"
        whole = isinstance(part, type) and kind != "posteriors"  # a posterior is made once its latents are known
        call = f"{name}({settings})" if whole else f"functools.partial({name}, {settings})"
        raise ValueError(f"{part.__name__} needs more than its name: in Python, give {call}.")
    return part
