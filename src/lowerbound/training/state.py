"""The state of a fit: every tensor that a step may change, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


class State:
    """Modules and their optimiser. ``tensors`` are live views; ``load`` copies into them in place."""

    def __init__(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
        self.modules = dict(modules)
        self.optimizer = optimizer
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
            f"optimizer.{key}.{self._names[parameter]}": value
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
        """Go on with ``options``."""
        for group, told in zip(self.optimizer.param_groups, options, strict=True):
            group.update({key: tuple(value) if isinstance(value, list) else value for key, value in told.items()})

    def tensors(self) -> Tensors:
        """All of it that is tensors."""
        return self.module_tensors() | self.optimizer_tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what ``tensors`` held when they were copied."""
        self.load_modules(tensors)
        self.optimizer.state.clear()
        on_device = self.optimizer.defaults.get("fused") or self.optimizer.defaults.get("capturable")
        parameters = {name: parameter for parameter, name in self._names.items()}
        for key, value in tensors.items():
            owner, _, rest = key.partition(".")
            if owner == "optimizer":
                slot, _, name = rest.partition(".")
                parameter = parameters[name]
                device = parameter.device if on_device or slot != "step" else value.device
                self.optimizer.state[parameter][slot] = value.to(device, copy=True)

    def load_modules(self, tensors: Mapping[str, Tensor]) -> None:
        """Parameters and buffers only."""
        for name, value in self.module_tensors().items():
            value.copy_(tensors[name])

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


def _is_plain(value: object) -> bool:
    """Whether JSON holds ``value``: a number, a truth, a word, nothing, or several of these."""
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def copied(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copies, safe from later steps."""
    return {name: value.detach().clone() for name, value in tensors.items()}
