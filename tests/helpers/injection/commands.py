"""``lowerbound fit`` in a forked child: the command line's own code and exit codes, without its imports each time."""

from __future__ import annotations

from pathlib import Path

from injection import trees
from injection.processes import Child, Signal, warm
from lowerbound import cli

SMALL = "--hidden 8 --latent-dim 2 --binarise afresh --warm-up 1 --batch-size 500 --epochs 3 --patience 5"


def command(run: Path, every: int, options: str = SMALL) -> list[str]:
    """The arguments of a fit that goes on where it was cut short."""
    more = f"--resume --threads 1 --checkpoint-every {every}".split()
    return ["fit", "digits", "--out", str(run), *more, *options.split()]


def start(run: Path, every: int, options: str = SMALL, held: bool = False) -> Child:
    """A child that runs the command."""

    def action(ready: Signal) -> None:
        ready()
        cli.main(command(run, every, options))

    return Child(action, held)


def fit(run: Path, every: int, options: str = SMALL) -> tuple[int | None, str]:
    """The command, run to its end: exit code, and what it said."""
    return start(run, every, options).wait()


def reference(run: Path, every: int, options: str = SMALL) -> trees.Tree:
    """What a fit leaves that nothing befell."""
    warm(lambda: cli.main(command(run.parent / "warm", 100)), run.parent)
    code, said = fit(run, every, options)
    if code != 0:
        raise RuntimeError(f"the fit that nothing befell ended with {code}: {said}")
    trees.unreadable(run)  # what this process reads for the first time, no child of it needs to
    return trees.tree(run)
