"""The folder of a fit: locked while it runs, gone on from where one was cut short, and a model's folder at the end."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lowerbound import io
from lowerbound.checkpoint import locked
from lowerbound.data import Rows
from lowerbound.errors import DivergedError
from lowerbound.inference.aevb import Ascent
from lowerbound.training import checkpoints

Resume = Literal["auto", "never"]


@contextlib.contextmanager
def kept(
    run: Path, resume: Resume, every: int, described: Mapping[str, Any], files: checkpoints.ModelFiles
) -> Iterator[checkpoints.Checkpoints]:
    """Hold ``run`` for the fit ``described``, and give its checkpoints; one that diverges leaves its best model."""
    if resume not in ("auto", "never"):
        raise ValueError(f'resume must be "auto" or "never", not {resume!r}.')
    if not hasattr(every, "__index__") or every < 1:
        raise ValueError(f"checkpoint_every is a whole number of steps, at least 1; got {every!r}.")
    with locked(run):
        checkpoints.check_folder(run)
        if resume == "never":
            checkpoints.clear(run)
        elif io.holds_model(run) and not checkpoints.listed(run):
            raise ValueError(
                f"{run} holds a model but no checkpoint to go on from; replace it with resume='never' (--force), or "
                "choose another folder."
            )
        found = checkpoints.Checkpoints(run, described, files, every)
        try:
            yield found
        except DivergedError as error:
            found.finish(error.history)
            raise


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
        "model": io.encode(procedure.model),
        "posterior": io.encode(settings.posterior),
        "inference": settings.describe(),
        "optimizer": {"name": type(state.optimizer).__name__, "groups": dict(enumerate(state.options()))},
        "dtype": str(like.dtype),
        "device": like.device.type,
        # where validation is judged
        "last": {name: float(at(epochs)) for name, at in procedure.schedules.items() if name != "learning_rate"},
    }
