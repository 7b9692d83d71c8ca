"""Process batches of rows in parallel threads."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from lowerbound.draw import Batch
from lowerbound.process import set_threads, use_threads
from lowerbound.row_source import RowSource
from lowerbound.training import in_order

_ONE_POOL = threading.Lock()  # only one pool may use the cores

Found = TypeVar("Found")
Work = Callable[[Batch, int, torch.Generator], Found]
"""A function of a batch, the number of its rows that are not padding, and a generator."""


def each_batch(work: Work[Found], rows: RowSource, size: int, rng: torch.Generator) -> list[Found]:
    """Apply ``work`` to all rows in batches of ``size``, in order, without gradients.

    On a CPU, batches run in parallel, each on one thread, with as many threads as torch has. Random numbers do not
    depend on the number of threads. With several batches, neither do results; a single batch runs on all threads, and
    its matrix products may differ in the last bits. ``work`` must not modify data that batches share.
    """
    starts = range(0, len(rows), size)
    seeds = torch.randint(2**62, (len(starts),), generator=rng, device=rng.device).tolist()
    places = torch.arange(size, device=rows.device)

    @torch.no_grad()
    def one(start: int, seed: int) -> Found:
        index = (start + places).clamp(max=len(rows) - 1)
        own = torch.Generator(device=rng.device).manual_seed(seed)
        ((batch, _),) = in_order(rows.subset(index), size, own)
        return work(batch, min(size, len(rows) - start), own)

    alone = len(starts) == 1 or rows.device.type != "cpu"
    if alone or not _ONE_POOL.acquire(blocking=False):  # another pool uses the cores
        with use_threads(None if alone else 1):
            return [one(start, seed) for start, seed in zip(starts, seeds, strict=True)]
    try:
        with _threads() as pool:
            contexts = [contextvars.copy_context() for _ in starts]
            tasks = [pool.submit(contexts[i].run, one, start, seeds[i]) for i, start in enumerate(starts)]
            return [task.result() for task in tasks]
    finally:
        _ONE_POOL.release()


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A pool with torch's number of threads, each using one torch thread. Pending work is cancelled on error."""
    pool = ThreadPoolExecutor(torch.get_num_threads(), initializer=set_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
