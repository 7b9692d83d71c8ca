"""scikit-learn faces of the models, and ``load``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lowerbound import io
from lowerbound.errors import FormatError
from lowerbound.estimators.choices import default_likelihood
from lowerbound.estimators.vae import VAE, Encoding
from lowerbound.inference import Fit
from lowerbound.nn import seeded
from lowerbound.training import History

__all__ = ["VAE", "Encoding", "default_likelihood", "load"]


def load(path: str | Path, **own: Any) -> VAE | Fit:
    """Read a folder: the ``VAE`` that ``VAE.save`` wrote, or the model and posterior that ``lowerbound.save`` did.

    ``own``: your networks, which a folder does not describe, as ``load(path, decoder=…)``; their weights are loaded.
    """
    saved, history = io.load(path, **own), History()
    if "estimator" not in saved.extra:
        return Fit(saved.model.eval(), saved.posterior.eval(), history)
    metrics = Path(path) / "metrics.jsonl"
    if metrics.exists():
        try:
            history.records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise FormatError(f"{metrics} is damaged ({error}); delete it to load the model without it.") from error
    try:
        with seeded(0):  # building the networks among the parameters must not move global state
            return VAE.restore(saved, own, history)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{Path(path) / io.CONFIG} does not describe a VAE of this version ({error}).") from error
