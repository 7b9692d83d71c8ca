"""Test a model that was read from a folder on one row: its parts must fit together and give finite numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lowerbound import posteriors, priors
from lowerbound.distributions import generator, size
from lowerbound.draw import Batch
from lowerbound.errors import FormatError
from lowerbound.model import LatentVariableModel, draw
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior
from lowerbound.storage.model import TENSORS
from lowerbound.storage.parts import CONFIG


@read_only
def check_computes(
    model: LatentVariableModel, posterior: Posterior | None, context: int | None, shape: tuple[int, ...]
) -> None:
    """Raise ``FormatError`` unless z = 0 can be decoded to a row of ``shape``, and that row encoded.

    ``posterior``: None if the model has none.
    """
    like = next(model.parameters())
    try:
        _check_context(model, posterior, context)
        event = model.prior.event if posterior is None else posterior.event
        beside = None if context is None else like.new_zeros(()).expand(1, context)
        params = model.decode(like.new_zeros(()).expand(1, 1, *event), beside)
        row = model.likelihood.point(params).squeeze(0)
        if row.shape[1:] != shape:
            raise ValueError(f"a decoded row has shape {list(row.shape[1:])} instead of {list(shape)}")
        batch = Batch(row, None, torch.zeros(1, dtype=torch.int64), like.new_ones(1), beside)
        numbers = [params]
        if posterior is not None:
            found = draw(model, posterior, batch, generator(0, "trial", device=like.device))
            numbers += [part for node in found.nodes for part in (node.z, node.log_q, node.log_p)]
        if not all(bool(part.isfinite().all()) for part in numbers):
            raise ValueError("the results are not finite")
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        raise FormatError(
            f"{CONFIG} and {TENSORS} describe parts that do not fit together ({reason}); restore them or fit "
            "the model again."
        ) from error


def _check_context(model: LatentVariableModel, posterior: Posterior | None, context: int | None) -> None:
    """Raise ValueError for a context of another size than the networks take."""
    modules = [*model.modules(), *([] if posterior is None else posterior.modules())]
    above = _parents(model.prior) | _parents(posterior)
    sizes = {module: getattr(module, "context", 0) for module in modules}  # of another library's module it may be any
    taken = {size - above.get(module, 0) for module, size in sizes.items() if isinstance(size, int) and size}
    given = any(getattr(module, "needs_context", False) for module in modules)
    if context is not None and taken != {context} and (taken or not given):
        raise ValueError(f"a context of {context} numbers is given, and the networks take {sorted(taken) or 'none'}")


def _parents(latents: nn.Module | None) -> dict[nn.Module, int]:
    """How many numbers of its latent's parents each network is given, before the context."""
    if not isinstance(latents, priors.Latents | posteriors.Latents):
        return {}
    parts: Mapping[str, Prior | Posterior] = latents.parts
    sizes = {name: sum(size(parts[one].event) for one in above) for name, above in latents.parents.items()}
    return {module: of for name, of in sizes.items() for module in parts[name].modules()}
