"""Run one job, and print its figures as JSON: ``python -m table_peers JOB FOLDER CACHE THREADS``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from kit.processes import memory
from table_peers.job import Job
from table_peers.tasks import TASKS


def main() -> None:
    job, folder, cache = Job(**json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
    start = time.perf_counter()
    figures = TASKS[job.task](job, folder, cache)
    print(json.dumps(figures | {"megabytes": memory(), "job_seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
