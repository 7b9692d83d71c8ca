"""Arrays and tables in files: npy, npz, csv, parquet and idx."""

from __future__ import annotations

import contextlib
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowerbound.data.arrays import NUMERIC, Array
from lowerbound.data.frames import from_frame, is_number
from lowerbound.data.idx import read_idx, unreadable
from lowerbound.errors import DataError

# What NumPy's and pyarrow's readers let through on damaged bytes, beside their own errors.
_MALFORMED = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,
    OverflowError,
    KeyError,
    tokenize.TokenError,
)
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_LARGEST_BLOCK = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Table:
    """``x [N, *X]``; ``names`` of the columns where the file has them; ``labels [N]`` likewise."""

    x: Array
    names: tuple[str, ...] | None = None
    labels: Array | None = None


def read(path: Path) -> Table:
    """Read a file by its suffix: .npy, .npz, .csv, .parquet, .idx or -ubyte (these two also with .gz).

    An npz gives its array ``x``, or its only one, with ``y`` or ``labels`` as labels. A csv whose first line
    is nothing but unquoted numbers has no names. A missing value is NaN. Raises ``FileNotFoundError``, or
    ``DataError`` naming the file.
    """
    path = Path(path)
    with readable(path):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give the path of a file to read.")
        if path.is_dir():
            raise DataError(f"{path} is a folder; give a file, or load() a folder of MNIST's idx files.")
        if not path.is_file():
            raise DataError(f"{path} is no ordinary file; copy what it gives into one.")
        table = _reader(path)(path)
    _check(table, path)
    return table


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
            f"{path} cannot be read ({_line(error, error.strerror)}); mend its permissions or its disk, or copy it."
        ) from error


@contextlib.contextmanager
def _whole(path: Path, kind: str, *malformed: type[Exception], way_out: str = "save it again") -> Iterator[None]:
    """What a reader says of damaged bytes becomes a ``DataError`` that names the file."""
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


def _reader(path: Path) -> Callable[[Path], Table]:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".idx", "-ubyte")):
        return lambda path: Table(read_idx(path))
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path} has no known suffix; what can be read is "
            ".npy, .npz, .csv, .parquet, .idx, -ubyte, .idx.gz and -ubyte.gz."
        )
    return readers[path.suffix.lower()]


def _check(table: Table, path: Path) -> None:
    if table.x.dtype.kind not in NUMERIC:
        raise DataError(f"{path} holds {table.x.dtype}, not numbers; save an array of numbers.")
    if table.x.ndim == 0 or len(table.x) == 0:
        raise DataError(f"{path} holds no rows (its shape is {table.x.shape}); give at least one.")
    if table.labels is not None and (table.labels.ndim == 0 or len(table.labels) != len(table.x)):
        raise DataError(
            f"{path} holds {len(table.x)} rows and labels of shape {table.labels.shape}; give one label a row."
        )


def _read_npy(path: Path) -> Table:
    with _whole(path, "npy file of numbers", *_MALFORMED):
        # A map compares the header with the file's size before any memory is taken.
        return Table(np.array(np.lib.format.open_memmap(path, mode="r")))


def _read_npz(path: Path) -> Table:
    with (
        _whole(path, "npz file of numbers", *_MALFORMED, *_BAD_ZIP),
        zipfile.ZipFile(path),
        np.load(path, allow_pickle=False) as archive,
    ):
        keys = [key for key in archive.files if key not in ("y", "labels")]
        key = "x" if "x" in keys else keys[0] if len(keys) == 1 else None
        label = next((key for key in ("y", "labels") if key in archive.files), None)
        labels = None if label is None else np.asarray(archive[label])
        table = None if key is None else Table(np.asarray(archive[key]), labels=labels)
    if table is None:
        raise DataError(f"{path} holds the arrays {keys}; call the one to read x.")
    return table


def _read_csv(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import csv

    # One block, for a column's type is inferred from the first one only.
    block = max(1 << 20, min(path.stat().st_size + 1, _LARGEST_BLOCK))
    with _whole(
        path,
        "csv file",
        pa.ArrowException,
        UnicodeDecodeError,
        way_out="save it in UTF-8, with as many values in each row",
    ):
        options = csv.ReadOptions(block_size=block)
        table = csv.read_csv(path, options)
        headless = _headless(table.column_names, path)
        if headless:
            columns = [str(j) for j in range(table.num_columns)]
            options = csv.ReadOptions(block_size=block, column_names=columns)
            table = csv.read_csv(path, options)
        if table.num_columns == 1:  # an empty line is then a missing value, not a gap in the file
            table = csv.read_csv(path, options, csv.ParseOptions(ignore_empty_lines=False))
    _check_names(table.column_names, path)
    x, names = from_frame(table, str(path))
    return Table(x, None if headless else names)


def _headless(names: Sequence[str], path: Path) -> bool:
    """Whether the first line of a csv file is data: numbers, without quotes."""
    given = [name for name in names if name]
    with path.open("rb") as file:
        quoted = file.read(4).removeprefix(b"\xef\xbb\xbf").startswith(b'"')
    if quoted or not given or not all(is_number(name) for name in given):
        return False
    if given == [str(j) for j in range(len(given))]:
        raise DataError(
            f"{path} starts with the line {','.join(names[:4])}{',...' if len(names) > 4 else ''}, which may be "
            "names or data; give its columns names that are not numbers."
        )
    return True


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    with _whole(path, "parquet file", pa.ArrowException, *_MALFORMED), parquet.ParquetFile(path) as file:
        table = file.read()
    _check_names(table.column_names, path)
    return Table(*from_frame(table, str(path)))


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns called {twice!r}; give each a name of its own.")


def _line(error: BaseException, said: str | None = None) -> str:
    """What an error says, on one short line."""
    line = " ".join((said or str(error) or type(error).__name__).splitlines()[0].split()).rstrip(".;")
    return line if len(line) <= 120 else line[:117] + "..."
