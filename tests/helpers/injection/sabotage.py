"""The library broken on purpose, to see that the faults would show it: ``--sabotage NAME``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from lowerbound.schema import Column, Storage, validation
from lowerbound.storage import checkpoints, folder, model
from lowerbound.training import bookkeeping, loop
from lowerbound.training.cursor import Place


def _unchecked() -> None:
    """No file is compared with its hash."""
    folder.Folder.open = lambda self, name: (self.path / name).open("rb")  # type: ignore[method-assign,assignment]


def _manifest_first() -> None:
    """The manifest is written before the files that it lists."""

    def write(path: Path, files: Mapping[str, bytes]) -> None:
        folder._write(
            path / folder.MANIFEST, folder.manifest({k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
        )
        for name, data in files.items():
            folder._write(path / name, data)

    folder.write = write


def _noise_anew() -> None:
    """A fit that goes on draws its noise from the start."""
    load = bookkeeping.Progress.load

    def spoilt(self: Any, tensors: Any, numbers: Any, records: Any, best: Any) -> None:
        fresh = self.cursor.place()
        load(self, tensors, numbers, records, best)
        self.cursor.go(Place(self.cursor.epochs, self.cursor.position, fresh.rng, fresh.global_rng))

    bookkeeping.Progress.load = spoilt  # type: ignore[method-assign]


def _deaf() -> None:
    """Ctrl-C is not listened to: the fit dies where it stands."""
    loop.Interrupt._note = lambda self, number, frame: os._exit(1)  # type: ignore[method-assign]


def _fatal_checkpoints() -> None:
    """A checkpoint that cannot be written ends the fit."""
    saved = checkpoints.Checkpoints._files

    def save(self: Any, progress: Any) -> None:
        folder.write(self.run / checkpoints.FOLDER / f"{progress.cursor.steps:08d}", saved(self, progress))

    checkpoints.Checkpoints.save = save  # type: ignore[method-assign]


def _blind() -> None:
    """Values that are not finite are not looked for."""
    bookkeeping.Progress.finite = lambda self: True  # type: ignore[method-assign]


def _trusting() -> None:
    """Networks are built as a configuration says, whatever memory they take."""
    model._check_fit = lambda modules, header, path: None


def _believing() -> None:
    """What a file says of a table's columns is believed."""
    validation.checked = lambda found, what: (  # type: ignore[assignment]
        tuple(
            Column(**{**each, "storage": Storage(**each["storage"]), "levels": tuple(each["levels"])})
            for each in found["columns"]
        ),
        found["backend"],
        found["rows"],
        None,
    )


def _following() -> None:
    """Links are followed, and pipes waited for."""
    folder.open_file = lambda path: path.open("rb")  # type: ignore[attr-defined]


def _unescaped() -> None:
    """Names go into the report as they are."""
    environment = jinja2.Environment
    jinja2.Environment = lambda **options: environment(**(options | {"autoescape": False}))  # type: ignore[misc,assignment]


def _whole_only() -> None:
    """A batch is never split, and running out of memory is not recognised."""
    from lowerbound import cli
    from lowerbound.inference import aevb

    aevb.is_out_of_memory = cli.is_out_of_memory = lambda error: False  # type: ignore[attr-defined]


WAYS: dict[str, tuple[str, Callable[[], None]]] = {
    "unchecked": ("damage", _unchecked),
    "manifest first": ("system_calls", _manifest_first),
    "noise anew": ("kills", _noise_anew),
    "deaf": ("interrupts", _deaf),
    "fatal checkpoints": ("room", _fatal_checkpoints),
    "blind": ("poison", _blind),
    "trusting": ("hostile", _trusting),
    "believing": ("forged", _believing),
    "following": ("hostile", _following),
    "unescaped": ("hostile", _unescaped),
    "whole only": ("memory", _whole_only),
}
"""What is broken: the part that must notice, and how."""


def break_library(name: str) -> None:
    """Break the library in the way ``name``."""
    WAYS[name][1]()
