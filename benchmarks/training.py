"""Training speed: ``lb.fit`` and its peers on the same models, rows, initial weights, optimiser and batches.

    python benchmarks/training.py [--rounds 5] [--workloads ABC] [--contenders NAME,NAME] [--quick]
        [--speed] [--overhead] [--scaling] [--resume] [--cache DIR] [--peers DIR] [--threads 2] [--seed 0]

Three parts, all of them unless some are named: --speed, the comparison; --overhead, what stands around the steps;
--scaling, fits of up to a million rows. Every contender (``contenders/``) runs in a fresh process with as many threads;
a round runs each of them once, in an order that changes from round to round, and ratios are taken within a round. The
peers have an environment of their own, made in the cache, outside the repository, from ``constraints-peers.txt``.
A whole run writes benchmarks/results/training.{json,md}; a partial or --quick one prints its page only. The cache keeps
the figures of each process, which --resume takes instead of running it again, and those of the last run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contenders import ALL, EVERYTHING, FLOOR, IN_MEMORY, MAPPED, OURS, SPEED, Contender
from contenders.figures import Figures, Runs, compare_losses, judged, ratios, spread, values
from contenders.page import page
from contenders.workloads import ROWS, WORKLOADS, prepare
from kit import record
from kit.processes import Kept, PeersMissing, peers_python, run

HERE = Path(__file__).parent
CONSTRAINTS = HERE / "constraints-peers.txt"
PEER_PACKAGES = ("pyro-ppl", "jax", "optax", "lightning")
PYTHAE_NEEDS = ("pydantic", "cloudpickle", "scikit-learn", "imageio", "scipy", "tqdm")  # its own list asks for more
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
TIMEOUT = 3600
DISTURBED = 0.2  # cores kept busy by others: parallel products then wait for the core, at many times their cost


@dataclass(frozen=True)
class Size:
    """How much a run does; ``rows`` of one pass by workload, ``epochs`` with the first, which warms up."""

    rounds: int
    rows: Mapping[str, int]
    epochs: int
    overhead_epochs: int
    scaling_rows: tuple[int, ...]
    scaling_rounds: int


FULL = Size(5, {name: workload.rows for name, workload in WORKLOADS.items()}, 3, 5, (60_000, 250_000, 1_000_000), 2)
QUICK = Size(1, {"A": 6_000, "B": 400, "C": 1_280}, 2, 2, (6_000, 12_000), 1)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)  # for the record: nothing is trained in this process
    start, result = time.perf_counter(), record.context(options.seed) | machine()
    size = QUICK if options.quick else FULL
    parts = [part for part in ("speed", "overhead", "scaling") if getattr(options, part)]
    parts = parts or ["speed", "overhead", "scaling"]
    many_rows = max(size.scaling_rows) if "scaling" in parts else 0
    prepare(options.cache, options.seed, many_rows)
    contenders = [each for each in SPEED if each.name in options.contenders and "speed" in parts]
    try:
        workshop = Workshop(options, peers(options, contenders))
    except PeersMissing as error:
        sys.exit(f"{error} (--contenders names those to run; ours are {', '.join(each.name for each in OURS)})")

    result["threads"], result["rounds"] = options.threads, options.rounds or size.rounds
    if "speed" in parts:
        result |= speed(workshop, contenders, options.workloads, size, result["rounds"], options.quick)
    if "overhead" in parts:
        result["overhead"] = overhead(workshop, size, result["rounds"])
    if "scaling" in parts:
        result["scaling"] = scaling(workshop, size)
    failures = workshop.failures + [words for each in result.get("losses", {}).values() for words in each["out"]]
    result |= {"failures": failures, "warnings": workshop.warnings, "versions": result["versions"] | workshop.versions}
    result |= {"bars": judged(result), "minutes": (time.perf_counter() - start) / 60}

    (options.cache / "last.json").write_text(json.dumps(result, indent=2) + "\n")
    whole = len(parts) == 3 and len(contenders) == len(SPEED) and set(options.workloads) == set(WORKLOADS)
    record.write("training", result, page(result), options.quick or not whole)
    sys.exit(bool(result["failures"]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="paired repetitions (5; with --quick 1)")
    parser.add_argument("--workloads", default="ABC")
    parser.add_argument("--contenders", default=",".join(each.name for each in SPEED), help="names, with commas")
    parser.add_argument("--resume", action="store_true", help="continue a run that was interrupted")
    for part in ("speed", "overhead", "scaling"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/lowerbound-bench")
    parser.add_argument("--peers", type=Path, help="an environment that has the peers already")
    parser.add_argument("--pip-flags", default="", help="for the peers' environment")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser)
    options.cache = options.cache.expanduser().resolve()
    options.contenders = options.contenders.split(",")
    if unknown := {*options.contenders} - {each.name for each in SPEED}:
        parser.error(f"no contender {sorted(unknown)}; there are {[each.name for each in SPEED]}")
    if unknown := {*options.workloads} - {*WORKLOADS}:
        parser.error(f"no workload {sorted(unknown)}; there are A, B and C")
    return options


# Processes


class Workshop:
    """Runs contenders, each in a process of its own, and keeps what went wrong, and their figures in the cache."""

    def __init__(self, options: argparse.Namespace, peers: Path | None) -> None:
        self.cache, self.threads, self.seed, self.peers = options.cache, options.threads, options.seed, peers
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.versions: dict[str, dict[str, str]] = {"ours": {}, "peers": {}}
        self._kept = Kept(options.cache / ("runs-quick" if options.quick else "runs"))
        if not options.resume:
            shutil.rmtree(self._kept.folder, ignore_errors=True)
            shutil.rmtree(self.cache / "inductor", ignore_errors=True)  # compiled in the first round, as a user would

    def run(self, contender: Contender, workload: str, rows: int, epochs: int, number: int) -> Figures:
        """The contender's figures in round ``number``, with what else the machine did meanwhile."""
        name = f"{workload}-{contender.name.replace(' ', '_')}-{rows}-{epochs}-seed{self.seed + number}"
        if (known := self._kept.get(name)) is None:
            command = [str(sys.executable if contender.ours else self.peers), "-m", "contenders", contender.name]
            command += ["--workload", workload, "--rows", str(rows), "--epochs", str(epochs)]
            command += ["--threads", str(self.threads), "--seed", str(self.seed + number), "--cache", str(self.cache)]
            load, before, start = os.getloadavg()[0], moment(), time.perf_counter()
            done = run(command, self.threads, TIMEOUT, self._environment(contender))
            figures = done.figures | {"wall_s": time.perf_counter() - start, "load_before": load}
            figures |= meanwhile(before, moment())
            known = {"figures": figures, "error": done.written.strip()[-1000:] or done.error}
            if not done.error:
                self._kept.put(name, known)
        figures = dict(known["figures"])
        self._note(contender, workload, number, figures, known["error"])
        return figures

    def _environment(self, contender: Contender) -> dict[str, str]:
        chosen = {"JAX_PLATFORMS": "cpu", "TORCHINDUCTOR_CACHE_DIR": str(self.cache / "inductor")}
        if contender is FLOOR:  # its convolutions allocate: keep the pages, so that their making is not in the floor
            chosen |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
        return chosen

    def _note(self, contender: Contender, workload: str, number: int, figures: Figures, error: str) -> None:
        who = f"{workload}, {contender.name}"
        self.versions["ours" if contender.ours else "peers"] |= figures.pop("versions", {})
        self.warnings += [f"{who}: {each}" for each in figures.pop("warnings", [])]
        self.warnings = list(dict.fromkeys(self.warnings))
        if figures["other_cores"] > DISTURBED:
            self.warnings.append(
                f"{who}, round {number + 1}: disturbed, others kept {figures['other_cores']:.2f} cores busy"
            )
        if error:
            self.failures.append(f"{who}, round {number + 1}: {error}")
        shown = {name: round(value, 3) for name, value in figures.items()}
        print(f"round {number + 1}, {who}: {error or shown}", file=sys.stderr, flush=True)


def peers(options: argparse.Namespace, contenders: Iterable[Contender]) -> Path | None:
    """The peers' interpreter, if one is needed."""
    if all(contender.ours for contender in contenders):
        return None
    if options.peers:
        return Path(options.peers / "bin/python")
    installs = (["torch"], [*PEER_PACKAGES, *PYTHAE_NEEDS], ["--no-deps", "pythae"])
    return peers_python(options.cache / "peers-venv", CONSTRAINTS, installs, shlex.split(options.pip_flags))


# The parts


def speed(
    workshop: Workshop, contenders: Sequence[Contender], workloads: str, size: Size, rounds: int, quick: bool
) -> dict[str, Any]:
    runs: Runs = {name: {c.name: [] for c in contenders if name in c.workloads} for name in workloads}
    first_steps: dict[str, list[Figures]] = {name: [] for name in workloads}
    for number in range(rounds):
        for name, order in ((name, in_turn([ALL[each] for each in runs[name]], number)) for name in workloads):
            for contender in order:
                found = workshop.run(contender, name, size.rows[name], size.epochs, number)
                runs[name][contender.name].append(found)
            if OURS[0] in contenders:
                first_steps[name].append(workshop.run(OURS[0], name, WORKLOADS[name].batch, 1, number))
    return {
        "epoch_rows": ROWS,
        "rows": {name: size.rows[name] for name in workloads},
        "epochs": size.epochs,
        "runs": runs,
        "first_steps": first_steps,
        "losses": {name: compare_losses(name, found, quick) for name, found in runs.items()},
    }


def overhead(workshop: Workshop, size: Size, rounds: int) -> dict[str, Any]:
    runs = [workshop.run(EVERYTHING, "A", size.rows["A"], size.overhead_epochs, number) for number in range(rounds)]
    whole = [run for run in runs if "fit_s" in run]
    return {
        "epochs": size.overhead_epochs,
        "runs": runs,
        "cost_with_evaluation": spread([run["fit_s"] / run["alone_s"] - 1 for run in whole]),
        "cost_without_evaluation": spread([(run["fit_s"] - run["evaluation_s"]) / run["alone_s"] - 1 for run in whole]),
    }


def scaling(workshop: Workshop, size: Size) -> list[dict[str, Any]]:
    kinds = {(rows, contender.name): contender for rows in size.scaling_rows for contender in (IN_MEMORY, MAPPED)}
    found: dict[tuple[int, str], list[Figures]] = {kind: [] for kind in kinds}
    for number in range(size.scaling_rounds):
        for kind in in_turn(list(kinds), number):
            found[kind].append(workshop.run(kinds[kind], "A", kind[0], 1, number))
    smallest = values(found[size.scaling_rows[0], IN_MEMORY.name], "row_us")
    return [
        {
            "rows": rows,
            "where": where,
            "row_us": spread(values(runs, "row_us")),
            "over_the_smallest": spread(ratios(values(runs, "row_us"), smallest)),
            "runs": runs,
        }
        for (rows, where), runs in found.items()
    ]


def in_turn(those: Sequence[Any], number: int) -> list[Any]:
    """The order of round ``number``: another one first each time, the others backwards in every other round."""
    start = number % len(those)
    first, *others = [*those[start:], *those[:start]]
    return [first, *(others[::-1] if number % 2 else others)]


# The machine


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text()
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "").split()
    return {
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "libc": " ".join(platform.libc_ver()),
        "kernel": platform.release(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
    }


@dataclass(frozen=True)
class Moment:
    """Seconds spent so far: all processors by kind (the first line of /proc/stat), and the contenders' processes."""

    processors: Sequence[float]
    contenders: float


def moment() -> Moment:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks, times = os.sysconf("SC_CLK_TCK"), os.times()
    return Moment([int(field) / ticks for field in fields], times.children_user + times.children_system)


def meanwhile(before: Moment, after: Moment) -> dict[str, float]:
    """The share of time that the host took away, and the cores that processes other than the contender kept busy."""
    spent = [b - a for a, b in zip(before.processors, after.processors, strict=True)]
    user, nice, system, _, _, interrupts, soft, steal = spent
    others = user + nice + system + interrupts + soft - (after.contenders - before.contenders)
    whole = max(sum(spent), 1e-9)
    return {"steal": steal / whole, "other_cores": max(others, 0.0) * (os.cpu_count() or 1) / whole}


if __name__ == "__main__":
    main()
