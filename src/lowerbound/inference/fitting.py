"""``lowerbound.fit``: a model, data, and a way to learn."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from lowerbound.data import Counts, Rows
from lowerbound.data.row_arrays import row_array
from lowerbound.distributions import generator
from lowerbound.errors import DataError, OutOfMemoryError, is_out_of_memory
from lowerbound.inference.alerts import decoder_watched
from lowerbound.inference.identity import identity
from lowerbound.inference.protocol import Inference
from lowerbound.likelihoods.support import check_rows
from lowerbound.model import Model
from lowerbound.posteriors import Posterior
from lowerbound.process import use_threads as use_threads
from lowerbound.row_source import RowSource
from lowerbound.storage.checkpoints import Checkpoints
from lowerbound.storage.model import files
from lowerbound.storage.run import Resume, kept
from lowerbound.storage.tensor_data import first_of
from lowerbound.training import Callback, Finish, History, Procedure, evaluate, metrics_file, progress_bar, train

M = TypeVar("M", bound=Model)
Data = RowSource | torch.Tensor | np.ndarray[Any, Any] | Any


@dataclass(frozen=True)
class Fit(Generic[M]):
    """A fitted model: p(x, z), its posterior q(z|x) if it has one, and what happened in the fit."""

    model: M
    posterior: Posterior | None
    history: History


def fit(
    model: M,
    data: Data,
    inference: Inference[M],
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
    finish: int | None = None,
) -> Fit[M]:
    """Learn ``model``, and the posterior of ``inference`` if it has one, from ``data``, in place.

    ``data``: rows ``[N, *X]``: a tensor, an array (also memory-mapped), a sparse matrix of SciPy, a ``Dataset`` or
    ``DataLoader`` of torch, or a ``RowSource``. NaN marks a missing value. Arrays in memory are moved to the model's
    device once, all else batch by batch. ``epochs``: the most to run. ``validation``: held-out
    rows, or the share of rows to hold out (0 for none); the state with the best validation objective is kept.
    ``patience``: stop after so many epochs without an improvement beyond its standard error, counted from
    ``patience_from``. ``seed`` fixes every random number: the same seed and threads give the same bytes. ``threads``:
    CPU threads while fitting.

    ``finish``: the least number of steps of a last phase, which learns from all rows, those held out too, from the best
    state on; it is half as long as the way there, and the learning rate falls to 2 % (None: no such phase).

    ``run_dir``: a folder for the fitted model and, under ``checkpoints``, the full state of training every
    ``checkpoint_every`` steps. ``resume="auto"`` continues from the newest whole checkpoint there, bit for bit as if
    the fit had never stopped, or starts if there is none; ``"never"`` starts anew and replaces what is there.
    ``extra`` is saved as JSON next to the model. Raises ``LockedError`` while another fit writes there, ``ValueError``
    if the folder is of another fit, ``OSError`` if the model cannot be written at the end, ``DataError`` for rows that
    the likelihood cannot have produced.
    """
    whole = as_rows(data, first_of(model), model.sparse)
    _check(model, whole, inference)
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}.")
    rows, held_out, validation = _divide(model, inference, whole, validation, patience, seed)
    last = None if finish is None else Finish(whole, least=finish)
    with use_threads(threads), _memory_named():
        procedure = started(inference, model, rows, batch_size)
        same = partial(identity, model, inference, procedure, whole, validation, epochs, batch_size, seed, last)
        keeping: contextlib.AbstractContextManager[Checkpoints | None] = contextlib.nullcontext()
        if run_dir is not None:
            keeping = kept(run_dir, resume, checkpoint_every, same, partial(files, model, inference.posterior, extra))
        with decoder_watched(model), keeping as checkpoints, _reporters(progress, checkpoints) as reporters:
            history = train(
                procedure,
                rows,
                epochs=epochs,
                batch_size=batch_size,
                seed=seed,
                validation=held_out,
                patience=patience,
                patience_from=patience_from,
                callbacks=[*callbacks, *reporters],
                checkpoints=checkpoints,
                finish=last,
            )
            if checkpoints is not None:
                checkpoints.finish(history)
    _warn(procedure, history)
    return Fit(model, inference.posterior, history)


def held_out_objective(
    model: M, data: RowSource, inference: Inference[M], validation: float, batch_size: int, seed: int
) -> torch.Tensor:
    """The objective of each row that a fit with this share and seed holds out, ``[N]``, by the same random numbers."""
    rows, held_out = split(data, validation, seed)
    procedure = inference.start(model, rows)
    scalars = {name: torch.tensor(float(at(0.0))) for name, at in procedure.schedules.items()}
    _, found = evaluate(procedure, procedure.state, held_out, min(batch_size, len(rows)), seed, scalars)
    if found is None:
        raise ValueError(f"{type(procedure).__name__} does not give the objective of each row.")
    return found


def started(inference: Inference[M], model: M, rows: RowSource, batch_size: int) -> Procedure:
    """Begin a fit: the procedure of ``inference``, if batches of ``batch_size`` rows suit it."""
    if isinstance(inference, type) or not isinstance(inference, Inference):
        name = inference.__name__ if isinstance(inference, type) else type(inference).__name__
        raise TypeError(
            f"inference is {name}, which is no way to learn: give an AEVB, or an object with posterior, is_bound, "
            "describe() and start(model, rows)."
        )
    posterior: object = inference.posterior
    if not isinstance(posterior, Posterior | None):
        kind = type(posterior).__name__
        raise TypeError(f"posterior of {type(inference).__name__} is a {kind}; give a Posterior or None.")
    procedure = inference.start(model, rows)
    if not isinstance(procedure, Procedure):
        raise TypeError(
            f"start of {type(inference).__name__} gave a {type(procedure).__name__}, which is no Procedure; let it "
            "inherit from lowerbound.training.Procedure."
        )
    procedure.check_batches(min(batch_size, len(rows)))
    return procedure


@contextlib.contextmanager
def _reporters(progress: bool, checkpoints: Checkpoints | None) -> Iterator[list[Callback]]:
    """The callbacks that report on a fit under way: a progress bar, and the log in the folder of its run."""
    with progress_bar() if progress else contextlib.nullcontext() as bar:
        log = None if checkpoints is None else metrics_file(checkpoints.log)
        yield [callback for callback in (bar, log) if callback is not None]


def _warn(procedure: Procedure, history: History) -> None:
    """Warn of what looks wrong about a fit, and of one that was interrupted."""
    if advice := procedure.advise(history):
        warnings.warn(advice, RuntimeWarning, stacklevel=3)
    if history.stopped == "interrupted":
        warnings.warn(f"interrupted: the model is that of epoch {history.best_epoch}", stacklevel=3)


def _divide(
    model: M,
    inference: Inference[M],
    whole: RowSource,
    validation: float | Data,
    patience: int | None,
    seed: int,
) -> tuple[RowSource, RowSource | None, float | RowSource]:
    """Training rows, held-out rows if any, and ``validation`` as it was given: a share, or rows."""
    if isinstance(validation, float | int | np.number):
        rows, held_out = split(whole, float(validation), seed)
        if patience is not None and held_out is None:
            raise ValueError("patience needs validation rows: give validation a share above 0, or leave patience out.")
        return rows, held_out, float(validation)
    held_out = as_rows(validation, first_of(model), model.sparse)
    _check(model, held_out, inference)
    return whole, held_out, held_out


def _check(model: M, rows: RowSource, inference: Inference[M]) -> None:
    """Refuse rows that the likelihood cannot produce; fractional counts only if ``inference`` needs whole ones.

    Also refuse rows with labels that ``inference`` would not read.
    """
    if rows.labels and not getattr(inference, "reads_labels", False):
        raise ValueError(f"the rows have labels, which {type(inference).__name__} does not read; use AEVB.")
    if not (isinstance(rows, Counts) and getattr(inference, "takes_fractions", False)):
        check_rows(model.likelihood, rows)


def as_rows(data: Data, like: torch.Tensor, sparse: bool = False) -> RowSource:
    """Convert ``data`` to rows on the device, and in the floating type, of ``like``; ``sparse``: to ``Counts``."""
    if sparse and not isinstance(data, RowSource):
        data = Counts.from_sparse(data)
    if isinstance(data, Counts):
        data = (data.as_sparse() if sparse else data).of_dtype(like.dtype)
    elif isinstance(data, torch.Tensor):
        data = _of_tensor(data, like.dtype)
    elif not isinstance(data, RowSource):
        if row_array(data) is None:
            raise TypeError(
                f"the rows come as a {type(data).__name__}; give them as an array or a tensor, [N, *X], as a sparse "
                "matrix, as a Dataset whose items are the rows, or as a RowSource."
            )
        data = Rows.from_array(data, dtype=like.dtype)
    elif data.dtype != like.dtype:
        raise ValueError(
            f"the rows come as {data.dtype}, but the model is of {like.dtype}: Rows(…, dtype={like.dtype})."
        )
    return data.to(like.device)


def _of_tensor(data: torch.Tensor, dtype: torch.dtype) -> Rows:
    """Rows of a tensor, NaN for a missing value."""
    if not data.is_floating_point() or bool(data.isfinite().all()):
        return Rows(data, dtype=dtype)
    seen = ~data.isnan()
    if bool((wrong := data.isinf()).any()):
        row = int(wrong.flatten(1).any(1).nonzero()[0])
        raise DataError(f"row {row} holds an infinity; drop it, or give Rows a mask that is False there.")
    return Rows(torch.where(seen, data, 0), seen, dtype=dtype)


def split(rows: RowSource, share: float, seed: int) -> tuple[RowSource, RowSource | None]:
    """Split rows at random into training rows and a ``share`` that is held out (None if that is less than one row)."""
    if not 0 <= share < 1:
        raise ValueError(f"validation must be a share in [0, 1), got {share}.")
    held_out = min(round(share * len(rows)), len(rows) - 1)
    if held_out == 0:
        return rows, None
    order = torch.randperm(len(rows), generator=generator(seed, "split")).to(rows.device)
    return rows.subset(order[held_out:]), rows.subset(order[:held_out])


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
    """Turn errors of memory into ``OutOfMemoryError``, with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "the fit needs more memory than there is; lower batch_size, draws or the sizes of the networks."
        ) from error
