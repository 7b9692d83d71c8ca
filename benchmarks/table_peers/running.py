"""Run the jobs of the tables, each with a limit of time, and keep what they find, so that runs can be in parts."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.processes import LATE, Figures, Kept, PeersMissing, peers_python, run
from table_peers.job import Job

CONSTRAINTS = Path(__file__).parent / "constraints.txt"
LIMIT = 15 * 60  # seconds
LIMITS = {"TVAE": 40 * 60, "CTGAN": 40 * 60}
PEERS = ("TVAE", "CTGAN")  # that live in an environment of their own


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

    @property
    def kept(self) -> Kept:
        return Kept(self.cache)

    def known(self, job: Job) -> Figures | None:
        """What the cache has of a job: its figures, or under "not_run" why there are none."""
        return self.kept.get(job.name)

    def run(self, job: Job) -> bool:
        """Run the job unless the cache has its figures, or that it took too long; False if no time is left."""
        known = self.known(job)
        if known is not None and LATE in known.get("not_run", LATE):
            return True
        if time.monotonic() > self.until:
            return False
        found = self._done(job) | {"commit": self.commit, "threads": self.threads}
        self.kept.put(job.name, found)
        said = found.get("not_run") or f"{found['job_seconds']:.0f} s, {found['megabytes']:.0f} MB"
        print(f"{job.name}: {said}", file=sys.stderr, flush=True)
        return True

    def _done(self, job: Job) -> Figures:
        peer = job.method in PEERS and job.task != "judge"
        try:
            python = str(self._python()) if peer else sys.executable
        except PeersMissing as error:
            return {"not_run": str(error)}
        command = [python, "-m", "table_peers", json.dumps(asdict(job))]
        command += [str(self.folder), str(self.cache), str(self.threads)]
        limit = LIMITS[job.method] if peer else LIMIT
        done = run(command, self.threads, limit, {"PYTHONWARNINGS": "ignore"})
        if done.error:
            return {"not_run": done.error} | ({"stderr": done.written} if done.written else {})
        return done.figures

    def _python(self) -> Path:
        """The peers' Python; without one given, an environment is made in the cache."""
        if self.peers is None:
            self.peers = peers_python(self.peers_folder, CONSTRAINTS, [["ctgan", "torch"]], self.pip_flags.split())
        return self.peers
