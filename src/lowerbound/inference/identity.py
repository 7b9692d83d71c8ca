"""The identity of a fit: a checkpoint is resumed only by a fit with the same identity."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from lowerbound.inference.aevb import AEVB
from lowerbound.inference.protocol import Inference
from lowerbound.model import Model
from lowerbound.row_source import RowSource
from lowerbound.storage.parts import encode
from lowerbound.storage.tensor_data import first_of
from lowerbound.training import Finish, Procedure

M = TypeVar("M", bound=Model)


def identity(
    model: M,
    inference: Inference[M],
    procedure: Procedure,
    data: RowSource,
    validation: float | RowSource,
    epochs: int,
    batch_size: int,
    seed: int,
    finish: Finish | None = None,
) -> dict[str, Any]:
    """The identity of a fit, as JSON: data, model, and the way to learn it."""
    state, posterior, like = procedure.state, inference.posterior, first_of(model)
    structure = repr((model, posterior))  # of networks of your own, nothing else is known
    optimizer = {"name": type(state.optimizer).__name__, "groups": dict(enumerate(state.options()))}
    return {
        "data": data.digest(),
        "validation": validation.digest() if isinstance(validation, RowSource) else float(validation),
        "batch_size": int(batch_size),
        "seed": int(seed),
        "structure": hashlib.sha256(structure.encode()).hexdigest(),
        "model": encode(model),
        "posterior": encode(posterior),
        "inference": _described(inference),
        "optimizer": None if state.optimizer is None else optimizer,
        **({} if all(rate == 1 for rate in state.rates) else {"rates": state.rates}),
        **({} if finish is None else {"finish": [finish.share, finish.least]}),
        "dtype": str(like.dtype),
        "device": like.device.type,
        # the schedules' values in validation
        "last": {name: float(at(epochs)) for name, at in procedure.schedules.items() if name != "learning_rate"},
    }


def _described(inference: Inference[Any]) -> dict[str, Any]:
    """The description of ``inference`` and, unless it is ``AEVB``, the name of its class."""
    found, name = inference.describe(), type(inference).__qualname__
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"describe() of {name} must give a dictionary that JSON can hold ({error}).") from error
    return found if isinstance(inference, AEVB) else {"name": name, "settings": found}
