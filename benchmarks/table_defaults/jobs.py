"""All jobs: the first mask of every table first, small tables before large ones; and which are not worth starting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from kit.processes import LATE
from table_defaults import generators, imputers, masks
from table_defaults.job import LIMIT
from table_peers.data import Table
from table_peers.job import Job

Figures = dict[str, Any]
Known = Callable[[Job], Figures | None]

TASKS = {"impute": tuple(imputers.METHODS), "generate": tuple(generators.METHODS)}
REFERENCE = "real rows"  # of the generators; it is not ranked
SPLITS = (1, 2, 3)  # seeds of the rows held out from a generator, and of the generator
GENERATION_ROWS = 500  # complete rows; a classifier learns nothing from fewer held-out rows


def all_jobs(task: str, tables: dict[str, Table]) -> list[Job]:
    """The jobs of "impute" or "generate", in the order in which they are run."""
    found = []
    for name, table in tables.items():
        if task == "impute":
            cases = [(mask, masks.seed_of(mask)) for mask in masks.masks_of(name)]
        else:
            cases = [("", seed) for seed in SPLITS] if len(complete_rows(table).values) >= GENERATION_ROWS else []
        for turn, (mask, seed) in enumerate(cases):
            for place, method in enumerate(TASKS[task]):
                found.append(((turn, table.values.size, place), Job(task, name, method, mask, seed)))
    return [job for _, job in sorted(found, key=lambda each: each[0])]


def complete_rows(table: Table) -> Table:
    """The rows without an unknown cell."""
    return table.with_values(table.values[~np.isnan(table.values).any(1)])


def hopeless(job: Job, tables: dict[str, Table], known: Known) -> str | None:
    """Why the job is not started: its method did not end in time on this table, or on one with no more rows, columns.

    Looked for among the first masks of the same kind, which are run first.
    """
    rows, columns = tables[job.table].values.shape
    first = f"{masks.kind_of(job.mask)}_1" if job.mask else ""
    for name, table in tables.items():
        other = replace(job, table=name, mask=first, seed=1)
        smaller = table.values.shape[0] <= rows and table.values.shape[1] <= columns
        if smaller and other != job and LATE in ((known(other) or {}).get("not_run") or ""):
            return f"not started: {LATE} {LIMIT / 60:g} minutes on {name}"
    return None
