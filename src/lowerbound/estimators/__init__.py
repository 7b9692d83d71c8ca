"""Estimators with scikit-learn's interface, and ``load``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowerbound.estimators.comparing import compare
from lowerbound.estimators.deep_lda import DeepLDA
from lowerbound.estimators.defaults import default_likelihood
from lowerbound.estimators.imputer import LatentImputer
from lowerbound.estimators.lda import LDA
from lowerbound.estimators.sequences import SequenceVAE
from lowerbound.estimators.topics import TopicEstimator
from lowerbound.estimators.transforming import Encoding
from lowerbound.estimators.vae import VAE
from lowerbound.inference import Fit
from lowerbound.storage.model import load as read
from lowerbound.storage.model import naming

__all__ = ["LDA", "VAE", "DeepLDA", "Encoding", "LatentImputer", "SequenceVAE", "compare", "default_likelihood", "load"]


_OTHERS: dict[str, type[TopicEstimator] | type[SequenceVAE]] = {
    "LDA": LDA,
    "DeepLDA": DeepLDA,
    "SequenceVAE": SequenceVAE,
}


def load(path: str | Path, **own: Any) -> VAE | TopicEstimator | SequenceVAE | Fit[Any]:
    """Read a folder: an estimator written by its ``save``, or the model and posterior written by ``lowerbound.save``.

    ``own``: your own networks, as in ``load(path, decoder=…)``; a folder contains their weights but not their code.
    """
    saved = read(path, **own)
    if "estimator" not in saved.extra:
        posterior = None if saved.posterior is None else saved.posterior.eval()
        return Fit(saved.model.eval(), posterior, saved.history)
    with naming(Path(path)):
        name = saved.extra["estimator"]
        if isinstance(name, str) and name in _OTHERS:
            return _OTHERS[name].restore(saved)
        return VAE.restore(saved, own)
