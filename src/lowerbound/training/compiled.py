"""Gradients of a loss from a compiled graph: traced once, without autograd at each step."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.errors import is_out_of_memory
from lowerbound.process import ignored, rewound
from lowerbound.training.procedure import Metrics, Scalars
from lowerbound.training.state import copied

Loss = Callable[[Batch, Tensor, Scalars], tuple[Tensor, Metrics]]
Gradients = Sequence[Tensor | None]
Run = Callable[..., Sequence[Tensor | None]]
Backend = Callable[[torch.fx.GraphModule, list[Any]], Run]
_TRACING = threading.RLock()  # while it works, a tracer replaces methods of nn.Module for all threads
# random numbers stay those of torch's generators; a graph is chosen by shapes and strides, which need no second check
_OPTIONS = {"fallback_random": True, "size_asserts": False, "alignment_asserts": False}


class Backward:
    """Gradients of a ``loss`` with respect to the parameters of ``modules``, by autograd."""

    def __init__(self, modules: Mapping[str, nn.Module], loss: Loss) -> None:
        self._loss = loss
        self._learned = [p for p in nn.ModuleDict(modules).parameters() if p.requires_grad]

    def __call__(self, batch: Batch, noise: Tensor, scalars: Scalars, anew: bool = True) -> Metrics:
        """Set the parameters' gradients to those of the loss, or add them unless ``anew``; return the metrics."""
        total, metrics = self._loss(batch, noise, scalars)
        if anew:  # not earlier, so that new gradients reuse the memory of the old ones
            for parameter in self._learned:
                parameter.grad = None
        total.backward()
        return metrics


@dataclass(frozen=True)
class Graph:
    """A compiled loss for batches of one shape: tensors → gradients and the metrics in ``names``."""

    run: Run
    names: Sequence[str]


def inductor(graph: torch.fx.GraphModule, examples: list[Any]) -> Run:
    """Compile ``graph`` for inputs like ``examples``; random numbers stay those of torch's generators."""
    with ignored(DeprecationWarning):  # torch's own, of its torch.jit
        from torch import _inductor  # takes a second to import

        run: Run = _inductor.compile(graph, examples, options=_OPTIONS)
    return run


class Compiled:
    """``Backward``, compiled by ``backend`` for each shape of batch.

    A trace freezes every branch as the first batch took it. So the first gradients of each graph are compared with
    autograd's: if they differ by more than ``tolerance`` of their norm, or if the loss cannot be traced or
    compiled, a warning is given, and autograd is used from then on.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        loss: Loss,
        tolerance: float,
        backend: Backend = inductor,
        draws: bool = True,
    ) -> None:
        self._loss, self._tolerance, self._backend, self._draws = loss, tolerance, backend, draws
        self._by_autograd = Backward(modules, loss)
        self._whole = _Whole(modules, loss)
        named = dict(self._whole.named_parameters())
        self._learned = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        fixed = {name: parameter for name, parameter in named.items() if name not in self._learned}
        self._buffers = dict(self._whole.named_buffers())
        self._tensors = {name: t.detach() for name, t in (self._learned | fixed | self._buffers).items()}
        self._graphs: dict[object, Graph] = {}
        self._gave_up = False

    def __call__(self, batch: Batch, noise: Tensor, scalars: Scalars, anew: bool = True) -> Metrics:
        if self._gave_up:
            return self._by_autograd(batch, noise, scalars, anew)
        inputs = flat(batch, noise, scalars)
        shapes = tuple((tensor.shape, tensor.stride()) for tensor in inputs)
        try:
            if shapes not in self._graphs:
                self._graphs[shapes] = self._checked(self._compile(batch, noise, scalars), batch, noise, scalars)
            gradients, metrics = self._run(self._graphs[shapes], inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._give_up(error)
            return self._by_autograd(batch, noise, scalars, anew)
        for parameter, gradient in zip(self._learned.values(), gradients, strict=True):
            if anew or parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None:
                parameter.grad = parameter.grad + gradient
        return metrics

    def _run(self, graph: Graph, inputs: Sequence[Tensor]) -> tuple[Gradients, Metrics]:
        with torch.no_grad():
            *gradients, metrics = graph.run(*self._tensors.values(), *inputs)
        return gradients, dict(zip(graph.names, cast(Tensor, metrics).unbind(), strict=True))

    def _compile(self, batch: Batch, noise: Tensor, scalars: Scalars) -> Graph:
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to import

        names: list[str] = []

        def gradients(*tensors: Tensor) -> list[Tensor | None]:
            parts = dict(zip(self._tensors, tensors, strict=False))
            learned = [parts[name].requires_grad_() for name in self._learned]
            inputs = unflat(tensors[len(parts) :], batch, scalars)
            with torch.enable_grad():
                total, metrics = torch.func.functional_call(self._whole, parts, inputs)
                found = torch.autograd.grad(total, learned, allow_unused=True)
            names[:] = metrics
            return [*found, torch.stack([metric.detach() for metric in metrics.values()])]

        examples: list[Any] = [*self._tensors.values(), *flat(batch, noise, scalars)]
        with torch.no_grad(), rewound(self._draws), _TRACING:
            graph = make_fx(gradients, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
            return Graph(self._backend(graph, examples), names)

    def _checked(self, graph: Graph, batch: Batch, noise: Tensor, scalars: Scalars) -> Graph:
        """Return ``graph`` if its gradients at this batch are autograd's; else raise ``ArithmeticError``."""
        with self._rewound():
            total, _ = self._loss(batch, noise, scalars)
            true = torch.autograd.grad(total, list(self._learned.values()), allow_unused=True)
        with self._rewound():
            found, _ = self._run(graph, flat(batch, noise, scalars))
        if [gradient is None for gradient in found] != [gradient is None for gradient in true]:
            raise ArithmeticError("its gradients are not of the parameters that autograd's are of")
        pairs = [(f, t) for f, t in zip(found, true, strict=True) if f is not None and t is not None]
        norm = torch.stack([t.norm() for _, t in pairs]).norm()
        error = torch.stack([(f - t).norm() for f, t in pairs]).norm()
        if norm.isfinite() and not error <= self._tolerance * norm:
            raise ArithmeticError(f"its gradients differ from autograd's by {float(error / norm):.1g} of their norm")
        return graph

    @contextlib.contextmanager
    def _rewound(self) -> Iterator[None]:
        """Restore buffers, and the global generator if the loss may draw from it, after the block."""
        before = copied(self._buffers)
        with rewound(self._draws):
            yield
        for name, value in before.items():
            self._buffers[name].copy_(value)

    def _give_up(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"the step runs uncompiled ({type(error).__name__}: {reason})", RuntimeWarning, stacklevel=6)
        self._gave_up = True


class _Whole(nn.Module):
    """The modules and the loss as one module."""

    def __init__(self, modules: Mapping[str, nn.Module], loss: Loss) -> None:
        super().__init__()
        self.parts, self.loss = nn.ModuleDict(modules), loss

    def forward(self, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[Tensor, Metrics]:
        return self.loss(batch, noise, scalars)


def flat(batch: Batch, noise: Tensor, scalars: Scalars) -> list[Tensor]:
    some = [tensor for tensor in (batch.mask, batch.context) if tensor is not None]
    some += [] if batch.labels is None else batch.labels.values()
    return [batch.x, batch.index, batch.weight, noise, *some, *scalars.values()]


def unflat(tensors: Sequence[Tensor], like: Batch, scalars: Scalars) -> tuple[Batch, Tensor, Scalars]:
    """Undo ``flat``, for a batch with the same optional parts as ``like``."""
    x, index, weight, noise, *rest = tensors
    mask = None if like.mask is None else rest.pop(0)
    context = None if like.context is None else rest.pop(0)
    labels = None if like.labels is None else {name: rest.pop(0) for name in like.labels}
    return Batch(x, mask, index, weight, context, labels), noise, dict(zip(scalars, rest, strict=True))
