"""Parts as JSON, and back: the name of a class in ``registry`` and its constructor's arguments.

Decoding builds only what the registry names; a network of one's own is saved as its class's name, and must be given
back. Nothing is unpickled, and nothing in a file is run.
"""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from torch import Tensor

from lowerbound.checks import fits, shown
from lowerbound.errors import FormatError
from lowerbound.storage import registry

CONFIG = "config.json"
_CHAIN = "networks.Chain"
_LONGEST = 10_000  # items in a list that describes a part
_SEVERAL = ("likelihoods", "estimators")  # arguments that are lists of parts
_BY_LATENT = ("parts", "parents")  # arguments that are by the name of a latent


def encode(value: Any) -> Any:
    """A part as JSON: its name and its constructor's arguments, which it keeps as attributes."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Tensor):
        value = value.tolist()  # an argument that became a buffer
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, partial) and not value.args and (name := registry.name_of(value.func)):
        return {"name": name, "given": {key: encode(item) for key, item in value.keywords.items()}}
    if name := registry.name_of(value):
        return {"name": name}
    if name := registry.name_of(type(value)):
        return {"part": name, "arguments": {key: encode(getattr(value, key)) for key in _arguments(type(value))}}
    return {"own": type(value).__qualname__}


def decode(value: Any, own: Mapping[str, Any], key: str = "model") -> Any:
    """The part that ``encode`` described. ``key`` is the argument it is for."""
    if isinstance(value, list):
        if len(value) > _LONGEST:
            raise FormatError(f"{CONFIG} gives {key} as a list of {len(value)}; no part has so many; restore it.")
        if key not in _SEVERAL and any(isinstance(item, dict) for item in value):
            raise FormatError(f"{CONFIG} describes the {key} by a list of parts, which none takes; restore it.")
        return tuple(decode(item, own, key) for item in value)
    if not isinstance(value, dict):
        return value
    if "own" in value:
        if key not in own:
            name = shown(value["own"]).strip("'")
            raise FormatError(f"the {key} is your own {name}: pass it back, as load(path, {key}=…).")
        return own[key]
    if "name" in value:
        named, given = registry.named(value["name"], CONFIG), value.get("given") or {}
        settings = {name: decode(item, own, name) for name, item in given.items()}
        _check_arguments(value["name"], settings)
        return partial(named, **settings) if settings else named
    if "part" in value:
        chained = value["part"] == _CHAIN  # its links answer to the name of the whole chain
        arguments = {
            name: {latent: decode(one, own, latent) for latent, one in item.items()}
            if name in _BY_LATENT and isinstance(item, dict)
            else decode(item, own, key if chained else name)
            for name, item in value["arguments"].items()
        }
        part = registry.named(value["part"], CONFIG)
        _check_arguments(value["part"], arguments)
        try:
            return part(**arguments)
        except FormatError:
            raise
        except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".").replace("; ", ", ")
            raise _not_built(value["part"], reason) from error
    raise FormatError(f"{CONFIG} describes the {key} by what is no part; restore it.")


_hints = cache(typing.get_type_hints)


def _check_arguments(name: str, given: Mapping[str, Any]) -> None:
    """Refuse arguments that a part does not take, or that are not of the types which it declares."""
    part = registry.named(name, CONFIG)
    made = part.__init__ if isinstance(part, type) else part  # type: ignore[misc]
    hints, at_calls = _hints(made), registry.CALLED_WITH.get(name.partition(".")[0], ())
    due = [key for key in _arguments(part) if key not in at_calls]
    for key, value in given.items():
        if key not in due:
            raise _not_built(name, f"it takes no {shown(key)}")
        if not fits(value, hints.get(key, Any)):
            raise _not_built(name, f"its {key} is {shown(value)}")


def _not_built(name: str, why: str) -> FormatError:
    return FormatError(f"{CONFIG} describes a {name} that cannot be built: {why}; restore it.")


def names_in(value: Any) -> Iterator[str]:
    """The names of the parts that are described anywhere in ``value``."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        if "part" in value:
            yield str(value["part"])
        for item in value.values():
            yield from names_in(item)


def _arguments(part: Callable[..., Any]) -> list[str]:
    """The names of a constructor's arguments (``nn.Module``'s own, ``*args``, is none)."""
    parameters = inspect.signature(part).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def with_defaults(value: Any) -> Any:
    """Add to each described part the default of every argument that the description lacks.

    So an argument that came to a part later does not make two descriptions of the same part differ.
    """
    if isinstance(value, list):
        return [with_defaults(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: with_defaults(item) for key, item in value.items()}
    if isinstance(found.get("arguments"), dict):
        with contextlib.suppress(FormatError):  # a name that is no part differs from every part's
            parameters = inspect.signature(registry.named(found.get("part"), CONFIG)).parameters.values()
            defaults = {p.name: encode(p.default) for p in parameters if p.default is not p.empty}
            found["arguments"] = defaults | found["arguments"]
    return found
