"""Ctrl-C at moments of the work, once or twice: exit 130, and a checkpoint that goes on to the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from injection import commands, trees
from injection.processes import Child
from injection.tally import Tally

WANTED = {"test": 2, "quick": 10, "full": 80}
FRESH = {"test": 0, "quick": 1, "full": 8}
EVERY = 5
OPTIONS = "--hidden 16 --latent-dim 2 --binarise afresh --warm-up 2 --batch-size 100 --epochs 12 --patience 5"


def run(size: str, seed: int, base: Path) -> list[Tally]:
    rng, tally = random.Random(seed), Tally("Ctrl-C, at a moment of the work")
    reference = commands.reference(base / "reference", EVERY, OPTIONS)
    start = time.perf_counter()
    shutil.rmtree(base / "reference")
    commands.reference(base / "reference", EVERY, OPTIONS)
    seconds = time.perf_counter() - start
    for number in range(WANTED[size]):
        child = commands.start(base / "run", EVERY, OPTIONS)
        code, said, moment = _interrupt(child, base / "run", rng, seconds, trees.last(reference))
        _judge(tally, base / "run", reference, code, said, f"Ctrl-C {number} after {moment}")
    for number in range(FRESH[size]):
        code, said = _fresh(base / "run", rng, seconds, trees.last(reference))
        _judge(tally, base / "run", reference, code, said, f"Ctrl-C {number} of a fresh process")
    return [tally]


def _interrupt(child: Child, run: Path, rng: random.Random, seconds: float, last: int) -> tuple[int | None, str, str]:
    """Ctrl-C after a checkpoint of the first 80 % of the steps, and for one in four again at once."""
    step, moment = rng.uniform(1, 0.8 * last), rng.uniform(0, 0.05 * seconds)
    _wait(run, step, lambda: False)
    time.sleep(moment)
    child.signal(signal.SIGINT)
    again = rng.uniform(0, 0.05) if rng.random() < 0.25 else None
    if again is not None:
        time.sleep(again)
        child.signal(signal.SIGINT)
    return *child.wait(), f"step {step:.0f} and {moment:.3f} s" + ("" if again is None else f" and {again:.3f} s")


def _fresh(run: Path, rng: random.Random, seconds: float, last: int) -> tuple[int, str]:
    """The same of a process of its own."""
    arguments = [sys.executable, "-m", "lowerbound", *commands.command(run, EVERY, OPTIONS)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    _wait(run, rng.uniform(1, 0.8 * last), lambda: process.poll() is not None)
    time.sleep(rng.uniform(0, 0.05 * seconds))
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    return process.returncode, said


def _wait(run: Path, step: float, ended: object, timeout: float = 600) -> None:
    """Wait for a checkpoint of ``step`` or later: progress, not time, which depends on what else the machine does."""
    end = time.monotonic() + timeout
    while trees.newest(run) < step and time.monotonic() < end and not (callable(ended) and ended()):
        time.sleep(0.002)


def _judge(tally: Tally, run: Path, reference: trees.Tree, code: int | None, said: str, about: str) -> None:
    """How an interrupted fit ended, and how it goes on."""
    troubles = trees.unreadable(run)
    troubles += [] if trees.newest(run) else ["no checkpoint is left"]
    if code not in (0, 130) or (code == 0 and trees.differences(run, reference)) or "Traceback" in said:
        troubles.append(f"ended with {code}: {said[-300:]}")
    again, words = commands.fit(run, EVERY, OPTIONS)
    troubles += [f"the fit that went on ended with {again}: {words[-300:]}"] if again else []
    troubles += trees.differences(run, reference)
    outcome = {130: "exit 130", 0: "came after the fit"}.get(code or 0, f"exit {code}")
    tally.add(outcome + ("" if troubles else ", went on to the same bytes"), troubles, about)
    shutil.rmtree(run)
