"""Turn errors of reading a file into one sentence that names it."""

from __future__ import annotations

import contextlib
import tokenize
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from lowerbound.data.idx import unreadable
from lowerbound.errors import DataError

T = TypeVar("T", bound=Hashable)
MALFORMED = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,
    OverflowError,
    KeyError,
    tokenize.TokenError,
)
"""Errors that NumPy's and pyarrow's readers raise on damaged bytes, besides their own."""


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever keeps ``path`` from being read in the block becomes one sentence; it stays the error it is."""
    try:
        yield
    except MemoryError as error:
        raise DataError(
            f"{path} asks for more memory than there is; if it is whole, read it in parts, else save it again."
        ) from error
    except OSError as error:
        if error.errno is None:  # said already
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        kind = PermissionError if isinstance(error, PermissionError) else kind
        raise kind(
            f"{path} cannot be read ({_line(error, error.strerror)}); fix its permissions or its disk, or copy it."
        ) from error


@contextlib.contextmanager
def whole(path: Path, kind: str, *malformed: type[Exception], way_out: str = "save it again") -> Iterator[None]:
    """Turn a reader's errors about damaged bytes into a ``DataError`` that names the file."""
    try:
        yield
    except malformed as error:
        if unreadable(error):
            raise
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise DataError(
                f"{path} holds pickled objects, which are never loaded; save an array of numbers."
            ) from error
        raise DataError(f"{path} is not a whole {kind} ({_line(error)}); {way_out}.") from error


def check_file(path: Path) -> None:
    """Refuse a path at which no ordinary file is."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of a file to read.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file, or load() a folder of MNIST's idx files.")
    if not path.is_file():
        raise DataError(f"{path} is no ordinary file; copy what it gives into one.")


def repeated(names: Iterable[T]) -> T | None:
    """The first of ``names`` that occurs twice; None if all differ."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def check_names(names: Sequence[str], path: Path) -> None:
    """Refuse a file with two columns of one name."""
    twice = repeated(names)
    if twice is not None:
        raise DataError(f"{path} has two columns called {twice!r}; give each a name of its own.")


def _line(error: BaseException, said: str | None = None) -> str:
    """The message of an error, on one short line."""
    line = " ".join((said or str(error) or type(error).__name__).splitlines()[0].split()).rstrip(".;")
    return line if len(line) <= 120 else line[:117] + "..."
