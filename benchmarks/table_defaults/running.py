"""Run a job in a process of its own, in the environment of its method, and score what it made."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from kit.processes import Figures, PeersMissing, peers_python, run
from table_defaults import fidelity, jobs, masks, scores, tables
from table_defaults.environments import ENVIRONMENTS
from table_defaults.job import LIMIT, given, made
from table_peers import data
from table_peers.data import Table
from table_peers.job import Job
from table_peers.running import Workshop

WAIT = 10 * LIMIT  # seconds of the clock: other processes may take most of the machine
ONE_PROCESS = {"LOKY_MAX_CPU_COUNT": "1", "OMP_THREAD_LIMIT": "1", "PYTHONWARNINGS": "ignore"}


@dataclass
class DefaultsWorkshop(Workshop):
    """Keeps what was made next to the figures in the cache; ``all_tables`` by name."""

    all_tables: dict[str, Table] = field(default_factory=dict)

    def run(self, job: Job) -> bool:
        """As ``Workshop.run``, except that jobs that would not end in time are not started."""
        return jobs.hopeless(job, self.all_tables, self.known) is not None or super().run(job)

    def _done(self, job: Job) -> Figures:
        table = self.all_tables[job.table]
        if job.task == "impute":
            hidden = masks.hidden_cells(table, job.mask, self.folder)
            tables.write(given(job, self.cache), table.with_values(np.where(hidden, np.nan, table.values)))
        else:
            train, test = data.split(jobs.complete_rows(table), job.seed)
            tables.write(given(job, self.cache), train)
        try:
            python = str(self._python_of(job.method))
        except PeersMissing as error:
            return {"not_run": str(error)}
        command = [python, "-m", "table_defaults", json.dumps(asdict(job)), str(self.cache)]
        done = run(command, self.threads, WAIT, ONE_PROCESS)
        given(job, self.cache).unlink()
        if done.error:
            return {"not_run": done.error} | ({"stderr": done.written} if done.written else {})
        if "not_run" in done.figures:
            return done.figures
        try:
            with np.load(made(job, self.cache)) as found:
                if job.task == "impute":
                    return done.figures | scores.score(table, hidden, found["best"], found["draws"], job.seed)
                return done.figures | fidelity.judge(train, test, train.with_values(found["drawn"]), job.seed)
        except ValueError as error:  # values that are not finite
            return {"not_run": f"not scored: {error}"}

    def _python_of(self, method: str) -> Path:
        """The Python of the method's environment, which is made in the cache where it is missing."""
        if method not in ENVIRONMENTS:
            return Path(sys.executable)
        needed = ENVIRONMENTS[method]
        folder = self.peers_folder / needed.name
        return peers_python(folder, needed.constraints, [needed.packages], self.pip_flags.split())
