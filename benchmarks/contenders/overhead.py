"""What stands around the steps: ``fit`` with everything on, against steps alone.

At each look of the fit (a callback, every 100 steps) as many steps as it took since the last are taken alone, by a
second procedure of the same settings, in the same process: the two are paired within half a second, so that what else
the machine does falls on both.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
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


def train(job: Job, laps: Laps) -> dict[str, float]:
    rows = lb.data.Rows.from_array(load_rows(job.cache, job.rows))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(job.seed))
    few = round(HELD_OUT * len(rows))
    rows, held_out = rows.subset(order[few:]), rows.subset(order[:few])
    laps.start()
    alternately = Alternately(job, laps, rows)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=job.cache))
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(Path(os.devnull).open("w"))))
        model, inference = learning(job)
        lb.fit(
            model,
            rows,
            inference,
            epochs=job.epochs,
            batch_size=job.workload.batch,
            validation=held_out,
            patience=job.epochs,
            seed=job.seed,
            threads=job.threads,
            callbacks=[lambda event: event.step < 0, alternately],
            progress=True,
            run_dir=folder,
            checkpoint_every=CHECKPOINT_EVERY,
        )
    return alternately.figures() | {"evaluation_s": evaluation(job, model, inference, held_out)}


def learning(job: Job) -> tuple[lb.LatentVariableModel, lb.AEVB]:
    model, posterior = lowerbound_fit.build(job)
    warm_up = lb.training.WarmUp(epochs=job.epochs - 1)
    rate = lb.training.Cosine(1e-3, epochs=job.epochs)
    return model, lowerbound_fit.inference(job, posterior, beta=warm_up, learning_rate=rate)


class Alternately:
    """A callback: after each stretch of the fit, the same number of steps alone; the first pass warms both up."""

    def __init__(self, job: Job, laps: Laps, rows: lb.data.Rows) -> None:
        model, inference = learning(job)
        self.procedure, self.cursor = inference.start(model), Cursor(rows, job.workload.batch, job.seed)
        self.laps, self.steps, self.since = laps, 0, time.perf_counter()
        self.fit_s, self.alone_s = 0.0, 0.0

    def __call__(self, event: Any) -> None:
        start = time.perf_counter()
        self.take(event.step - self.steps)
        end = time.perf_counter()
        if self.laps.losses:
            self.fit_s += start - self.since
            self.alone_s += end - start
        self.steps = event.step
        if event.record is not None:
            self.laps.end_epoch(-event.record["train_objective"])
        self.since = time.perf_counter()

    def take(self, steps: int) -> None:
        scalars = {"learning_rate": torch.tensor(1e-3), "beta": torch.tensor(0.5)}
        for _ in range(steps):
            batch, _ = self.cursor.next()
            noise = self.procedure.noise(len(batch.index), self.cursor.rng)
            self.procedure.step(self.procedure.state, batch, noise, scalars)

    def figures(self) -> dict[str, float]:
        """Seconds of the fit and of the steps alone, after the first pass."""
        return {"fit_s": self.fit_s, "alone_s": self.alone_s}


def evaluation(job: Job, model: lb.LatentVariableModel, inference: lb.AEVB, held_out: lb.data.Rows) -> float:
    """Seconds to evaluate the held-out rows as often as in the timed epochs."""
    procedure = inference.start(model)
    scalars = {"learning_rate": torch.tensor(1e-3), "beta": torch.tensor(1.0)}
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        evaluate(procedure, procedure.state, held_out, job.workload.batch, job.seed, scalars)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * (job.epochs - 1)
