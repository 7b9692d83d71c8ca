"""What makes two fits the same fit, so that one may resume the other's checkpoint."""

from __future__ import annotations

import hashlib
from typing import Any

from lowerbound.data import Rows
from lowerbound.inference.aevb import Ascent
from lowerbound.storage.parts import encode


def identity(
    procedure: Ascent, data: Rows, validation: float | Rows, *, batch_size: int, epochs: int, seed: int
) -> dict[str, Any]:
    """What a fit that goes on must share with the one before, as JSON: data, model, and the way to learn it."""
    state, settings, like = procedure.state, procedure.settings, next(procedure.model.parameters())
    structure = repr((procedure.model, settings.posterior))  # of networks of one's own, all that can be said
    return {
        "data": data.digest(),
        "validation": validation.digest() if isinstance(validation, Rows) else float(validation),
        "batch_size": int(batch_size),
        "seed": int(seed),
        "structure": hashlib.sha256(structure.encode()).hexdigest(),
        "model": encode(procedure.model),
        "posterior": encode(settings.posterior),
        "inference": settings.describe(),
        "optimizer": {"name": type(state.optimizer).__name__, "groups": dict(enumerate(state.options()))},
        "dtype": str(like.dtype),
        "device": like.device.type,
        # where validation is judged
        "last": {name: float(at(epochs)) for name, at in procedure.schedules.items() if name != "learning_rate"},
    }
