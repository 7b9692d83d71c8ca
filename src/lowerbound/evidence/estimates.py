"""Estimates per row, and the error of their mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimates:
    """Estimates of a quantity per row, in nats: ``estimate [N]`` and its Monte Carlo ``standard_error [N]``."""

    estimate: Array
    standard_error: Array

    @property
    def mean(self) -> float:
        """Mean over rows of the estimate, in nats per row."""
        return float(self.estimate.mean())

    @property
    def mean_standard_error(self) -> float:
        """Standard error of ``mean`` as an estimate for new rows: it includes the variation over rows."""
        return error_of_mean(self.estimate)

    @property
    def mean_monte_carlo_error(self) -> float:
        """Monte Carlo error of ``mean`` for these rows (the draws of different rows are independent)."""
        return float(np.sqrt(np.square(self.standard_error).sum()) / len(self.estimate))


def error_of_mean(values: Array) -> float:
    """The standard error of the mean; NaN if it is unknown: for a single row, or if a value is −∞."""
    known = len(values) > 1 and bool(np.isfinite(values).all())
    return float(values.std(ddof=1) / math.sqrt(len(values))) if known else math.nan
