"""From the figures of single runs to medians, paired ratios, and which bars are met."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LOSS_TOLERANCE = {"A": 0.01, "B": 0.02, "C": 0.05}  # B and C end early, while the loss still falls fast: see the page
QUICK_LOSS_TOLERANCE = 0.05
MEMORY_BAR, FIRST_STEP_BAR, OVERHEAD_BAR = 700, 5.0, 0.10

Figures = dict[str, Any]
Runs = dict[str, dict[str, list[Figures]]]  # by workload and contender, one a round


@dataclass(frozen=True)
class Bar:
    """Median paired ratio of ``ours`` to ``against``: at most ``limit``."""

    workload: str
    ours: str
    against: str
    limit: float
    stretch: float | None = None


BARS = (
    *(
        Bar(*bar)
        for ours in ("lowerbound", "lowerbound compile")
        for bar in (
            ("A", ours, "jax scan", 1.0, 0.9),
            ("A", ours, "pythae", 0.35),
            ("A", ours, "pyro", 0.45),
            ("A", ours, "floor", 1.6),
            ("B", ours, "jax scan", 1.0),
            ("C", ours, "pythae", 0.75),
        )
    ),
    *(Bar("A", ours, "lowerbound", 0.8) for ours in ("lowerbound bf16", "lowerbound bf16 eager")),
    *(Bar("B", ours, "lowerbound", 0.6) for ours in ("lowerbound bf16", "lowerbound bf16 eager")),
    *(Bar("C", ours, "lowerbound", 0.6) for ours in ("lowerbound bf16", "lowerbound bf16 eager")),
)


def values(runs: Iterable[Figures], name: str) -> list[float | None]:
    """A figure of each round; None where the contender failed or has no such figure."""
    return [run.get(name) for run in runs]


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Within each round that has both."""
    return [a / b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]


def spread(found: Iterable[float | None]) -> dict[str, Any] | None:
    """Median, quartiles, extremes and the values themselves; None where there are none."""
    present = [value for value in found if value is not None]
    if not present:
        return None
    lowest, lower, median, upper, highest = np.quantile(present, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return {
        "median": median,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "min": lowest,
        "max": highest,
        "values": present,
    }


def compare_losses(workload: str, runs: Mapping[str, Sequence[Figures]], quick: bool) -> dict[str, Any]:
    """Whether every contender's mean loss is that of the others, within a tolerance and three standard errors.

    The standard error is that of a contender's mean over rounds: other batches and draws move the loss by that much.
    """
    found = {name: [run["loss"] for run in each if "loss" in run] for name, each in runs.items()}
    means = {name: statistics.mean(losses) for name, losses in found.items() if losses}
    if not means:
        return {"means": {}, "out": []}
    centre = statistics.median(means.values())
    variances = [statistics.variance(losses) / len(losses) for losses in found.values() if len(losses) > 1]
    error = statistics.mean(variances) ** 0.5 if variances else 0.0
    allowed = (QUICK_LOSS_TOLERANCE if quick else LOSS_TOLERANCE[workload]) * centre + 3 * error
    out = [
        f"{workload}, {name}: loss {mean:.2f}, not within {allowed:.2f} of {centre:.2f}"
        for name, mean in means.items()
        if not abs(mean - centre) <= allowed
    ]
    return {"means": means, "centre": centre, "allowed": allowed, "standard_error": error, "out": out}


def judged(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every bar that this run can judge."""
    runs: Runs = result.get("runs", {})
    outcomes = [_judged_ratio(bar, runs[bar.workload]) for bar in BARS if bar.workload in runs]
    if "A" in runs:
        found = spread(values(runs["A"].get("lowerbound", []), "peak_mb"))
        outcomes.append(_outcome("A, lowerbound: peak memory of the process, MB", MEMORY_BAR, found, "max"))
    for name, steps in result.get("first_steps", {}).items():
        found = spread(values(steps, "first_epoch_s"))
        outcomes.append(_outcome(f"{name}, lowerbound: first step, s after import", FIRST_STEP_BAR, found, "max"))
    for kind in ("without", "with"):
        found = result["overhead"][f"cost_{kind}_evaluation"] if "overhead" in result else None
        what = f"A, everything around the steps, {kind} the evaluation of held-out rows, over the steps alone"
        outcomes.append(_outcome(what, OVERHEAD_BAR, found))
    return [outcome for outcome in outcomes if outcome is not None]


def _judged_ratio(bar: Bar, runs: Mapping[str, Sequence[Figures]]) -> dict[str, Any] | None:
    ours, theirs = (values(runs.get(name, []), "epoch_s") for name in (bar.ours, bar.against))
    if len(ours) != len(theirs):
        return None
    outcome = _outcome(f"{bar.workload}, {bar.ours} / {bar.against}", bar.limit, spread(ratios(ours, theirs)))
    if outcome is not None and bar.stretch is not None:
        outcome |= {"stretch": bar.stretch, "stretch_met": outcome["median"] <= bar.stretch}
    return outcome


def _outcome(
    what: str, limit: float, found: Mapping[str, Any] | None, judged_by: str = "median"
) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"what": what, "bar": limit, **found, "judged_by": judged_by, "met": found[judged_by] <= limit}
