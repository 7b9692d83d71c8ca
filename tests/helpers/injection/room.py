"""No room: a limit on the size of a file, and a file system of 1 MB; then room again."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from injection import commands, trees
from injection.processes import Child, Signal
from injection.tally import Tally
from lowerbound import cli

EVERY = 3
WIDE = "--hidden 256 --latent-dim 8 --batch-size 500 --epochs 3 --patience 5"


def run(size: str, seed: int, base: Path) -> list[Tally]:
    tallies = [_limited(base / "limited", {"test": 4, "quick": 8, "full": 60}[size])]
    return [*tallies, _full(base / "full")] if os.geteuid() == 0 else tallies


def _limited(base: Path, count: int) -> Tally:
    """A limit on the size of a file, from nothing to more than the largest."""
    base.mkdir()
    tally = Tally("limit on the size of a file (RLIMIT_FSIZE)")
    reference = commands.reference(base / "reference", EVERY)
    model = (base / "reference/model.safetensors").stat().st_size
    largest = max(path.stat().st_size for path in (base / "reference").rglob("*") if path.is_file())
    for limit in [model - 1, model, largest - 1, largest, *(largest * i // count for i in range(count - 4))]:
        due = 74 if limit < model else 0
        _judge(tally, base / "run", reference, _fit_within(base / "run", limit), due, limit < largest, f"{limit} bytes")
        shutil.rmtree(base / "run")
    return tally


def _fit_within(run: Path, limit: int) -> tuple[int | None, str]:
    """The command line's fit, with files of ``limit`` bytes at most."""
    pipe_out, pipe_in = os.pipe()

    def action(ready: Signal) -> None:
        os.dup2(pipe_in, 2)  # what is said goes through a pipe, which has no limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        cli.main(commands.command(run, EVERY))

    child = Child(action)
    os.close(pipe_in)
    code, _ = child.wait()
    with os.fdopen(pipe_out) as pipe:
        return code, pipe.read()


def _judge(
    tally: Tally,
    run: Path,
    reference: trees.Tree,
    ended: tuple[int | None, str],
    due: int,
    warns: bool,
    about: str,
) -> None:
    """How a fit without room ended, and how it goes on with room."""
    code, said = ended
    troubles = [] if code == due else [f"ended with {code}, where {due} is due: {said[-300:]}"]
    troubles += ["no warning"] if warns and "warning: " not in said else []
    troubles += ["no sentence"] if (code and "error: " not in said) or "Traceback" in said else []
    troubles += trees.unreadable(run)
    if code == 0:  # the model itself had room, and is what it would have been
        own = {name: value for name, value in trees.tree(run).items() if "/" not in name}
        troubles += [] if own == {name: reference.get(name) for name in own} else ["the model differs"]
    if code or trees.newest(run):
        again, words = commands.fit(run, EVERY)
        troubles += [f"the fit that went on ended with {again}: {words[-300:]}"] if again else []
        troubles += trees.differences(run, reference)
    outcome = {0: "went on" + (" with a warning" if warns else ""), 74: "gave up, exit 74"}.get(
        code or 0, f"exit {code}"
    )
    tally.add(outcome, troubles, about)


def _full(base: Path) -> Tally:
    """A file system of 1 MB that fills up; then it grows."""
    base.mkdir()
    tally = Tally("file system full (tmpfs of 1 MB)")
    reference = commands.reference(base / "reference", EVERY, WIDE)
    with mounted(base / "small") as place:
        if place is None:
            return tally
        code, said = commands.fit(place / "run", EVERY, WIDE)
        troubles = [] if code == 74 and "error: " in said and "warning: " in said else [f"ended with {code}: {said}"]
        troubles += trees.unreadable(place / "run")
        subprocess.run(["mount", "-o", "remount,size=32m", place], check=True)
        again, words = commands.fit(place / "run", EVERY, WIDE)
        troubles += [f"the fit that went on ended with {again}: {words[-300:]}"] if again else []
        tally.add("gave up, exit 74", troubles + trees.differences(place / "run", reference), "1 MB")
    return tally


@contextlib.contextmanager
def mounted(place: Path) -> Iterator[Path | None]:
    """A file system of 1 MB at ``place``; None where it cannot be mounted."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    try:
        yield place if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", place], check=True)
