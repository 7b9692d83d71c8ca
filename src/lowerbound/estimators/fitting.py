"""The call of ``lowerbound.fit`` that the estimators share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lowerbound.errors import DivergedError
from lowerbound.inference import Inference, fit
from lowerbound.row_source import RowSource
from lowerbound.training import Callback, Event, History


class Fitting(Protocol):
    """What the call reads of an estimator, and the history that it sets."""

    model_: Any
    history_: History
    seed_: int
    threads: int | None
    progress: bool
    callbacks: Sequence[Callback]

    def _described(self) -> dict[str, Any]: ...


def fit_kept(
    estimator: Fitting,
    rows: RowSource,
    learning: Inference[Any],
    run: Path | None,
    watch: Sequence[Callback] = (),
    **settings: Any,
) -> None:
    """Fit the estimator's model; ``settings`` are further arguments of ``lowerbound.fit``.

    ``history_`` is set after every event, so that it is there even if the fit fails or the model cannot be written.
    ``watch``: callbacks that are called before the estimator's own.
    """

    def keep(event: Event) -> None:
        estimator.history_ = event.history

    try:
        estimator.history_ = fit(
            estimator.model_,
            rows,
            learning,
            seed=estimator.seed_,
            threads=estimator.threads,
            callbacks=[*watch, *estimator.callbacks, keep],
            progress=estimator.progress,
            run_dir=run,
            extra=None if run is None else estimator._described(),
            **settings,
        ).history
    except DivergedError as error:
        estimator.history_ = error.history
        raise
