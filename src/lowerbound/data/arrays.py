"""NumPy arrays as tensors; what cannot be used is refused with the place of its first value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.errors import DataError

Array = NDArray[Any]
NUMERIC = "biuf"  # NumPy's kinds: bool, integer, unsigned, floating


def to_tensor(array: Array, mask: Array | None, dtype: torch.dtype) -> Tensor:
    """``array [N, *X]`` as a tensor of bool, 8-bit integers or floats; shares memory where it can.

    Raises ``DataError`` at the first NaN or infinity that ``mask`` (True = observed) does not hide.
    """
    if array.dtype.kind not in NUMERIC:
        raise DataError(f"the array holds {array.dtype}, not numbers; encode its values as numbers first.")
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"an array of shape {array.shape} holds no rows; give it at least one.")
    native = _native(array, np.dtype(np.float64 if dtype == torch.float64 else np.float32))
    if native.dtype.kind == "f":
        _refuse_not_finite(native, array, mask)
    return torch.from_numpy(native)


def as_mask(mask: Array) -> Tensor:
    """A mask of bool (or of 0 and 1) as a bool tensor of its own memory."""
    if mask.dtype.kind not in NUMERIC:
        raise DataError(f"the mask holds {mask.dtype}; give True (observed) or False for each value.")
    return torch.from_numpy(mask.astype(np.bool_, order="C"))


def place(position: tuple[int, ...], names: Sequence[str] | None = None) -> str:
    """Where a value lies, in words: "row 3", "row 3, column 1", "row 3, column 1 ('b')", "row 3, position (4, 5)"."""
    row, *rest = position
    return f"row {row}, {column(tuple(rest), names)}" if rest else f"row {row}"


def column(position: tuple[int, ...], names: Sequence[str] | None = None) -> str:
    """Where in each row values lie, in words: "column 1", "column 1 ('b')", "position (4, 5)"."""
    if len(position) != 1:
        return f"position {position}"
    return f"column {position[0]}" + ("" if names is None else f" ({str(names[position[0]])!r})")


def first(marked: Array) -> tuple[int, ...]:
    """Position of the first True of a bool array that has one."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(marked)), marked.shape))


def _native(array: Array, floating: np.dtype[Any]) -> Array:
    """In the machine's byte order, C-contiguous, writeable: bool and 8 bits stay, the rest is ``floating``."""
    keeps = array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize == 1)
    with np.errstate(over="ignore"):  # what overflows is refused by name afterwards
        native = np.ascontiguousarray(array, dtype=array.dtype if keeps else floating)
    return native if native.flags.writeable else native.copy()


def _refuse_not_finite(native: Array, array: Array, mask: Array | None) -> None:
    if mask is not None and mask.shape != native.shape:
        return  # a wrong mask is the first thing to say, and Rows says it
    wrong = ~np.isfinite(native)
    if mask is not None:
        wrong &= mask.astype(np.bool_, copy=False)
    if not wrong.any():
        return
    position = first(wrong)
    value = float(array[position])
    if np.isfinite(value):
        raise DataError(f"{place(position)} is {value:g}, too large for {native.dtype}; rescale the values.")
    found = "NaN" if np.isnan(value) else "infinite"
    raise DataError(f"{place(position)} is {found}; drop or fill it, or give a mask that is False there.")
