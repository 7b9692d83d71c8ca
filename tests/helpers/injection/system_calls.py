"""Each call of the system that a fit makes on its folder, failed in turn: ENOSPC, EIO, and a kill, by ``strace``.

The fit is a forked child that strace is attached to before it starts; one trace without faults tells which calls there
are, and in the trace of each fault it is checked that the call which was failed is the one that was meant.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from injection import commands, trees
from injection.processes import Child
from injection.tally import Tally
from lowerbound.storage import checkpoints

EVERY = 3
FAULTS = {"ENOSPC": "error=ENOSPC", "EIO": "error=EIO", "KILL": "signal=KILL"}
CALLS = ("write", "fsync", "rename", "openat", "fchmod", "mkdir", "unlink", "rmdir")
_LINE = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<arguments>.*)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_REMOVAL = ("unlink", "rmdir")


@dataclass(frozen=True)
class Call:
    """The ``number``-th call of ``name`` in a fit (from 1), on ``path`` of its folder.

    ``removes``: an old checkpoint, which does no harm if it stays.
    """

    name: str
    number: int
    path: str
    removes: bool

    def __str__(self) -> str:
        return f"{self.name} {self.number} of {self.path or 'the folder'}"


def run(size: str, seed: int, base: Path) -> list[Tally]:
    install()
    reference = commands.reference(base / "reference", EVERY)
    calls, first_commit = calls_of(base)
    steps = {"test": 40, "quick": 8, "full": 1}[size]
    tallies = []
    for kind, fault in FAULTS.items():
        tally = Tally(f"{kind} in a call on the folder (write, fsync, rename, open, chmod, mkdir, unlink, rmdir)")
        for order, call in list(enumerate(calls))[seed % steps :: steps]:
            inject(call, fault, order > first_commit, base, reference, tally)
        tallies.append(tally)
    return tallies


def install() -> None:
    """strace, from the distribution's packages where it is missing."""
    if shutil.which("strace") is None:
        subprocess.run(["apt-get", "install", "-y", "strace"], check=True, capture_output=True)


def calls_of(base: Path) -> tuple[list[Call], int]:
    """The calls that a fit makes on its folder, in order; and which of them is the commit of the first checkpoint."""
    code, _, lines = traced(base / "run", base / "trace", [])
    if code != 0:
        raise RuntimeError(f"the fit that was traced ended with {code}")
    shutil.rmtree(base / "run")
    counts: dict[str, int] = {}
    found = []
    for line in lines:
        if match := _LINE.match(line):
            name = match["name"]
            counts[name] = counts.get(name, 0) + 1
            path = place(match["arguments"], base / "run")
            if path is not None and " = -1 " not in line and (name != "openat" or "O_CREAT" in line):
                removes = name in _REMOVAL or (name == "fsync" and bool(found) and found[-1].name in _REMOVAL)
                found.append(Call(name, counts[name], path, removes))
    commits = [i for i, call in enumerate(found) if call.name == "rename" and call.path.endswith("manifest.json.tmp")]
    return found, commits[0]


def place(arguments: str, run: Path) -> str | None:
    """What a call is on, below ``run``; None if it is on something else."""
    match = re.search(rf"{re.escape(str(run))}(/[^\">]*)?[\">]", arguments)
    if match is None:
        return None
    return _TEMPORARY.sub(".tmp", (match[1] or "").lstrip("/"))


def traced(run: Path, log: Path, options: list[str]) -> tuple[int | None, str, list[str]]:
    """A fit under strace: exit code, what it said, and the lines of the trace."""
    child = commands.start(run, EVERY, held=True)
    expression = f"trace={','.join(CALLS)}"
    strace = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", expression, *options, "-p", str(child.pid)]
    process = subprocess.Popen(strace, stderr=subprocess.PIPE)
    _wait_attached(child, process)
    child.let_go()
    code, said = child.wait()
    process.communicate()
    return code, said, log.read_text().splitlines()


def _wait_attached(child: Child, process: subprocess.Popen[bytes]) -> None:
    """strace has attached when it says so; the child waits until it is let go."""
    assert process.stderr is not None
    said = process.stderr.readline()
    if b"attached" not in said:
        raise RuntimeError(f"strace: {said.decode()} {process.stderr.read().decode()}")
    while "TracerPid:\t0" in Path(f"/proc/{child.pid}/status").read_text():
        time.sleep(0.001)


def inject(call: Call, fault: str, is_committed: bool, base: Path, reference: trees.Tree, tally: Tally) -> None:
    """A fit in which ``call`` fails; what it leaves; and the fit that goes on from there."""
    run = base / "run"
    option = f"inject={call.name}:{fault}:when={call.number}"
    code, said, lines = traced(run, base / "trace", ["-e", option])
    killed = "KILL" in fault
    hit = next((m for line in reversed(lines) if killed or "INJECTED" in line if (m := _LINE.match(line))), None)
    troubles = [] if hit and _is_meant(hit, call, run) else [f"another call was failed: {hit and hit[0]}"]
    troubles += [] if killed else _ended(call, code, said, run, reference)
    troubles += [f"ended with {code}"] if killed and code != -signal.SIGKILL else []
    if run.is_dir():
        troubles += trees.unreadable(run)
        troubles += ["no whole checkpoint is left"] if is_committed and not trees.newest(run) else []
    outcome = {0: "went on, with a warning", 74: "gave up, exit 74", -9: "killed"}.get(code, f"exit {code}")
    again, words = commands.fit(run, EVERY)
    troubles += [f"the fit that went on ended with {again}: {words[-300:]}"] if again else []
    exact = trees.differences(run, reference)
    if exact and not killed:
        exact = trees.model_differences(run, reference)
        outcome += ", an older checkpoint or the log not as without the fault" if not exact else ""
    shutil.rmtree(run, ignore_errors=True)
    tally.add(outcome, troubles + exact, str(call))


def _is_meant(hit: re.Match[str], call: Call, run: Path) -> bool:
    path = place(hit["arguments"], run)
    if call.name == "unlink" and path:  # a folder lists its files in an order of its own
        return hit["name"] == call.name and Path(path).parent == Path(call.path).parent
    return hit["name"] == call.name and path == call.path


def _ended(call: Call, code: int | None, said: str, run: Path, reference: trees.Tree) -> list[str]:
    """What is wrong in how a fit ended in which ``call`` failed."""
    of_checkpoints = call.path.startswith(checkpoints.FOLDER)
    due = (0,) if of_checkpoints or call.removes else (74,) if call.path else (0, 74)
    found = [f"ended with {code}, where one of {due} is due: {said[-300:]}"] if code not in due else []
    if code == 0:
        found += ["no warning"] if "warning: " not in said and not call.removes else []
        own = {name for name in reference if "/" not in name}
        there = trees.tree(run)
        found += [f"{name} is not the model's" for name in sorted(own) if there.get(name) != reference[name]]
    elif "error: " not in said or "Traceback" in said:
        found.append(f"no sentence said: {said[-300:]}")
    return found
