"""What is made of the jobs' figures: a line per table and share of missing cells, and the standings of the methods."""

from __future__ import annotations

from typing import Any

import numpy as np

from table_defaults import jobs, masks
from table_defaults.standings import standings
from table_peers.data import Table
from table_peers.job import Job

Figures = dict[str, Any]

LOSS = {"impute": "error", "generate": "told_from_real"}
KEPT = {
    "impute": ("error", "crps_5", "crps_20", "coverage_5", "coverage_20"),
    "generate": (
        "told_from_real",
        "column_distance",
        "pair_distance",
        "area_drawn",
        "area_real",
        "nearer_to_train",
        "copies",
        "distance_ratio",
    ),
}
KINDS = {"20": "20 %", "50": "50 %", "mar20": "20 %, at random given a column"}


def summarise(task: str, tables: dict[str, Table], known: jobs.Known) -> Figures:
    """Lines, standings, and what was not run; ``missing``: the jobs that are still to run, by method."""
    by_line: dict[str, dict[str, dict[int, Figures]]] = {}
    missing: dict[str, list[str]] = {}
    not_run: dict[str, str] = {}
    for job in jobs.all_jobs(task, tables):
        figures = known(job)
        reason = (figures or {}).get("not_run") or (None if figures else jobs.hopeless(job, tables, known))
        if reason:
            figures = {"not_run": reason}
            not_run[job.name] = reason
        if figures is None:
            missing.setdefault(job.method, []).append(job.name)
        else:
            by_line.setdefault(line_of(job), {}).setdefault(job.method, {})[job.seed] = figures
    lines = {name: _line(task, methods) for name, methods in sorted(by_line.items())}
    losses = {
        name: {
            method: each.get(LOSS[task])
            for method, each in line["methods"].items()
            if method != jobs.REFERENCE or task == "impute"
        }
        for name, line in lines.items()
    }
    found = {method: each | _averages(task, lines, method) for method, each in standings(losses).items()}
    if task == "generate" and any(jobs.REFERENCE in line["methods"] for line in lines.values()):
        found = {jobs.REFERENCE: _averages(task, lines, jobs.REFERENCE)} | found
    sizes = {name: list(table.values.shape) for name, table in tables.items()}
    return {"standings": found, "lines": lines, "sizes": sizes, "not_run": not_run, "missing": missing}


def line_of(job: Job) -> str:
    """The name of the line that the job's figures are averaged into."""
    return f"{job.table}, {KINDS[masks.kind_of(job.mask)]}" if job.mask else job.table


def _line(task: str, methods: dict[str, dict[int, Figures]]) -> Figures:
    """The mean of each method's figures over the masks (or splits) that every method of the line was run on."""
    shared = set.intersection(*(set(each) for each in methods.values())) or set().union(*methods.values())
    found: Figures = {}
    for method, by_seed in methods.items():
        figures = [each for seed, each in by_seed.items() if seed in shared]
        if late := [each["not_run"] for each in by_seed.values() if "not_run" in each]:
            found[method] = {"not_run": late[0]}
        elif figures:
            found[method] = _mean(figures, KEPT[task])
    return {"runs": len(shared), "methods": found}


def _mean(figures: list[Figures], keys: tuple[str, ...]) -> Figures:
    found: Figures = {}
    for key in keys:
        values = [each[key] for each in figures if each.get(key) is not None]
        if values:
            found[key] = float(np.mean(values))
    seconds, memory = ([each[key] for each in figures] for key in ("seconds", "megabytes"))
    commits = sorted({each["commit"] for each in figures})
    return found | {"seconds": float(np.median(seconds)), "megabytes": float(max(memory)), "commits": commits}


def _averages(task: str, lines: dict[str, Figures], method: str) -> Figures:
    """Means over the lines that the method finished; the median of its seconds, and its most memory."""
    line = [each["methods"][method] for each in lines.values() if method in each["methods"]]
    line = [each for each in line if "not_run" not in each]
    if not line:
        return {}
    return _mean([each | {"commit": each["commits"][0]} for each in line], KEPT[task])
