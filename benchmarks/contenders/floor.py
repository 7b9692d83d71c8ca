"""The floor: the products of a step at its exact shapes, and one pass of Adam, with nothing around them.

*Warm*: each repeated alone, its operands in the caches as far as they fit, and the times summed. *In sequence*: one
after the other as in a step. Biases, activations, the loss and the draws are left out; what a product writes to is
allocated beforehand, but for convolutions, which have no such form.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from contenders.job import Job, Laps
from contenders.workloads import LEARNING_RATE, ROWS, Convolution, Layer, Linear, Workload

Call = Callable[[], object]
REPETITIONS, CHUNK_SECONDS = 7, 0.02


@dataclass(frozen=True)
class Products:
    forward: Call
    backward: tuple[Call, ...]


@torch.no_grad()
def train(job: Job, laps: Laps) -> dict[str, float]:
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    layers, adam = prepare(job.workload)
    calls = [layer.forward for layer in layers]
    calls += [call for layer in reversed(layers) for call in layer.backward]
    steps = ROWS / job.workload.batch
    return {
        "epoch_s": steps * sum(seconds(call) for call in (*calls, adam)),
        "in_sequence_s": steps * seconds(lambda: [call() for call in (*calls, adam)]),
        "adam_s": steps * seconds(adam),
    }


def seconds(call: Call) -> float:
    """Of one call: the median over repetitions of the mean over as many calls as last long enough to be timed."""
    count = 1
    while (spent := _spent(call, count)) < CHUNK_SECONDS:
        count = max(2 * count, int(count * CHUNK_SECONDS / spent))
    return statistics.median(_spent(call, count) / count for _ in range(REPETITIONS))


def prepare(workload: Workload) -> tuple[list[Products], Call]:
    """The products of each layer, and Adam on all parameters as one vector."""
    sizes = [torch.Size(layer.weight_shape).numel() for layer in workload.layers]
    biases = sum(layer.outputs for layer in workload.layers)
    parameters = torch.randn(sum(sizes) + biases).mul_(0.03).requires_grad_()
    parameters.grad = torch.randn_like(parameters)
    adam = torch.optim.Adam([parameters], lr=LEARNING_RATE, fused=True)
    weights = parameters.detach()[: sum(sizes)].split(sizes)
    gradients = parameters.grad[: sum(sizes)].split(sizes)
    rows = [workload.batch] * len(workload.encoder) + [workload.batch * workload.draws] * len(workload.decoder)
    layers = [
        _products(layer, count, weight.view(layer.weight_shape), gradient.view(layer.weight_shape), position > 0)
        for position, (layer, count, weight, gradient) in enumerate(
            zip(workload.layers, rows, weights, gradients, strict=True)
        )
    ]
    return layers, adam.step


def _products(layer: Layer, rows: int, weight: Tensor, gradient: Tensor, wants_input: bool) -> Products:
    """``wants_input``: whether the gradient of its input is needed, as it is of every layer but the first."""
    if isinstance(layer, Convolution):
        return _convolution(layer, rows, weight, wants_input)
    return _linear(layer, rows, weight, gradient, wants_input)


def _linear(layer: Linear, rows: int, weight: Tensor, gradient: Tensor, wants_input: bool) -> Products:
    x, out = torch.randn(rows, layer.inputs), torch.empty(rows, layer.outputs)
    grad_x, grad_out = torch.empty_like(x), torch.randn_like(out)

    def backward() -> Iterator[Call]:
        yield lambda: torch.mm(grad_out.t(), x, out=gradient)
        if wants_input:
            yield lambda: torch.mm(grad_out, weight, out=grad_x)

    return Products(lambda: torch.mm(x, weight.t(), out=out), tuple(backward()))


def _convolution(layer: Convolution, rows: int, weight: Tensor, wants_input: bool) -> Products:
    side = 2 * layer.side if layer.transposed else layer.side // 2
    x = torch.randn(rows, layer.inputs, layer.side, layer.side)
    grad_out = torch.randn(rows, layer.outputs, side, side)
    form = ([2, 2], [1, 1], [1, 1], layer.transposed, [0, 0], 1)  # stride, padding, dilation, …, groups

    def backward() -> object:
        wanted = [wants_input, True, False]
        return torch.ops.aten.convolution_backward(grad_out, x, weight, None, *form, wanted)

    return Products(lambda: torch.ops.aten.convolution(x, weight, None, *form), (backward,))


def _spent(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start
