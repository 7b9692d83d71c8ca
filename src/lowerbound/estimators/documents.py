"""A user's documents as counts of words, and their division for completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from lowerbound.data import Counts, Documents
from lowerbound.data.arrays import first
from lowerbound.data.reading import repeated
from lowerbound.errors import DataError
from lowerbound.topics import Csr

Words = tuple[str, ...] | None


def as_counts(estimator: BaseEstimator, X: Any, words: Sequence[str] | None, reset: bool) -> tuple[Counts, Words]:
    """The counts of documents, and their words if they are known; see ``TopicEstimator.fit``.

    ``reset``: they are to be fitted, so the estimator's number and names of columns are set; else compared with these.
    """
    if isinstance(X, Documents):
        words, X = X.words if words is None else words, X.counts
    if isinstance(X, Counts):
        counts = X
        if reset:
            estimator.n_features_in_ = counts.n_words
            estimator.__dict__.pop("feature_names_in_", None)
        elif counts.n_words != estimator.n_features_in_:
            name = type(estimator).__name__
            raise DataError(
                f"X counts {counts.n_words} words, but this {name} was fitted to {estimator.n_features_in_}; count the "
                "same words."
            )
    else:
        x = validate_data(estimator, X, reset=reset, accept_sparse="csr", ensure_all_finite=False)
        counts = Counts.from_sparse(_numbers(x))
        if words is None and hasattr(X, "columns"):
            words = getattr(estimator, "feature_names_in_", None)
    if reset and not any(len(part.counts) for _, part in counts.slices()):
        raise DataError("X holds no words: every count is 0; give documents with words.")
    return counts, None if words is None else _checked(words, counts.n_words)


def _numbers(x: Any) -> Any:
    """Refuse the first count that is negative, NaN or infinite."""
    entries = x.data if hasattr(x, "tocsr") else x
    for wrong in (entries < 0, ~np.isfinite(entries)) if len(entries) else ():
        if not wrong.any():
            continue
        place = first(wrong)
        value = float(entries[place])
        if hasattr(x, "tocsr"):
            place = (int(np.searchsorted(x.indptr, place[0], "right")) - 1, int(x.indices[place[0]]))
        what = "Negative values in data: " if value < 0 else ""
        found = "NaN" if np.isnan(value) else f"{value:g}"
        raise DataError(f"{what}row {place[0]}, column {place[1]} is {found}; counts are finite numbers of 0 or more.")
    return x


def _checked(words: Sequence[str], columns: int) -> tuple[str, ...]:
    """The words, if there is one for each column and each is given once."""
    found = tuple(map(str, words))
    if len(found) != columns:
        raise DataError(f"words has {len(found)} words, but X counts {columns}; give one per column.")
    if (twice := repeated(found)) is not None:
        raise DataError(f"words holds {twice!r} twice; give each word once.")
    return found


def halves(csr: Csr, seed: int) -> tuple[Csr, Csr]:
    """Divide the words of each document at random: each goes to either half with probability ½."""
    held = np.random.default_rng(seed).binomial(csr.counts.astype(np.int64), 0.5).astype(csr.counts.dtype)
    return _nonzero(csr, csr.counts - held), _nonzero(csr, held)


def _nonzero(csr: Csr, counts: Any) -> Csr:
    """The documents with other ``counts`` of the same words, without those that are 0."""
    kept = counts > 0
    bounds = np.concatenate(([0], np.cumsum(kept)))[csr.indptr]
    return Csr(bounds.astype(np.int64), csr.indices[kept], counts[kept])
