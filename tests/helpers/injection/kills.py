"""SIGKILL at moments of the work: after each the folder is read, and the fit that goes on ends with the same bytes."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from injection import trees
from injection.processes import Child, Signal, warm
from injection.tally import Tally
from injection.victims import VICTIMS

WANTED = {"test": 10, "quick": 40, "full": 280}
FRESH = {"test": 0, "quick": 3, "full": 16}
MOST = 8  # kills of one fit, which may then end
OPTIONS = "--resume --threads 1 --hidden 16 --latent-dim 2 --binarise afresh --warm-up 2 --epochs 20 --patience 5"
CLI = [sys.executable, "-m", "lowerbound", "fit", "digits", "--checkpoint-every", "7", *OPTIONS.split()]


@dataclass
class Campaign:
    """Fits in ``base``, killed again and again, and what that brought."""

    base: Path
    seed: int
    kills: Tally = field(default_factory=lambda: Tally("SIGKILL of a forked fit"))
    ended: Tally = field(default_factory=lambda: Tally("… killed and gone on with, to the end"))

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.reference = cache(self._reference)

    def run(self, wanted: int) -> None:
        """Fits in turn, until so many kills."""
        for number, name in enumerate(itertools.cycle(VICTIMS)):
            if self.kills.injected >= wanted:
                return
            self.fit(name, self.base / f"fit{number}")

    def _reference(self, name: str) -> tuple[trees.Tree, float]:
        run = self.base / f"reference {name}"
        child = Child(lambda ready: VICTIMS[name].fit(run, lambda event: ready()))
        child.ready()
        start = time.perf_counter()
        code, said = child.wait()
        if code != 0:
            raise RuntimeError(f"the fit of {name} that nothing befell ended with {code}: {said}")
        return trees.tree(run), time.perf_counter() - start

    def fit(self, name: str, run: Path) -> None:
        """One fit, killed up to ``MOST`` times, then let end."""
        reference, seconds = self.reference(name)
        last = trees.last(reference)
        for kills in itertools.count():
            at = trees.newest(run)
            left = seconds * max(1 - at / last, 0.05)
            moment = self.rng.uniform(0, left) if kills < MOST else None
            code, said = self.attempt(name, run, moment, at_once=self.rng.random() < 0.15)
            about = f"{name}, kill {kills + 1} after {moment}"
            if code == 0:
                break
            troubles = trees.unreadable(run, VICTIMS[name].own()) if run.is_dir() else []
            troubles += [] if code == -signal.SIGKILL else [f"ended with {code}: {said[-300:]}"]
            troubles += [] if trees.newest(run) >= at else [f"checkpoint {at} is lost"]
            self.kills.add(trees.place(run), troubles, about)
            if code != -signal.SIGKILL:
                return
        troubles = trees.unreadable(run, VICTIMS[name].own()) + trees.differences(run, reference)
        self.ended.add("same bytes" if not troubles else "other bytes", troubles, f"{name}, {kills} kills")
        shutil.rmtree(run)

    def attempt(self, name: str, run: Path, moment: float | None, at_once: bool) -> tuple[int | None, str]:
        """Start or go on with a fit; kill it ``moment`` seconds after the first steps (or the start)."""

        def action(ready: Signal) -> None:
            if at_once:
                ready()
            VICTIMS[name].fit(run, lambda event: ready())

        child = Child(action)
        if moment is not None and child.ready():
            time.sleep(moment)
            child.signal(signal.SIGKILL)
        return child.wait()


def run(size: str, seed: int, base: Path) -> list[Tally]:
    warm(lambda: next(iter(VICTIMS.values())).fit(base / "warm"), base)
    campaign = Campaign(base, seed)
    campaign.run(WANTED[size])
    found = [campaign.kills, campaign.ended]
    return found + (fresh(seed, FRESH[size], base) if FRESH[size] else [])


def fresh(seed: int, wanted: int, base: Path) -> list[Tally]:
    """Kills of the command line in fresh processes, at moments after the first checkpoint appeared."""
    rng, kills = random.Random(seed), Tally("SIGKILL of `lowerbound fit --resume`")
    ended = Tally("… killed and gone on with, to the end")
    start = time.perf_counter()
    subprocess.run([*CLI, "--out", base / "cli"], check=True, capture_output=True)
    seconds, reference = time.perf_counter() - start, trees.tree(base / "cli")
    number = 0
    while kills.injected < wanted:
        number += 1
        run = base / f"cli{number}"
        while (code := _start_and_kill(run, rng.uniform(0, seconds / 3))) == -signal.SIGKILL:
            kills.add(trees.place(run), trees.unreadable(run), f"fresh {number}")
        troubles = [f"ended with {code}"] if code else []
        troubles += trees.unreadable(run) + trees.differences(run, reference)
        ended.add("same bytes" if not troubles else "other bytes", troubles, f"fresh {number}")
        shutil.rmtree(run)
    return [kills, ended]


def _start_and_kill(run: Path, moment: float) -> int:
    """The command line, killed ``moment`` seconds after it has written a checkpoint that was not there."""
    before = trees.newest(run)
    process = subprocess.Popen([*CLI, "--out", run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and trees.newest(run) <= before:
        time.sleep(0.01)
    time.sleep(moment)
    process.kill()
    return process.wait()
