"""How ``fit`` goes with the number of rows, in memory or memory-mapped from a ``.npy``: one pass of workload A."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lowerbound as lb
from contenders import lowerbound_fit
from contenders.job import Job, Laps
from contenders.workloads import load_rows, many_rows_file
from kit.processes import memory

WARM_UP_ROWS = 6_000


def train(job: Job, laps: Laps, mapped: bool) -> dict[str, float]:
    fit(job, lambda: load_rows(job.cache, WARM_UP_ROWS))
    prepared, fitted = fit(job, lambda: read(many_rows_file(job.cache), job.rows, mapped))
    own = memory("RssAnon")  # without pages of files, which the system can drop
    row = 1e6 * (prepared + fitted) / job.rows
    return {"prepare_s": prepared, "fit_s": fitted, "row_us": row, "anonymous_mb": own}


def read(path: Path, count: int, mapped: bool) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.load(path, mmap_mode="r")[:count]
    return rows if mapped else np.array(rows)


def fit(job: Job, rows: Callable[[], NDArray[np.uint8]]) -> tuple[float, float]:
    """Seconds to read ``rows`` and make them ``Rows``, and seconds to fit one pass."""
    model, posterior = lowerbound_fit.build(job)
    start = time.perf_counter()
    data = lb.data.Rows.from_array(rows())
    prepared = time.perf_counter()
    batch = job.workload.batch
    inference = lowerbound_fit.inference(job, posterior)
    lb.fit(model, data, inference, epochs=1, batch_size=batch, validation=0, seed=job.seed, threads=job.threads)
    return prepared - start, time.perf_counter() - prepared
