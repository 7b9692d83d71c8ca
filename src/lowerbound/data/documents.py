"""Documents in files, as counts of words: text, tables, matrices and the format of LDA-C."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from lowerbound.data.counts import ABOUT, Counts
from lowerbound.data.dialect import Csv
from lowerbound.data.files import read
from lowerbound.data.frames import from_frame
from lowerbound.data.reading import MALFORMED, check_file, readable, repeated, whole
from lowerbound.data.table_files import is_table, read_frame
from lowerbound.errors import DataError

TEXT, LDA_C = (".txt", ".txt.gz"), (".ldac", ".lda-c", ".dat")
_KNOWN = ".txt (a document per line), .csv, .tsv, .parquet, .feather, .arrow, .npz, .npy, .mtx, .ldac, .lda-c and .dat"
_TOKEN = re.compile(r"\w\w+")
_BAD = (*MALFORMED, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents as ``counts`` of V words, and the ``words [V]`` if they are known.

    ``left_out``: how many words of the text are not counted, because the vocabulary does not hold them.
    """

    counts: Counts
    words: tuple[str, ...] | None = None
    left_out: int = 0


class _Read(NamedTuple):
    """What a reader finds: a matrix of counts ``[N, V]``, and the other fields of ``Documents``."""

    matrix: Any
    words: tuple[str, ...] | None = None
    left_out: int = 0


def tokens(text: str) -> list[str]:
    """The words of a text: in lower case, each run of two or more letters, digits and underscores.

    >>> tokens("The cat's 2 toys, and a naïve DOG_1")
    ['the', 'cat', 'toys', 'and', 'naïve', 'dog_1']
    """
    return _TOKEN.findall(text.lower())


def read_documents(
    path: str | Path,
    *,
    text: str | None = None,
    words: Sequence[str] | None = None,
    min_count: int = 2,
    max_share: float = 0.5,
    csv: Csv | None = None,
) -> Documents:
    """Read documents from a file, by its suffix.

    .txt and .txt.gz hold a document per line (an empty line is an empty document), in UTF-8. A table (.csv, .tsv,
    .parquet, …) holds texts in the column ``text``; without ``text`` its columns are words and its cells counts. .npz
    (a sparse matrix of SciPy, or an array), .npy and .mtx hold counts with a document per row; .ldac, .lda-c and .dat
    are in the format of LDA-C, "M term:count term:count …", with terms counted from 0. A
    folder is one that ``Counts.save`` wrote; its documents stay in the files.

    Texts are split into ``tokens``. The vocabulary is, in alphabetical order, the words that occur at least
    ``min_count`` times, and in no more than the share ``max_share`` of the documents. With ``words``, it is these
    instead; they also name the columns of counts. ``csv``: how a CSV file is written. Raises ``FileNotFoundError``, or
    ``DataError`` naming the file.
    """
    path = Path(path)
    if words is not None and (twice := repeated(words)) is not None:
        raise DataError(f"words holds {twice!r} twice; give each word once.")
    if text is not None and not is_table(path):
        raise DataError(f"{path} is no table, so it has no column {text!r}; leave text out.")
    with readable(path):
        if (path / ABOUT).exists():
            counts, found = Counts.open(path), _Read(None, None if words is None else tuple(words))
        else:
            check_file(path)
            found = _read(path, text, words, min_count, max_share, csv)
            counts = _counts(found.matrix, path)
    if found.words is not None and len(found.words) != counts.n_words:
        raise DataError(
            f"{path} counts {counts.n_words} words, but the vocabulary has {len(found.words)}; give the words of its "
            "columns."
        )
    return Documents(counts, found.words, found.left_out)


def _read(
    path: Path, text: str | None, words: Sequence[str] | None, least: int, share: float, csv: Csv | None
) -> _Read:
    """Read a file by its suffix."""
    if is_table(path) and text is None:
        return _of_table(path, words, csv)
    if not is_table(path) and not path.name.lower().endswith(TEXT):
        return _Read(_matrix(path, words), None if words is None else tuple(words))
    found = _of_text(_lines(path) if text is None else _column(path, text, csv), words, least, share)
    if not found.words:
        raise DataError(f"{path}: no word is left for the vocabulary; lower min_count or raise max_share.")
    return found


def _counts(matrix: Any, path: Path) -> Counts:
    """Counts of a matrix, with the name of its file in what is refused."""
    try:
        return Counts.from_sparse(matrix)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_words(path: str | Path) -> tuple[str, ...]:
    """A vocabulary from a text file, a word per line. Raises ``DataError`` for a word that occurs twice."""
    path = Path(path)
    with readable(path):
        check_file(path)
        words = tuple(line.strip() for line in _lines(path))
    if (twice := repeated(words)) is not None:
        raise DataError(f"{path} holds {twice!r} twice; give each word once, on a line of its own.")
    return words


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file in UTF-8, one after another."""
    with whole(path, "text file in UTF-8", UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile):
        opened: IO[str]
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as opened
        ):
            for line in opened:
                yield line.rstrip("\n")


def _column(path: Path, name: str, csv: Csv | None) -> Iterator[str]:
    """The texts in a column of a table; a missing cell is an empty text."""
    table = read_frame(path, csv=csv)
    if name not in table.column_names:
        raise DataError(f"{path} has no column {name!r}; give text one of {', '.join(map(repr, table.column_names))}.")
    return ("" if cell is None else str(cell) for cell in table.column(name).to_pylist())


def _of_text(texts: Iterable[str], words: Sequence[str] | None, least: int, share: float) -> _Read:
    """Count the words of texts."""
    from scipy.sparse import csr_matrix

    number: defaultdict[str, int] = defaultdict()
    number.default_factory = number.__len__
    number.update({} if words is None else {word: i for i, word in enumerate(words)})
    indptr, indices, counts = array("q", [0]), array("i"), array("i")
    for line in texts:
        found = Counter(number[token] for token in tokens(line))
        indices.extend(found.keys())
        counts.extend(found.values())
        indptr.append(len(indices))
    values = np.array(counts, np.float32)
    every = csr_matrix((values, np.array(indices, np.int32), np.array(indptr)), (len(indptr) - 1, len(number)))
    if words is None:
        total = np.bincount(every.indices, every.data, len(number))
        documents = np.bincount(every.indices, minlength=len(number))
        fits = (total >= least) & (documents <= share * every.shape[0])
        kept = sorted((word, i) for word, i in number.items() if fits[i])
    else:
        kept = [(word, i) for i, word in enumerate(words)]
    matrix = every[:, [i for _, i in kept]]
    matrix.sort_indices()
    return _Read(
        matrix,
        tuple(word for word, _ in kept),
        round(float(every.sum(dtype=np.float64) - matrix.sum(dtype=np.float64))),
    )


def _of_table(path: Path, words: Sequence[str] | None, csv: Csv | None) -> _Read:
    """Counts in the columns of a table."""
    from scipy.sparse import csr_matrix

    table = read_frame(path, csv=csv)
    if text := [name for name, kind in zip(table.column_names, table.schema.types, strict=True) if _is_text(kind)]:
        raise DataError(
            f"{path} has text in the column {text[0]!r}, where counts are due; name the column of texts by text."
        )
    names = tuple(map(str, table.column_names))
    if words is not None:
        if lacking := [word for word in words if word not in names]:
            raise DataError(f"{path} has no column {lacking[0]!r}, a word of the vocabulary; add it, with counts.")
        table, names = table.select(list(words)), tuple(words)
    return _Read(csr_matrix(from_frame(table, str(path))[0]), names)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _matrix(path: Path, words: Sequence[str] | None) -> Any:
    """The counts in a file of a matrix, or in the format of LDA-C."""
    from scipy import io, sparse

    if path.suffix.lower() in LDA_C:
        return _of_lda_c(path, words)
    if path.suffix.lower() == ".mtx":
        with whole(path, "Matrix Market file", *_BAD):
            found = io.mmread(path)
    elif path.suffix.lower() in (".npz", ".npy"):
        found = _of_npz(path)
    else:
        raise DataError(f"{path} has no known suffix; documents can be read from {_KNOWN}.")
    if found.ndim != 2 or found.dtype.kind not in "biuf":
        raise DataError(
            f"{path} holds {found.dtype} of shape {found.shape}; give counts of words, one document per row."
        )
    return sparse.csr_matrix(found)


def _of_npz(path: Path) -> Any:
    """A sparse matrix of SciPy, or an array."""
    from scipy import sparse

    if path.suffix.lower() == ".npz":
        with whole(path, "npz file of a sparse matrix", *_BAD):
            with zipfile.ZipFile(path) as archive:
                is_sparse = "format.npy" in archive.namelist()
            if is_sparse:
                found = sparse.load_npz(path)
                if hasattr(found, "check_format"):
                    found.check_format(full_check=True)
                return found
    return read(path).x


def _of_lda_c(path: Path, words: Sequence[str] | None) -> Any:
    """Lines of "M term:count term:count …", one per document."""
    from scipy.sparse import csr_matrix

    indptr, indices, counts = [0], array("i"), array("i")
    for number, line in enumerate(_lines(path), 1):
        try:
            values = [int(each) for each in line.replace(":", " ").split()]
        except ValueError:
            values = []
        terms, held = values[1::2], line.count(":")
        if len(values) != 2 * held + 1 or values[0] != held or not all(0 <= each < 2**31 for each in values[1:]):
            raise DataError(
                f'{path}: line {number} is not "M term:count term:count …" with M whole counts; correct it.'
            )
        indices.extend(terms)
        counts.extend(values[2::2])
        indptr.append(len(indices))
    columns = max(indices, default=0) + 1
    if words is not None and columns > len(words):
        raise DataError(
            f"{path} counts term {columns - 1}, but the vocabulary has {len(words)} words; terms count from 0."
        )
    columns = columns if words is None else len(words)
    return csr_matrix((np.array(counts, np.float32), np.array(indices), np.array(indptr)), (len(indptr) - 1, columns))
