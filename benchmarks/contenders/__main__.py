"""One contender, once: ``python -m contenders NAME --workload A …`` prints its figures as a line of JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path

from contenders import ALL
from contenders.job import Job, Laps
from contenders.workloads import WORKLOADS
from kit.processes import memory

PACKAGES = ("torch", "numpy", "lowerbound", "jax", "jaxlib", "optax", "pyro-ppl", "lightning", "pythae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=ALL)
    parser.add_argument("--workload", choices=WORKLOADS, default="A")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    use_cores(options.threads)
    job = Job(WORKLOADS[options.workload], options.rows, options.epochs, options.threads, options.seed, options.cache)
    contender, laps = ALL[options.contender], Laps()
    module = importlib.import_module(f"contenders.{contender.module}")
    more = module.train(job, laps, **contender.settings)
    figures = {**laps.figures(job), "peak_mb": memory(), **more, "versions": versions()}
    print("\n" + json.dumps(figures), flush=True)


def use_cores(threads: int) -> None:
    """Keep to as many cores as threads, where the system can: JAX has no other limit."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def versions() -> dict[str, str]:
    """Of the packages that the contender has imported."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        if package.removesuffix("-ppl") in sys.modules:
            found[package] = metadata.version(package)
    return found


if __name__ == "__main__":
    main()
