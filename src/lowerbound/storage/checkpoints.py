"""Checkpoints: the full state of training, one folder each, from which a fit resumes exactly."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import lowerbound
from lowerbound.errors import FormatError, NewerFormatError
from lowerbound.storage import folder, json_data, migrations, tensor_data
from lowerbound.storage.files import atomic_write, sync_folder
from lowerbound.storage.history import History, Record
from lowerbound.storage.parts import with_defaults
from lowerbound.storage.tensor_data import Tensors

FORMAT = 2
FOLDER, UNFINISHED = "checkpoints", "unfinished"
NUMBERS, TENSORS = "state.json", "state.safetensors"
CONFIG, MODEL, METRICS = "config.json", "model.safetensors", "metrics.jsonl"  # of the model's folder
FILES = (NUMBERS, TENSORS, CONFIG, MODEL, METRICS)
_BEST = "best."  # in the state: tensors of the best state that are not of the model
_NAME = re.compile(r"[0-9]{8,18}")

ModelFiles = Callable[[History, Tensors | None], dict[str, bytes]]
"""The files of a model's folder, with the modules' own tensors or with those given."""


class Progress(Protocol):
    """The interface of what a checkpoint stores: it gives its numbers and tensors, and takes them back.

    ``best_tensors``: of the modules at their best so far, which was after epoch ``best_epoch``; None if there is no
    validation, so that the present ones are the best.
    """

    history: History

    @property
    def step(self) -> int: ...
    @property
    def best_epoch(self) -> int: ...
    @property
    def best_tensors(self) -> Tensors | None: ...
    def scalars(self) -> Record: ...
    def numbers(self) -> dict[str, Any]: ...
    def tensors(self) -> Tensors: ...
    def load(
        self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], records: Sequence[Record], best: Tensors
    ) -> None: ...


@dataclass
class Checkpoints:
    """The checkpoints of one fit, under ``run/checkpoints``: the last two. The caller holds the lock of ``run``.

    Each is a model's folder (the best model so far, as ``model_files`` writes it) with the state of the fit.
    ``identity``: what a fit must have in common with a checkpoint to resume from it. ``every``: steps from one to the
    next.
    """

    run: Path
    identity: Mapping[str, Any]
    model_files: ModelFiles
    every: int = 1000

    def __post_init__(self) -> None:
        self._newest: Path | None = None

    def save(self, progress: Progress) -> None:
        """Write this moment; where that fails, say so, keep the checkpoint before, and go on."""
        target = self.run / FOLDER / f"{progress.step:08d}"
        if target == self._newest:
            return
        try:
            if target.is_symlink():
                target.unlink()
            folder.write(target, self._files(progress))
        except OSError as error:
            with contextlib.suppress(OSError):
                if not (target / folder.MANIFEST).exists():
                    folder.remove(target, FILES)
            warnings.warn(
                f"the checkpoint of step {progress.step} was not written ({error.strerror or error}); "
                "the fit goes on, and the checkpoint before is kept",
                RuntimeWarning,
                stacklevel=3,
            )
            return
        _keep_only(self.run, (self._newest, target))
        self._newest = target

    def resume(self, progress: Progress) -> None:
        """Resume from the newest intact checkpoint, if any; damaged ones are skipped with a warning."""
        there = listed(self.run)
        for at, path in reversed(list(enumerate(there))):
            try:
                numbers, tensors, records, best = _read(path)
            except NewerFormatError:
                raise
            except FormatError as error:
                warnings.warn(f"{error} The checkpoint before is taken, if any.", RuntimeWarning, stacklevel=3)
                continue
            _refuse_other(self.run, numbers["identity"], self.identity)
            try:
                progress.load(tensors, numbers, records, best)
            except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise FormatError(f"{path} does not hold the state of this fit ({reason}); start it anew.") from error
            _say_changes(path, numbers, progress)
            self._newest = path
            _keep_only(self.run, there[max(at - 1, 0) : at + 1])
            break
        else:
            if there:
                raise FormatError(f"no checkpoint under {self.run / FOLDER} is whole; start the fit anew.")
        mark(self.run)

    def finish(self, history: History) -> None:
        """Write the model, as the modules now are, into the run's own folder. Raises ``OSError`` if that fails."""
        try:
            folder.write(self.run, self.model_files(history, None))
        except OSError as error:
            reason, kept = error.strerror or str(error), self._newest
            learnt = "nothing of it is kept" if kept is None else f"what was learnt is in {kept}"
            raise OSError(
                error.errno,
                f"the model could not be written into {self.run} ({reason}); fix this, and fit again with resume: "
                f"{learnt}",
            ) from error
        with _said(f"{self.run} could not be marked as a fit that has ended"), contextlib.suppress(FileNotFoundError):
            (self.run / FOLDER / UNFINISHED).unlink()
            sync_folder(self.run / FOLDER)

    @property
    def log(self) -> Path:
        """Where the metrics of a fit under way can be watched."""
        return self.run / FOLDER / METRICS

    def _files(self, progress: Progress) -> dict[str, bytes]:
        history = replace(progress.history, best_epoch=progress.best_epoch, stopped=None)
        model = self.model_files(history, progress.best_tensors)
        numbers = progress.numbers() | {
            "format": FORMAT,
            "identity": self.identity,
            "environment": environment(),
            "schedules": progress.scalars(),
        }
        held = tensor_data.tensor_shapes(BytesIO(model[MODEL]), Path(MODEL))
        rest = {_BEST + name: value for name, value in (progress.best_tensors or {}).items() if name not in held}
        state = {NUMBERS: json_data.json_bytes(numbers), TENSORS: tensor_data.tensor_bytes(progress.tensors() | rest)}
        return model | state


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Where the block fails to write, say so and go on: it is not what a fit should end for."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{what} ({error.strerror or error}); the fit goes on", RuntimeWarning, stacklevel=4)


def environment() -> dict[str, Any]:
    """Environment that affects the last bits of a result."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "lowerbound": lowerbound.__version__,
    }


def mark(run: Path) -> None:
    """Mark ``run`` as a fit under way."""
    with _said(f"{run} could not be marked as a fit under way"), atomic_write(run / FOLDER / UNFINISHED) as file:
        file.write(b"A fit is under way here, or was interrupted; resume it to continue.\n")


def listed(run: Path) -> list[Path]:
    """The folders of the checkpoints in ``run``, oldest first."""
    return [path for path in _folders(run) if (path / folder.MANIFEST).exists()]


def unfinished(run: Path) -> bool:
    """Whether a fit is under way in ``run``, or was cut short."""
    return (run / FOLDER / UNFINISHED).exists()


def seed_of(run: Path) -> int | None:
    """The seed of the unfinished fit in ``run``; None if there is none."""
    for path in reversed(listed(run)):
        with contextlib.suppress(FormatError):
            seed = _read(path)[0]["identity"].get("seed")
            return seed if type(seed) is int else None
    return None


def check_folder(run: Path) -> None:
    """Refuse a run whose checkpoints would lie elsewhere, or among the files of something else."""
    parent = run / FOLDER
    if parent.is_symlink():
        raise FormatError(f"{parent} is a link, which is not followed; remove it.")
    ours = {METRICS, UNFINISHED}
    for path in parent.iterdir() if parent.is_dir() else ():
        if not (_NAME.fullmatch(path.name) or path.name in ours or path.name.startswith(".")):
            raise ValueError(f"{parent} holds {path.name!r}, which is of no fit; choose another folder for the run.")


def clear(run: Path) -> None:
    """Forget the checkpoints of an earlier fit in ``run``."""
    for path in _folders(run):
        folder.remove(path, FILES)


def _folders(run: Path) -> list[Path]:
    """Whatever is called as a checkpoint is, whole or not."""
    parent = run / FOLDER
    if parent.is_symlink() or not parent.is_dir():
        return []
    found = [
        path for path in parent.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink() and path.is_dir()
    ]
    return sorted(found, key=lambda path: int(path.name))


def _keep_only(run: Path, kept: Sequence[Path | None]) -> None:
    """Remove all but the checkpoints ``kept``, and what a writer that was killed left; whatever cannot be, stays."""
    with contextlib.suppress(OSError):
        for path in _folders(run):
            folder.finish(path, FILES) if path in kept else folder.remove(path, FILES)
        folder.finish(run / FOLDER, (METRICS, UNFINISHED))


def _read(path: Path) -> tuple[dict[str, Any], Tensors, list[Record], Tensors]:
    """Numbers, tensors, records and the best model's tensors of a checkpoint, every file of it verified."""
    found = folder.Folder.at(path)
    if lacking := set(FILES) - found.hashes.keys():
        missing = ", ".join(sorted(lacking))
        raise FormatError(f"{path / folder.MANIFEST} lists no {missing}, so this is no whole checkpoint.")
    limits = {NUMBERS: json_data.LARGEST_JSON, CONFIG: json_data.LARGEST_JSON}
    data = {name: found.read(name, limits.get(name)) for name in FILES}
    numbers = json_data.parse_json(data[NUMBERS], path / NUMBERS)
    parts = ("identity", "environment", "schedules")
    if not isinstance(numbers, dict) or not all(isinstance(numbers.get(part), dict) for part in parts):
        raise FormatError(f"{path / NUMBERS} does not describe a fit; restore it.")
    if numbers.get("format") == 1:
        numbers = migrations.state_from_1(numbers)
    if numbers.get("format") != FORMAT:
        form = numbers.get("format")
        raise NewerFormatError(
            f"{path / NUMBERS} is of format {form}, newer than this version reads: update lowerbound."
        )
    tensors, best = (tensor_data.parse_tensors(data[name], path / name) for name in (TENSORS, MODEL))
    for name, found_tensors in ((TENSORS, tensors), (MODEL, best)):
        tensor_data.check_finite(found_tensors, path / name)
    best |= {name.removeprefix(_BEST): value for name, value in tensors.items() if name.startswith(_BEST)}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(_BEST)}
    return numbers, tensors, json_data.parse_records(data[METRICS], path / METRICS), best


def _refuse_other(run: Path, theirs: Any, mine: Any) -> None:
    found = _difference(with_defaults(theirs), json.loads(json.dumps(mine)))
    if found:
        raise ValueError(
            f"{run} holds checkpoints of another fit ({found}); make it the same, or start anew with resume='never' "
            "(--force), or choose another folder."
        )


def _difference(theirs: Any, mine: Any, name: str = "") -> str:
    """The first place where two descriptions differ, in words; "" if they do not.

    Optimisers gain options with torch's versions: those that both have count.
    """
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = theirs.keys() & mine.keys() if name.startswith(".optimizer") else theirs.keys() | mine.keys()
        parts = (_difference(theirs.get(key), mine.get(key), f"{name}.{key}") for key in sorted(keys))
        return next((part for part in parts if part), "")
    return "" if theirs == mine else f"{name.strip('.')} is {_short(theirs)} there and {_short(mine)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _plain(value: Any) -> str:
    return _short(value).strip('"')


def _say_changes(path: Path, numbers: Mapping[str, Any], progress: Progress) -> None:
    """Warn of what may change the result, or its last bits, from here on."""
    then = numbers["environment"] | numbers["schedules"]
    now = environment() | progress.scalars()
    changes = [
        f"{key} was {_plain(was)}, is {_plain(now.get(key))}" for key, was in then.items() if was != now.get(key)
    ]
    if changes:
        warnings.warn(
            f"the fit resumes from {path}, but not bit for bit as it would have: {', '.join(changes)}",
            RuntimeWarning,
            stacklevel=4,
        )
