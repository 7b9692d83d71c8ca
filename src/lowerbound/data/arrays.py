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
    check_rows(array)
    found = native(array, dtype)
    if found.is_floating_point():
        refuse_not_finite(found.numpy(), array, mask)
    return found


def check_rows(array: Any) -> None:
    """Refuse an array that is not at least one row of numbers."""
    if array.dtype.kind not in NUMERIC:
        raise DataError(f"the array holds {array.dtype}, not numbers; encode its values as numbers first.")
    if len(array.shape) == 0 or len(array) == 0:
        raise DataError(f"an array of shape {array.shape} holds no rows; give it at least one.")


def nan_in(x: Array) -> NDArray[np.bool_] | None:
    """Where ``x`` is NaN; None if nowhere."""
    found = np.isnan(x) if x.dtype.kind == "f" else None
    return found if found is not None and found.any() else None


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


def native(array: Array, dtype: torch.dtype) -> Tensor:
    """As a tensor in the machine's byte order: of bool and 8 bits as they are, of all else in single precision, or in
    double if ``dtype`` is. Values too large for it become infinite.
    """
    floating = np.float64 if dtype == torch.float64 else np.float32
    keeps = array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize == 1)
    with np.errstate(over="ignore"):  # what overflows is refused by name afterwards
        found = np.ascontiguousarray(array, dtype=array.dtype if keeps else floating)
    return torch.from_numpy(found if found.flags.writeable else found.copy())


def refuse_not_finite(native: Array, array: Array, mask: Array | None, start: int = 0) -> None:
    """Refuse infinities, and NaN, among the observed values of ``native``, which are those of ``array`` converted.

    ``start``: the number of the first row.
    """
    if mask is not None and mask.shape != native.shape:
        return  # a wrong mask is the first thing to say, and Rows says it
    wrong = ~np.isfinite(native)
    if mask is not None:
        wrong &= mask.astype(np.bool_, copy=False)
    if not wrong.any():
        return
    position = first(wrong)
    value, where = float(array[position]), place((start + position[0], *position[1:]))
    if np.isfinite(value):
        raise DataError(f"{where} is {value:g}, too large for {native.dtype}; rescale the values.")
    found = "NaN" if np.isnan(value) else "infinite"
    raise DataError(f"{where} is {found}; drop or fill it, or give a mask that is False there.")
