"""Learn, use and check deep latent-variable models by auto-encoding variational Bayes.

Public names are imported when first used, so that ``import lowerbound`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowerbound import (
        data,
        distributions,
        evidence,
        gradients,
        inference,
        likelihoods,
        nn,
        objectives,
        posteriors,
        priors,
        recipes,
        training,
    )
    from lowerbound.draw import Batch, Draw, Node
    from lowerbound.estimators import LDA, VAE, DeepLDA, LatentImputer, SequenceVAE, compare, load
    from lowerbound.estimators.checking import check
    from lowerbound.evidence import log_likelihood
    from lowerbound.inference import (
        AEVB,
        EM,
        FIVO,
        MAP,
        BlackBox,
        CoordinateAscent,
        Fit,
        FullVB,
        Local,
        MonteCarloEM,
        ReweightedWakeSleep,
        SemiAmortised,
        WakeSleep,
        fit,
    )
    from lowerbound.model import LatentVariableModel
    from lowerbound.storage.model import save

__version__ = "0.1.0"
__all__ = [
    "AEVB",
    "EM",
    "FIVO",
    "LDA",
    "MAP",
    "VAE",
    "Batch",
    "BlackBox",
    "CoordinateAscent",
    "DeepLDA",
    "Draw",
    "Fit",
    "FullVB",
    "LatentImputer",
    "LatentVariableModel",
    "Local",
    "MonteCarloEM",
    "Node",
    "ReweightedWakeSleep",
    "SemiAmortised",
    "SequenceVAE",
    "WakeSleep",
    "check",
    "compare",
    "data",
    "distributions",
    "evidence",
    "fit",
    "gradients",
    "inference",
    "likelihoods",
    "load",
    "log_likelihood",
    "nn",
    "objectives",
    "posteriors",
    "priors",
    "recipes",
    "save",
    "training",
]

_HOMES = {
    "AEVB": "inference",
    "EM": "inference",
    "FIVO": "inference",
    "Batch": "draw",
    "BlackBox": "inference",
    "CoordinateAscent": "inference",
    "DeepLDA": "estimators",
    "Draw": "draw",
    "Fit": "inference",
    "FullVB": "inference",
    "LDA": "estimators",
    "LatentImputer": "estimators",
    "LatentVariableModel": "model",
    "Local": "inference",
    "MAP": "inference",
    "MonteCarloEM": "inference",
    "Node": "draw",
    "ReweightedWakeSleep": "inference",
    "SemiAmortised": "inference",
    "SequenceVAE": "estimators",
    "VAE": "estimators",
    "WakeSleep": "inference",
    "check": "estimators.checking",
    "compare": "estimators",
    "fit": "inference",
    "load": "estimators",
    "log_likelihood": "evidence",
    "save": "storage.model",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")
    module = importlib.import_module(f"lowerbound.{_HOMES.get(name, name)}")
    value = getattr(module, name) if name in _HOMES else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
