"""Files that are whole or absent: atomic writes, JSON, and tensors as safetensors. Nothing here runs code."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
from torch import Tensor

from lowerbound.errors import FormatError, LockedError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears under ``path`` when the block ends well, and never half-written.

    A temporary file in the same folder → fsync → rename → fsync of the folder; mode by umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if absent) for writing; raise ``LockedError`` if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"{folder} is being written by another process; wait for it or choose another folder."
            ) from error
        yield


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically. NaN and infinities are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def json_line(record: Mapping[str, float]) -> str:
    """A record of numbers as one line of JSON; one that is not finite becomes null."""
    values = {name: value if math.isfinite(value) else None for name, value in record.items()}
    return json.dumps(values, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON, or raise ``FormatError`` naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not readable JSON ({error}); restore it or fit the model again.") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    data = safetensors.torch.save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    with atomic_write(path) as file:
        file.write(data)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors, or raise ``FormatError`` naming the file."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path} is not a whole safetensors file ({error}); restore it or fit again.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(PermissionError):  # some file systems refuse to open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
