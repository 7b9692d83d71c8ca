"""Arrays of rows that are not dense in memory: mapped files, sparse matrices and torch's datasets."""

from __future__ import annotations

import copy
import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import arrays
from lowerbound.errors import DataError

_ROWS, _VALUES = 10_000, 2**20  # read together, at most


class RowArray(Protocol):
    """Rows ``[N, *X]``, of which a slice or an array of numbers gives a dense array. A NumPy array is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> NDArray[Any]: ...


def row_array(X: Any) -> RowArray | None:
    """``X`` as an array of rows: a NumPy array, a sparse matrix of SciPy, a ``Dataset`` or a ``DataLoader``; else None.

    A ``DataLoader`` stands for the rows of its ``Dataset``: a fit has a batch size and an order of its own.
    """
    if isinstance(X, np.ndarray | SparseRows | DatasetRows):
        return X
    if hasattr(X, "tocsr"):
        return SparseRows(X)
    if isinstance(X, torch.utils.data.DataLoader):
        if X.collate_fn is not torch.utils.data.default_collate:
            raise DataError("X is a DataLoader with a collate_fn of its own; give a Dataset whose items are the rows.")
        X = X.dataset
    return DatasetRows(X) if isinstance(X, torch.utils.data.Dataset) else None


def is_mapped(x: object) -> bool:
    """Whether an array reads its values from a file that is mapped into memory."""
    while isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        x = x.base
    return isinstance(x, np.memmap | mmap.mmap)


def rows_at_once(shape: Sequence[int], values: int = _VALUES) -> int:
    """How many rows ``[*X]`` to read together."""
    return max(1, min(_ROWS, values // max(1, math.prod(shape))))


def chunks(x: RowArray) -> Iterator[tuple[int, NDArray[Any]]]:
    """Consecutive chunks of rows with the number of their first row, so that large data are never copied at once."""
    size = rows_at_once(x.shape[1:])
    return ((start, x[start : start + size]) for start in range(0, len(x), size))


class SparseRows:
    """Rows of a sparse matrix ``[N, D]``; what it does not store is 0."""

    def __init__(self, matrix: Any) -> None:
        if len(matrix.shape) != 2:
            raise DataError(f"X is a sparse array of shape {matrix.shape}; give rows of columns, [N, D].")
        self.matrix = matrix.tocsr()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.matrix.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = self.matrix.dtype
        return found

    @property
    def nbytes(self) -> int:
        return int(self.matrix.data.nbytes + self.matrix.indices.nbytes + self.matrix.indptr.nbytes)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        found: NDArray[Any] = self.matrix[index].toarray()
        return found


class DatasetRows:
    """Rows of a ``torch.utils.data.Dataset`` with a length, read item by item; item i must always be the same.

    An item is an array, a tensor or a tuple of one of these.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self._kind = dataset, type(dataset).__name__
        if not hasattr(dataset, "__len__") or isinstance(dataset, torch.utils.data.IterableDataset):
            raise DataError(
                f"X is of type {self._kind}, which gives rows one after another; give a Dataset with a length and "
                "items by number, or all rows as one tensor, [N, *X]."
            )
        if not len(dataset):
            raise DataError(f"X is a {self._kind} that holds no rows; give at least one.")
        first = self._item(0)
        self.shape: tuple[int, ...] = (len(dataset), *first.shape)
        self.dtype: np.dtype[Any] = first.dtype
        self.nbytes = len(dataset) * first.nbytes
        if self.dtype.kind not in arrays.NUMERIC:
            raise DataError(f"X is a {self._kind} of {self.dtype}, not numbers; encode its values as numbers first.")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        places = range(len(self))[index] if isinstance(index, slice) else np.asarray(index).tolist()
        found = np.empty((len(places), *self.shape[1:]), self.dtype)
        for row, place in enumerate(places):
            item = self._item(place)
            if item.shape != self.shape[1:]:
                raise DataError(
                    f"item {place} of X has shape {item.shape}, and item 0 has {self.shape[1:]}; give each row as many "
                    "numbers."
                )
            found[row] = item
        return found

    def _item(self, place: int) -> NDArray[Any]:
        item = self.dataset[place]
        if isinstance(item, tuple | list) and len(item) == 1:
            item = item[0]
        if isinstance(item, tuple | list | Mapping):
            refuse_pairs(self._kind, item)
        return np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item)


def refuse_pairs(kind: str, first: Any) -> None:
    """Raise ``DataError`` for a dataset whose items contain labels; ``first``: the first item."""
    keyed = isinstance(first, Mapping)
    what = f"dicts of {', '.join(map(repr, first))}" if keyed else f"tuples of {len(first)}"
    key = repr(next(iter(first))) if keyed and first else "0"
    raise DataError(
        f"X is a {kind} whose items are {what}, but a fit takes rows only; give them by "
        f"torch.stack([item[{key}] for item in X])."
    )


class OnDemand:
    """A stand-in for the tensor of an array's rows: each row is read and converted only when it is requested.

    Bool and uint8 become uint8, all else ``dtype``. ``has_nan``: whether ``check_finite`` found a NaN.
    """

    def __init__(self, array: RowArray, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.array, self.shape = array, tuple(array.shape)
        self.given = {"|b1": torch.bool, "|u1": torch.uint8}.get(array.dtype.str, dtype)
        self.dtype = torch.uint8 if self.given == torch.bool else self.given
        self.device, self.has_nan = torch.device(device), False

    def __len__(self) -> int:
        return self.shape[0]

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows ``index [B]``, dense, on the device."""
        assert dim == 0
        return self._tensor(self.array[index.cpu().numpy()])

    def check_finite(self, mask: NDArray[Any] | None = None) -> None:
        """Refuse infinities, and NaN that ``mask [N, *X]`` (True = observed) says is observed, by reading all rows."""
        if self.array.dtype.kind != "f":
            return
        for start, rows in chunks(self.array):
            native = self._tensor(rows).cpu()
            if bool(native.sum().isfinite()):
                continue
            nan = native.isnan()
            self.has_nan = self.has_nan or bool(nan.any())
            seen = (~nan).numpy() if mask is None else mask[start : start + len(rows)]
            arrays.refuse_not_finite(native.numpy(), rows, seen, start)

    def to(self, device: torch.device | str) -> OnDemand:
        """The same rows, given on ``device``."""
        found = copy.copy(self)
        found.device = torch.device(device)
        return found

    def _tensor(self, rows: NDArray[Any]) -> Tensor:
        return arrays.native(rows, self.dtype).to(self.device, self.dtype)
