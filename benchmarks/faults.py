"""The fault campaign: kills, failing calls, damaged and hostile folders, poison, Ctrl-C, no room, no memory.

    python benchmarks/faults.py [--quick] [--seed 0]

Each part (``tests/helpers/injection``) runs in a process of its own, two at a time; then each again, small, with the
library broken on purpose, to see that it would notice. Result: benchmarks/results/faults.{json,md}; --quick keeps none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kit import record

TESTS = Path(__file__).parents[1] / "tests/helpers"
PARTS = (
    "kills",
    "system_calls",
    "forged",
    "interrupts",
    "hostile",
    "memory",
    "poison",
    "damage",
    "room",
)  # the longest first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    options = record.parse(parser)
    sys.path.append(str(TESTS))
    from injection.sabotage import WAYS

    result, start = record.context(options.seed), time.perf_counter()
    size = "quick" if options.quick else "full"
    with ThreadPoolExecutor(max_workers=2) as pool:
        parts = list(pool.map(lambda part: run(part, size, options.seed), PARTS))
        broken = list(pool.map(lambda way: sabotage(way, WAYS[way][0], options.seed), [] if options.quick else WAYS))
    result |= {"minutes": (time.perf_counter() - start) / 60, "parts": parts, "sabotage": broken}
    record.write("faults", result, page(result), options.quick)
    failed = sum(kind["failures"] for part in parts for kind in part["kinds"])
    sys.exit(failed > 0 or not all(each["noticed"] for each in broken))


def run(part: str, size: str, seed: int, *more: str) -> dict[str, Any]:
    """One part, in a process of its own."""
    command = [sys.executable, "-m", "injection", part, "--size", size, "--seed", str(seed), *more]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    if not done.stdout and more:
        return {"part": part, "kinds": [{"kind": part, "failures": 1, "told": [done.stderr[-300:]]}]}
    if not done.stdout:
        raise RuntimeError(f"{part} came to no end: {done.stderr[-2000:]}")
    print(f"{part}: done", file=sys.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sabotage(way: str, part: str, seed: int) -> dict[str, Any]:
    """The part that must notice that the library is broken in this ``way``."""
    from injection.sabotage import WAYS

    found = run(part, "test", seed, "--sabotage", way)
    failures = sum(kind["failures"] for kind in found["kinds"])
    return {"broken": WAYS[way][1].__doc__, "part": part, "noticed": failures > 0}


def page(r: dict[str, Any]) -> str:
    kinds = [kind for part in r["parts"] for kind in part["kinds"]]
    rows = [
        f"| {kind['kind']} | {kind['injected']:,} | "
        f"{'; '.join(f'{count:,} {outcome}' for outcome, count in kind['outcomes'].items())} | {kind['failures']} |"
        for kind in kinds
    ]
    told = [f"- {kind['kind']}: {words}" for kind in kinds for words in kind["told"]]
    noticed = [
        f"| {each['broken']} | {each['part']} | {'yes' if each['noticed'] else 'NO'} |" for each in r["sabotage"]
    ]
    lines = [
        "# Faults: what fits and folders outlast",
        "",
        "A failure is a folder that cannot be read, a finished run with other bytes than one that nothing befell, a",
        "damaged file that is not named, another exit code than is due, a traceback, or a hang.",
        "",
        "| kind | injected | what happened | failures |",
        "|---|---|---|---|",
        *rows,
        f"| all | {sum(kind['injected'] for kind in kinds):,} | | {sum(kind['failures'] for kind in kinds)} |",
        "",
        *(["Failures:", "", *told, ""] if told else []),
        *(["The library broken on purpose, and whether the part shows it:", ""] if noticed else []),
        *(["| broken | part | noticed |", "|---|---|---|", *noticed, ""] if noticed else []),
        f"- {r['minutes']:.0f} minutes. Command: `{r['command']}`, commit {r['commit']}, seed {r['seed']}.",
        f"- Machine: {r['machine']}; Python {r['versions']['python']}, torch {r['versions']['torch']}.",
        *r.get("notes", ()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
