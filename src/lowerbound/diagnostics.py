"""Diagnostics: arrays in, numbers out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def active_units(means: NDArray[Any], threshold: float = 0.01) -> NDArray[np.bool_]:
    """Which latents tell rows apart, ``[d]``: Var_x(E_q[z_j|x]) > ``threshold``, of posterior means ``[N, d]``.

    Burda et al. 2016, §5.2. Raises ``ValueError`` for fewer than 2 rows, over which nothing varies.
    """
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"active units need means [N, d] of at least 2 rows, got an array of shape {means.shape}.")
    active: NDArray[np.bool_] = means.var(0, dtype=np.float64) > threshold
    return active
