"""What each thing gives: single steps of the workloads in several ways, in turn in one process, and a profile of one.

    python benchmarks/steps.py [--workloads ABC] [--repetitions 15] [--cache DIR] [--threads 2] [--seed 0]

A step is the loop's own: a batch, its noise, the scalars, the update, the running means. Ways alternate in short
bursts; ratios are to the products and Adam, in sequence, of the same repetition. The whole is done twice, with freed
memory kept and with LOWERBOUND_MALLOPT=0. Result: benchmarks/results/steps.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from contenders import floor, lowerbound_fit
from contenders.job import Job
from contenders.workloads import WORKLOADS, load_rows, prepare
from kit import record
from lowerbound.data import Rows
from lowerbound.inference.aevb import AEVBProcedure
from lowerbound.training.allocator import keep_memory
from lowerbound.training.bookkeeping import Progress
from lowerbound.training.compiled import Compiled

BURST_SECONDS = 0.15
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "Adam not fused": {"optimizer": partial(torch.optim.Adam, lr=1e-3)},
    "traced, not compiled": {},
    "compiled": {"compile": True},
    "bf16": {"precision": "bf16"},
    "compiled, bf16": {"compile": True, "precision": "bf16"},
}
ABOUT = {
    "as it is": "autograd, fused Adam: the default",
    "Adam not fused": "`torch.optim.Adam` without `fused=True`",
    "traced, not compiled": "the graph of tensor operations that `compile=True` traces, run operation by operation",
    "compiled": "`compile=True`: that graph through TorchInductor",
    "bf16": '`precision="bf16"`',
    "compiled, bf16": "both",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="ABC")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = record.parse(parser, workloads="A", repetitions=2)
    torch.set_num_threads(options.threads)
    if options.alone:
        print(json.dumps(alone(options)))
        return
    prepare(options.cache, options.seed)
    result = record.context(options.seed) | {"repetitions": options.repetitions, "found": {}}
    for workload in options.workloads:
        for memory, setting in (("kept", "1"), ("returned", "0")):
            command = [sys.executable, __file__, "--alone", "--workloads", workload]
            command += ["--repetitions", str(options.repetitions), "--cache", str(options.cache)]
            command += ["--threads", str(options.threads), "--seed", str(options.seed)]
            environment = os.environ | {"LOWERBOUND_MALLOPT": setting, "OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            result["found"].setdefault(workload, {})[memory] = json.loads(done.stdout.splitlines()[-1])
    record.write("steps", result, page(result), options.quick)


def alone(options: argparse.Namespace) -> dict[str, Any]:
    """One workload, with memory as the environment says: milliseconds of each way in each repetition; a profile."""
    keep_memory()
    workload = WORKLOADS[options.workloads]
    job = Job(workload, 20 * workload.batch, 1, options.threads, options.seed, options.cache)
    layers, adam = floor.prepare(workload)
    products = [layer.forward for layer in layers] + [c for layer in reversed(layers) for c in layer.backward]
    ways: dict[str, Callable[[], object]] = {"products and Adam": lambda: [call() for call in (*products, adam)]}
    ways |= {name: a_step(job, name) for name in WAYS}
    for way in ways.values():
        for _ in range(3):
            way()
    counts = {name: max(1, round(BURST_SECONDS / seconds(way, 3))) for name, way in ways.items()}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repetitions):
        for name, way in ways.items():
            spent[name].append(1e3 * seconds(way, counts[name]))
    return {"milliseconds": spent, "profile": {name: profile(ways[name]) for name in ("as it is", "compiled")}}


def a_step(job: Job, name: str) -> Callable[[], object]:
    """The loop's step of the workload in the way called ``name``."""
    model, posterior = lowerbound_fit.build(job)
    procedure: AEVBProcedure = lowerbound_fit.inference(job, posterior, **WAYS[name]).start(model)
    if name == "traced, not compiled":
        procedure._backward = Compiled(procedure.state.modules, procedure.loss, 1e-3, lambda graph, examples: graph)
    run = Progress(procedure, Rows.from_array(load_rows(job.cache, job.rows)), job.workload.batch, job.seed)

    def step() -> None:
        scalars = run.clock.at(run.cursor.time)
        batch, real = run.cursor.next()
        noise = procedure.noise(len(batch.index), run.cursor.rng)
        _, metrics = procedure.step(run.state, batch, noise, scalars)
        run.meter.add(metrics, real)

    return step


def seconds(way: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        way()
    return (time.perf_counter() - start) / count


def profile(way: Callable[[], object], steps: int = 50) -> list[tuple[str, float, float]]:
    """Operations with the most time of their own: name, milliseconds and calls a step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            way()
    own = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)[:12]
    return [(event.key, event.self_cpu_time_total / 1e3 / steps, event.count / steps) for event in own]


def page(r: dict[str, Any]) -> str:
    lines = ["# Steps, in several ways", ""]
    for workload, by_memory in r["found"].items():
        lines += [
            f"## {workload}: {WORKLOADS[workload].title}",
            "",
            "| | ms a step | over products and Adam, in sequence | the same, freed memory returned |",
            "|---|---|---|---|",
        ]
        kept, returned = (by_memory[memory]["milliseconds"] for memory in ("kept", "returned"))
        lines += [
            f"| {name} | {statistics.median(kept[name]):.2f} | {over(kept, name)} | {over(returned, name)} |"
            for name in kept
        ]
        lines += [""]
    first = next(iter(r["found"]))
    for name, rows in r["found"][first]["kept"]["profile"].items():
        lines += [f"## Where a step of {first} goes: {name}", "", "| operation | ms a step | calls |", "|---|---|---|"]
        lines += [f"| `{operation}` | {spent:.3f} | {calls:.0f} |" for operation, spent, calls in rows] + [""]
    lines += [f"- {name}: {words}." for name, words in ABOUT.items()]
    lines += [
        f"- Medians of {r['repetitions']} repetitions, quartiles in brackets; the profiler slows what it watches.",
        *record.footer(r),
    ]
    return "\n".join(lines) + "\n"


def over(spent: dict[str, list[float]], name: str) -> str:
    ratios = [mine / base for mine, base in zip(spent[name], spent["products and Adam"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
