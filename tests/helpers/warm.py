"""Run functions and commands in processes of their own that need not import torch first.

A server imports what takes seconds; each process is forked from it, with its own streams, folder and environment.
"""

from __future__ import annotations

import code
import multiprocessing
import os
import runpy
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

IMPORTED = [
    "lowerbound.cli",
    "lowerbound.estimators",
    "lowerbound.evidence",
    "lowerbound.recipes",
    "lowerbound.storage.checkpoints",
    "pandas",
    "polars",
    "sklearn.datasets",
    "torch._dynamo",  # torch.optim imports it at the first step
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(IMPORTED)


def run(function: Callable[..., object], *arguments: Any, cwd: Path | None = None, **environment: str) -> Any:
    """Call ``function`` in a process of its own and wait for it; its exit code and what it printed, as text."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / "out", Path(folder) / "err"]
        place, variables = str(cwd or Path.cwd()), dict(os.environ) | environment
        process = CONTEXT.Process(target=_child, args=(function, arguments, streams, place, variables))
        process.start()
        process.join()
        out, err = (stream.read_text(errors="replace") if stream.exists() else "" for stream in streams)
        return CompletedProcess([function.__name__, *arguments], process.exitcode, out, err)


def lowerbound(*arguments: object, cwd: Path | None = None, **environment: str) -> CompletedProcess[str]:
    """Run a command of the command line, as ``lowerbound ARGUMENTS`` does."""
    return run(_command, *map(str, arguments), cwd=cwd, **environment)


def session(text: str, cwd: Path) -> CompletedProcess[str]:
    """Type ``text`` into an interactive interpreter in which a warning is an error."""
    return run(_session, text, cwd=cwd)


def script(path: Path, cwd: Path) -> CompletedProcess[str]:
    """Run a script in which a warning is an error, as ``python -W error PATH`` does."""
    return run(_script, str(path), cwd=cwd)


def _session(text: str) -> None:
    warnings.simplefilter("error")
    console = code.InteractiveConsole()
    for line in [*text.splitlines(), ""]:
        console.push(line)


def _script(path: str) -> None:
    warnings.simplefilter("error")
    runpy.run_path(path, run_name="__main__")


def _command(*arguments: str) -> None:
    from lowerbound import cli

    cli.main(list(arguments))


def _child(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    streams: list[Path],
    cwd: str,
    variables: dict[str, str],
) -> None:
    for number, stream in enumerate(streams, start=1):
        opened = os.open(stream, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd)
    sys.argv = ["lowerbound", *map(str, arguments)]
    function(*arguments)
