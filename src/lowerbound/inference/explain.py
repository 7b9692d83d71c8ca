"""Find where a value that is not finite first appears: run one step with the layers watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.training import Metrics


def explain(modules: Mapping[str, nn.Module], batch: Batch, loss: Callable[[], tuple[Tensor, Metrics]]) -> str:
    """Name the first row, parameter, layer output, term or gradient that is not finite; "" if all are finite."""
    rows = (batch.x if batch.mask is None else torch.where(batch.mask, batch.x, 0)).flatten(1)
    if bad := [int(batch.index[i]) for i in range(len(rows)) if not rows[i].isfinite().all()]:
        return f"row {bad[0]} of the training data holds a value that is not finite"
    parameters = {f"{name}.{key}": p for name, module in modules.items() for key, p in module.named_parameters()}
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            return f"{name} is {_kind(parameter)}"
    layer, (total, metrics) = _first_layer(modules, loss)
    after = f", first in the output of {layer}," if layer else ""
    for term in ("log_lik", "kl", "objective"):
        if not metrics[term].isfinite():
            return f"{term} became {_kind(metrics[term])}{after}"
    if after or not total.isfinite():
        return f"the loss became {_kind(total)}{after}"
    for parameter in parameters.values():
        parameter.grad = None
    total.backward()
    for name, parameter in reversed(parameters.items()):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name} became {_kind(parameter.grad)}"
    return ""


def _first_layer(
    modules: Mapping[str, nn.Module], loss: Callable[[], tuple[Tensor, Metrics]]
) -> tuple[str, tuple[Tensor, Metrics]]:
    found: list[str] = []
    handles = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not found and not output.isfinite().all():
                found.append(f"{name} ({type(module).__name__})")

        return hook

    for root, module in modules.items():
        for key, child in module.named_modules():
            if not any(child.children()):
                handles.append(child.register_forward_hook(watch(f"{root}.{key}")))
    try:
        values = loss()
    finally:
        for handle in handles:
            handle.remove()
    return "".join(found), values


def _kind(value: Tensor) -> str:
    return "NaN" if value.isnan().any() else "infinite"
