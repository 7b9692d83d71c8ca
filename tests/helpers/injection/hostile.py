"""Folders and files made to do harm: each is refused in one sentence, at once, with little memory, and does nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lowerbound as lb
from injection import hostile_data, trees
from injection.processes import Child, warm
from injection.tally import Tally
from injection.traps import FIT_TRAPS, LOAD_TRAPS, MAY_LOAD_TRAPS
from injection.victims import fit_vae
from lowerbound.storage.contents import contents

MEMORY = 200 << 20
ROOM = 4 << 30  # address space beyond what the process has: a large layer must be refused, not merely fail
SECONDS = 5.0  # of CPU: the machine does other work
OPTIONS = {"binarise": "afresh", "max_value": 16, "epochs": 2}


class Canary:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def run(size: str, seed: int, base: Path) -> list[Tally]:
    warm(lambda: _fit(base / "whole"), base)
    canary = base / "canary"
    pickled = pickle.dumps(Canary(canary))
    loads, fits = Tally("hostile folder, loaded and looked at"), Tally("hostile folder, fitted into")
    some = size == "test"
    for name, trap in list(LOAD_TRAPS.items())[:: 2 if some else 1]:
        _try(loads, name, base, partial(trap, pickled=pickled), _load, must_refuse=True)
    for name, trap in MAY_LOAD_TRAPS.items():
        _try(loads, name, base, partial(trap, pickled=pickled), _load, must_refuse=False)
    for name, trap in list(FIT_TRAPS.items())[:: 6 if some else 1]:
        _try(fits, name, base, partial(trap, pickled=pickled), _fit, must_refuse=False)
    for action in (_load, _fit):  # what no trap is in is not refused
        control = Tally("control")
        _try(control, "no trap", base, lambda run, outside: None, action, must_refuse=False)
        fits.trouble([f"a whole folder is {name}" for name in control.outcomes if name != "did no harm"], "control")
    for tally in (loads, fits):
        tally.trouble(["something was unpickled"] if canary.exists() else [], "canary")
    return [loads, fits, *hostile_data.run(size, base, pickled, canary)]


def _load(run: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        contents(run)
    lb.load(run)


def _fit(run: Path) -> None:
    fit_vae(OPTIONS, run)


def _try(
    tally: Tally,
    name: str,
    base: Path,
    prepare: Callable[..., object],
    action: Callable[[Path], None],
    must_refuse: bool,
) -> None:
    """Set a trap in a copy of a whole folder, and let ``action`` walk into it in a process of its own."""
    run, outside = base / "run", base / "outside"
    for path in (run, outside):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(base / "whole", run)
    outside.mkdir()
    prepare(run, outside)
    before = trees.tree(outside)
    child = Child(lambda ready: _measured(lambda: action(run), base / "found"))
    code, said = child.wait()
    if code != 0:
        tally.add("hang" if code is None else f"exit {code}", [said[-300:]], name)
        return
    kind, words, grown, seconds = json.loads((base / "found").read_text())
    troubles = [] if trees.tree(outside) == before else ["what is outside was changed"]
    troubles += [f"{grown >> 20} MB of memory"] if grown > MEMORY else []
    troubles += [f"{seconds:.1f} s of CPU"] if seconds > SECONDS else []
    troubles += ["not one sentence"] if "\n" in words or len(words) > 1000 else []
    if must_refuse and kind != "FormatError" and "holds no model" not in words:
        troubles.append(f"{kind or 'loaded silently'}: {words}")
    elif kind not in ("", "FormatError", "FileNotFoundError", "ValueError", "OSError", "LockedError"):
        troubles.append(f"{kind}: {words}")
    tally.add(f"refused: {kind}" if kind else "did no harm", troubles, name)


def _measured(action: Callable[[], None], found: Path) -> None:
    """Run ``action``, and write what it raised, how far its memory grew, and how long it took."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    start, kind, words = time.process_time(), "", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            action()
        except Exception as error:
            kind, words = type(error).__name__, str(error)
            kind = "OSError" if isinstance(error, OSError) and kind != "FileNotFoundError" else kind
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found.write_text(json.dumps([kind, words, peak - held, time.process_time() - start]))
