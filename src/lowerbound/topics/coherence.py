"""How coherent topics are, and how much they differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from lowerbound.topics.csr import Csr


def top_words(topics: NDArray[np.floating], count: int = 10) -> NDArray[np.int64]:
    """The ``count`` most probable words of each of ``topics [K, V]``, most probable first, ``[K, count]``."""
    return np.argsort(-topics, axis=1, kind="stable")[:, :count]


def npmi(topics: NDArray[np.floating], documents: Csr, count: int = 10) -> NDArray[np.float64]:
    """Mean normalised pointwise mutual information of the pairs of each topic's ``count`` top words, ``[K]``.

    log(p_ij/(p_i p_j))/(−log p_ij), from −1 to 1, with p the share of ``documents`` that have the words; −1 for words
    that never occur together, and for words in no document. Lau, Newman & Baldwin 2014.
    """
    top = top_words(topics, count)
    used, places = np.unique(top, return_inverse=True)
    shape = (documents.rows, topics.shape[1])
    has = sparse.csr_array((np.ones(len(documents.indices)), documents.indices, documents.indptr), shape)[:, used]
    together = (has.T @ has).toarray() / documents.rows
    alone = together.diagonal()
    with np.errstate(divide="ignore", invalid="ignore"):
        value = (np.log(together) - np.log(np.outer(alone, alone))) / -np.log(together)
    value = np.where(together > 0, np.where(together < 1, value, 1.0), -1.0)
    i, j = np.triu_indices(top.shape[1], 1)
    places = places.reshape(top.shape)
    found: NDArray[np.float64] = value[places[:, i], places[:, j]].mean(1)
    return found


def diversity(topics: NDArray[np.floating], count: int = 25) -> float:
    """The share of distinct words among the ``count`` top words of all topics: 1 if no two share one. Dieng 2020."""
    top = top_words(topics, count)
    return len(np.unique(top)) / top.size
