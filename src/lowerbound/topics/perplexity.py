"""Perplexity of topic models by document completion."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.errors import DataError
from lowerbound.topics.csr import Csr
from lowerbound.topics.model import TopicModel

_AT_ONCE = 2**22  # probabilities in memory


def perplexity(model: TopicModel, seen: Csr, held: Csr, seed: int = 0) -> float:
    """exp(−Σ n_dw log p(w|d)/Σ n_dw) over the words ``held`` of each document; θ_d is inferred from those ``seen``.

    p(w|d) = Σ_k E[θ_dk] E[β_kw]; of a model that keeps several samples, its mean over them. Row i of both is the same
    document. V is the perplexity of a uniform guess.
    """
    if seen.rows != held.rows:
        raise DataError(
            f"seen has {seen.rows} documents and held {held.rows}; give two parts of each document, in the same order."
        )
    if not len(held.counts):
        raise DataError("held has no words; give some words of at least one document.")
    if int(held.indices.max()) >= model.n_words:
        raise DataError(f"held has the word {int(held.indices.max())}, and the model has n_words = {model.n_words}.")
    p = np.mean([completed(each, seen, held, seed) for each in model.each_sample()], 0)
    counts = held.counts.astype(np.float64)
    with np.errstate(divide="ignore"):
        return float(np.exp(-(counts @ np.log(p)) / counts.sum()))


def completed(model: TopicModel, seen: Csr, held: Csr, seed: int) -> NDArray[np.float64]:
    """p(w|d) of each word of ``held``, in its order, where θ_d is inferred from the words ``seen``."""
    theta = torch.from_numpy(np.asarray(model.transform(seen, seed))).to(model.topics().dtype)
    found, step = np.empty(len(held.counts)), max(1, _AT_ONCE // model.n_words)
    for start in range(0, held.rows, step):
        end = min(start + step, held.rows)
        part = slice(held.indptr[start], held.indptr[end])
        row = np.repeat(np.arange(end - start), np.diff(held.indptr[start : end + 1]))
        found[part] = model.word_probabilities(theta[start:end]).detach().cpu().numpy()[row, held.indices[part]]
    return found
