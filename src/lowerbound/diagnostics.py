"""Diagnostics on plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def active_units(means: NDArray[Any], threshold: float = 0.01) -> NDArray[np.bool_]:
    """Return which latents are active, ``[d]``: Var_x(E_q[z_j|x]) > ``threshold``, from posterior means ``[N, d]``.

    Burda et al. 2016, §5.2. Raises ``ValueError`` for fewer than 2 rows.
    """
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"active_units needs means [N, d] with at least 2 rows, got an array of shape {means.shape}.")
    active: NDArray[np.bool_] = means.var(0, dtype=np.float64) > threshold
    return active
