"""Tables with holes and of mixed columns: completing them, drawing rows like theirs, probing, and how long it takes.

    python benchmarks/tables.py [--only breast,wine,adult,credit,synthetic,recognition,speed] [--methods NAME,NAME]
        [--quick] [--minutes 600] [--again NAME,NAME] [--cache DIR] [--folder DIR] [--peers PYTHON] [--seed 0]

Every job (a method on a table with a mask) runs in a process of its own; what it finds is kept in the cache, so that
runs in parts, each of ``--minutes`` at most (no job is started after), make the same page once all jobs are there.
``--again``: methods whose jobs of the named parts are run anew. TVAE and CTGAN live in an environment of their own,
made in the cache from table_peers/constraints.txt. The model sees frames with holes only; what is hidden is looked at
after. ``--quick``: few rows and epochs, to see that all runs. Result: benchmarks/results/tables.{json,md}.

``--defaults``: another study, of every method by its own defaults on many tables (its options: --defaults --help).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from kit import record
from table_peers.page import TITLES, page
from table_peers.parts import IMPUTERS, OURS, REFERENCES, SYNTHESISERS, jobs, summarise
from table_peers.running import Workshop

METHODS = (*IMPUTERS, OURS, *REFERENCES, *SYNTHESISERS)


def main() -> None:
    options = parse()
    cache = options.cache / "quick" if options.quick else options.cache
    cache.mkdir(parents=True, exist_ok=True)
    context = record.context(options.seed)
    until = time.monotonic() + 60 * options.minutes
    peers = options.cache / "peers"
    workshop = Workshop(
        cache, options.folder, options.threads, options.peers, peers, until, context["commit"], options.pip_flags
    )
    for part in options.only:
        wanted = [job for job in jobs(part, options.seed, options.quick) if job.method in options.methods]
        for job in wanted:
            if job.method in options.again:
                workshop.kept.forget(job.name)
        if not all(workshop.run(job) for job in wanted):
            print(f"{part}: no job is started after {options.minutes:g} minutes; run it again.", file=sys.stderr)
    result = context | {"parts": {}}
    for part in TITLES:
        found = summarise(part, workshop.known, options.seed, options.quick)
        if part in options.only or not found["missing"]:
            result["parts"][part] = found
    done = len(result["parts"]) == len(TITLES) and not any(part["missing"] for part in result["parts"].values())
    record.write("tables", result, page(result), options.quick or not (done or options.unfinished))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TITLES), help="parts, with commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas")
    parser.add_argument("--again", default="", help="methods whose figures in the cache are forgotten")
    parser.add_argument("--minutes", type=float, default=600, help="after which no further job is started")
    parser.add_argument(
        "--unfinished", action="store_true", help="write the result though jobs are left; it names them"
    )
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/tables")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench/tables")
    parser.add_argument("--peers", type=Path, help="a Python that has ctgan already")
    parser.add_argument("--pip-flags", default="", help="for the peers' environment")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser)
    if options.peers is not None and not options.peers.exists():
        parser.error(f"--peers names {options.peers}, which does not exist; give a Python that has ctgan")
    options.cache, options.folder = options.cache.expanduser().resolve(), options.folder.resolve()
    for name, known in (("only", tuple(TITLES)), ("methods", METHODS), ("again", METHODS)):
        given = [each for each in getattr(options, name).split(",") if each]
        if unknown := set(given) - set(known):
            parser.error(f"--{name} has no {sorted(unknown)}; there are {list(known)}")
        setattr(options, name, given)
    return options


if __name__ == "__main__":
    if "--defaults" in sys.argv:
        from table_defaults.study import main as defaults

        defaults()
    else:
        main()
