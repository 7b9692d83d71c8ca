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
    """Compare models by log p(x) of the same rows ``X``: paired differences, with errors by rows, draws and seeds.

    ``models``: fitted models by name; a list under one name holds fits of the same model with different seeds. All
    models get the same binarised values, but each fit has its own random draws, so that Monte Carlo errors are
    independent. ``samples``, ``seed``: see ``VAE.log_likelihood``.
    """
    fits = {name: [each] if isinstance(each, VAE) else list(each) for name, each in models.items()}
    measures = {name: each[0].model_.likelihood.measure for name, each in fits.items() if each}
    stream = count()
    estimates = {
        name: [one._log_likelihood(X, samples, None, seed, next(stream)) for one in each] for name, each in fits.items()
    }
    return evidence.compare(estimates, measures)
