"""Evaluation mode while a model is used: no dropout, and batch normalisation by the buffers it has learnt."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")

_DEPTH, _WIDTH = 5, 100  # how far modules are looked for inside other objects, and in how many items of a container
_LIBRARIES = {"lowerbound", "torch", "numpy", "scipy"}  # whose functions hold no modules as globals
_LOCK = threading.Lock()
_HELD: dict[nn.Module, _Held] = {}


@dataclass
class _Held:
    """A module in evaluation mode for ``blocks`` blocks at once, and the mode it was in before the first."""

    training: bool
    blocks: int = 0


@contextlib.contextmanager
def eval_mode(*things: object) -> Iterator[None]:
    """Run the block with the modules of ``things`` in evaluation mode; then each submodule is in its own mode again.

    Blocks may nest, and overlap in several threads: the first one in switches, the last one out restores.
    """
    modules = list(dict.fromkeys(modules_in(*things)))
    with _LOCK:
        for module in modules:
            _HELD.setdefault(module, _Held(module.training)).blocks += 1
        _switch(dict.fromkeys(modules, False))
    try:
        yield
    finally:
        with _LOCK:
            for module in modules:
                _HELD[module].blocks -= 1
            _switch({module: _HELD.pop(module).training for module in modules if not _HELD[module].blocks})


def in_eval_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that uses models: it runs in ``eval_mode`` of its arguments and of what it refers to."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with eval_mode(function, *args, *kwargs.values()):
            return function(*args, **kwargs)

    return run


def read_only(function: Callable[P, R]) -> Callable[P, R]:
    """``in_eval_mode``, and without gradients."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with eval_mode(function, *args, *kwargs.values()), torch.no_grad():
            return function(*args, **kwargs)

    return run


def modules_in(*things: object) -> Iterator[nn.Module]:
    """Every module and submodule of ``things``, and of what functions among them refer to."""
    seen: set[int] = set()
    for thing in things:
        yield from _found(thing, _DEPTH, seen)


def _switch(modes: Mapping[nn.Module, bool]) -> None:
    """Put each module in its mode; where a class has its own ``train`` it is called, as it may do more than that."""
    for module, training in modes.items():
        if module.training != training and type(module).train is not nn.Module.train:
            module.train(training)
    for module, training in modes.items():
        if module.training != training:
            module.training = training


def _found(thing: object, depth: int, seen: set[int]) -> Iterator[nn.Module]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        yield from thing.modules()
    elif depth:
        for each in _inside(thing):
            yield from _found(each, depth - 1, seen)


def _inside(thing: object) -> Iterator[object]:
    """The objects that an object holds, or that a function refers to: its closure, defaults and globals."""
    if isinstance(thing, Tensor | ModuleType | type):
        return
    if isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, FunctionType):
        yield from thing.__defaults__ or ()
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # a name that is not bound yet
                yield cell.cell_contents
        if thing.__module__ is None or thing.__module__.partition(".")[0] not in _LIBRARIES:
            yield from (thing.__globals__[name] for name in _names(thing.__code__) if name in thing.__globals__)
    elif isinstance(thing, Mapping):
        yield from islice(thing.values(), _WIDTH)
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from islice(thing, _WIDTH)
    else:
        yield from getattr(thing, "__dict__", {}).values()


def _names(code: CodeType) -> Iterator[str]:
    """The names that code, and functions within it, look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
