"""What stands around the steps: ``fit`` with everything on, against a bare loop over the same steps.

Both take the steps of workload A under the same settings, a KL warm-up among them, on the same batches.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lowerbound as lb
from contenders import lowerbound_fit
from contenders.job import Job, Laps
from contenders.workloads import load_rows
from lowerbound.training.cursor import Cursor
from lowerbound.training.loop import evaluate

HELD_OUT = 0.1
CHECKPOINT_EVERY = 1000


def train(job: Job, laps: Laps, everything: bool) -> dict[str, float]:
    torch.set_num_threads(job.threads)
    rows = lb.data.Rows.from_array(load_rows(job.cache, job.rows))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(job.seed))
    few = round(HELD_OUT * len(rows))
    rows, held_out = rows.subset(order[few:]), rows.subset(order[:few])
    model, posterior = lowerbound_fit.build(job)
    warm_up = lb.training.WarmUp(passes=job.passes - 1)
    rate = lb.training.Cosine(1e-3, passes=job.passes)
    inference = lowerbound_fit.inference(job, posterior, beta=warm_up, learning_rate=rate)
    one_step(job, rows)
    laps.start()
    if not everything:
        steps_alone(job, laps, inference.start(model), rows)
        return _timed(laps)
    fit_with_everything(job, laps, model, inference, rows, held_out)
    return _timed(laps) | {"evaluation_s": _evaluation(job, model, inference, held_out)}


def one_step(job: Job, rows: lb.data.Rows) -> None:
    """A fit of one step, for both: whatever ``fit`` sets in the process holds for the bare loop too."""
    model, posterior = lowerbound_fit.build(job)
    few = rows.subset(torch.arange(job.workload.batch))
    lb.fit(model, few, lowerbound_fit.inference(job, posterior), passes=1, validation=0, threads=job.threads)


def fit_with_everything(
    job: Job,
    laps: Laps,
    model: lb.LatentVariableModel,
    inference: lb.AEVB,
    rows: lb.data.Rows,
    held_out: lb.data.Rows,
) -> None:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=job.cache))
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(Path(os.devnull).open("w"))))
        lb.fit(
            model,
            rows,
            inference,
            passes=job.passes,
            batch_size=job.workload.batch,
            validation=held_out,
            patience=job.passes,
            seed=job.seed,
            threads=job.threads,
            callbacks=[lambda event: event.step < 0, _ends(laps)],
            progress=True,
            run_dir=folder,
            checkpoint_every=CHECKPOINT_EVERY,
        )


def steps_alone(job: Job, laps: Laps, procedure: Any, rows: lb.data.Rows) -> None:
    cursor = Cursor(rows, job.workload.batch, job.seed)
    scalars = {"learning_rate": torch.tensor(1e-3), "beta": torch.tensor(0.5)}
    state = procedure.state
    for _ in range(job.passes):
        for _ in range(cursor.steps_per_pass):
            batch, _ = cursor.next()
            noise = procedure.noise(len(batch.index), cursor.rng)
            state, metrics = procedure.step(state, batch, noise, scalars)
        laps.end_pass(-float(metrics["objective"]))


def _ends(laps: Laps) -> Callable[[Any], None]:
    def watch(event: Any) -> None:
        if event.record is not None:
            laps.end_pass(-event.record["train_objective"])

    return watch


def _timed(laps: Laps) -> dict[str, float]:
    """Seconds of all passes after the first: a checkpoint falls into some of them, so not their median."""
    return {"timed_passes_s": sum(laps.seconds[1:])}


def _evaluation(job: Job, model: lb.LatentVariableModel, inference: lb.AEVB, held_out: lb.data.Rows) -> float:
    """Seconds to evaluate the held-out rows as often as in the timed passes."""
    procedure = inference.start(model)
    scalars = {"learning_rate": torch.tensor(1e-3), "beta": torch.tensor(1.0)}
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        evaluate(procedure, procedure.state, held_out, job.workload.batch, job.seed, scalars)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * (job.passes - 1)
