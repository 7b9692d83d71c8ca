"""Layout of image rows as pictures on a common grey scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.distributions import constraints

from lowerbound.likelihoods import Likelihood

Array = NDArray[Any]
_MISSING = (0.0, 0.45, 0.7)  # the colour of a missing value
_LEAST_PIXELS = 64  # flat rows with fewer values are shown as a table
_WIDEST, _CRISP = (
    640,
    920,
)  # pixels: the maximum size of large pictures, and the size that small ones are enlarged towards


@dataclass(frozen=True)
class Look:
    """How to draw a row ``[*X]``: as ``[H, W]`` or ``[C, H, W]``, black at ``low`` and white at ``high``."""

    shape: tuple[int, ...]
    low: float
    high: float

    @classmethod
    def of(cls, likelihood: Likelihood, x: Array) -> Look | None:
        """Choose for rows ``x [N, *X]``; None if they are not images. Flat rows are if square and bounded."""
        shape = x.shape[1:]
        if len(shape) == 1:
            side = math.isqrt(shape[0])
            grey = _interval(likelihood) is not None and likelihood.ordered
            if not grey or side * side != shape[0] or shape[0] < _LEAST_PIXELS:
                return None
            shape = (side, side)
        return cls(shape, *_bounds(likelihood, x)) if len(shape) in (2, 3) else None

    @property
    def channels(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1

    def tiles(self, rows: Array) -> Array:
        """Convert rows ``[n, *X]`` to colours in [0, 1], ``[n, H, W, 3]``; of other than 3 channels, the first.

        Missing values (NaN) are blue.
        """
        images = rows.reshape(len(rows), *self.shape).astype(np.float64)
        if len(self.shape) == 2:
            images = images[:, None]
        if images.shape[1] != 3:
            images = images[:, :1].repeat(3, 1)
        span = self.high - self.low or 1.0
        colours = np.moveaxis(((images - self.low) / span).clip(0, 1), 1, -1)
        return np.where(np.isnan(colours), _MISSING, colours)


def _bounds(likelihood: Likelihood, x: Array) -> tuple[float, float]:
    interval = _interval(likelihood)
    return (float(np.nanmin(x)), float(np.nanmax(x))) if interval is None else interval


def _interval(likelihood: Likelihood) -> tuple[float, float] | None:
    """Return the smallest and largest possible value of the rows; None unless all columns are bounded."""
    support = likelihood.support
    if support is constraints.boolean:
        return 0.0, 1.0
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    return None if low is None or high is None else (float(low), float(high))


def grid(tiles: Array, columns: int) -> Array:
    """Arrange tiles ``[n, H, W, 3]`` in a grid on white, ``[H', W', 3]``."""
    count, height, width, _ = tiles.shape
    gap = max(1, width // 14)
    lines = -(-count // columns)
    canvas = np.ones((lines * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for place, tile in enumerate(tiles):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def pairs(above: Array, below: Array, columns: int) -> Array:
    """Arrange tiles ``[n, H, W, 3]`` above their counterparts, ``[H', W', 3]``."""
    width = above.shape[2]
    edge = np.ones((len(above), max(1, width // 28), width, 3))
    foot = np.ones((len(above), max(1, width // 9), width, 3))
    together = np.concatenate([above, edge, below, foot], 1)
    return grid(together, columns)[: -foot.shape[1]]


def fit_size(canvas: Array) -> Array:
    """Enlarge a small picture by a whole number; average a large one over blocks."""
    height, width, _ = canvas.shape
    larger = max(1, round(_CRISP / width))
    if larger > 1:
        return canvas.repeat(larger, 0).repeat(larger, 1)
    block = -(-width // _WIDEST) if width > _CRISP else 1
    height, width = height // block * block, width // block * block
    blocks = canvas[:height, :width].reshape(height // block, block, width // block, block, 3)
    mean: Array = blocks.mean((1, 3))
    return mean
