"""A job's figures. What only one environment has is imported where it is used."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from table_peers import data
from table_peers.data import Table
from table_peers.job import Job


def impute(job: Job, folder: Path, cache: Path) -> dict[str, Any]:
    """Complete a table with hidden cells; the truth is looked at only after."""
    from table_peers import scores

    table = data.load(job.table, folder)
    hidden = data.hidden_cells(table, job.mask, folder)
    if job.quick:
        table, hidden = data.few(table, hidden)
    start = time.perf_counter()
    found: dict[str, Any]
    if job.ours:
        from table_peers import ours

        completed, found = ours.complete(table, hidden, job.seed, job.quick)
        minutes = found["minutes_fitting"] + found["minutes_imputing"]
    else:
        from table_peers import imputers

        completed, said = imputers.complete(table, hidden, job.method, job.seed)
        found, minutes = {"said": said}, (time.perf_counter() - start) / 60
    found |= {"minutes": minutes, "hidden": int(hidden.sum())}
    if job.table == "breast":
        return found | {"mse": scores.mean_squared_error(table.values, completed, hidden)}
    errors = scores.column_errors(table, completed, hidden)
    return found | scores.summary(table, errors) | {"errors": errors}


def complete_rows(job: Job, folder: Path) -> tuple[Table, Table]:
    """Rows to learn from and rows held out, of those without a hole: the peers take no others."""
    table = data.load(job.table, folder)
    whole = table.with_values(table.values[~np.isnan(table.values).any(1)])
    if job.quick:
        whole, _ = data.few(whole, np.isnan(whole.values))
    return data.split(whole, job.seed)


def synthesise(job: Job, folder: Path, cache: Path) -> dict[str, Any]:
    """As many synthetic rows as were learnt from, kept in the cache."""
    train, _ = complete_rows(job, folder)
    if job.ours:
        from table_peers import ours

        drawn, found = ours.synthesise(train, len(train.values), job.seed, job.quick)
    else:
        from table_peers import synthesisers

        drawn, found = synthesisers.synthesise(train, len(train.values), job.method, job.seed, job.quick)
    np.save(cache / f"{job.name}.npy", drawn)
    return found | {"rows": len(drawn)}


def judge(job: Job, folder: Path, cache: Path) -> dict[str, Any]:
    """What the synthetic rows in the cache are worth."""
    from table_peers import fidelity

    train, test = complete_rows(job, folder)
    drawn = np.load(cache / f"{job.name.replace('judge', 'synthesise', 1)}.npy")
    if np.isnan(drawn).any():
        raise ValueError(f"{int(np.isnan(drawn).any(1).sum())} drawn rows have holes")
    return fidelity.judge(train, test, train.with_values(drawn), job.seed)


def speed(job: Job, folder: Path, cache: Path) -> dict[str, Any]:
    """The time of a fit, with the bound as it goes where there is one."""
    train, _ = complete_rows(job, folder)
    if job.ours:
        from table_peers import ours

        return ours.trace(train, job.seed, job.quick)
    from table_peers import synthesisers

    start = time.perf_counter()
    synthesisers.fitted(train, job.method, job.seed, job.quick)
    return {"fit_seconds": time.perf_counter() - start}


def recognise(job: Job, folder: Path, cache: Path) -> dict[str, Any]:
    """Linear probes of a label that the model has not seen."""
    from table_peers import probes

    return probes.recognise(job, *complete_rows(job, folder))


TASKS = {"impute": impute, "synthesise": synthesise, "judge": judge, "speed": speed, "recognise": recognise}
