"""Compare fitted models on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from numpy.typing import ArrayLike

from lowerbound import evidence
from lowerbound.estimators.vae import VAE


def compare(
    models: Mapping[str, VAE | Sequence[VAE]], X: ArrayLike, samples: int | None = None, seed: int = 0
) -> evidence.Comparison:
    """Which model gives rows ``X`` more probability: paired differences; errors of rows, draws and seeds apart.

    ``models``: by name; several under one name are fits of one model with different seeds. Grey values are binarised
    alike for all, and each fit has draws of its own, so that their errors are independent. ``samples``, ``seed``: see
    ``VAE.log_likelihood``.
    """
    fits = {name: [each] if isinstance(each, VAE) else list(each) for name, each in models.items()}
    measures = {name: each[0].model_.likelihood.measure for name, each in fits.items() if each}
    stream = count()
    estimates = {
        name: [one._log_likelihood(X, samples, None, seed, next(stream)) for one in each] for name, each in fits.items()
    }
    return evidence.compare(estimates, measures)
