"""The library's own callbacks: a progress bar and a file of metrics."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from lowerbound.storage.files import atomic_write
from lowerbound.storage.json_data import json_line
from lowerbound.training.procedure import Callback, Event

_LINE = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"


@contextlib.contextmanager
def progress_bar() -> Iterator[Callback]:
    """Make a callback that shows a progress bar on stderr, with the latest objective, while the block runs.

    Its length is that of the longest fit; next to it is what decides when the fit ends, if it may end earlier.
    """
    with tqdm(bar_format=_LINE, dynamic_ncols=True, leave=False) as bar:

        def show(event: Event) -> None:
            bar.total = event.total_steps
            if event.record is not None:
                kind = "valid" if "valid_objective" in event.record else "train"
                said = f"{kind} {event.record[kind + '_objective']:.2f}"
                bar.set_postfix_str(f"{said}, {event.waiting}" if event.waiting else said, refresh=False)
            bar.update(event.step - bar.n)

        yield show


def metrics_file(path: Path) -> Callback:
    """Make a callback that writes a log to ``path``, a line of JSON per epoch, in place of an earlier log.

    The log is for people and plots; the library does not read it. If it cannot be written, a warning is
    given once, and the fit continues.
    """
    started = failed = False

    def write(event: Event) -> None:
        nonlocal started, failed
        if event.record is None:
            return
        try:
            if started:
                with path.open("a") as file:
                    file.write(json_line(event.record))
            else:
                with atomic_write(path) as new:
                    new.write("".join(json_line(record) for record in event.history.records).encode())
            started = True
        except OSError as error:
            if not failed:
                warnings.warn(f"{path} cannot be written ({error.strerror}); the fit goes on", stacklevel=2)
            failed = True

    return write
