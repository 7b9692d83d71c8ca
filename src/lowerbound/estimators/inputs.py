"""Convert a user's X to rows of numbers, or raise an error that states where the problem is and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from narwhals.dependencies import is_into_dataframe
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from lowerbound.data import Rows, arrays, frames
from lowerbound.data.row_arrays import RowArray, refuse_pairs, row_array
from lowerbound.data.rows import Binarise
from lowerbound.distributions import generator
from lowerbound.errors import DataError


@contextlib.contextmanager
def unchanged_if_refused(estimator: Any, *refusals: type[BaseException]) -> Iterator[None]:
    """Restore the attributes of ``estimator`` if the block raises one of ``refusals`` (none given: any exception)."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException as error:
        if not refusals or isinstance(error, refusals):
            vars(estimator).clear()
            vars(estimator).update(before)
        raise


def check_fitted(estimator: Any) -> None:
    """Raise ``NotFittedError`` if the estimator is not fitted."""
    check_is_fitted(estimator, "model_", msg="this %(name)s is not fitted; call fit, or load a fitted one, first.")


def prepare(X: Any, fitted: Any = None) -> Any:
    """Convert ``X`` to rows of real numbers; data frames are returned unchanged. Raises ``DataError`` otherwise.

    ``fitted``: a fitted estimator whose columns ``X`` must have; those of a frame are put in its order by name.
    """
    if is_into_dataframe(X := frames.table_of(X, "X")):
        X = frames.checked(X, "X", getattr(fitted, "feature_names_in_", None))
        _check_shape(np.shape(X), fitted)
        return X
    if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):
        raise DataError(
            f"X is a masked array that hides {int(X.mask.sum())} values; mark them by NaN, as X.filled(numpy.nan) does."
        )
    found = None if isinstance(X, np.ndarray) else row_array(X)
    x = check_array(_as_array(X) if found is None else found)
    _check_shape(x.shape, fitted)
    return x


def check_array(x: RowArray, source: str = "X") -> RowArray:
    """``x`` as rows of real numbers (an object array as floats). Raises ``DataError`` for anything else."""
    if x.dtype.kind == "O" and isinstance(x, np.ndarray):
        x = _floats(x, source)
    if x.dtype.kind == "c":
        raise DataError(f"{source}: Complex data not supported ({x.dtype}); give real and imaginary parts as columns.")
    if x.dtype.kind in "US" and isinstance(x, np.ndarray):
        at = next((i for i, value in np.ndenumerate(x) if not frames.is_number(value)), (0,) * x.ndim)
        where = f"{arrays.place(at)} is {x[at].item()!r}" if x.size else f"its type is {x.dtype}"
        raise DataError(f"{source} holds text, not numbers ({where}); convert it to numbers, by X.astype(float) say.")
    if x.dtype.kind not in arrays.NUMERIC:
        raise DataError(f"{source} holds {x.dtype}, not numbers; encode its values as numbers first.")
    check_shape(x.shape, source)
    return x


def check_shape(shape: tuple[int, ...], source: str = "X") -> None:
    """Raise ``DataError`` for a shape that is not rows of at least one value."""
    if len(shape) < 2:
        raise DataError(
            f"{source} is a {len(shape)}D array, of shape {shape}, not rows of columns; Reshape your data, by "
            ".reshape(-1, 1) if it is one column, or .reshape(1, -1) if it is one row."
        )
    if shape[0] == 0:
        raise DataError(f"{source} holds 0 samples (its shape is {shape}); give at least one row.")
    if shape[1] == 0:
        raise DataError(
            f"{source} has 0 feature(s) (shape={shape}) while a minimum of 1 is required; give at least one column."
        )
    if 0 in shape:
        raise DataError(f"{source} has rows without values (its shape is {shape}); give at least one value per row.")


def _as_array(X: Any) -> NDArray[Any]:
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
    try:
        x = np.asarray(X)
    except ValueError as error:
        if isinstance(X, list | tuple) and isinstance(X[0], list | tuple) and any(np.ndim(each) for each in X[0]):
            refuse_pairs(type(X).__name__, X[0])
        raise DataError("X is ragged: its rows have different lengths; give rows of the same length.") from error
    if x.ndim == 0:
        raise DataError(
            f"X is of type {type(X).__name__}, not rows of numbers; give an array (the train of a Dataset, or the x of "
            "a Table)."
        )
    return x


def is_none(value: Any) -> bool:
    """Whether a Python object means missing: None, and pandas' NA and NaT."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _floats(x: NDArray[Any], source: str) -> NDArray[Any]:
    """Convert an array of Python objects to float64 (None to NaN). Raises ``DataError`` for text, even numeric text."""
    values = np.empty(x.shape, np.float64)
    for position, value in np.ndenumerate(x):
        where = f"{arrays.place(position)} of {source} is {repr(value)[:40]}"
        if isinstance(value, str | bytes):
            raise DataError(f"{where}, which is text; convert it to a number.")
        try:
            values[position] = np.nan if is_none(value) else float(value)
        except OverflowError as error:
            raise DataError(f"{where}..., too large for any float; rescale the column.") from error
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{where}: the argument must be free of string and object values; give a number."
            ) from error
    return values


def _check_shape(shape: tuple[int, ...], fitted: Any) -> None:
    """Raise ``DataError`` for rows of another shape than the fitted ones."""
    check_shape(shape)
    if fitted is None or shape[1:] == fitted.shape_:
        return
    if shape[1] != fitted.n_features_in_:
        raise DataError(
            f"X has {shape[1]} features, but {type(fitted).__name__} is expecting {fitted.n_features_in_} features as "
            f"input; give rows of shape {fitted.shape_}, like those it was fitted to."
        )
    raise DataError(
        f"rows have shape {shape[1:]}, but this model was fitted to rows of {fitted.shape_}; reshape X or fit anew."
    )


def context(given: Any, rows: int) -> NDArray[Any] | None:
    """Convert a context to single-precision numbers, ``[N, C]``."""
    if given is None:
        return None
    values = np.asarray(given)
    if values.dtype.kind not in "fiub" or values.shape[0:1] != (rows,) or values.ndim != 2:
        raise ValueError(f"context is {values.dtype} of shape {values.shape}; give numbers, [{rows}, C].")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise DataError(f"the context of row {row} holds NaN or an infinite value; give finite numbers.")
    return values.astype(np.float32)


def fitted_context(given: Any, rows: int, due: int | None) -> NDArray[Any] | None:
    """``context``, if the model was fitted with one of that size (``due``). Raises ValueError otherwise."""
    if given is None and due is not None:
        raise ValueError(f"this model was fitted with a context of {due} numbers per row; give context=.")
    values = context(given, rows)
    have = None if values is None else values.shape[1]
    if have != due:
        was = "none" if due is None else f"one of {due}"
        raise ValueError(f"the context has {have} numbers per row, but this model was fitted with {was}.")
    return values


def rows(
    x: RowArray, binarise: Binarise, max_value: float, seed: int, device: str, context: NDArray[Any] | None
) -> Rows:
    """Make rows of ``x`` (NaN: missing) on ``device``."""
    rng = generator(seed, "binarise")
    return Rows.from_array(x, binarise=binarise, max_value=max_value, generator=rng, context=context).to(device)


def seed(random_state: int | np.random.RandomState | None) -> int:
    """A seed from ``random_state``; None: from the operating system, so that global generators are not used."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0]) >> 1
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)
