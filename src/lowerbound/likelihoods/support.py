"""Raise an error for data outside a likelihood's support, naming the first such value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from lowerbound.data import Counts, Rows, arrays
from lowerbound.data.row_arrays import RowArray, chunks, rows_at_once
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.likelihoods.base import Likelihood
from lowerbound.likelihoods.product import Product
from lowerbound.row_source import RowSource

_LARGEST_COUNT = 2.0**64  # above this, densities of counts overflow in single precision


def check_support(likelihood: Likelihood, x: RowArray, source: str, names: Sequence[str] | None = None) -> None:
    """Raise ``DataError`` if ``x [N, *X]`` has values outside the support, naming the first. NaN is missing."""
    for start, chunk in chunks(x):
        nan = arrays.nan_in(chunk)
        values = arrays.native(chunk, torch.float64)
        bad = _outside(likelihood, values, None if nan is None else torch.from_numpy(~nan))
        if bad is not None:
            row, *rest = bad
            where = f"{source}: {arrays.place((start + row, *rest), names)} is {chunk[bad]}"
            raise DataError(f"{where}, which {_cannot(likelihood)}.")


def check_rows(likelihood: Likelihood, rows: RowSource) -> None:
    """As ``check_support``, for the observed values of ``rows``."""
    if isinstance(rows, Counts) and getattr(likelihood, "counts", False):
        _check_counts(likelihood, rows)
    else:
        for batch in _batches(rows):
            check_batch(likelihood, batch)


def check_batch(likelihood: Likelihood, batch: Batch) -> None:
    """As ``check_support``, for the observed values of one batch; rows have their numbers in the whole data."""
    _check_columns(likelihood, batch.x)
    bad = _outside(likelihood, batch.x, batch.mask)
    if bad is not None:
        row, *rest = bad
        value = f" is {batch.x[bad].item():g}" if len(bad) == batch.x.dim() else ""
        where = arrays.place((int(batch.index[row]), *rest)) + value
        raise DataError(f"{where}, which {_cannot(likelihood)}.")


def _check_counts(likelihood: Likelihood, rows: Counts) -> None:
    """As ``check_support``, for counts: what is not stored is 0, which every likelihood of counts can produce."""
    for start, part in rows.slices():
        bad = _outside(likelihood, torch.from_numpy(part.counts.astype(np.float64)), None)
        if bad is not None:
            document = start + part.row_of(bad[0])
            where = f"the count of document {document}, word {part.indices[bad[0]]} is {part.counts[bad[0]]:g}"
            raise DataError(f"{where}, which {_cannot(likelihood)}.")


def _batches(rows: RowSource) -> Iterator[Batch]:
    if isinstance(rows, Rows) and rows.binarise == "afresh":  # all values are then 0 or 1
        x = torch.stack([torch.zeros(rows.shape), torch.ones(rows.shape)]).to(rows.device, rows.dtype)
        yield Batch(x, None, torch.zeros(2, dtype=torch.int64), torch.ones(2))
        return
    for index in torch.arange(len(rows), device=rows.device).split(rows_at_once(rows.shape)):
        yield rows.batch(index, torch.ones(len(index), device=rows.device))


def _outside(likelihood: Likelihood, x: Tensor, mask: Tensor | None) -> tuple[int, ...] | None:
    """The index of the first observed value outside the support (of the row, if the support concerns whole rows)."""
    support = getattr(likelihood, "support", None)
    if support is None:  # a user's module may have no support
        return None
    allowed: Tensor = support.check(x)
    if getattr(likelihood, "counts", False):
        allowed = allowed & (x <= _LARGEST_COUNT)
    if mask is not None:
        seen = mask if allowed.shape == mask.shape else mask.flatten(allowed.dim()).all(-1)
        allowed = allowed | ~seen
    return None if bool(allowed.all()) else arrays.first(~allowed.cpu().numpy())


def _check_columns(likelihood: Likelihood, x: Tensor) -> None:
    """Raise ``DataError`` if a ``Product`` has likelihoods for another number of columns."""
    inner = getattr(likelihood, "of_values", likelihood)
    if isinstance(inner, Product) and x.shape[1:] != (columns := sum(map(len, inner.of)),):
        raise DataError(
            f"the rows have shape {list(x.shape[1:])}, but the Product has likelihoods for {columns} columns; give one "
            "per column."
        )


def _cannot(likelihood: Likelihood) -> str:
    """The part of the message that states what to do."""
    ways = "choose another likelihood"
    if getattr(likelihood, "needs", "") == "max_value":
        ways += ", or give max_value, the largest value"
    if likelihood.support is constraints.boolean:
        ways += ', or binarise grey values (binarise="afresh")'
    return f"{type(likelihood).__name__} cannot produce; {ways}, or correct the value"
