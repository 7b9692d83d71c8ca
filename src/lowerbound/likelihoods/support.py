"""Values that a likelihood cannot have produced, refused by the place of the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import constraints

from lowerbound.data import Rows, arrays
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.likelihoods.base import Likelihood
from lowerbound.likelihoods.product import Product

_CHUNK = 10_000  # rows looked at together: large data are not copied to be looked at
_LARGEST_COUNT = 2.0**64  # above, counts lose their meaning in single precision, and their densities overflow


def check_support(likelihood: Likelihood, x: NDArray[Any], source: str, names: Sequence[str] | None = None) -> None:
    """Refuse values of an array ``x [N, *X]`` that ``likelihood`` gives no probability, naming the first."""
    for start in range(0, len(x), _CHUNK):
        chunk = x[start : start + _CHUNK]
        bad = _outside(likelihood, arrays.to_tensor(chunk, None, torch.float64), None)
        if bad is not None:
            row, *rest = bad
            where = f"{source}: {arrays.place((start + row, *rest), names)} is {chunk[bad]}"
            raise DataError(f"{where}, which {_cannot(likelihood)}.")


def check_rows(likelihood: Likelihood, rows: Rows) -> None:
    """As ``check_support``, of the observed values of ``rows``, by the numbers of their rows in the data."""
    for batch in _batches(rows):
        check_batch(likelihood, batch)


def check_batch(likelihood: Likelihood, batch: Batch) -> None:
    """As ``check_rows``, of some rows."""
    _check_columns(likelihood, batch.x)
    bad = _outside(likelihood, batch.x, batch.mask)
    if bad is not None:
        row, *rest = bad
        value = f" is {batch.x[bad].item():g}" if len(bad) == batch.x.dim() else ""
        where = arrays.place((int(batch.index[row]), *rest)) + value
        raise DataError(f"{where}, which {_cannot(likelihood)}.")


def _batches(rows: Rows) -> Iterator[Batch]:
    if rows.binarise == "afresh":  # 0 and 1 are all that it gives
        x = torch.stack([torch.zeros(rows.shape), torch.ones(rows.shape)]).to(rows.device, rows.dtype)
        yield Batch(x, None, torch.zeros(2, dtype=torch.int64), torch.ones(2))
        return
    for index in torch.arange(len(rows), device=rows.device).split(_CHUNK):
        yield rows.batch(index, torch.ones(len(index), device=rows.device))


def _outside(likelihood: Likelihood, x: Tensor, mask: Tensor | None) -> tuple[int, ...] | None:
    """The place of the first observed value (or row, where a support is of whole rows) outside the support."""
    support = getattr(likelihood, "support", None)
    if support is None:  # a module in place of a likelihood need not say
        return None
    allowed: Tensor = support.check(x)
    if getattr(likelihood, "counts", False):
        allowed = allowed & (x <= _LARGEST_COUNT)
    if mask is not None:
        seen = mask if allowed.shape == mask.shape else mask.flatten(allowed.dim()).all(-1)
        allowed = allowed | ~seen
    return None if bool(allowed.all()) else arrays.first(~allowed.cpu().numpy())


def _check_columns(likelihood: Likelihood, x: Tensor) -> None:
    """Refuse rows of another number of columns than a ``Product`` has likelihoods."""
    inner = getattr(likelihood, "of_values", likelihood)
    if isinstance(inner, Product) and x.shape[1:] != (columns := sum(map(len, inner.of)),):
        raise DataError(
            f"the rows have shape {list(x.shape[1:])}, but the Product has likelihoods for {columns} columns: give it "
            "one for each column."
        )


def _cannot(likelihood: Likelihood) -> str:
    """What is wrong with a value, and the way out."""
    ways = "choose another likelihood"
    if getattr(likelihood, "needs", "") == "max_value":
        ways += ", or give max_value, the largest value"
    if likelihood.support is constraints.boolean:
        ways += ', or binarise grey values (binarise="afresh")'
    return f"{type(likelihood).__name__} cannot produce; {ways}, or correct the value"
