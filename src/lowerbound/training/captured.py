"""Training steps on a GPU as CUDA graphs: recorded once, then replayed by a single launch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowerbound.draw import Batch
from lowerbound.errors import is_out_of_memory
from lowerbound.training.compiled import flat, unflat
from lowerbound.training.procedure import Metrics, Scalars, TooLarge
from lowerbound.training.state import State

Step = Callable[[State, Batch, Tensor, Scalars], Metrics]
Record = Callable[[Callable[[], Metrics]], tuple[Callable[[], Any], Metrics]]
"""A function that works in fixed memory → a function that repeats it there, and the tensors that hold its result."""

_WARM_UP = 3  # steps before the recording, in which libraries and the optimiser allocate what they keep


def cuda_graph(function: Callable[[], Metrics]) -> tuple[Callable[[], Any], Metrics]:
    """Record ``function`` as a CUDA graph, without running it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        metrics = function()
    return graph.replay, metrics


@dataclass(frozen=True)
class _Recording:
    inputs: list[Tensor]
    replay: Callable[[], Any]
    metrics: Metrics


class Captured:
    """Run ``step`` from a recording, one for each shape of batch.

    Batch, noise and scalars are copied to where the recording reads them; parameters and the optimiser's tensors
    change in place. The first steps run as usual and the next one is recorded, again if tensors of the state were
    replaced. A step that cannot be recorded runs eagerly, with a warning.
    """

    def __init__(self, step: Step, record: Record = cuda_graph) -> None:
        self._step, self._record = step, record
        self._recordings: dict[object, _Recording] = {}
        self._seen: dict[object, int] = {}
        self._moves = 0
        self._gave_up = False

    def __call__(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        if self._moves != state.moves:
            self._recordings, self._seen, self._moves = {}, {}, state.moves
        inputs = flat(batch, noise, scalars)
        shapes = (state.parts, *(tensor.shape for tensor in inputs))
        if shapes not in self._recordings:
            seen = self._seen[shapes] = self._seen.get(shapes, 0) + 1
            if self._gave_up or seen <= _WARM_UP or not self._recorded(shapes, state, batch, noise, scalars):
                return self._step(state, batch, noise, scalars)
        recording = self._recordings[shapes]
        torch._foreach_copy_(recording.inputs, inputs)
        recording.replay()
        values = torch.stack(list(recording.metrics.values()))  # copies: the next replay writes there
        return dict(zip(recording.metrics, values.unbind(), strict=True))

    def _recorded(self, shapes: object, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> bool:
        """Record the step for inputs of these shapes; return whether that was possible."""
        inputs = [tensor.clone() for tensor in flat(batch, noise, scalars)]
        fixed = unflat(inputs, batch, scalars)
        if state.optimizer is not None:
            state.optimizer.zero_grad(set_to_none=True)  # so that the recording allocates gradients in its own memory
        try:
            replay, metrics = self._record(lambda: self._step(state, *fixed))
        except TooLarge:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"the step is not recorded ({type(error).__name__}: {reason})", RuntimeWarning, stacklevel=5)
            self._gave_up = True
            return False
        self._recordings[shapes] = _Recording(inputs, replay, metrics)
        return True
