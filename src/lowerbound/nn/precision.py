"""Calls of networks, and the precision of their matrix products."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "tf32", "bf16"]
_TF32 = threading.RLock()
_AUTOCAST: ContextVar[bool] = ContextVar("autocast", default=False)


@contextlib.contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Run the block with the matrix products of networks in ``precision``; all else keeps its own.

    "float32": as the parameters are. "tf32": products of float32 numbers rounded to 10 bits, on a GPU. "bf16": operands
    rounded to 8 bits, results to bf16; parameters, their gradients and all that is not a network stay as they are.
    """
    token = _AUTOCAST.set(precision == "bf16")
    try:
        with _tf32(precision == "tf32") if torch.cuda.is_available() else contextlib.nullcontext():
            yield
    finally:
        _AUTOCAST.reset(token)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Run the block with TF32 ``allowed`` or not, in one thread at a time: torch has one setting for the process."""
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    with _TF32:
        before = [kind.allow_tf32 for kind in kinds]
        try:
            for kind in kinds:
                kind.allow_tf32 = allowed
            yield
        finally:
            for kind, was in zip(kinds, before, strict=True):
                kind.allow_tf32 = was


def apply(
    network: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    outputs: Tensor | None = None,
) -> Tensor:
    """``network(x)`` in the type of ``x``, with products in the precision that the block around asks for.

    A network that says how many numbers of ``context`` it takes, as an attribute of that name, is given them too; one
    whose attribute ``masked`` is true is given the ``mask``, True where x is observed.
    """
    inputs = (x,) if context is None or not getattr(network, "context", 0) else (x, context)
    named = {"mask": mask} if mask is not None and getattr(network, "masked", False) else {}
    if outputs is not None:
        named["outputs"] = outputs
    if not _AUTOCAST.get():
        out: Tensor = network(*inputs, **named)
        return out
    with torch.autocast(x.device.type, torch.bfloat16):
        out = network(*inputs, **named)
    return out.to(x.dtype)
