"""Imputers and generators by their own defaults, on many tables.

    python benchmarks/tables.py --defaults [--only impute,generate] [--methods NAME,NAME] [--minutes 600]
        [--again NAME,NAME] [--page] [--quick] [--cache DIR] [--folder DIR] [--packages DIR] [--threads 1]

Every job (a method on a table with a mask) runs in a process of its own, and what it finds is kept in the cache and
in the result, so that runs in parts, also on other machines, make the same page once all jobs are there. ``--again``:
methods whose jobs are run anew. ``--page``: no job is started; the page is written from the cache, and names what is
left. ``--quick``: two small tables and few methods, to see that all runs; nothing is written. The peers' environments
are made in the cache. Result: benchmarks/results/tables_defaults.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from kit import record
from kit.processes import Kept
from real.sources import download
from table_defaults import jobs, tables
from table_defaults.page import page
from table_defaults.running import DefaultsWorkshop
from table_defaults.summary import summarise

METHODS = tuple(dict.fromkeys(method for methods in jobs.TASKS.values() for method in methods))
QUICK_TABLES = ("iris", "breast_cancer")
QUICK_METHODS = ("lowerbound", "mean or mode", "iterative ridge", "real rows", "columns apart")
NAME = "tables_defaults"  # of the result
SEED = 1  # of the first masks and splits


def main() -> None:
    options = parse()
    packages = options.packages.expanduser()
    download(packages)
    known_tables = tables.all_tables(options.folder.resolve(), packages)
    if options.quick:
        known_tables = {name: known_tables[name] for name in QUICK_TABLES}
    workshop = workshop_of(options)
    workshop.all_tables = known_tables
    if not options.quick:
        restore(workshop.kept)
    for task in options.only:
        wanted = [job for job in jobs.all_jobs(task, known_tables) if job.method in options.methods]
        if options.quick:
            wanted = [job for job in wanted if job.seed == SEED and job.mask in ("", "20_1")]
        for job in wanted:
            if job.method in options.again:
                workshop.kept.forget(job.name)
        if not options.page and not all(workshop.run(job) for job in wanted):
            print(f"{task}: no job is started after {options.minutes:g} minutes; run it again.", file=sys.stderr)
    found = {task: summarise(task, known_tables, workshop.known) for task in jobs.TASKS}
    result = record.context(SEED) | {"tasks": {task: part for task, part in found.items() if part["lines"]}}
    result["jobs"] = {
        job.name: figures
        for task in jobs.TASKS
        for job in jobs.all_jobs(task, known_tables)
        if (figures := workshop.known(job)) is not None
    }
    record.write(NAME, result, page(result), options.quick)


def restore(kept: Kept) -> None:
    """Put the figures of the committed result into the cache, where it has none of the same job."""
    path = record.RESULTS / f"{NAME}.json"
    for name, figures in (json.loads(path.read_text()).get("jobs", {}) if path.exists() else {}).items():
        if kept.get(name) is None:
            kept.put(name, figures)


def workshop_of(options: argparse.Namespace) -> DefaultsWorkshop:
    """The cache and the environments that the options ask for."""
    whole = options.cache.expanduser().resolve()
    cache = whole / "quick" if options.quick else whole
    cache.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    commit = record.commit_of(Path(__file__).parent)
    folder, peers = options.folder.resolve(), whole / "peers"
    return DefaultsWorkshop(cache, folder, options.threads, None, peers, until, commit, options.pip_flags)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defaults", action="store_true", required=True, help="this study")
    parser.add_argument("--only", default=",".join(jobs.TASKS), help="tasks, with commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas")
    parser.add_argument("--again", default="", help="methods whose figures in the cache are forgotten")
    parser.add_argument("--minutes", type=float, default=600, help="after which no further job is started")
    parser.add_argument("--page", action="store_true", help="start no job; write the page of what the cache has")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[3] / "shared/data/tables")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/lowerbound-bench/tables_defaults"))
    parser.add_argument("--packages", type=Path, default=Path("~/.cache/lowerbound-bench/real/packages"))
    parser.add_argument("--pip-flags", default="", help="for the peers' environments")
    parser.add_argument("--threads", type=int, default=1)
    options = record.parse(parser, methods=",".join(QUICK_METHODS))
    for name, known in (("only", tuple(jobs.TASKS)), ("methods", METHODS), ("again", METHODS)):
        given = [each for each in getattr(options, name).split(",") if each]
        if unknown := set(given) - set(known):
            parser.error(f"--{name} has no {sorted(unknown)}; there are {list(known)}")
        setattr(options, name, given)
    return options
