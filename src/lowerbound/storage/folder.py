"""A folder of files that is whole or says what is not: ``manifest.json`` holds the SHA-256 of each.

The manifest is the commit. Files are first written under staged names, then the manifest, then each gets its own
name; a reader takes a file from whichever of the two names has the manifest's hash. So a folder is the old one or the
new one, wherever the writer was cut short, and a concurrent reader sees one of the two.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from lowerbound.errors import FormatError
from lowerbound.storage.files import TEMPORARY, atomic_write, open_file, sync_folder
from lowerbound.storage.json_data import LARGEST_JSON, json_bytes, parse_json

MANIFEST = "manifest.json"
MOST_FILES = 100  # that a manifest may list
_STAGED = ".new-"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_TRIES = 20
T = TypeVar("T")


class _Changed(Exception):
    """The folder was written anew while it was read."""


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make ``folder`` hold ``files`` in place of what its manifest lists: all of them or none. Hold its lock."""
    finish(folder, files)
    for name, data in files.items():
        _write(folder / (_STAGED + name), data)
    before = _listed(folder)
    _write(folder / MANIFEST, manifest({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}))
    for name in files:
        (folder / (_STAGED + name)).replace(folder / name)
    for name in before.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Delete the files ``names`` of a folder, the manifest first, so that one cut short is nobody's; then the folder.

    What else lies in it stays, and the folder with it.
    """
    with contextlib.suppress(FileNotFoundError):
        (folder / MANIFEST).unlink()
        sync_folder(folder)
    ours = {*names, MANIFEST}
    for path in folder.iterdir():
        if path.name.removeprefix(_STAGED) in ours or _is_temporary(path, ours):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def manifest(hashes: Mapping[str, str]) -> bytes:
    """The manifest of files with these SHA-256."""
    return json_bytes({"sha256": dict(hashes)})


def read(path: Path, reader: Callable[[Folder], T]) -> T:
    """``reader`` of the folder; again if it was written anew meanwhile."""
    for _ in range(_TRIES):
        with contextlib.suppress(_Changed):
            return reader(Folder.at(path))
        time.sleep(0.05)
    raise FormatError(f"{path} is written again and again while it is read; wait for the fit to end.")


@dataclass(frozen=True)
class Folder:
    """A folder as its manifest describes it."""

    path: Path
    hashes: Mapping[str, str]

    @classmethod
    def at(cls, path: Path) -> Folder:
        """The folder ``path``; ``FormatError`` if its manifest is missing, damaged, or names what it should not."""
        file = path / MANIFEST
        try:
            with open_file(file) as opened:
                data = opened.read(LARGEST_JSON + 1)
        except FileNotFoundError as error:
            raise FormatError(f"{file} is missing, so nothing vouches for the folder; restore it.") from error
        found = parse_json(data, file)
        hashes = found.get("sha256") if isinstance(found, dict) else None
        if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
            raise FormatError(f"{file} lists no files; restore it or fit the model again.")
        if len(hashes) > MOST_FILES:
            raise FormatError(f"{file} lists {len(hashes)} files, which no model has; restore it.")
        for name in hashes:
            if not _NAME.fullmatch(name) or name == MANIFEST:
                raise FormatError(f"{file} lists {name[:40]!r}, which is no file of a model; restore it.")
        if data != manifest(hashes):
            raise FormatError(f"{file} is damaged; restore it or fit the model again.")
        return cls(path, hashes)

    def open(self, name: str) -> BufferedReader:
        """The file ``name``, of which every byte is as it was written; ``FormatError`` naming it otherwise."""
        if name not in self.hashes:
            raise FormatError(f"{self.path / MANIFEST} lists no {name}; restore the folder or fit the model again.")
        for candidate in (name, _STAGED + name, name):  # the last: it was given its name since the first look
            try:
                file = open_file(self.path / candidate)
            except FileNotFoundError:
                continue
            if hashlib.file_digest(file, "sha256").hexdigest() == self.hashes[name]:
                file.seek(0)
                return file
            file.close()
        if Folder.at(self.path).hashes != self.hashes:
            raise _Changed
        state = "does not match its SHA-256 in" if (self.path / name).exists() else "is missing but listed in"
        raise FormatError(f"{self.path / name} {state} {MANIFEST}; restore it or fit the model again.")

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Read and verify the file ``name``; ``FormatError`` if it has more than ``limit`` bytes."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise FormatError(
                    f"{self.path / name} has {size} bytes, more than the {limit} that can be; restore it."
                )
            return file.read()


def problems(path: Path) -> list[str]:
    """Describe files of the folder ``path`` that are not as they were written, a sentence each; none if it is whole."""
    try:
        found = Folder.at(path)
    except (FormatError, OSError) as error:
        return [str(error)]
    said = []
    for name in found.hashes:
        try:
            found.open(name).close()
        except (FormatError, OSError, _Changed) as error:
            said.append(str(error) or f"{path} is being written")
    return said


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def _listed(folder: Path) -> Mapping[str, str]:
    """Read the manifest's entries; none if it is absent, or damaged and about to be replaced."""
    with contextlib.suppress(FormatError):
        return Folder.at(folder).hashes
    return {}


def finish(folder: Path, names: Iterable[str] = ()) -> None:
    """End what a writer before could not: give committed files their names, drop the rest. Hold the folder's lock.

    ``names``: of files that it may have been writing, in addition to those in the manifest.
    """
    if not folder.is_dir():
        return
    hashes = _listed(folder)
    ours = {*names, *hashes, MANIFEST}
    for path in folder.iterdir():
        name = path.name.removeprefix(_STAGED)
        if name != path.name and name in hashes and _has(path, hashes[name]):
            path.replace(folder / name)
        elif name != path.name or _is_temporary(path, ours):
            path.unlink()


def _is_temporary(path: Path, names: Set[str]) -> bool:
    """Whether ``path`` is what ``atomic_write`` left of a staged file, or of one of ``names``."""
    stem, _, _ = path.name.removesuffix(TEMPORARY).rpartition(".")
    return path.suffix == TEMPORARY and (stem[1:] in names or stem.startswith(f".{_STAGED}"))


def _has(path: Path, sha256: str) -> bool:
    """Whether ``path`` is a file of this SHA-256."""
    with contextlib.suppress(FormatError), open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return False
