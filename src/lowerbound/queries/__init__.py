"""Questions to a fitted model about rows whose cells are not all known."""

from lowerbound.queries.anomaly import Anomaly, anomaly
from lowerbound.queries.completion import Completion, complete, conditional
from lowerbound.queries.latents import PosteriorDraws, Sampling, posterior_draws
from lowerbound.queries.refining import Refine

__all__ = [
    "Anomaly",
    "Completion",
    "PosteriorDraws",
    "Refine",
    "Sampling",
    "anomaly",
    "complete",
    "conditional",
    "posterior_draws",
]
