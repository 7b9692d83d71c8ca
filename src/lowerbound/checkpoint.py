"""Files that are whole or absent: atomic writes, JSON, and tensors as safetensors. Nothing here runs code."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import secrets
import stat
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lowerbound import migrations
from lowerbound.checks import is_number, is_whole
from lowerbound.errors import FormatError, LockedError

TEMPORARY = ".tmp"
LARGEST_JSON = 1 << 26
_DEEPEST = 200  # lists and objects in each other
_ROOM = 1 << 24

_LOCKS: weakref.WeakSet[IO[str]] = weakref.WeakSet()
"""The files by which this process holds locks. A lock is of an open file, which a forked child shares until it closes
it."""


_FORKS = threading.RLock()


def _drop_locks() -> None:
    """In a forked child: close the parent's, which does not unlock them."""
    for file in list(_LOCKS):
        file.close()
    _FORKS.release()


os.register_at_fork(before=_FORKS.acquire, after_in_parent=_FORKS.release, after_in_child=_drop_locks)

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Type ("F32", …) and shape of tensors by name."""


@contextlib.contextmanager
def atomic_write(path: Path, follow: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that appears under ``path`` when the block ends well, and never half-written.

    A temporary file in the same folder → fsync → rename → fsync of the folder; mode by umask. ``follow``: where
    ``path`` is a link, write the file that it points to.
    """
    path = path.resolve() if follow and path.is_symlink() else path
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, so that they outlast a power cut."""
    if folder.is_symlink() and not folder.exists():
        raise OSError(
            f"{folder} is a link to {folder.readlink()}, which does not exist; make that, or choose another path."
        )
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed or removed in ``folder`` outlast a power cut."""
    with contextlib.suppress(PermissionError):  # some file systems refuse to open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if absent) for writing; raise ``LockedError`` if another process or thread does.

    The lock is this process's: a child that it forks does not hold it.
    """
    make_folder(folder)
    with _FORKS:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        _LOCKS.add(file := os.fdopen(descriptor))
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"{folder} is being written by another process; wait for it or choose another folder."
            ) from error
        try:
            yield
        finally:
            if not file.closed:  # as it is in a child
                fcntl.flock(file, fcntl.LOCK_UN)  # of itself, closing unlocks only once a child has closed it too


def open_file(path: Path) -> BufferedReader:
    """Open a plain file to read; a link, a folder or a device in its place is a ``FormatError``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FormatError(f"{path} is a link, which is not followed; put the file itself there.") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(f"{path} is not a file; put the file itself there.")
    return os.fdopen(descriptor, "rb")


def json_bytes(value: Any) -> bytes:
    """``value`` as JSON. NaN and infinities are refused: they are not JSON."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def json_line(record: Mapping[str, float]) -> str:
    """A record of numbers as one line of JSON; one that is not finite becomes null."""
    values = {name: value if math.isfinite(value) else None for name, value in record.items()}
    return json.dumps(values, allow_nan=False) + "\n"


def parse_json(data: bytes, path: Path) -> Any:
    """JSON, or ``FormatError`` naming the file that it came from."""
    try:
        if len(data) > LARGEST_JSON:
            raise ValueError(f"{len(data)} bytes, where {LARGEST_JSON} are the most")
        found = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        _refuse_deep(found)
        return found
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not readable JSON ({error}); restore it or fit the model again.") from error


def parse_records(data: bytes, path: Path) -> list[dict[str, float]]:
    """The records of ``json_line``, or ``FormatError`` naming the file; null is NaN."""
    records = [parse_json(line, path) for line in data.splitlines()]
    records = [migrations.record_from_1(record) if isinstance(record, dict) else record for record in records]
    for record in records:
        numbers = isinstance(record, dict) and all(value is None or is_number(value) for value in record.values())
        if not numbers or not all(is_whole(record.get(key)) for key in ("epoch", "step")):
            raise FormatError(f"{path} is not a list of metrics; restore it or fit the model again.")
    return [{key: math.nan if value is None else value for key, value in record.items()} for record in records]


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors as safetensors. Raises what torch does where memory is short."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    torch.empty(4 * size + _ROOM, dtype=torch.uint8)  # safetensors makes three copies; where one fails, all ends
    form = torch.contiguous_format
    copies = {name: tensor.detach().cpu().clone(memory_format=form) for name, tensor in tensors.items()}
    return safetensors.torch.save(copies)


def tensor_shapes(file: BinaryIO, path: Path) -> Shapes:
    """Type and shape of each tensor of a safetensors file, by its header alone: no memory is taken for values."""
    try:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST_JSON:
            raise ValueError("its header has no end")
        header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        return {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _not_whole(path, error) from error
    finally:
        file.seek(0)


def parse_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """Named tensors, or ``FormatError`` naming the file that they came from."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> FormatError:
    return FormatError(f"{path} is not a whole safetensors file ({error}); restore it or fit again.")


def check_finite(tensors: Mapping[str, Tensor], path: Path, infinite: Collection[str] = ()) -> None:
    """Refuse tensors that hold NaN, or an infinity where they are not among ``infinite``, naming the first."""
    for name, value in tensors.items():
        usable = ~value.isnan() if name in infinite else value.isfinite()
        if value.is_floating_point() and not bool(usable.all()):
            raise FormatError(
                f"{path}: {int((~usable).sum())} of the {value.numel()} numbers of {name} are NaN or infinite; restore "
                "it or fit the model again."
            )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond the range of numbers")
    return number


def _refuse_deep(value: Any) -> None:
    """Refuse lists and objects that are nested deeper than any this library writes."""
    found = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        found = [
            item
            for each in found
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not found:
            return
    raise ValueError(f"lists and objects are more than {_DEEPEST} deep")


def tensors_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The parameters and buffers of modules by name, ``model.decoder.weight``."""
    return {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}


def size_of(parts: Iterable[Any]) -> int:
    """How many numbers the modules among ``parts`` hold."""
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return sum(value.numel() for part in modules for value in (*part.parameters(), *part.buffers()))
