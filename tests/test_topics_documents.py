"""Documents in files become counts of words, and what cannot be read is refused in one sentence."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import csv, parquet
from scipy import io, sparse

from lowerbound.data import Documents, read_documents, read_words
from lowerbound.errors import DataError

TEXTS = ["The cat sat; the cat ran.", "A dog ran", "", "Cat and dog: dog!"]
EVERY: dict[str, Any] = {"min_count": 1, "max_share": 1.0}
COUNTS = np.array([[2, 0, 1], [0, 0, 0], [0, 3, 1]], np.float32)


def dense(found: Documents) -> NDArray[Any]:
    """The counts of documents as an array."""
    part = found.counts.csr
    return sparse.csr_matrix((part.counts, part.indices, part.indptr), (part.rows, found.counts.n_words)).toarray()


def texts(folder: Path, lines: list[str] = TEXTS) -> Path:
    path = folder / "docs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_text_is_counted_line_by_line(tmp_path: Path) -> None:
    found = read_documents(texts(tmp_path), **EVERY)
    assert found.words == ("and", "cat", "dog", "ran", "sat", "the")
    assert dense(found).tolist() == [
        [0, 2, 0, 1, 1, 2],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 2, 0, 0, 0],
    ]
    assert found.left_out == 0


def test_rare_and_common_words_are_left_out(tmp_path: Path) -> None:
    assert read_documents(texts(tmp_path), max_share=1).words == ("cat", "dog", "ran", "the")
    assert read_documents(texts(tmp_path), min_count=3, max_share=1).words == ("cat", "dog")
    found = read_documents(texts(tmp_path), min_count=1, max_share=0.25)
    assert (found.words, found.left_out) == (("and", "sat", "the"), 8)


def test_a_vocabulary_may_be_given(tmp_path: Path) -> None:
    found = read_documents(texts(tmp_path), words=["dog", "cow", "cat"])
    assert found.words == ("dog", "cow", "cat")
    assert dense(found).tolist() == [[0, 0, 2], [1, 0, 0], [0, 0, 0], [2, 0, 1]]
    assert found.left_out == 6
    (tmp_path / "words.txt").write_text("dog\ncow\ncat\n")
    assert read_words(tmp_path / "words.txt") == ("dog", "cow", "cat")


def test_text_may_be_packed_and_begin_with_a_mark(tmp_path: Path) -> None:
    plain = read_documents(texts(tmp_path), **EVERY)
    (tmp_path / "docs.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + "\r\n".join(TEXTS).encode()))
    packed = read_documents(tmp_path / "docs.txt.gz", **EVERY)
    assert packed.words == plain.words
    assert np.array_equal(dense(packed), dense(plain))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_texts_may_be_in_a_column_of_a_table(tmp_path: Path, suffix: str) -> None:
    table, path = pa.table({"n": [1, 2, 3, 4], "body": [*TEXTS[:2], None, TEXTS[3]]}), tmp_path / f"docs{suffix}"
    csv.write_csv(table, path) if suffix == ".csv" else parquet.write_table(table, path)
    found, same = read_documents(path, text="body", **EVERY), read_documents(texts(tmp_path), **EVERY)
    assert found.words == same.words
    assert np.array_equal(dense(found), dense(same))
    with pytest.raises(DataError, match="text in the column 'body', where counts are due; name the column of texts"):
        read_documents(path)
    with pytest.raises(DataError, match="has no column 'x'; give text one of 'n', 'body'"):
        read_documents(path, text="x")


def write(folder: Path, kind: str) -> Path:
    """``COUNTS`` in a file."""
    path = folder / f"counts.{kind}"
    if kind == "npz":
        sparse.save_npz(path, sparse.csc_matrix(COUNTS))
    elif kind == "npy":
        np.save(path, COUNTS)
    elif kind == "mtx":
        io.mmwrite(path, sparse.coo_matrix(COUNTS.astype(int)))
    elif kind == "ldac":
        path.write_text("2 0:2 2:1\n0\n2 1:3 2:1\n")
    else:
        csv.write_csv(pa.table({name: COUNTS[:, i] for i, name in enumerate("abc")}), path)
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "mtx", "ldac", "csv"])
def test_counts_may_come_as_a_matrix(tmp_path: Path, kind: str) -> None:
    found = read_documents(write(tmp_path, kind))
    assert np.array_equal(dense(found), COUNTS)
    assert found.words == (tuple("abc") if kind == "csv" else None)
    named = read_documents(write(tmp_path, kind), words=["a", "b", "c"])
    assert named.words == ("a", "b", "c")
    assert named.counts.shape == (3,)


def test_a_table_of_counts_is_ordered_by_the_vocabulary(tmp_path: Path) -> None:
    found = read_documents(write(tmp_path, "csv"), words=["c", "a"])
    assert np.array_equal(dense(found), COUNTS[:, [2, 0]])
    with pytest.raises(DataError, match="has no column 'd', a word of the vocabulary"):
        read_documents(write(tmp_path, "csv"), words=["a", "d"])


def test_terms_of_lda_c_may_have_more_words_than_occur(tmp_path: Path) -> None:
    assert dense(read_documents(write(tmp_path, "ldac"), words=list("abcde"))).shape == (3, 5)


@pytest.mark.parametrize("kind", ["npz", "npy", "mtx", "ldac"])
def test_a_vocabulary_of_another_length_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"counts (3 words|term 2), but the vocabulary has 2"):
        read_documents(write(tmp_path, kind), words=["a", "b"])


def damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(path: Path, counts: NDArray[Any]) -> Path:
    np.save(path, counts)
    return path


def out_of_range(path: Path) -> Path:
    """A sparse matrix whose index lies outside its columns."""
    matrix = sparse.csr_matrix(COUNTS)
    matrix.indices[0] = 99
    sparse.save_npz(path, matrix)
    return path


BAD = {
    "no words": (lambda at: texts(at, ["a b", "c"]), "no word is left for the vocabulary; lower min_count"),
    "empty text": (lambda at: damaged(at / "a.txt", b""), "no word is left for the vocabulary"),
    "not utf-8": (lambda at: damaged(at / "a.txt", b"caf\xe9 caf\xe9\n"), "a.txt is not a whole text file in UTF-8"),
    "not gzip": (lambda at: damaged(at / "a.txt.gz", b"plain"), "a.txt.gz is not a whole text file in UTF-8"),
    "a word for a count": (lambda at: damaged(at / "a.ldac", b"1 0:1\n1 0:two\n"), "a.ldac: line 2 is not"),
    "a fraction": (lambda at: damaged(at / "a.ldac", b"1 0:1.5\n"), "a.ldac: line 1 is not"),
    "a wrong number of terms": (lambda at: damaged(at / "a.ldac", b"3 0:1\n"), "a.ldac: line 1 is not"),
    "a negative count": (lambda at: damaged(at / "a.ldac", b"1 0:-1\n"), "a.ldac: line 1 is not"),
    "a huge term": (lambda at: damaged(at / "a.ldac", b"1 99999999999:1\n"), "a.ldac: line 1 is not"),
    "no documents": (lambda at: damaged(at / "a.ldac", b""), "a.ldac: the counts hold no documents"),
    "a count below 0": (lambda at: saved(at / "a.npy", np.array([[1, -2]])), "a.npy: the count of document 0, word 1"),
    "a missing count": (
        lambda at: saved(at / "a.npy", np.array([[1, np.nan]])),
        "a.npy: the count of document 0, word",
    ),
    "not npz": (lambda at: damaged(at / "a.npz", b"PK\x03\x04"), "a.npz is not a whole npz file"),
    "an index out of range": (lambda at: out_of_range(at / "a.npz"), "a.npz is not a whole npz file"),
    "not mtx": (lambda at: damaged(at / "a.mtx", b"%%Matrix\n3 3\n"), "a.mtx is not a whole Matrix Market file"),
    "another suffix": (lambda at: damaged(at / "a.doc", b"x"), "a.doc has no known suffix; documents can be read"),
    "a folder": (lambda at: at, "is a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(DataError, match=re.escape(message)) as found:
        read_documents(make(tmp_path))
    assert "\n" not in str(found.value)


def test_other_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no table, so it has no column 'body'; leave text out"):
        read_documents(texts(tmp_path), text="body")
    with pytest.raises(DataError, match="words holds 'a' twice"):
        read_documents(texts(tmp_path), words=["a", "a"])
    with pytest.raises(DataError, match=r"words.txt holds 'a' twice"):
        read_words(damaged(tmp_path / "words.txt", b"a\na\n"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_documents(tmp_path / "none.txt")


def test_saved_counts_stay_in_their_folder(tmp_path: Path) -> None:
    found = read_documents(write(tmp_path, "ldac"))
    found.counts.save(tmp_path / "kept")
    again = read_documents(tmp_path / "kept", words=["a", "b", "c"])
    assert np.array_equal(dense(again), COUNTS)
    assert again.counts.digest() == found.counts.digest()
    with pytest.raises(DataError, match="counts 3 words, but the vocabulary has 2; give the words of its columns"):
        read_documents(tmp_path / "kept", words=["a", "b"])
