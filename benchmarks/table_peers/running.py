"""Jobs in processes of their own, with a limit of time each; what they find is kept, so that runs can be in parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from table_peers.job import Job

HERE = Path(__file__).parent
CONSTRAINTS = HERE / "constraints.txt"
LIMIT = 15 * 60  # seconds
LIMITS = {"TVAE": 40 * 60, "CTGAN": 40 * 60}
PEERS = ("TVAE", "CTGAN")  # that live in an environment of their own
LATE = "not done after"  # what is said of a job that met its limit


@dataclass
class Workshop:
    """``until``: when no further job is started (``time.monotonic``); ``peers``: a Python that has them already."""

    cache: Path
    folder: Path
    threads: int
    peers: Path | None
    peers_folder: Path
    until: float
    commit: str
    pip_flags: str = ""

    def known(self, job: Job) -> dict[str, Any] | None:
        """What the cache has of a job: its figures, or under "not_run" why there are none."""
        path = self._path(job)
        return json.loads(path.read_text()) if path.exists() else None

    def run(self, job: Job) -> bool:
        """Run the job unless the cache has its figures, or that it took too long; False if no time is left."""
        known = self.known(job)
        if known is not None and LATE in known.get("not_run", LATE):
            return True
        if time.monotonic() > self.until:
            return False
        found = self._done(job) | {"commit": self.commit, "threads": self.threads}
        self._path(job).write_text(json.dumps(found) + "\n")
        said = found.get("not_run") or f"{found['job_seconds']:.0f} s, {found['megabytes']:.0f} MB"
        print(f"{job.name}: {said}", file=sys.stderr, flush=True)
        return True

    def _path(self, job: Job) -> Path:
        return self.cache / f"{job.name}.json"

    def _done(self, job: Job) -> dict[str, Any]:
        limit = LIMITS.get(job.method, LIMIT) if job.task != "judge" else LIMIT
        try:
            python = self._python() if job.method in PEERS and job.task != "judge" else sys.executable
            command = [str(python), "-m", "table_peers", json.dumps(asdict(job))]
            command += [str(self.folder), str(self.cache), str(self.threads)]
            done = subprocess.run(
                command, cwd=HERE.parent, env=self._environment(), capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {"not_run": f"{LATE} {limit // 60} minutes"}
        except subprocess.CalledProcessError as error:
            return {"not_run": f"its environment could not be made: {error.stderr.strip()[-300:]}"}
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            return {"not_run": lines[-1] if lines else f"exit {done.returncode}", "stderr": done.stderr[-3000:]}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _environment(self) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        return os.environ | threads | {"PYTHONWARNINGS": "ignore"}

    def _python(self) -> Path:
        """The peers' Python; without one given, an environment is made in the cache."""
        if self.peers is None:
            self.peers = environment(self.peers_folder, self.pip_flags)
        return self.peers


def environment(folder: Path, pip_flags: str) -> Path:
    """An environment with the peers' packages, made where it is not there yet."""
    python = folder / "bin/python"
    if not (folder / "made").exists():
        quietly = {"check": True, "capture_output": True, "text": True}
        subprocess.run([sys.executable, "-m", "venv", str(folder)], **quietly)
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), *pip_flags.split()]
        subprocess.run([*install, "ctgan", "torch"], **quietly)
        (folder / "made").touch()
    return python
