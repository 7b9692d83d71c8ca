"""Rows of data of one shape, handed out in batches on one device."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import arrays
from lowerbound.data.row_arrays import OnDemand, is_mapped, row_array, rows_at_once
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.row_source import RowSource

Binarise = Literal["none", "fixed", "afresh", "mean"]


class Rows(RowSource):
    """``x [N, *X]`` with an optional ``mask [N, *X]``, True where observed, and ``context [N, C]`` that each is given.

    ``x``: a tensor, or rows read ``OnDemand``, in which NaN marks a missing value unless a ``mask`` is given.
    Bool and 8-bit values are kept as uint8, all others as ``dtype``, the type batches come in.
    ``binarise``: a grey value g in [0, max_value] becomes 1 with probability g / max_value, else 0; drawn once here
    ("fixed", from ``generator``), or at each batch ("afresh"), or given as that probability ("mean"). ``max_value`` is
    255 for uint8 and 1 for bool and floats unless given. Raises ``DataError`` for a value outside [0, max_value].
    """

    def __init__(
        self,
        x: Tensor | OnDemand,
        mask: Tensor | None = None,
        *,
        binarise: Binarise = "none",
        max_value: float | None = None,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
    ) -> None:
        _check(x, mask, binarise, dtype)
        self._context = None if context is None else _checked_context(context, len(x)).to(x.device, dtype)
        self.dtype = dtype  # of batches
        self._labels: dict[str, Tensor] | None = None
        self._index: Tensor | None = None  # of a subset: its rows among those of _x
        self.binarise: Binarise = binarise
        self._x = _compact(x, dtype) if isinstance(x, Tensor) else x
        self._mask = None if mask is None else mask.to(device=x.device, dtype=torch.bool)
        self._nan = mask is None and isinstance(x, OnDemand) and x.has_nan
        given = x.dtype if isinstance(x, Tensor) else x.given
        self._max_value = float(max_value) if max_value is not None else _max_value(given, self._x.dtype)
        if binarise == "none":
            return
        self._check_range()
        if binarise == "fixed":
            if generator is None:
                raise ValueError('binarise="fixed" draws once, when the rows are made: give it a generator.')
            x, self._mask = self.x, self.mask
            self._x, self._nan = _bernoulli(x, self._max_value, generator), False

    @classmethod
    def from_array(
        cls,
        array: Any,
        mask: NDArray[Any] | None = None,
        *,
        binarise: Binarise = "none",
        max_value: float | None = None,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        context: NDArray[Any] | None = None,
    ) -> Rows:
        """Rows of an array of numbers; without a ``mask``, NaN marks a missing value.

        The memory of a NumPy array is shared where it can be. The rows of a memory-mapped array, of a sparse matrix of
        SciPy and of a ``Dataset`` or ``DataLoader`` of torch stay where they are, and each batch reads its own. Raises
        ``DataError`` at the first infinity, and at a NaN that the mask says is observed.
        """
        found = row_array(array)
        if found is None:
            raise TypeError(f"the rows come as a {type(array).__name__}; give a NumPy array, [N, *X].")
        arrays.check_rows(found)
        x: Tensor | OnDemand
        if isinstance(found, np.ndarray) and not is_mapped(found):
            if mask is None and (nan := arrays.nan_in(found)) is not None:
                found, mask = np.where(nan, 0, found), ~nan
            x = arrays.to_tensor(found, mask, dtype)
        else:
            x = OnDemand(found, dtype)
            x.check_finite(mask)
        observed = None if mask is None else arrays.as_mask(mask)
        given = None if context is None else arrays.to_tensor(context, None, dtype)
        return cls(x, observed, binarise=binarise, max_value=max_value, dtype=dtype, generator=generator, context=given)

    def __len__(self) -> int:
        return len(self._x) if self._index is None else len(self._index)

    @property
    def total(self) -> int:
        return len(self._x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape X of one row."""
        return tuple(self._x.shape[1:])

    @property
    def device(self) -> torch.device:
        return self._x.device

    @property
    def x(self) -> Tensor:
        """The values as stored, ``[N, *X]``: uint8 or ``dtype``; grey when binarised afresh. Reads all rows."""
        if self._index is None and isinstance(self._x, Tensor):
            return self._x
        return torch.cat([x for x, _ in self._stored()])

    @property
    def has_missing(self) -> bool:
        """Whether there is a ``mask``."""
        return self._nan or self._mask is not None

    @property
    def mask(self) -> Tensor | None:
        """``[N, *X]``, True where observed; None if nothing is missing."""
        if self._nan:
            return torch.cat([mask for _, mask in self._stored() if mask is not None])
        return self._mask if self._mask is None or self._index is None else self._mask[self._index]

    @property
    def context(self) -> Tensor | None:
        """The context of each row, ``[N, C]``."""
        return self._context if self._context is None or self._index is None else self._context[self._index]

    @property
    def labels(self) -> dict[str, Tensor] | None:
        """The observed classes of latents by their names, ``[N]`` each; −1 where not observed."""
        if self._labels is None or self._index is None:
            return self._labels
        return {name: each[self._index] for name, each in self._labels.items()}

    def labelled(self, labels: Mapping[str, Tensor]) -> Rows:
        """The same rows with the classes of categorical latents, by name: whole numbers ``[N]``, −1 for no label.

        A batch then has these ``labels``, and ``draw`` takes the latent as observed where there is one.
        """
        rows = copy.copy(self)
        if self._index is not None:
            raise ValueError("these rows are a subset; give the labels to the rows that it is of.")
        rows._labels = {name: _checked_labels(name, each, len(self)).to(self.device) for name, each in labels.items()}
        return rows

    def batch(self, index: Tensor, weight: Tensor, generator: torch.Generator | None = None) -> Batch:
        """The rows ``index [B]`` (int64), each counting ``weight [B]``, on the rows' device.

        ``generator``, of the same device, is needed (and advanced) only when binarised afresh.
        """
        chosen = index if self._index is None else self._index[index]
        x, mask = self._values(chosen)
        if self.binarise == "afresh":
            if generator is None:
                raise ValueError('binarise="afresh" draws at each batch: give batch() a generator.')
            x = _bernoulli(x, self._max_value, generator)
        x = x.to(self.dtype)
        if self.binarise == "mean":
            x = x / self._max_value
        context = None if self._context is None else self._context.index_select(0, chosen)
        labels = None if self._labels is None else {name: own[chosen] for name, own in self._labels.items()}
        return Batch(x, mask, chosen, weight, context, labels)

    def _values(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The values of the rows ``index [B]`` of ``_x`` as stored, 0 for NaN, and their mask."""
        x = self._x.index_select(0, index)
        if self._nan:
            mask = ~x.isnan()
            return torch.where(mask, x, 0), mask
        return x, None if self._mask is None else self._mask.index_select(0, index)

    def _stored(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """``_values`` of all rows, in chunks."""
        index = torch.arange(len(self._x), device=self.device) if self._index is None else self._index
        return map(self._values, index.split(rows_at_once(self.shape)))

    def subset(self, index: Tensor) -> Rows:
        """The rows ``index [M]`` (int64) under the same settings: a view, which copies no values."""
        rows = copy.copy(self)
        rows._index = index if self._index is None else self._index[index]
        return rows

    def digest(self) -> str:
        """SHA-256 of the values, the mask and the settings: the same for the same rows, wherever they are kept."""
        about = (tuple(self._x.shape), str(self._x.dtype), str(self.dtype), self.binarise, self._max_value)
        digest = hashlib.sha256(repr(about).encode())
        whole = copy.copy(self)
        whole._index = None
        given = () if self._context is None else (self._context,)  # rows without one keep the digest they had
        for name, labels in (self._labels or {}).items():
            digest.update(name.encode())
            given = (*given, labels)
        masks = (mask for _, mask in whole._stored()) if self.has_missing else None
        for chunks in ((x for x, _ in whole._stored()), masks, *map(_split, (self._index, *given))):
            digest.update(b"none" if chunks is None else b"some")
            for chunk in () if chunks is None else chunks:
                assert chunk is not None
                digest.update(chunk.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on ``device``; those read on demand are brought there batch by batch."""
        rows = copy.copy(self)
        rows._x = self._x.to(device)
        rows._mask = None if self._mask is None else self._mask.to(device)
        rows._context = None if self._context is None else self._context.to(device)
        rows._labels = None if self._labels is None else {name: own.to(device) for name, own in self._labels.items()}
        rows._index = None if self._index is None else self._index.to(device)
        return rows

    def _check_range(self) -> None:
        """Refuse an observed value outside [0, max_value]."""
        top, start = self._max_value, 0
        if not top > 0:
            raise ValueError(f"max_value is {top:g}; it is the value of a pixel of full intensity, above 0.")
        for x, mask in self._stored():
            outside = ~((x >= 0) & (x <= top))
            if mask is not None:
                outside &= mask
            if bool(outside.any()):
                row, *rest = position = arrays.first(outside.cpu().numpy())
                raise DataError(
                    f"{arrays.place((start + row, *rest))} is {x[position].item():g}, outside [0, {top:g}]: "
                    "grey values only can be binarised; rescale them or pass their largest value as max_value."
                )
            start += len(x)


def _split(x: Tensor | None) -> Iterator[Tensor] | None:
    return None if x is None else iter(x.split(rows_at_once(x.shape[1:])))


def _check(x: Tensor | OnDemand, mask: Tensor | None, binarise: str, dtype: torch.dtype) -> None:
    if binarise not in get_args(Binarise):
        raise ValueError(f'binarise is {binarise!r}; it takes "none", "fixed", "afresh" or "mean".')
    if not dtype.is_floating_point:
        raise ValueError(f"batches come in a floating type, not {dtype}; pass torch.float32 or torch.float64.")
    if len(x.shape) == 0 or x.dtype.is_complex:
        raise DataError(f"x is {x.dtype} of shape {tuple(x.shape)}; give real numbers, one row along axis 0.")
    if mask is not None and mask.shape != x.shape:
        raise DataError(
            f"the mask's shape {tuple(mask.shape)} is not the data's {tuple(x.shape)}; give one bool a value."
        )


def _checked_context(context: Tensor, rows: int) -> Tensor:
    if context.ndim != 2 or len(context) != rows:
        raise DataError(f"the context is {list(context.shape)}; give [{rows}, C], some numbers for each row.")
    if not bool((finite := context.isfinite()).all()):
        row = int((~finite).any(1).nonzero()[0])
        raise DataError(f"the context of row {row} holds NaN or an infinite value; give finite numbers.")
    return context


def _checked_labels(name: str, labels: Tensor, rows: int) -> Tensor:
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.shape != (rows,):
        raise DataError(
            f"the labels of {name!r} are {labels.dtype} of shape {list(labels.shape)}; give whole numbers, [{rows}], "
            "from 0, and −1 for no label."
        )
    if len(labels) and int(labels.min()) < -1:
        row = int(labels.argmin())
        raise DataError(f"the label of row {row} is {int(labels[row])}; give a class from 0, or −1 for no label.")
    return labels.to(torch.int64)


def _compact(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype == torch.int8 and bool((x < 0).any()):
        return x.to(dtype)
    return x.to(torch.uint8 if x.dtype in (torch.uint8, torch.int8, torch.bool) else dtype)


def _max_value(given: torch.dtype, stored: torch.dtype) -> float:
    return 255.0 if stored == torch.uint8 and given != torch.bool else 1.0


def _bernoulli(x: Tensor, max_value: float, generator: torch.Generator) -> Tensor:
    """1 with probability x / max_value, else 0; uint8, of the shape of x."""
    if x.dtype == torch.uint8 and max_value.is_integer() and max_value <= 256:
        level = torch.randint(int(max_value), x.shape, generator=generator, dtype=torch.uint8, device=x.device)
        return (x > level).to(torch.uint8)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    noise = torch.rand(x.shape, generator=generator, dtype=dtype, device=x.device)
    return (noise * max_value < x).to(torch.uint8)
