"""Evidence for other programs: ArviZ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowerbound.evidence.annealing import Annealed

if TYPE_CHECKING:
    from lowerbound.evidence.judging import Evidence


def to_arviz(found: Evidence) -> Any:
    """``found`` as an ``arviz.InferenceData``: a group for importance sampling and one for each set of annealed rows.

    Each holds what is known of a row, along ``row``; annealed ones log-weights ``[chain, row]`` too. Needs the extra:
    pip install 'lowerbound[diag]'.
    """
    try:
        import arviz
        import xarray
    except ImportError as error:
        raise ImportError("ArviZ is not installed: pip install 'lowerbound[diag]'.") from error
    importance = found.importance
    names = ("estimate", "standard_error", "ess", "elbo", "pareto_k", "samples", "believed")
    groups = {
        "importance": xarray.Dataset(
            {name: ("row", getattr(importance, name)) for name in names},
            {"row": np.arange(len(importance.estimate))},
            {"unit": "nats", "measure": found.measure, "bound": "lower, in expectation"},
        )
    }
    runs: dict[str, tuple[Annealed, Any]] = {}
    if found.annealed is not None:
        runs |= {"annealed": (found.annealed.once, found.index), "annealed_finer": (found.annealed.twice, found.index)}
    if found.simulated is not None:
        rows = np.arange(len(found.simulated.gap))
        runs |= {"simulated_lower": (found.simulated.lower, rows), "simulated_upper": (found.simulated.upper, rows)}
    groups |= {name: _group(xarray, run, rows, found.measure) for name, (run, rows) in runs.items()}
    return arviz.InferenceData(attrs={"verdict": str(found.verdict)}, warn_on_custom_groups=False, **groups)


def _group(xarray: Any, run: Annealed, rows: Any, measure: str) -> Any:
    names = ("estimate", "standard_error", "acceptance", "effective_temperatures")
    values: dict[str, Any] = {name: ("row", getattr(run, name)) for name in names}
    return xarray.Dataset(
        values | {"log_weight": (("chain", "row"), run.log_weights)},
        {"row": rows, "chain": np.arange(len(run.log_weights))},
        {"unit": "nats", "measure": measure, "bound": "upper" if run.upper else "lower", **vars(run.settings)},
    )
