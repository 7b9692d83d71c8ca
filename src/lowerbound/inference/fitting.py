"""``lowerbound.fit``: a model, data, and a way to learn."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.errors import DataError, OutOfMemoryError, is_out_of_memory
from lowerbound.inference.aevb import AEVB
from lowerbound.inference.alerts import decoder_watched, warn_if_fallen
from lowerbound.inference.identity import identity
from lowerbound.likelihoods.support import check_rows
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.process import use_threads as use_threads
from lowerbound.storage.model import files
from lowerbound.storage.run import Resume, kept
from lowerbound.training import Callback, History, metrics_file, progress_bar, train

Data = Rows | torch.Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fit:
    """A fitted model: p(x, z), q(z|x), and what happened on the way."""

    model: LatentVariableModel
    posterior: Posterior
    history: History


def fit(
    model: LatentVariableModel,
    data: Data,
    inference: AEVB,
    *,
    epochs: int = 100,
    batch_size: int = 100,
    validation: float | Data = 0.1,
    patience: int | None = None,
    patience_from: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    run_dir: str | Path | None = None,
    resume: Resume = "auto",
    checkpoint_every: int = 1000,
    extra: Mapping[str, Any] | None = None,
) -> Fit:
    """Learn ``model`` and the posterior of ``inference`` from ``data``, in place.

    ``data``: rows ``[N, *X]``, moved to the model's device once. ``epochs`` over the data, at most. ``validation``:
    held-out rows, or the share of the rows to hold out (0 for none). The state with the best validation objective is
    kept; with ``patience``, fitting stops after so many epochs without a better one, counted from ``patience_from``.
    ``seed`` fixes every draw: same seed, same threads, same bytes. ``threads``: CPU threads while fitting.

    ``run_dir``: a folder that holds the fitted model at the end and, under ``checkpoints``, all that the fit has come
    to, every ``checkpoint_every`` steps. ``resume="auto"`` goes on from the newest whole checkpoint there, bit for bit
    as if the fit had never stopped, or starts where there is none; ``"never"`` starts anew and replaces what is there.
    ``extra`` is kept as JSON beside the model. Raises ``LockedError`` while another fit writes there, ``ValueError``
    where the folder is of another fit, ``OSError`` if the model cannot be written in the end, ``DataError`` for rows
    that the likelihood cannot have produced.
    """
    like = next(model.parameters())
    whole = as_rows(data, like)
    check_rows(model.likelihood, whole)
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}.")
    rows, held_out, validation = _divide(model, whole, validation, seed)
    if patience is not None and held_out is None:
        raise ValueError("patience needs validation rows: give validation a share above 0, or leave patience out.")
    inference.check_batches(min(batch_size, len(rows)))
    with use_threads(threads), _memory_named(), contextlib.ExitStack() as stack:
        procedure, callbacks = inference.start(model), list(callbacks)
        if not inference.compile:  # of which there is no output to look at
            stack.enter_context(decoder_watched(model))
        if progress:
            callbacks.append(stack.enter_context(progress_bar()))
        checkpoints = None
        if run_dir is not None:
            described = identity(procedure, whole, validation, batch_size=batch_size, epochs=epochs, seed=seed)
            of_model = partial(files, model, inference.posterior, extra)
            checkpoints = stack.enter_context(kept(Path(run_dir), resume, checkpoint_every, described, of_model))
            callbacks.append(metrics_file(checkpoints.log))
        history = train(
            procedure,
            rows,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            validation=held_out,
            patience=patience,
            patience_from=patience_from,
            callbacks=callbacks,
            checkpoints=checkpoints,
        )
        if checkpoints is not None:
            checkpoints.finish(history)
    warn_if_fallen(procedure.start, history, math.prod(rows.shape))
    if history.stopped == "interrupted":
        warnings.warn(f"interrupted: the model is that of epoch {history.best_epoch}", stacklevel=2)
    return Fit(model, inference.posterior, history)


def _divide(
    model: LatentVariableModel, whole: Rows, validation: float | Data, seed: int
) -> tuple[Rows, Rows | None, float | Rows]:
    """Rows to train on, rows held out if any, and what was asked for: a share, or the rows themselves."""
    if isinstance(validation, float | int | np.number):
        return *split(whole, float(validation), seed), float(validation)
    held_out = as_rows(validation, next(model.parameters()))
    check_rows(model.likelihood, held_out)
    return whole, held_out, held_out


def as_rows(data: Data, like: torch.Tensor) -> Rows:
    """``data`` as rows on the device, and in the floating type, of ``like``."""
    if isinstance(data, np.ndarray):
        data = Rows.from_array(data, dtype=like.dtype)
    elif isinstance(data, torch.Tensor):
        _refuse_not_finite(data)
        data = Rows(data, dtype=like.dtype)
    elif not isinstance(data, Rows):
        raise TypeError(
            f"the rows come as a {type(data).__name__}; give them as an array or a tensor, [N, *X], or as Rows (of a "
            "Dataset, give its tensor of values)."
        )
    elif data.dtype != like.dtype:
        raise ValueError(
            f"the rows come as {data.dtype}, but the model is of {like.dtype}: Rows(…, dtype={like.dtype})."
        )
    return data.to(like.device)


def _refuse_not_finite(data: torch.Tensor) -> None:
    if data.is_floating_point() and not bool((finite := data.isfinite()).all()):
        row = int((~finite).flatten(1).any(1).nonzero()[0])
        raise DataError(f"row {row} holds NaN or an infinity; drop it, or give Rows a mask that is False there.")


def split(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows | None]:
    """Training rows, and a random ``share`` of the rows held out (None if that is less than one row)."""
    if not 0 <= share < 1:
        raise ValueError(f"validation must be a share in [0, 1), got {share}.")
    held_out = min(round(share * len(rows)), len(rows) - 1)
    if held_out == 0:
        return rows, None
    order = torch.randperm(len(rows), generator=generator(seed, "split")).to(rows.device)
    return rows.subset(order[held_out:]), rows.subset(order[:held_out])


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
    """Say in a sentence that memory has run out, where no smaller parts help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "the fit needs more memory than there is; lower batch_size, draws or the sizes of the networks."
        ) from error
