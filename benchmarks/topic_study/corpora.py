"""The two preparations of 20 Newsgroups, as CSR matrices of documents. Imports NumPy and SciPy only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.io import loadmat

QUICK = 300  # documents of a quick run


def corpus(part: str, data: Path, quick: bool) -> tuple[Any, Any, Any]:
    """Documents to learn from, and the words of test documents to infer θ from and to predict, ``[N, V]`` each."""
    found = _authors(data) if part == "completion" else _halves(data)
    return tuple(each[:QUICK] for each in found) if quick else found


def _authors(data: Path) -> tuple[Any, Any, Any]:
    matrices = loadmat(data / "20news_2000/20news_data.mat")
    names = ("wordsTrain", "wordsHeldout", "wordsTest")
    return tuple(sparse.csr_matrix(matrices[name].T, dtype=np.float32) for name in names)


def _halves(data: Path) -> tuple[Any, Any, Any]:
    folder = data / "20newsgroups"
    words = len((folder / "vocab.txt").read_text().split())
    return tuple(_bag(folder, name, words) for name in ("tr", "ts_h1", "ts_h2"))


def _bag(folder: Path, name: str, words: int) -> Any:
    tokens, counts = (
        [np.asarray(row, np.int64).ravel() for row in loadmat(folder / f"bow_{name}_{what}.mat")[what].ravel()]
        for what in ("tokens", "counts")
    )
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in tokens])])
    parts = (np.concatenate(counts).astype(np.float32), np.concatenate(tokens), indptr)
    found = sparse.csr_matrix(parts, (len(tokens), words))
    found.sum_duplicates()
    return found


def perplexity(theta: Any, topics: Any, held: Any) -> float:
    """exp(−Σ n log p(w|d)/Σ n) of ``held [N, V]``, p = θβ with ``theta [N, K]`` and ``topics [K, V]``."""
    held = held.tocoo()
    p = np.einsum("ik,ik->i", theta[held.row], np.ascontiguousarray(topics.T)[held.col])
    return float(np.exp(-(held.data @ np.log(p)) / held.data.sum()))
