"""Learn, use and check deep latent-variable models by auto-encoding variational Bayes.

Public names are imported when first used, so that ``import lowerbound`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lowerbound import data, distributions, likelihoods, nn, objectives, posteriors, priors, training
    from lowerbound.draw import Batch, Draw, Node
    from lowerbound.estimators import VAE, load
    from lowerbound.evidence import log_likelihood
    from lowerbound.inference import AEVB, Fit, fit
    from lowerbound.io import save
    from lowerbound.model import LatentVariableModel, draw

_HOMES = {
    "AEVB": "inference",
    "Batch": "draw",
    "Draw": "draw",
    "Fit": "inference",
    "LatentVariableModel": "model",
    "Node": "draw",
    "VAE": "estimators",
    "draw": "model",
    "fit": "inference",
    "load": "estimators",
    "log_likelihood": "evidence",
    "save": "io",
}
_MODULES = ("data", "distributions", "likelihoods", "nn", "objectives", "posteriors", "priors", "training")
__all__ = [*_HOMES, *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"lowerbound.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"lowerbound.{name}")
    else:
        raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
