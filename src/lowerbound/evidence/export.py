"""Export of evidence to ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.evidence.annealing import Annealed
from lowerbound.evidence.importance import LogLikelihood

Runs = Mapping[str, tuple[Annealed, NDArray[np.int64]]]


def to_arviz(importance: LogLikelihood, runs: Runs, measure: str, verdict: str) -> Any:
    """Convert estimates to an ``arviz.InferenceData``: a group for importance sampling and one per annealing run.

    Each group has a coordinate ``row``; groups of annealing also contain log-weights ``[chain, row]``. ``runs``: for
    each group's name, a run and its rows. Needs an extra: pip install 'lowerbound[diag]'.
    """
    try:
        import arviz
        import xarray
    except ImportError as error:
        raise ImportError("ArviZ is not installed: pip install 'lowerbound[diag]'.") from error
    names = ("estimate", "standard_error", "ess", "elbo", "pareto_k", "samples", "reliable")
    groups = {
        "importance": xarray.Dataset(
            {name: ("row", getattr(importance, name)) for name in names},
            {"row": np.arange(len(importance.estimate))},
            {"unit": "nats", "measure": measure, "bound": "lower, in expectation"},
        )
    }
    groups |= {name: _group(xarray, run, rows, measure) for name, (run, rows) in runs.items()}
    return arviz.InferenceData(attrs={"verdict": verdict}, warn_on_custom_groups=False, **groups)


def _group(xarray: Any, run: Annealed, rows: Any, measure: str) -> Any:
    names = ("estimate", "standard_error", "acceptance", "effective_temperatures")
    values: dict[str, Any] = {name: ("row", getattr(run, name)) for name in names}
    return xarray.Dataset(
        values | {"log_weight": (("chain", "row"), run.log_weights)},
        {"row": rows, "chain": np.arange(len(run.log_weights))},
        {"unit": "nats", "measure": measure, "bound": "upper" if run.upper else "lower", **vars(run.settings)},
    )
