"""The state of a fit: every tensor that a step may change, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

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
        return {
            f"optimizer.{key}.{self._names[parameter]}": value
            for parameter, slots in self.optimizer.state.items()
            for key, value in slots.items()
            if isinstance(value, Tensor)
        }

    def tensors(self) -> Tensors:
        """All of it."""
        return self.module_tensors() | self.optimizer_tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what ``tensors`` held when they were copied."""
        self.load_modules(tensors)
        self.optimizer.state.clear()
        parameters = {name: parameter for parameter, name in self._names.items()}
        for key, value in tensors.items():
            owner, _, rest = key.partition(".")
            if owner == "optimizer":
                slot, _, name = rest.partition(".")
                self.optimizer.state[parameters[name]][slot] = value.clone()

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
        return all(bool(torch.stack(totals).isfinite().all()) for totals in sums.values())


def copied(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copies, safe from later steps."""
    return {name: value.detach().clone() for name, value in tensors.items()}
