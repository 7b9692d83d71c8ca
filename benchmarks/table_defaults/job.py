"""One job in a process of its own: reads the table it is given, writes what the method makes of it, prints figures.

Seconds, and their limit, are of the processor: on one thread those of the clock where nothing else runs.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from kit.processes import LATE, memory
from table_defaults import generators, imputers, tables
from table_peers.job import Job

LIMIT = 5 * 60  # seconds
MEMORY = 12 * 10**9  # bytes, virtual


def main() -> None:
    signal.signal(signal.SIGXCPU, late)
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    job, folder = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    table = tables.read(given(job, folder))
    start, said = time.process_time(), ""
    if job.task == "impute":
        found = imputers.complete(table, job.method, job.seed)
        seconds, said = time.process_time() - start, found.said
        np.savez_compressed(made(job, folder), best=found.best, draws=found.draws)
    else:
        drawn = generators.draw(table, job.method, job.seed)
        seconds = time.process_time() - start
        np.savez_compressed(made(job, folder), drawn=drawn)
    print(json.dumps({"seconds": seconds, "job_seconds": seconds, "megabytes": memory(), "said": said}))


def late(*_: object) -> None:
    """End the process, saying that it met its limit."""
    print(json.dumps({"not_run": f"{LATE} {LIMIT / 60:g} minutes"}), flush=True)
    os._exit(0)


def given(job: Job, folder: Path) -> Path:
    """The file of the table that the job is given."""
    return folder / f"{job.name}.given.npz"


def made(job: Job, folder: Path) -> Path:
    """The file of what the method made."""
    return folder / f"{job.name}.made.npz"
