"""Documents as counts: what is stored, batches sparse and dense, files that stay mapped, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import sparse

from lowerbound.data import Counts
from lowerbound.data.row_arrays import is_mapped
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.likelihoods import NegativeBinomial, Normal
from lowerbound.likelihoods.support import check_rows
from lowerbound.topics import Csr

V = 7


def dense(n: int = 23, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).poisson(0.6, (n, V))
    x[3] = 0
    return x


@pytest.fixture(params=["memory", "mapped"])
def counts(request, tmp_path) -> Counts:
    made = Counts.from_sparse(sparse.csr_matrix(dense()))
    if request.param == "memory":
        return made
    made.save(tmp_path / "counts")
    return Counts.open(tmp_path / "counts")


def batch(rows: Counts, index: list[int], weight: list[float] | None = None) -> Batch:
    return rows.batch(torch.tensor(index), torch.tensor(weight or [1 / len(index)] * len(index)))


def test_a_batch_is_dense_or_sparse_and_the_same(counts):
    index = [5, 3, 0, 0, 22]
    plain, thin = batch(counts, index), batch(counts.as_sparse(), index)
    assert plain.x.dtype == torch.float32
    assert thin.x.layout == torch.sparse_csr
    assert torch.equal(plain.x, torch.tensor(dense()[index]).float())
    assert torch.equal(thin.x.to_dense(), plain.x)
    assert plain.index.tolist() == index
    assert batch(counts.of_dtype(torch.float64).as_sparse(), index).x.dtype == torch.float64


@pytest.mark.parametrize("thin", [True, False])
def test_csr_of_a_batch_drops_padding_and_keeps_the_order(counts, thin):
    found = Csr.from_batch(batch(counts.as_sparse() if thin else counts, [5, 3, 0, 8], [0.5, 0.25, 0.0, 0.25]))
    assert found.rows == 3
    assert (found.indptr.dtype, found.indices.dtype, found.counts.dtype) == (np.int64, np.int32, np.float32)
    assert found.counts.sum() == dense()[[5, 3, 8]].sum()
    for row, document in enumerate([5, 3, 8]):
        words, numbers = found.row(row)
        assert words.tolist() == np.flatnonzero(dense()[document]).tolist()
        assert numbers.tolist() == dense()[document][words].tolist()


def test_a_subset_is_a_view_with_the_numbers_of_the_whole(counts):
    part = counts.subset(torch.tensor([9, 2, 20])).subset(torch.tensor([2, 0]))
    assert (len(part), part.total, part.shape) == (2, 23, (V,))
    found = batch(part, [1, 0])
    assert torch.equal(found.x, torch.tensor(dense()[[9, 20]]).float())
    assert found.index.tolist() == [9, 20]
    assert part._csr is counts._csr


@pytest.mark.parametrize("chosen", [None, [4, 4, 0, 22, 7]])
@pytest.mark.parametrize("n", [1, 2, 100])
def test_slices_are_all_documents_in_order(counts, chosen, n):
    rows = counts if chosen is None else counts.subset(torch.tensor(chosen))
    want = dense() if chosen is None else dense()[chosen]
    starts, parts = zip(*rows.slices(n), strict=True)
    assert list(starts) == list(range(0, len(want), n))
    found = [sparse.csr_array((p.counts, p.indices, p.indptr), (p.rows, V)).toarray() for p in parts]
    assert np.array_equal(np.concatenate(found), want)


def test_the_digest_does_not_depend_on_where_they_are_kept(tmp_path):
    first = Counts.from_sparse(dense())
    first.save(tmp_path / "whole")
    index = torch.tensor([8, 1, 1])
    first.subset(index).save(tmp_path / "part")
    kept = Counts.open(tmp_path / "whole")
    assert first.digest() == kept.digest() == kept.as_sparse().digest()
    assert first.subset(index).digest() == kept.subset(index).digest() == Counts.open(tmp_path / "part").digest()
    assert len({first.digest(), first.subset(index).digest(), first.of_dtype(torch.float64).digest()}) == 3
    assert Counts.from_sparse(np.pad(dense(), ((0, 0), (0, 1)))).digest() != first.digest()


def test_files_stay_mapped_and_may_be_saved_over_while_they_are_read(tmp_path):
    Counts.from_sparse(dense()).save(tmp_path)
    kept = Counts.open(tmp_path)
    assert is_mapped(kept.csr.indices)
    assert is_mapped(kept.csr.counts)
    kept.subset(torch.arange(5)).save(tmp_path)
    assert torch.equal(batch(kept, [20]).x, torch.tensor(dense()[[20]]).float())
    assert len(Counts.open(tmp_path)) == 5


def test_a_sparse_matrix_is_not_changed_and_its_repeats_are_added_up():
    x = sparse.csr_matrix((np.array([1, 2, 0, 5]), np.array([2, 0, 1, 2]), np.array([0, 4])), shape=(1, 3))
    before = [a.copy() for a in (x.data, x.indices, x.indptr)]
    assert batch(Counts.from_sparse(x), [0]).x.tolist() == [[2, 0, 6]]
    assert all(map(np.array_equal, before, (x.data, x.indices, x.indptr)))
    assert batch(Counts.from_sparse(sparse.coo_array(np.array([[0, 1_000_000]]))), [0]).x.tolist() == [[0, 1e6]]
    assert not Counts.from_sparse([[0.5, 1]]).whole


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[0, 1], [0, -2]], "the count of document 1, word 1 is -2"),
        ([[0.0, np.nan]], "document 0, word 1 is nan"),
        ([[0.0, 1e60]], "document 0, word 1 is inf"),
        (np.zeros((0, 3)), "hold no documents"),
        (np.zeros(3), r"float64 of shape \(3,\); give numbers, \[N, V\]"),
        ([["a", "b"]], "give numbers"),
    ],
)
def test_what_are_no_counts_is_refused(x, words):
    with pytest.raises(DataError, match=words):
        Counts.from_sparse(x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"indptr": [0, 2, 4]}, "indptr ends at 4, and there are 3 counts"),
        ({"indptr": [0, 4, 3]}, "indptr must rise"),
        ({"indices": [0, 5, 1]}, "document 0 has the word 5, outside 0 to 2"),
        ({"indices": [0, -1, 1]}, "document 0 has the word -1, outside"),
        ({"indices": [1, 0, 1]}, "document 0 has the word 0, not above the word before it"),
        ({"indices": [0, 0, 1]}, "not above the word before it"),
        ({"indices": [0, 2**31, 1]}, "words are supported"),
        ({"indices": [0.5, 1.0, 1.0]}, "indices is float64"),
        ({"counts": [1, 0, 1]}, "leave out words that do not occur"),
        ({"counts": [1, 2]}, "2 counts and 3 indices"),
    ],
)
def test_arrays_that_are_no_documents_are_refused(change, words):
    good = {"indptr": [0, 2, 3], "indices": [0, 1, 0], "counts": [1, 2, 1]}
    assert len(Counts(**{name: np.array(value) for name, value in good.items()}, n_words=3)) == 2
    with pytest.raises(DataError, match=words):
        Counts(**{name: np.array(value) for name, value in (good | change).items()}, n_words=3)


@pytest.mark.parametrize("damage", ["cut", "type", "about", "pickle"])
def test_damaged_files_are_named(tmp_path, damage):
    Counts.from_sparse(dense()).save(tmp_path)
    path = tmp_path / "indices.npy"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "type":
        np.save(path, np.arange(3.0))
    elif damage == "pickle":
        np.save(path, np.array([{}]))
    else:
        path = tmp_path / "counts.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"entries": 3}))
    with pytest.raises(DataError, match=str(path)):
        Counts.open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"counts\.json cannot be read"):
        Counts.open(tmp_path / "none")


def test_support_is_checked_by_what_is_stored_alone():
    check_rows(NegativeBinomial(), Counts.from_sparse(dense()))
    check_rows(Normal(1.0), Counts.from_sparse([[0.5, 0]]))
    with pytest.raises(DataError, match=r"document 1, word 0 is 0\.5, which NegativeBinomial cannot produce"):
        check_rows(NegativeBinomial(), Counts.from_sparse([[0, 1], [0.5, 0]]))
    wide = sparse.csr_array(([1.0], ([0], [2_000_000_000])), shape=(3_000, 2_000_000_001))  # 24 TB if it were dense
    check_rows(NegativeBinomial(), Counts.from_sparse(wide))
