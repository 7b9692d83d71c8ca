"""Queries of a fitted model: completions, conditional samples, anomaly scores, denoising, chains of p(z|x)."""

from lowerbound.queries.anomaly import Anomaly, anomaly
from lowerbound.queries.completion import Completion, Conditional, complete, condition, conditional
from lowerbound.queries.posterior_chains import PosteriorChains, posterior_chains
from lowerbound.queries.posterior_sampling import PosteriorDraws, Sampling, posterior_draws
from lowerbound.queries.refining import Refine
from lowerbound.queries.sequences import Forecast, States, filtered, forecast, smoothed

__all__ = [
    "Anomaly",
    "Completion",
    "Conditional",
    "Forecast",
    "PosteriorChains",
    "PosteriorDraws",
    "Refine",
    "Sampling",
    "States",
    "anomaly",
    "complete",
    "condition",
    "conditional",
    "filtered",
    "forecast",
    "posterior_chains",
    "posterior_draws",
    "smoothed",
]
