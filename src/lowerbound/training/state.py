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
    """Everything that a fit changes: modules by name and, if there is one, their optimiser.

    ``modules["model"]`` is the model. Anything else that a step updates (sums, counts) is a buffer of another module.
    ``draws``: whether a step may draw from torch's global generator, as dropout does. ``tensors`` gives live views;
    ``load`` copies into them.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None, draws: bool = True
    ) -> None:
        self.modules = dict(modules)
        self.optimizer = optimizer
        self.draws = draws
        self.parts = 1  # micro-batches that a batch is split into to fit in memory
        self.moves = 0  # how often a tensor was replaced by a new one instead of being filled
        named = ((f"{name}.{key}", p) for name, module in modules.items() for key, p in module.named_parameters())
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in named}
        self.rates = _rates(optimizer)

    def module_tensors(self) -> Tensors:
        """Parameters and buffers."""
        return {
            f"{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }

    def optimizer_tensors(self) -> Tensors:
        """The optimiser's moments and counts; none before its first step."""
        if self.optimizer is None:
            return {}
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
        """The optimiser's settings for each of its groups, as JSON, but for learning rates, which schedules set."""
        return [
            {key: value for key, value in group.items() if key not in ("params", "lr") and _is_plain(value)}
            for group in self.groups
        ]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups of parameters, live; none without an optimiser."""
        return [] if self.optimizer is None else self.optimizer.param_groups

    def set_learning_rate(self, rate: Tensor) -> None:
        """Set the learning rate of each group: ``rate`` times its own, relative to the optimiser's."""
        for group, own in zip(self.groups, self.rates, strict=True):
            on_device = group.get("fused") or group.get("capturable")  # others take a number
            scaled = rate if own == 1 else rate * own
            group["lr"] = scaled if on_device else float(scaled)

    def set_options(self, options: Sequence[Mapping[str, Any]]) -> None:
        """Set the optimiser's settings to ``options``, as ``options()`` gave them."""
        for group, known, saved in zip(self.groups, self.options(), options, strict=True):
            for key in known.keys() & saved.keys():
                value = tuple(saved[key]) if isinstance(known[key], tuple) else saved[key]
                if type(value) is not type(known[key]) or not _is_plain(value):
                    raise ValueError(f"the optimiser's {key} is {shown(value)}, where {known[key]!r} was its start")
                group[key] = value

    def tensors(self) -> Tensors:
        """The tensors of modules and optimiser."""
        return self.module_tensors() | self.optimizer_tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all tensors to those of ``tensors``, an earlier copy; ``ValueError`` if it is of another state."""
        slots = {name: value for name, value in tensors.items() if name.startswith(_OPTIMIZER)}
        self._check(tensors.keys() - slots.keys(), tensors, slots)
        self.load_modules(tensors)
        live = self.optimizer_tensors()
        if live.keys() == slots.keys():
            for key, value in slots.items():
                live[key].copy_(value)
            return
        assert self.optimizer is not None  # else _check would have refused the slots
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
        """Set parameters and buffers only."""
        live = self.module_tensors()
        for name, value in live.items():
            if name not in tensors or tensors[name].shape != value.shape or tensors[name].dtype != value.dtype:
                raise ValueError(f"{name} is {_kind(tensors.get(name))}, where {_kind(value)} is due")
        for name, value in live.items():
            value.copy_(tensors[name])

    def _check(self, names: Set[str], tensors: Mapping[str, Tensor], slots: Mapping[str, Tensor]) -> None:
        """Refuse tensors of another optimiser: a fused kernel would read past their end."""
        if unknown := names - self.module_tensors().keys():
            raise ValueError(f"{min(unknown)} is no part of the modules")
        if slots and self.optimizer is None:
            raise ValueError(f"{min(slots)} is of an optimiser, and this fit has none")
        parameters, fused = self._parameters(), self._defaults.get("fused")
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
        """Whether the optimiser keeps its step count on the parameters' device; others keep it on the CPU."""
        return bool(self._defaults.get("fused") or self._defaults.get("capturable"))

    @property
    def _defaults(self) -> dict[str, Any]:
        return {} if self.optimizer is None else self.optimizer.defaults

    @contextlib.contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Run the block with the modules in training mode (or in evaluation mode), then switch them to the other."""
        for module in self.modules.values():
            module.train(training)
        try:
            yield
        finally:
            for module in self.modules.values():
                module.train(not training)

    def finite(self) -> bool:
        """Whether every tensor is finite. Waits for the device."""
        sums: dict[torch.device, list[Tensor]] = {}
        for value in self.tensors().values():
            if value.is_floating_point():
                sums.setdefault(value.device, []).append(value.sum())
        finite = all(bool(torch.stack(totals).isfinite().all()) for totals in sums.values())
        return finite or not self.first_not_finite()  # a sum of finite values can overflow

    def first_not_finite(self) -> str:
        """The name of a tensor that is not finite; "" if all are."""
        named = self.tensors().items()  # a sum needs no memory, but can overflow
        return next((name for name, v in named if not v.sum().isfinite() and not v.isfinite().all()), "")


def _rates(optimizer: torch.optim.Optimizer | None) -> list[float]:
    """The learning rate of each of the optimiser's groups, divided by the optimiser's own."""
    if optimizer is None:
        return []
    own = float(optimizer.defaults.get("lr", 1.0))
    rates = [float(group.get("lr", own)) for group in optimizer.param_groups]
    if own == 0 and any(rates):
        raise ValueError("the optimiser's lr is 0, and its groups' are not: give it an lr, to which theirs relate.")
    return [1.0 if rate == own else rate / own for rate in rates]


def _kind(value: Tensor | None) -> str:
    return "missing" if value is None else f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _is_plain(value: object) -> bool:
    """Whether ``value`` is JSON: a number, a boolean, text, None, or a list of these."""
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | str) or is_number(value)


def copied(tensors: Mapping[str, Tensor], over: Mapping[str, Tensor] | None = None) -> Tensors:
    """Copy tensors, so that later steps do not change them; ``over`` an earlier copy of the same, if there is one."""
    known = over or {}
    return {
        name: known[name].copy_(value.detach()) if name in known else value.detach().clone()
        for name, value in tensors.items()
    }
