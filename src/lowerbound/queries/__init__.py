"""Queries of a fitted model about incomplete rows: completions, conditional samples, anomaly scores, denoising."""

from lowerbound.queries.anomaly import Anomaly, anomaly
from lowerbound.queries.completion import Completion, Conditional, complete, condition, conditional
from lowerbound.queries.posterior_sampling import PosteriorDraws, Sampling, posterior_draws
from lowerbound.queries.refining import Refine

__all__ = [
    "Anomaly",
    "Completion",
    "Conditional",
    "PosteriorDraws",
    "Refine",
    "Sampling",
    "anomaly",
    "complete",
    "condition",
    "conditional",
    "posterior_draws",
]
