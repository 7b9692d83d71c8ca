"""What a contender is asked to do, and how its time is taken."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from contenders.workloads import ROWS, Workload


@dataclass(frozen=True)
class Job:
    """Train ``workload`` for ``epochs`` over ``rows`` rows, the first to warm up; ``cache`` holds rows and weights."""

    workload: Workload
    rows: int
    epochs: int
    threads: int
    seed: int
    cache: Path

    @property
    def steps(self) -> int:
        """Steps in a pass; no batch is left incomplete."""
        return self.rows // self.workload.batch


@dataclass
class Laps:
    """When the work started, when each epoch ended, and each epoch's mean loss in nats per row."""

    moments: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Called after the imports, before anything else is done."""
        self.moments = [time.perf_counter()]

    def end_epoch(self, loss: float) -> None:
        self.moments.append(time.perf_counter())
        self.losses.append(loss)

    @property
    def seconds(self) -> list[float]:
        return [end - start for start, end in pairwise(self.moments)]

    def figures(self, job: Job) -> dict[str, float]:
        """Seconds of the first pass (with all that comes before it) and, of the median other one, per epoch."""
        if not self.losses:
            return {}
        figures = {"first_epoch_s": self.seconds[0], "loss": self.losses[-1]}
        if len(self.seconds) > 1:
            figures["epoch_s"] = statistics.median(self.seconds[1:]) * ROWS / job.rows
        return figures
