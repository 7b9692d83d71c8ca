"""The folder of a run: locked during a fit, which resumes from its checkpoints and leaves its model there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lowerbound.errors import DivergedError
from lowerbound.storage import checkpoints
from lowerbound.storage.files import locked
from lowerbound.storage.model import holds_model

Resume = Literal["auto", "never"]


@contextlib.contextmanager
def kept(
    run_dir: str | Path,
    resume: Resume,
    every: int,
    describe: Callable[[], Mapping[str, Any]],
    files: checkpoints.ModelFiles,
) -> Iterator[checkpoints.Checkpoints]:
    """Lock the folder of a run for the fit that ``describe`` identifies, and give its checkpoints.

    A fit that diverges leaves its best model in the folder.
    """
    run = Path(run_dir)
    if resume not in ("auto", "never"):
        raise ValueError(f'resume must be "auto" or "never", not {resume!r}.')
    if not hasattr(every, "__index__") or every < 1:
        raise ValueError(f"checkpoint_every is a whole number of steps, at least 1; got {every!r}.")
    described = describe()
    with locked(run):
        checkpoints.check_folder(run)
        if resume == "never":
            checkpoints.clear(run)
        elif holds_model(run) and not checkpoints.listed(run):
            raise ValueError(
                f"{run} holds a model but no checkpoint to resume from; replace it with resume='never' (--force), or "
                "choose another folder."
            )
        found = checkpoints.Checkpoints(run, described, files, every)
        try:
            yield found
        except DivergedError as error:
            found.finish(error.history)
            raise
