"""Rows in memory: what is stored, what a batch holds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.errors import DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(rows: Rows, seed: int = 0) -> Tensor:
    index = torch.arange(len(rows))
    return rows.batch(index, torch.full((len(rows),), 1 / len(rows)), generator(seed)).x


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.bool])
def test_eight_bits_stay_one_byte_a_value(kind: torch.dtype) -> None:
    x = torch.ones(10, 4, 4).to(kind)
    rows = Rows(x)
    assert rows.x.dtype == torch.uint8
    assert rows.x.nbytes == 160
    assert whole(rows).dtype == torch.float32
    assert torch.equal(whole(rows), x.float())


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int16, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_are_kept_as_asked(kind: torch.dtype, dtype: torch.dtype) -> None:
    x = torch.arange(-6, 6).reshape(4, 3).to(kind)
    rows = Rows(x, dtype=dtype)
    assert rows.x.dtype == rows.dtype == whole(rows).dtype == dtype
    assert torch.equal(whole(rows), x.to(dtype))


def test_negative_bytes_keep_their_sign() -> None:
    assert whole(Rows(torch.tensor([[-3], [4]], dtype=torch.int8))).tolist() == [[-3.0], [4.0]]


def test_a_batch_holds_the_rows_asked_for_and_padding_that_counts_nothing() -> None:
    x = torch.arange(24.0).reshape(6, 4)
    mask = x % 2 == 0
    index, weight = torch.tensor([5, 2, 0, 0]), torch.tensor([0.5, 0.5, 0.0, 0.0])
    batch = Rows(x, mask).batch(index, weight)
    assert torch.equal(batch.x, x[index])
    assert batch.mask is not None
    assert torch.equal(batch.mask, mask[index])
    assert torch.equal(batch.index, index)
    assert torch.equal(batch.weight, weight)
    assert float((batch.weight * batch.x.sum(1)).sum()) == float(x[[5, 2]].sum(1).mean())


def test_shape_length_and_device() -> None:
    rows = Rows(torch.zeros(5, 3, 2))
    assert (len(rows), rows.shape, rows.mask, rows.binarise) == (5, (3, 2), None, "none")
    assert rows.device == torch.device("cpu")
    assert Rows(torch.zeros(5)).shape == ()
    assert rows.to("meta").device == torch.device("meta")


def test_a_subset_is_not_drawn_again() -> None:
    grey = torch.full((50, 30), 100, dtype=torch.uint8)
    rows = Rows(grey, grey > 0, binarise="fixed", dtype=torch.float64, generator=generator())
    index = torch.tensor([7, 1, 7])
    part = rows.subset(index)
    assert torch.equal(part.x, rows.x[index])
    assert (len(part), part.binarise, part.dtype) == (3, "fixed", torch.float64)
    assert part.mask is not None
    assert part.mask.shape == (3, 30)
    assert len(rows) == 50


def test_what_is_hidden_may_be_any_value() -> None:
    x = torch.tensor([[0.5, float("nan")], [7.0, 1.0]])
    rows = Rows(x, torch.tensor([[True, False], [False, True]]), binarise="fixed", generator=generator())
    assert rows.x[1, 1] == 1


def test_wrong_settings_are_said() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="give it a generator"):
        Rows(x, binarise="fixed")
    with pytest.raises(ValueError, match=r"give batch\(\) a generator"):
        Rows(x, binarise="afresh").batch(torch.tensor([0]), torch.ones(1))
    with pytest.raises(ValueError, match="it takes"):
        Rows(x, binarise="sometimes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        Rows(x, binarise="afresh", max_value=0)
    with pytest.raises(ValueError, match="floating type"):
        Rows(x, dtype=torch.int64)
    with pytest.raises(DataError, match=r"mask's shape \(4, 3\)"):
        Rows(x, torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(DataError, match="one row along axis 0"):
        Rows(torch.tensor(1.0))


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "f2", "g", "<i4", ">i8", "<u2", "u8", "u1", "?"])
def test_arrays_of_any_kind(kind: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    array.flags.writeable = False
    for given in (array, array[:, ::-1], np.asfortranarray(array)):
        rows = Rows.from_array(given)
        np.testing.assert_array_equal(whole(rows).numpy(), given.astype(np.float32))
    rows = Rows.from_array(array)
    rows.x.zero_()
    assert array.any()


def test_array_masks_and_precision() -> None:
    array, mask = np.array([[1 / 3, np.nan], [np.inf, 2.0]]), np.array([[1, 0], [0, 1]])
    rows = Rows.from_array(array, mask, dtype=torch.float64)
    assert rows.x[0, 0] == 1 / 3
    assert rows.mask is not None
    assert rows.mask.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("array", "mask", "said"),
    [
        (np.array([[1, 2], [-np.inf, np.nan]]), None, "row 1, column 0 is infinite"),
        (np.array([[np.nan, 2], [3, np.nan]]), np.array([[0, 1], [1, 1]]), "row 1, column 1 is NaN"),
        (np.array([[1.0], [1e300]]), None, r"row 1, column 0 is 1e\+300, too large for float32"),
        (np.array([[np.nan, 1.0]]), np.ones((1, 3), bool), "mask's shape"),
        (np.zeros((1, 2)), np.array([["a", "b"]]), "the mask holds"),
        (np.array([["a"]]), None, "not numbers"),
        (np.array([[None]]), None, "object, not numbers"),
        (np.zeros((0, 3)), None, r"shape \(0, 3\) holds no rows"),
        (np.array(1.0), None, "holds no rows"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, mask: np.ndarray | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Rows.from_array(array, mask)
