"""Less and less memory (RLIMIT_AS): a batch that does not fit is split, with the same objective, or the fit says so."""

from __future__ import annotations

import json
import math
import re
import resource
import shutil
from pathlib import Path

import numpy as np

from injection import trees
from injection.processes import Child, Signal, warm
from injection.tally import Tally
from lowerbound import cli

LIMITS = {"test": 4, "quick": 8, "full": 40}
ROWS = {"test": 2000, "quick": 4000, "full": 6000}
TOLERANCE = 1e-4  # of an objective: sums in another order, in single precision


def run(size: str, seed: int, base: Path) -> list[Tally]:
    tally = Tally("memory for less than a batch (RLIMIT_AS)")
    rng = np.random.default_rng(seed)
    np.save(base / "data.npy", rng.integers(0, 2, (ROWS[size], 784)).astype(np.uint8))
    np.save(base / "few.npy", rng.integers(0, 2, (50, 784)).astype(np.uint8))
    warm(lambda: _fit(base / "few.npy", base / "warm", 50), base)
    grown = _peak(base, ROWS[size])
    reference = _objectives(base / "reference")
    for number in range(LIMITS[size]):
        share = (number + 0.5) / LIMITS[size]
        tally.add(*_limited(base, ROWS[size], int(share * grown), reference), f"{share:.0%} of {grown >> 20} MB")
        shutil.rmtree(base / "run", ignore_errors=True)
    return [tally]


def _fit(data: Path, run: Path, batch: int) -> None:
    options = f"--likelihood Bernoulli --hidden 1000 --batch-size {batch} --epochs 2 --threads 1 --learning-rate 0.0001"
    cli.main(["fit", str(data), "--out", str(run), *options.split()])


def _status(name: str) -> int:
    """A figure of this process, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _peak(base: Path, batch: int) -> int:
    """How much address space a fit takes that nothing limits."""

    def action(ready: Signal) -> None:
        before = _status("VmSize")
        try:
            _fit(base / "data.npy", base / "reference", batch)
        finally:
            (base / "grown").write_text(str(_status("VmPeak") - before))

    code, said = Child(action).wait()
    if code != 0:
        raise RuntimeError(f"the fit without a limit ended with {code}: {said}")
    return int((base / "grown").read_text())


def _limited(base: Path, batch: int, room: int, reference: list[float]) -> tuple[str, list[str]]:
    """A fit with ``room`` bytes more than the process has."""

    def action(ready: Signal) -> None:
        limit = _status("VmSize") + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        _fit(base / "data.npy", base / "run", batch)

    code, said = Child(action).wait()
    troubles = ["a traceback"] if "Traceback" in said else []
    if code == 71:
        one = [line for line in said.splitlines() if line.startswith("error: ")]
        found = trees.unreadable(base / "run") if (base / "run").is_dir() else []
        return "exit 71, in one sentence", troubles + found + ([] if len(one) == 1 else [f"said {said[-300:]}"])
    if code != 0:
        return f"exit {code}", [*troubles, said[-300:]]
    objectives = _objectives(base / "run")
    same = all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in zip(objectives, reference, strict=True))
    parts = re.findall(r"taken in (\d+) parts", said)
    outcome = f"split into {parts[-1]} parts, same objective" if parts else "fitted whole"
    return outcome, troubles + ([] if same else [f"{outcome}: {objectives} where {reference} is due"])


def _objectives(run: Path) -> list[float]:
    """The objectives of each epoch."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records for name in ("train_objective", "valid_objective")]
