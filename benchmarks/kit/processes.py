"""Run jobs in processes of their own, keep their figures as JSON, and read how much memory a process took.

Imports the standard library only: jobs of peers run in environments that have nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
HERE = Path(__file__).parents[1]
LATE = "not done after"  # how the error of a job begins that met its limit


@dataclass(frozen=True)
class Outcome:
    """The figures that a job printed as its last line, or why there are none, with the end of what it wrote."""

    figures: Figures
    error: str = ""
    written: str = ""


def run(command: Sequence[str], threads: int, limit: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a job in the folder of the benchmarks, on so many threads, for at most ``limit`` seconds."""
    chosen = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    try:
        done = subprocess.run(
            list(command),
            cwd=HERE,
            env=os.environ | chosen | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return Outcome({}, f"{LATE} {limit / 60:g} minutes")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Outcome({}, lines[-1] if lines else f"exit status {done.returncode}", done.stderr[-3000:])
    return Outcome(json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Kept:
    """Figures of jobs by name, a JSON file each in ``folder``, so that a run can continue where another ended."""

    folder: Path

    def get(self, name: str) -> Figures | None:
        path = self._path(name)
        if not path.exists():
            return None
        found: Figures = json.loads(path.read_text())
        return found

    def put(self, name: str, figures: Figures) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path(name).write_text(json.dumps(figures) + "\n")

    def forget(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def peers_python(folder: Path, constraints: Path, installs: Sequence[Sequence[str]], pip_flags: Sequence[str]) -> Path:
    """The Python of an environment with the peers' packages, which is made where it is missing or of other versions."""
    python, stamp = folder / "bin/python", folder / "made-from.txt"
    if stamp.exists() and stamp.read_text() == constraints.read_text():
        return python
    quietly: dict[str, Any] = {"check": True, "capture_output": True, "text": True}
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], **quietly)
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), *pip_flags]
        for packages in installs:
            subprocess.run([*install, *packages], **quietly)
    except subprocess.CalledProcessError as error:
        raise PeersMissing(
            f"the environment {folder} of the peers could not be made ({error.stderr.strip()[-300:]}); give one that "
            "has them by --peers, or leave the peers out."
        ) from error
    stamp.write_text(constraints.read_text())
    return python


class PeersMissing(Exception):
    """The packages of the peers are not installed, and could not be."""


def memory(field: str = "VmHWM") -> float:
    """Memory of this process in MB (10⁶ bytes), of this program alone (Linux): its peak, or another ``field``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)
