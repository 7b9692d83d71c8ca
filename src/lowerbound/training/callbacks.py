"""Callbacks that come with the loop: a progress bar and a file of metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from lowerbound.checkpoint import json_line
from lowerbound.training.procedure import Callback, Event


@contextlib.contextmanager
def progress_bar() -> Iterator[Callback]:
    """A callback that shows a bar on stderr, with the latest objective in nats per row, while the block runs."""
    with tqdm(unit="step", dynamic_ncols=True, leave=False) as bar:

        def show(event: Event) -> None:
            bar.total = event.total_steps
            if event.record is not None:
                kind = "valid" if "valid_objective" in event.record else "train"
                bar.set_postfix_str(f"{kind} objective {event.record[kind + '_objective']:.2f} nats", refresh=False)
            bar.update(event.step - bar.n)

        yield show


def metrics_file(path: Path) -> Callback:
    """One JSON object a pass, a line each, in ``path``, which is started anew at the first."""
    mode = "w"

    def write(event: Event) -> None:
        nonlocal mode
        if event.record is not None:
            with path.open(mode) as file:
                file.write(json_line(event.record))
            mode = "a"

    return write
