"""Formatting of figures with their errors."""

from __future__ import annotations

import math

import numpy as np


def signed(value: float, error: float) -> str:
    """Format a number to two digits of its error, with a true minus sign."""
    digits = int(np.clip(1 - math.floor(math.log10(error)), 0, 4)) if math.isfinite(error) and error > 0 else 2
    return f"{value:,.{digits}f}".replace("-", "−")


def size(value: float) -> str:
    """Format an error with two digits."""
    return "unknown" if math.isnan(value) else f"{value:.2g}"
