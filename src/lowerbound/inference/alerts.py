"""Warnings of a fit: a decoder that squashes its logits, and a bound that ended far below where it began."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.likelihoods import Likelihood
from lowerbound.model import LatentVariableModel, Model
from lowerbound.modes import eval_mode
from lowerbound.nn import seeded
from lowerbound.training import History

_FAR = 100.0  # standard deviation of the latents at which a decoder is tested
_LOW, _HIGH = 0.01, 0.99  # at such latents most of a squashed output lies beyond these
_SQUASHES = ("SigmoidBackward", "SoftmaxBackward", "HardsigmoidBackward")
_SHAPES = ("View", "UnsafeView", "Reshape", "Unsqueeze", "Squeeze", "Permute", "Transpose", "T", "Clone", "Alias")
_SAME = tuple(f"{name}Backward" for name in (*_SHAPES, "ToCopy", "Expand", "Slice", "Clamp", "ClampMin", "ClampMax"))


@contextlib.contextmanager
def decoder_watched(model: Model) -> Iterator[None]:
    """Warn at the decoder's first output in the block if it gives probabilities, where the likelihood reads logits."""
    linked = getattr(model.likelihood, "inverse_link", "")  # a module in place of a likelihood has none
    if not linked or not isinstance(model, LatentVariableModel):
        yield
        return

    def look(module: nn.Module, inputs: tuple[Any, ...], out: object) -> None:
        if type(out) is not Tensor:  # a step that is being traced computes no values
            return
        handle.remove()
        if found := squashes(model, out, inputs):
            warnings.warn(found, RuntimeWarning, stacklevel=2)

    handle = model.decoder.register_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def squashes(model: LatentVariableModel, out: Tensor, inputs: Sequence[Any]) -> str:
    """Explain why the decoder seems to give probabilities, where its likelihood reads logits; "" if it does not.

    It does if the last operation in the graph of ``out``, its output at ``inputs``, is a sigmoid or softmax; or if this
    output and all outputs at extreme latents lie in [0, 1], most of the latter at the ends, unlike a linear layer's.
    """
    if _ends_in_squash(out):
        return _words(model.likelihood)
    if not bool(((out >= 0) & (out <= 1)).all()):
        return ""
    far = _FAR * torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(0)).to(inputs[0])
    try:
        with eval_mode(model), seeded(0), torch.no_grad():
            there = model.decoder(far, *inputs[1:])
    except (RuntimeError, IndexError, MemoryError):  # latents of another kind, which have no such values
        return ""
    return _words(model.likelihood) if _within_unit(there) else ""


def fallen(start: float, history: History, values: int) -> str:
    """Describe a last epoch that lies below ``start`` by more than its size plus a nat per value; "" if none does.

    ``start``: the ELBO of the first step. Both the ELBO and the objective must lie lower, because a weighted objective,
    or one of many draws, differs from the ELBO.
    """
    if not history.records or not math.isfinite(start):
        return ""
    last = history.records[-1]
    elbo = last["train_log_lik"] - last["train_kl"]
    if max(elbo, last["train_objective"]) >= start - abs(start) - values:
        return ""
    best = history.best_epoch
    kept = "" if best in (None, last["epoch"]) else f"; the model kept is that of epoch {best}"
    return (
        f"the ELBO fell from {start:.4g} nats per row in the first step to {elbo:.4g} in the last epoch{kept}: the "
        "learning_rate is probably too high, so lower it (or look for extreme values in the data)."
    )


def _words(likelihood: Likelihood) -> str:
    name, last = type(likelihood).__name__, likelihood.inverse_link
    return (
        f"the decoder's outputs lie in [0, 1], as those of a {last} do, and {name} reads them as logits: leave the "
        f"{last} out."
    )


def _ends_in_squash(out: Tensor) -> bool:
    """Whether the last operation, apart from those on shapes, is a sigmoid or a softmax."""
    step = out.grad_fn
    while step is not None and step.name().rstrip("0123456789") in _SAME:
        step = step.next_functions[0][0]
    return step is not None and step.name().rstrip("0123456789") in _SQUASHES


def _within_unit(out: Tensor) -> bool:
    """Whether all outputs lie in [0, 1], most of them near the ends, and some near each end."""
    low, high = (out < _LOW).double().mean().item(), (out > _HIGH).double().mean().item()
    return bool(((out >= 0) & (out <= 1)).all()) and min(low, high) > 0 and low + high > 0.5
