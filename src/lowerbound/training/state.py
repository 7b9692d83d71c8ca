"""The state of a fit: every tensor that a step may change, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.checks import is_number, shown
from lowerbound.storage.tensor_data import Tensors as Tensors

_OPTIMIZER = "optimizer."


class State:
    """Modules and their optimiser. ``tensors`` are live views; ``load`` copies into them in place."""

    def __init__(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, draws: bool = True) -> None:
        self.modules = dict(modules)
        self.optimizer = optimizer
        self.draws = draws  # whether a step may draw from torch's global generator
        self.parts = 1  # in how many parts a batch is taken, one after another, for its memory
        self.moves = 0  # how often a tensor was replaced by another, rather than filled anew
        named = ((f"{name}.{key}", p) for name, module in modules.items() for key, p in module.named_parameters())
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in named}

    def module_tensors(self) -> Tensors:
        """Parameters and buffers."""
        return {
            f"{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }

    def optimizer_tensors(self) -> Tensors:
        """The optimiser's moments and counts; none before its first step."""
        tensors = {
            f"{_OPTIMIZER}{key}.{self._names[parameter]}": value
            for parameter, slots in self.optimizer.state.items()
            for key, value in slots.items()
            if value is not None
        }
        for name, value in tensors.items():
            if not isinstance(value, Tensor):
                kind = type(self.optimizer).__name__
                raise TypeError(f"{kind} keeps {name} as {type(value).__name__}; take an optimiser that keeps tensors.")
        return tensors

    def options(self) -> list[dict[str, Any]]:
        """The optimiser's own numbers, a group each, as JSON; the learning rate is the schedules' affair."""
        return [
            {key: value for key, value in group.items() if key not in ("params", "lr") and _is_plain(value)}
            for group in self.optimizer.param_groups
        ]

    def set_options(self, options: Sequence[Mapping[str, Any]]) -> None:
        """Go on with ``options``, as ``options()`` gave them."""
        for group, known, told in zip(self.optimizer.param_groups, self.options(), options, strict=True):
            for key in known.keys() & told.keys():
                value = tuple(told[key]) if isinstance(known[key], tuple) else told[key]
                if type(value) is not type(known[key]) or not _is_plain(value):
                    raise ValueError(f"the optimiser's {key} is {shown(value)}, where {known[key]!r} was its start")
                group[key] = value

    def tensors(self) -> Tensors:
        """All of it that is tensors."""
        return self.module_tensors() | self.optimizer_tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what ``tensors`` held when they were copied. ``ValueError`` if they are of another state."""
        slots = {name: value for name, value in tensors.items() if name.startswith(_OPTIMIZER)}
        self._check(tensors.keys() - slots.keys(), tensors, slots)
        self.load_modules(tensors)
        live = self.optimizer_tensors()
        if live.keys() == slots.keys():
            for key, value in slots.items():
                live[key].copy_(value)
            return
        self.optimizer.state.clear()
        self.moves += 1
        parameters = self._parameters()
        for key, value in slots.items():
            slot, _, name = key.removeprefix(_OPTIMIZER).partition(".")
            parameter = parameters[name]
            device = parameter.device if self._steps_on_device or slot != "step" else value.device
            if value.shape == parameter.shape:  # as the parameter lies in memory: fused kernels walk both alike
                copy = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
            else:
                copy = value.to(device, copy=True)
            self.optimizer.state[parameter][slot] = copy

    def load_modules(self, tensors: Mapping[str, Tensor]) -> None:
        """Parameters and buffers only."""
        live = self.module_tensors()
        for name, value in live.items():
            if name not in tensors or tensors[name].shape != value.shape or tensors[name].dtype != value.dtype:
                raise ValueError(f"{name} is {_kind(tensors.get(name))}, where {_kind(value)} is due")
        for name, value in live.items():
            value.copy_(tensors[name])

    def _check(self, names: Set[str], tensors: Mapping[str, Tensor], slots: Mapping[str, Tensor]) -> None:
        """Refuse tensors of the optimiser that are not of this one: a fused kernel would read past their end."""
        if unknown := names - self.module_tensors().keys():
            raise ValueError(f"{min(unknown)} is no part of the modules")
        parameters, fused = self._parameters(), self.optimizer.defaults.get("fused")
        held: dict[str, set[str]] = {}
        for key, value in slots.items():
            slot, _, name = key.removeprefix(_OPTIMIZER).partition(".")
            if name not in parameters or (slot == "step" and value.dim() > 0):
                raise ValueError(f"{key} is of no parameter")
            due = parameters[name]
            alike = value.dtype == due.dtype and (value.shape == due.shape or value.dim() == 0 or not fused)
            if not alike and slot != "step":
                raise ValueError(f"{key} is {_kind(value)}, where {_kind(due)} is due")
            held.setdefault(name, set()).add(slot)
        kinds = {frozenset(found) for found in held.values()}
        if len(kinds) > 1:
            raise ValueError("the optimiser's tensors are not the same for all parameters")

    def _parameters(self) -> dict[str, Tensor]:
        return {name: parameter for parameter, name in self._names.items()}

    @property
    def _steps_on_device(self) -> bool:
        """Whether the optimiser counts its steps beside the parameters; others do so on the CPU."""
        return bool(self.optimizer.defaults.get("fused") or self.optimizer.defaults.get("capturable"))

    @contextlib.contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Run the block with the modules in training mode (or in evaluation mode), and leave them in the other."""
        for module in self.modules.values():
            module.train(training)
        try:
            yield
        finally:
            for module in self.modules.values():
                module.train(not training)

    def finite(self) -> bool:
        """Whether every tensor is finite: this waits for the device."""
        sums: dict[torch.device, list[Tensor]] = {}
        for value in self.tensors().values():
            if value.is_floating_point():
                sums.setdefault(value.device, []).append(value.sum())
        finite = all(bool(torch.stack(totals).isfinite().all()) for totals in sums.values())
        return finite or not self.first_not_finite()  # a sum of finite values can overflow

    def first_not_finite(self) -> str:
        """The name of a tensor that is not finite; "" if all are."""
        return next((name for name, value in self.tensors().items() if not value.isfinite().all()), "")


def _kind(value: Tensor | None) -> str:
    return "missing" if value is None else f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _is_plain(value: object) -> bool:
    """Whether JSON holds ``value``: a number, a truth, a word, nothing, or several of these."""
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | str) or is_number(value)


def copied(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copies, safe from later steps."""
    return {name: value.detach().clone() for name, value in tensors.items()}
