"""Documents as counts of words: a row source that stays sparse, in memory or in memory-mapped files."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data.csr import Csr
from lowerbound.data.reading import MALFORMED, readable
from lowerbound.data.reading import whole as whole_file
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.process import ignored
from lowerbound.row_source import RowSource
from lowerbound.storage.files import atomic_write, locked
from lowerbound.storage.json_data import json_bytes, parse_json

ABOUT = "counts.json"
_TYPES: dict[str, type[np.generic]] = {"indptr": np.int64, "indices": np.int32, "counts": np.float32}
_AT_ONCE = 10_000  # documents that are read together
_SHORT = 2**31  # entries that indices of 32 bits can count


class Counts(RowSource):
    """N documents as counts of V words, stored as compressed sparse rows; see ``Csr`` for the arrays.

    ``n_words``: V. A batch is dense, ``x [B, V]``; of ``as_sparse()``, which ``fit`` calls for topic models, it is a
    sparse CSR tensor. Counts are kept in single precision. The arrays may be memory-mapped: a batch reads its own
    documents alone. Raises ``DataError`` for counts that are negative or not finite, and for words out of order.

    >>> counts = Counts.from_sparse([[2, 0, 1], [0, 0, 0]])
    >>> len(counts), counts.shape, counts.subset(torch.tensor([0])).csr.counts
    (2, (3,), array([2., 1.], dtype=float32))
    """

    dtype: torch.dtype = torch.float32
    has_missing = False
    context = None

    def __init__(self, indptr: NDArray[Any], indices: NDArray[Any], counts: NDArray[Any], n_words: int) -> None:
        arrays = {"indptr": indptr, "indices": indices, "counts": counts}
        self._csr = Csr(**{name: _as(array, _TYPES[name], name) for name, array in arrays.items()})
        self.n_words, self.sparse = n_words, False
        self._index: Tensor | None = None  # of a subset: its documents among those of _csr
        self._device = torch.device("cpu")
        _check_bounds(self._csr)
        checked = [_check(start, part, n_words) for start, part in self.slices()]  # all are
        self.whole = all(checked)
        """Whether all counts are whole numbers."""

    @classmethod
    def from_sparse(cls, matrix: Any) -> Counts:
        """The counts of a sparse matrix of SciPy, or of a dense array, ``[N, V]``."""
        from scipy import sparse

        found = matrix if hasattr(matrix, "tocsr") else np.asarray(matrix)
        if len(found.shape) != 2 or found.dtype.kind not in "biuf":
            raise DataError(f"the counts are {found.dtype} of shape {found.shape}; give numbers, [N, V].")
        csr = sparse.csr_array(found)
        if not csr.has_canonical_format or not csr.data.all():
            csr = csr.copy()
            csr.sum_duplicates()
            csr.eliminate_zeros()
        return cls(csr.indptr, csr.indices, csr.data, int(csr.shape[1]))

    @classmethod
    def open(cls, folder: str | Path) -> Counts:
        """What ``save`` wrote; the documents stay in the files, which are mapped into memory."""
        path = Path(folder) / ABOUT
        with readable(path):
            about = parse_json(path.read_bytes(), path)
        found = {name: _mapped(Path(folder) / f"{name}.npy") for name in _TYPES}
        sizes = {"documents": len(found["indptr"]) - 1, "entries": len(found["counts"])}
        if not isinstance(about, dict) or about != {"format": 1, "words": about.get("words"), **sizes}:
            raise DataError(f"{path} does not describe the arrays next to it; save the counts again.")
        return cls(**found, n_words=int(about["words"]))

    def save(self, folder: str | Path) -> None:
        """Write the documents as ``indptr.npy``, ``indices.npy`` and ``counts.npy``, and their numbers as JSON."""
        path = Path(folder)
        entries = sum(len(part.counts) for _, part in self.slices())
        with locked(path):
            (path / ABOUT).unlink(missing_ok=True)  # until all arrays are there
            for name, kind in _TYPES.items():
                shape = (len(self) + 1 if name == "indptr" else entries,)
                with atomic_write(path / f"{name}.npy") as file:
                    descr = npy.dtype_to_descr(np.dtype(kind))
                    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
                    for chunk in self._pieces(name):
                        file.write(np.ascontiguousarray(chunk).data)
            about = {"format": 1, "words": self.n_words, "documents": len(self), "entries": entries}
            with atomic_write(path / ABOUT) as file:
                file.write(json_bytes(about))

    def __len__(self) -> int:
        return self._csr.rows if self._index is None else len(self._index)

    @property
    def total(self) -> int:
        return self._csr.rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(V,), the event shape of one document."""
        return (self.n_words,)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def csr(self) -> Csr:
        """All documents, in order; of a subset as a copy."""
        return self._csr if self._index is None else self._csr.take(self._index.cpu().numpy())

    def batch(self, index: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The documents ``index [B]`` (int64), each counting ``weight [B]``; draws nothing."""
        chosen = index if self._index is None else self._index[index]
        part = self._csr.take(chosen.cpu().numpy())
        size, values = (part.rows, self.n_words), torch.from_numpy(part.counts).to(self.dtype)
        if self.sparse:
            _allow_sparse()
            short = np.int32 if len(part.counts) < _SHORT else np.int64
            bounds, words = (torch.from_numpy(a.astype(short, copy=False)) for a in (part.indptr, part.indices))
            x = torch.sparse_csr_tensor(bounds, words, values, size, check_invariants=False)  # they were checked
        else:
            x = torch.zeros(size, dtype=self.dtype)
            rows = torch.from_numpy(np.repeat(np.arange(part.rows), np.diff(part.indptr)))
            x[rows, torch.from_numpy(part.indices).long()] = values
        return Batch(x.to(self.device), None, chosen, weight)

    def slices(self, n: int = _AT_ONCE) -> Iterator[tuple[int, Csr]]:
        """All documents in order, ``n`` at a time, each time with the number of the first."""
        for start in range(0, len(self), n):
            stop = min(start + n, len(self))
            if self._index is not None:
                yield start, self._csr.take(self._index[start:stop].cpu().numpy())
                continue
            indptr = self._csr.indptr[start : stop + 1]
            part = slice(indptr[0], indptr[-1])
            yield start, Csr(indptr - indptr[0], self._csr.indices[part], self._csr.counts[part])

    def subset(self, index: Tensor) -> Counts:
        """The documents ``index [M]`` (int64): a view, which copies no counts."""
        found = copy.copy(self)
        found._index = index if self._index is None else self._index[index]
        return found

    def as_sparse(self) -> Counts:
        """The same documents, in batches whose ``x`` is a sparse CSR tensor ``[B, V]``."""
        found = copy.copy(self)
        found.sparse = True
        return found

    def of_dtype(self, dtype: torch.dtype) -> Counts:
        """The same documents, in batches of a floating type."""
        found = copy.copy(self)
        found.dtype = dtype
        return found

    def to(self, device: torch.device | str) -> Counts:
        """The same documents, whose batches come on ``device``; the counts stay where they are."""
        found = copy.copy(self)
        found._device = torch.device(device)
        found._index = None if self._index is None else self._index.to(device)
        return found

    def digest(self) -> str:
        """SHA-256 of the documents and the type of batches: the same wherever they are kept."""
        digest = hashlib.sha256(repr((len(self), self.n_words, str(self.dtype))).encode())
        for name in _TYPES:
            for chunk in self._pieces(name):
                digest.update(np.ascontiguousarray(chunk).data)
        return digest.hexdigest()

    def _pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """One of the arrays of all documents, in pieces."""
        end = 0
        if name == "indptr":
            yield np.zeros(1, np.int64)
        for _, part in self.slices():
            yield part.indptr[1:] + end if name == "indptr" else getattr(part, name)
            end += int(part.indptr[-1])


def _as(array: NDArray[Any], kind: type[np.generic], name: str) -> NDArray[Any]:
    """``array`` as ``kind``, without a copy where it is that already; refuse numbers that it cannot hold."""
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype.kind not in ("biuf" if name == "counts" else "iu"):
        raise DataError(f"{name} is {array.dtype} of shape {array.shape}; give a one-dimensional array of numbers.")
    if array.dtype == kind:
        return array
    if name == "indices" and len(array) and int(array.max()) >= _SHORT:
        raise DataError(f"indices has the word {int(array.max())}; at most {_SHORT:,} words are supported.")
    with np.errstate(over="ignore"):  # infinite counts are refused with their place
        return array.astype(kind)


def _check_bounds(csr: Csr) -> None:
    """Refuse an ``indptr`` that does not divide the entries into documents."""
    indptr, entries = csr.indptr, len(csr.counts)
    if len(indptr) < 2:
        raise DataError("the counts hold no documents; give at least one.")
    if indptr[0] != 0 or indptr[-1] != entries or len(csr.indices) != entries or bool((np.diff(indptr) < 0).any()):
        raise DataError(
            f"indptr must rise from 0 to the number of counts, and indices have as many: indptr ends at {indptr[-1]}, "
            f"and there are {entries} counts and {len(csr.indices)} indices."
        )


def _check(start: int, part: Csr, n_words: int) -> bool:
    """Refuse the first entry that is no count of a word; otherwise, whether all counts are whole."""
    wrong = ~(part.counts > 0) | ~np.isfinite(part.counts)
    if wrong.any():
        place = int(wrong.argmax())
        value = float(part.counts[place])
        way = "leave out words that do not occur" if value == 0 else "counts are numbers of 0 or more"
        where = f"document {start + part.row_of(place)}, word {part.indices[place]}"
        raise DataError(f"the count of {where} is {value:g}; {way}.")
    outside = (part.indices < 0) | (part.indices >= n_words)
    falls = np.zeros_like(outside)
    falls[1:] = np.diff(part.indices) <= 0
    falls[part.indptr[:-1][np.diff(part.indptr) > 0]] = False  # where a document begins
    if (wrong := outside | falls).any():
        place = int(wrong.argmax())
        words = f"outside 0 to {n_words - 1}" if outside[place] else "not above the word before it"
        raise DataError(
            f"document {start + part.row_of(place)} has the word {part.indices[place]}, {words}; sort each "
            "document's words, and give n_words."
        )
    return bool((part.counts == np.floor(part.counts)).all())


def _mapped(path: Path) -> NDArray[Any]:
    with readable(path), whole_file(path, ".npy file", *MALFORMED):
        found: NDArray[Any] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if found.ndim != 1 or found.dtype != (kind := _TYPES[path.stem]):
        raise DataError(
            f"{path} is {found.dtype} of shape {found.shape}, not a list of {kind.__name__}; save it again."
        )
    return found


@cache
def _allow_sparse() -> None:
    """Have torch give its warning that sparse CSR is in beta, which it gives once, here."""
    with ignored(UserWarning):
        torch.ones(1, 1).to_sparse_csr()
