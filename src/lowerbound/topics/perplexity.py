"""Perplexity of topic models by document completion."""

from __future__ import annotations

import numpy as np
import torch

from lowerbound.errors import DataError
from lowerbound.topics.csr import Csr
from lowerbound.topics.model import TopicModel

_AT_ONCE = 2**22  # probabilities in memory


def perplexity(model: TopicModel, seen: Csr, held: Csr, seed: int = 0) -> float:
    """exp(−Σ n_dw log p(w|d)/Σ n_dw) over the words ``held`` of each document; θ_d is inferred from those ``seen``.

    p(w|d) = Σ_k E[θ_dk] E[β_kw]. Row i of both is the same document. V is the perplexity of a uniform guess.
    """
    if seen.rows != held.rows:
        raise DataError(
            f"seen has {seen.rows} documents and held {held.rows}; give two parts of each document, in the same order."
        )
    if not len(held.counts):
        raise DataError("held has no words; give some words of at least one document.")
    if int(held.indices.max()) >= model.n_words:
        raise DataError(f"held has the word {int(held.indices.max())}, and the model has n_words = {model.n_words}.")
    theta = torch.from_numpy(np.asarray(model.transform(seen, seed))).to(model.topics().dtype)
    total, step = 0.0, max(1, _AT_ONCE // model.n_words)
    for start in range(0, held.rows, step):
        part = held.take(np.arange(start, min(start + step, held.rows)))
        row = np.repeat(np.arange(part.rows), np.diff(part.indptr))
        p = model.word_probabilities(theta[start : start + part.rows]).detach().cpu().numpy()[row, part.indices]
        with np.errstate(divide="ignore"):
            total += float(part.counts.astype(np.float64) @ np.log(p.astype(np.float64)))
    return float(np.exp(-total / held.counts.sum(dtype=np.float64)))
