"""Files fetched over HTTP, kept only if their checksum is right."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path

from lowerbound.errors import DataError
from lowerbound.storage.files import atomic_write

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_CHUNK = 1 << 20


def fetch(url: str, path: Path, sha256: str, *, limit: int = 1 << 30, timeout: float = 30.0) -> None:
    """Fetch a gzipped file and keep it, unpacked, as ``path``, if its bytes have the SHA-256 ``sha256``.

    Refuses more than ``limit`` unpacked bytes; waits ``timeout`` seconds at most for each answer. Raises
    ``ConnectionError`` when the network fails, ``DataError`` when the bytes are others; either leaves nothing.
    """
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is not an http(s) address.")
    digest = hashlib.sha256()
    with _no_empty_folders(path), atomic_write(path) as file, contextlib.closing(_stream(url, path, timeout)) as chunks:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
            if file.tell() > limit:
                raise DataError(f"{url} unpacks to more than {limit} bytes, so it is not {path.name}.")
        if digest.hexdigest() != sha256:
            raise DataError(
                f"{url} has the SHA-256 {digest.hexdigest()}, not {sha256}, and was not kept; {_by_hand(path)}."
            )


@contextlib.contextmanager
def _no_empty_folders(path: Path) -> Generator[None, None, None]:
    """Take away the folders that the block made for ``path`` if it fails."""
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def fetch_first(bases: Sequence[str], path: Path, sha256: str, *, limit: int, timeout: float = 30.0) -> None:
    """``fetch`` ``path.name``.gz from the first of ``bases`` that has it whole; else raise the last failure."""
    failure: Exception = ValueError("no address to fetch from was given.")
    for base in bases:
        try:
            return fetch(f"{base.rstrip('/')}/{path.name}.gz", path, sha256, limit=limit, timeout=timeout)
        except (ConnectionError, DataError) as error:
            failure = error
    raise failure


def _stream(url: str, path: Path, timeout: float) -> Generator[bytes, None, None]:
    """The unpacked bytes at ``url``; whatever stops them is a ``ConnectionError``."""
    import http.client
    import urllib.error
    import urllib.request

    try:
        with (
            urllib.request.urlopen(url, timeout=timeout) as response,
            gzip.GzipFile(fileobj=response) as unpacked,
        ):
            while chunk := unpacked.read(_CHUNK):
                yield chunk
    except (OSError, http.client.HTTPException, EOFError, zlib.error) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # an answer such as 404 holds its connection open
        reason = (str(error) or type(error).__name__).rstrip(".")
        raise ConnectionError(f"could not fetch {url} ({reason}); {_by_hand(path)}.") from error


def _by_hand(path: Path) -> str:
    return f"put {path.name} or {path.name}.gz into {path.parent} by hand, or give the folder that holds it"
