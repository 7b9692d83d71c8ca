"""The idx format of MNIST: two zero bytes, a type, the number of axes, their sizes, the values; big-endian."""

from __future__ import annotations

import errno
import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lowerbound.data.arrays import Array
from lowerbound.errors import DataError

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP = b"\x1f\x8b"
_DEFLATE_LIMIT = 1032  # no deflate stream unpacks to more than this many times its size
_CHUNK = 1 << 20


def read_idx(path: Path) -> Array:
    """The array of an idx file, gzipped or not. Raises ``DataError`` naming a file that is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        if not zipped:
            return _parse(file, size, path)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _parse(unpacked, size * _DEFLATE_LIMIT, path)
        except (EOFError, OSError, zlib.error) as error:
            if unreadable(error):
                raise
            raise DataError(f"{path} is not a whole gzip file ({error}); fetch it again.") from error


def unreadable(error: BaseException) -> bool:
    """Whether the file could not be read, as against read and found damaged."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)  # EINVAL: sought where nothing is


def _parse(file: BinaryIO | gzip.GzipFile, room: int, path: Path) -> Array:
    """Read header and values; a header that asks for more than ``room`` bytes is refused before they are."""
    dtype, shape = _header(file, path)
    count = math.prod(shape) * dtype.itemsize
    if count > room:
        raise DataError(f"{path} is cut short: its header asks for {count} bytes of values; fetch it again.")
    data = _take(file, count + 1)
    if len(data) != count:
        wrong = "cut short" if len(data) < count else "longer than its header says"
        raise DataError(f"{path} is {wrong}: {count} bytes of values are due; fetch it again.")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)


def _header(file: BinaryIO | gzip.GzipFile, path: Path) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] == 0:
        raise DataError(f"{path} is not an idx file: it starts with {magic.hex() or 'nothing'}; fetch it again.")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} is cut short within its header; fetch it again.")
    return np.dtype(_TYPES[magic[2]]), tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def _take(file: BinaryIO | gzip.GzipFile, count: int) -> bytearray:
    """At most ``count`` bytes, in chunks: ``read(count)`` would take the memory before it sees the bytes."""
    data = bytearray()
    while len(data) < count:
        chunk = file.read(min(_CHUNK, count - len(data)))
        if not chunk:
            break
        data += chunk
    return data
