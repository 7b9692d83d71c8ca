"""The step of workload A in two checkouts, in turn: how much slower or faster one is than the other.

    python benchmarks/duel.py OTHER [--bursts 150] [--workload A] [--cache DIR] [--threads 2]

OTHER is a checkout of another commit. Each runs its own copy of this file in a process of its own, and takes bursts of
25 steps while the other waits, so that what else the machine does falls on both. Prints the median ratio, this checkout
over OTHER.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

BURST = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--bursts", type=int, default=150)
    parser.add_argument("--workload", default="A")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="4 bursts: to see that it runs")
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        serve(options)
        return
    bursts = 4 if options.quick else options.bursts
    from contenders.workloads import prepare

    prepare(options.cache, seed=0)
    ours, theirs = (started(tree, options) for tree in (Path(__file__).parents[1], options.other.resolve()))
    for worker in (ours, theirs):
        ask(worker)
    ratios = []
    for number in range(bursts):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        taken = {id(first): ask(first), id(second): ask(second)}
        ratios.append(taken[id(ours)] / taken[id(theirs)])
    low, middle, high = statistics.quantiles(ratios, n=4)
    error = 1.25 * statistics.stdev(ratios) / math.sqrt(len(ratios))
    print(f"this / {options.other}: {middle:.3f} ± {error:.3f}, quartiles {low:.3f} to {high:.3f}")


def started(tree: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, str(tree / "benchmarks/duel.py"), str(tree), "--steps", "--workload", options.workload]
    command += ["--cache", str(options.cache), "--threads", str(options.threads)]
    environment = os.environ | {"PYTHONPATH": f"{tree / 'src'}", "OMP_NUM_THREADS": str(options.threads)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ask(worker: subprocess.Popen[str]) -> float:
    """Seconds of a burst."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def serve(options: argparse.Namespace) -> None:
    """Take a burst for each line of input."""
    import torch

    import steps
    from contenders.job import Job
    from contenders.workloads import WORKLOADS
    from lowerbound.training.allocator import keep_memory

    torch.set_num_threads(options.threads)
    keep_memory()
    workload = WORKLOADS[options.workload]
    step = steps.a_step(Job(workload, 20 * workload.batch, 1, options.threads, 0, options.cache), "as it is")
    for _ in range(BURST):
        step()
    for _ in sys.stdin:
        step()
        start = time.perf_counter()
        for _ in range(BURST):
            step()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
