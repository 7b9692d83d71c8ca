"""One job in a process of its own: reads the table it is given, writes what the method makes of it, prints figures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from kit.processes import memory
from table_defaults import generators, imputers, tables
from table_peers.job import Job


def main() -> None:
    job, folder = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    table = tables.read(given(job, folder))
    start, said = time.perf_counter(), ""
    if job.task == "impute":
        found = imputers.complete(table, job.method, job.seed)
        seconds, said = time.perf_counter() - start, found.said
        np.savez_compressed(made(job, folder), best=found.best, draws=found.draws)
    else:
        drawn = generators.draw(table, job.method, job.seed)
        seconds = time.perf_counter() - start
        np.savez_compressed(made(job, folder), drawn=drawn)
    print(json.dumps({"seconds": seconds, "job_seconds": seconds, "megabytes": memory(), "said": said}))


def given(job: Job, folder: Path) -> Path:
    """The file of the table that the job is given."""
    return folder / f"{job.name}.given.npz"


def made(job: Job, folder: Path) -> Path:
    """The file of what the method made."""
    return folder / f"{job.name}.made.npz"
