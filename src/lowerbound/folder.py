"""A folder of files that is whole or says what is not: ``manifest.json`` holds the SHA-256 of each.

The manifest is the commit. Files are first written under staged names, then the manifest, then each gets its own
name; a reader takes a file from whichever of the two names has the manifest's hash. So a folder is the old one or the
new one, wherever the writer was cut short, and a reader beside a writer sees one of the two.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from lowerbound.checkpoint import TEMPORARY, atomic_write, json_bytes, open_file, parse_json, sync_folder
from lowerbound.errors import FormatError

MANIFEST = "manifest.json"
_STAGED = ".new-"
_TRIES = 20
T = TypeVar("T")


class _Changed(Exception):
    """The folder was written anew while it was read."""


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make ``folder`` hold ``files`` in place of what its manifest lists: all of them or none. Hold its lock."""
    _finish(folder)
    for name, data in files.items():
        _write(folder / (_STAGED + name), data)
    before = _listed(folder)
    _write(folder / MANIFEST, manifest({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}))
    for name in files:
        (folder / (_STAGED + name)).replace(folder / name)
    for name in before.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def remove(folder: Path) -> None:
    """Delete a folder of plain files, the manifest first, so that one cut short is nobody's."""
    with contextlib.suppress(FileNotFoundError):
        (folder / MANIFEST).unlink()
        sync_folder(folder)
    for path in folder.iterdir():
        path.unlink()
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
                data = opened.read()
        except FileNotFoundError as error:
            raise FormatError(f"{file} is missing, so nothing vouches for the folder; restore it.") from error
        found = parse_json(data, file)
        hashes = found.get("sha256") if isinstance(found, dict) else None
        if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
            raise FormatError(f"{file} lists no files; restore it or fit the model again.")
        for name in hashes:
            if not name or name != Path(name).name or name.startswith(".") or name == MANIFEST:
                raise FormatError(f"{file} lists {name!r}, which is no file of a model; restore it.")
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

    def read(self, name: str) -> bytes:
        """All of the file ``name``, verified."""
        with self.open(name) as file:
            return file.read()


def problems(path: Path) -> list[str]:
    """What in the folder ``path`` is not as it was written, a sentence for each file; nothing if it is whole."""
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
    """What the manifest lists; nothing where there is none, or a damaged one that is about to be replaced."""
    with contextlib.suppress(FormatError):
        return Folder.at(folder).hashes
    return {}


def _finish(folder: Path) -> None:
    """End what a writer before could not: give committed files their names, drop the rest."""
    if not folder.is_dir():
        return
    hashes = _listed(folder)
    for path in folder.iterdir():
        if path.name.startswith(_STAGED):
            name = path.name.removeprefix(_STAGED)
            if name in hashes and _has(path, hashes[name]):
                path.replace(folder / name)
            else:
                path.unlink()
        elif path.name.startswith(".") and path.suffix == TEMPORARY:
            path.unlink()


def _has(path: Path, sha256: str) -> bool:
    """Whether ``path`` is a file of this SHA-256."""
    with contextlib.suppress(FormatError), open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return False
