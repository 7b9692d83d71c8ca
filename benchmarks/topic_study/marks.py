"""Measurements on the way, in a file, so that a job that is killed leaves what it has. Standard library only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class Marks:
    """Figures after so many epochs; the processor seconds of learning are those per epoch of this process times epochs.

    Thereby seconds do not depend on where a job was killed, and no time to measure is in them.
    """

    def __init__(self, folder: Path, marks: tuple[int, ...]) -> None:
        self.path, self.marks = folder / "marks.json", marks
        self.known: dict[str, Mapping[str, float]] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self._begun: tuple[int, float] | None = None
        self._measuring = 0.0

    def epoch(self, number: int, measure: Callable[[], Mapping[str, float]]) -> None:
        """Call it after each epoch: measures at the epochs that are marks."""
        now = time.process_time()
        if self._begun is None:
            self._begun = (number, now)  # compilation and reading are in the first epoch
        if number not in self.marks:
            return
        first, then = self._begun
        each = (now - then - self._measuring) / (number - first) if number > first else float("nan")
        figures = dict(measure()) | ({"seconds": each * number} if number > first else {})
        self._measuring += time.process_time() - now
        self.known[str(number)] = figures
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.known) + "\n")
        part.replace(self.path)
