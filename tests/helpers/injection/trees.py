"""Folders of fits: their bytes, whether they can be read, and where a fit was when it was killed."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lowerbound as lb
from lowerbound.storage import checkpoints, folder
from lowerbound.storage.contents import contents

LOG = f"{checkpoints.FOLDER}/metrics.jsonl"
KEPT = 2  # checkpoints
Tree = dict[str, str]


def tree(run: Path) -> Tree:
    """Every file under ``run`` by its SHA-256."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


def differences(run: Path, reference: Tree) -> list[str]:
    """The files of ``run`` that are not those of the fit that nothing befell."""
    found = tree(run)
    return [f"{name} differs" for name in sorted(found.keys() | reference) if found.get(name) != reference.get(name)]


def model_differences(run: Path, reference: Tree) -> list[str]:
    """The same, of the model and the newest checkpoint alone."""
    newest = max(name.split("/")[1] for name in reference if name.startswith(f"{checkpoints.FOLDER}/0"))
    due = {name for name in reference if "/" not in name or newest in name}
    found = tree(run)
    return [f"{name} differs" for name in sorted(due) if found.get(name) != reference[name]]


def newest(run: Path) -> int:
    """The step of the newest whole checkpoint; 0 if there is none."""
    return max((int(path.name) for path in checkpoints.listed(run) if not folder.problems(path)), default=0)


def last(reference: Tree) -> int:
    """The last step of which a fit that ended keeps a checkpoint."""
    return max(int(part) for path in reference for part in path.split("/") if part.isdecimal())


def committed(run: Path) -> bool:
    """Whether anything under ``run`` was ever written to its end."""
    return any(run.rglob(folder.MANIFEST))


def unreadable(run: Path, own: Mapping[str, Any] | None = None) -> list[str]:
    """Why the folder cannot be read: nothing, if all in it is whole, or nothing has been written yet."""
    try:
        found = contents(run)
    except FileNotFoundError as error:
        return [f"nothing is found: {error}"] if committed(run) else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the fit has not ended
            lb.load(run, **(own or {}))
    except Exception as error:
        return [*found.problems, f"load: {type(error).__name__}: {error}"]
    return list(found.problems)


def place(run: Path) -> str:
    """Where the writer was when it was killed, by what it left."""
    if not run.is_dir():
        return "before the folder was made"
    if _staged(run):
        return "inside the write of the model"
    parent = run / checkpoints.FOLDER
    if parent.is_dir() and _staged(parent):
        return "inside the write of the log"
    folders = sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    whole = [path for path in folders if (path / folder.MANIFEST).exists()]
    if any(path not in whole and (not whole or path > whole[-1]) for path in folders) or any(map(_staged, folders)):
        return "inside the write of a checkpoint"
    if len(folders) > KEPT or len(folders) > len(whole):
        return "inside the removal of an old checkpoint"
    return "between writes" if whole else "before the first checkpoint"


def _staged(path: Path) -> bool:
    return any(item.name.startswith(".") and item.name != ".lock" for item in path.iterdir())
