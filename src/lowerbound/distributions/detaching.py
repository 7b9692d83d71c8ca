"""Copy the fields of a distribution with all tensors and network parameters detached from the gradient."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.modes import modules_in

_KEPT = (str, bytes, int, float, complex, type, ModuleType, torch.dtype, torch.device, torch.Generator)


def detached_fields(value: Any) -> dict[str, Any]:
    """The constructor arguments of a dataclass instance, each ``detached``."""
    memo: dict[int, Any] = {}
    return {each.name: detached(getattr(value, each.name), memo) for each in dataclasses.fields(value) if each.init}


def detached(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of ``value`` whose tensors and module parameters are detached; their memory is shared.

    ``memo``: copies made so far, by the ``id`` of the original, so that an object held twice is copied once. Raises
    ValueError for a function that uses a network or a trainable tensor, because functions cannot be copied this way.
    """
    if value is None or isinstance(value, _KEPT):
        return value
    if id(value) in memo:
        return memo[id(value)][1]
    found = _detached(value, memo)
    memo.setdefault(id(value), (value, found))  # keeping the value alive keeps its id unique
    return found


def _detached(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, nn.Module):
        return _module(value, memo)
    if isinstance(value, Mapping):
        return {key: detached(each, memo) for key, each in value.items()}
    if isinstance(value, list | tuple):
        each = [detached(one, memo) for one in value]
        return type(value)(*each) if hasattr(value, "_fields") else type(value)(each)
    if isinstance(value, MethodType):
        return MethodType(value.__func__, detached(value.__self__, memo))
    if isinstance(value, partial):
        arguments = (detached(each, memo) for each in value.args)
        return partial(detached(value.func, memo), *arguments, **detached(value.keywords, memo))
    if isinstance(value, FunctionType):
        if any(parameter.requires_grad for module in modules_in(value) for parameter in module.parameters(False)):
            raise ValueError(
                f"the distribution holds {value.__qualname__}, a function that uses a network, whose parameters cannot "
                "be detached; store the network itself in the distribution."
            )
        held = [*(value.__defaults__ or ()), *inspect.getclosurevars(value).nonlocals.values()]
        if any(isinstance(each, Tensor) and each.requires_grad for each in held):
            raise ValueError(
                f"the distribution holds {value.__qualname__}, a function that uses a tensor, which cannot be "
                "detached; store the tensor itself in the distribution."
            )
        return value
    if callable(own := getattr(value, "stopped", None)):
        return own()
    return _object(value, memo)


def _module(module: nn.Module, memo: dict[int, Any]) -> Any:
    """A module that computes the same with detached parameters; it shares ``module``'s buffers and hooks."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"the distribution holds {type(module).__name__}, a scripted network, whose parameters cannot be detached; "
            "use the network without torch.jit."
        )
    if isinstance(inner := module._modules.get("_orig_mod"), nn.Module):  # what torch.compile wraps
        return detached(inner, memo)
    found = module.__new__(type(module))
    memo[id(module)] = (module, found)  # first, because its attributes may refer to it
    for name, value in vars(module).items():
        kept = "hook" in name or isinstance(value, FunctionType)
        found.__dict__[name] = value if kept else detached(value, memo)
    return found


def _object(value: Any, memo: dict[int, Any]) -> Any:
    """Detach the attributes of an object of another library, such as a ``torch.distributions.Transform``."""
    if not getattr(value, "__dict__", None):
        slots = [name for one in type(value).__mro__ for name in getattr(one, "__slots__", ())]
        held = [getattr(value, name, None) for name in slots]
        held += list(value) if isinstance(value, set | frozenset) else []
        if any(isinstance(each, nn.Module) or (isinstance(each, Tensor) and each.requires_grad) for each in held):
            raise ValueError(
                f"the distribution holds a {type(value).__name__} that contains a network or tensor, which cannot be "
                "detached; store the network or tensor itself in the distribution."
            )
        return value
    found = copy.copy(value)
    memo[id(value)] = (value, found)
    found.__dict__.update({name: detached(each, memo) for name, each in vars(value).items()})
    return found
