"""Queries of a fitted model: completions, conditional samples, anomaly scores, denoising, chains of p(z|x)."""

from lowerbound.queries.anomaly import Anomaly, anomaly
from lowerbound.queries.completion import Completion, Conditional, complete, condition, conditional
from lowerbound.queries.posterior_chains import PosteriorChains, posterior_chains
from lowerbound.queries.posterior_sampling import PosteriorDraws, Sampling, posterior_draws
from lowerbound.queries.refining import Refine

__all__ = [
    "Anomaly",
    "Completion",
    "Conditional",
    "PosteriorChains",
    "PosteriorDraws",
    "Refine",
    "Sampling",
    "anomaly",
    "complete",
    "condition",
    "conditional",
    "posterior_chains",
    "posterior_draws",
]
