"""Documents as compressed sparse rows of counts, in NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.draw import Batch


@dataclass(frozen=True)
class Csr:
    """N documents: document i has the words ``indices[indptr[i] : indptr[i + 1]]`` in increasing order, and ``counts``.

    ``indptr [N + 1]`` int64, from 0; ``indices`` int32; ``counts`` float32 or, from batches in double precision,
    float64. A word that a document lacks is not stored.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    counts: NDArray[np.floating[Any]]

    @property
    def rows(self) -> int:
        """The number of documents."""
        return len(self.indptr) - 1

    def row(self, i: int) -> tuple[NDArray[np.int32], NDArray[np.floating[Any]]]:
        """The words of document i and their counts, as views."""
        part = slice(self.indptr[i], self.indptr[i + 1])
        return self.indices[part], self.counts[part]

    def row_of(self, entry: int) -> int:
        """The document to which an entry of ``counts`` belongs."""
        return int(np.searchsorted(self.indptr, entry, "right")) - 1

    def take(self, rows: NDArray[np.int64]) -> Csr:
        """The documents ``rows [M]``, in that order, as a copy."""
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return Csr(indptr, self.indices[places], self.counts[places])

    @classmethod
    def from_batch(cls, batch: Batch) -> Self:
        """The documents of a batch in its order, without those of weight 0; ``batch.x [B, V]`` sparse CSR or dense."""
        x = batch.x.detach().cpu()
        if x.layout == torch.sparse_csr:
            indptr, indices, counts = x.crow_indices().numpy(), x.col_indices().numpy(), x.values().numpy()
        else:
            rows, indices = np.nonzero(dense := x.numpy())
            counts, indptr = dense[rows, indices], np.searchsorted(rows, np.arange(len(dense) + 1))
        whole = cls(indptr.astype(np.int64, copy=False), indices.astype(np.int32, copy=False), counts)
        real = np.flatnonzero(batch.weight.cpu().numpy() > 0)
        return whole if len(real) == whole.rows else cls(**vars(whole.take(real)))
