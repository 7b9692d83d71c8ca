"""One part: ``python -m injection kills --size test --seed 0 --json out.json``; leaves with 1 if anything failed."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before torch is imported: a fork keeps no other thread

PARTS = ("kills", "system_calls", "damage", "poison", "hostile", "forged", "interrupts", "room", "memory")

IN_MEMORY = ("damage", "poison", "hostile", "forged")  # where it does not matter what fsync costs


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--size", choices=("test", "quick", "full"), default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the counts go, beside stdout")
    parser.add_argument("--sabotage", help="break the library first, in this way: the part must notice")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    if options.sabotage:
        importlib.import_module("injection.sabotage").break_library(options.sabotage)
    start = time.perf_counter()
    in_memory = options.part in IN_MEMORY and Path("/dev/shm").is_dir()
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/dev/shm" if in_memory else None) as base:
        tallies = importlib.import_module(f"injection.{options.part}").run(options.size, options.seed, Path(base))
    found = {
        "part": options.part,
        "seconds": round(time.perf_counter() - start, 1),
        "kinds": [tally.as_dict() for tally in tallies],
    }
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    if options.json is not None:
        options.json.write_text(text)
    sys.exit(any(tally.failed for tally in tallies))


if __name__ == "__main__":
    main(*sys.argv[1:])
