"""Rows of a table: shaded cells, the share of variance explained, histograms by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lowerbound.report.style import BLUE, LINE, SOFT, VERMILLION, plain

Array = NDArray[Any]
MOST_COLUMNS = 30
MOST_ROWS = 24
_SATURATED = 2.5  # standard deviations


@dataclass(frozen=True)
class Columns:
    """Rows ``real [N, c]`` of the columns shown, with reconstructions ``[N, c]`` and names."""

    real: Array
    reconstructed: Array
    names: tuple[str, ...]

    def first(self, count: int) -> Columns:
        """The first ``count`` of them."""
        return Columns(self.real[:, :count], self.reconstructed[:, :count], self.names[:count])

    @property
    def explained(self) -> Array:
        """1 − Σ(x − x̂)²/Σ(x − mean)² of each column, ``[c]``; NaN for one that does not vary."""
        left = np.square(self.real - self.reconstructed).sum(0)
        spread = np.square(self.real - self.real.mean(0)).sum(0)
        unexplained: Array = np.divide(left, spread, out=np.full_like(left, np.nan), where=spread > 0)
        return 1 - unexplained


def draw_cells(figure: Figure | SubFigure, columns: Columns) -> None:
    """Rows in standard deviations of their column: real, reconstructed, and the difference; columns downwards."""
    mean, deviation = columns.real.mean(0), columns.real.std(0)
    some = np.linspace(0, len(columns.real) - 1, min(len(columns.real), MOST_ROWS)).astype(int)
    real, model = (
        ((values[some] - mean) / np.where(deviation > 0, deviation, 1)).T
        for values in (columns.real, columns.reconstructed)
    )
    axes = figure.subplots(1, 3, sharey=True)
    for ax, title, values in zip(axes, ("Real", "Model", "Difference"), (real, model, real - model), strict=True):
        drawn = ax.imshow(
            values, cmap="RdBu_r", vmin=-_SATURATED, vmax=_SATURATED, aspect="auto", interpolation="nearest"
        )
        ax.set_title(title)
        ax.set_xticks([])
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(columns.names)), list(columns.names), fontsize=8)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", fraction=0.03, pad=0.02, aspect=40, extend="both")
    bar.set_label("standard deviations from the mean", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)


def draw_explained(figure: Figure | SubFigure, columns: Columns) -> None:
    """The share of each column's variance that its reconstruction explains, as bars from 0 to 1."""
    explained = columns.explained
    places = np.arange(len(explained))
    ax = figure.subplots()
    ax.barh(places, np.nan_to_num(explained).clip(0, 1), color=BLUE, height=0.7)
    for place, value in enumerate(explained):
        if not value > 0:
            ax.text(0.01, place, "constant" if np.isnan(value) else "below 0", va="center", fontsize=7.5, color=SOFT)
    ax.set_yticks(places, list(columns.names), fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_ylim(len(explained) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of variance explained by the reconstruction")
    ax.grid(axis="x", color="#eceef2", linewidth=0.8)
    ax.set_axisbelow(True)


def draw_histograms(
    figure: Figure | SubFigure, real: Array, sampled: Array, names: Sequence[str], shape: tuple[int, int]
) -> None:
    """Each column of real rows ``[N, c]`` (filled) and of sampled ones ``[S, c]`` (outline), over the real range."""
    axes = figure.subplots(*shape, squeeze=False).ravel()
    for ax, *column in zip(axes, real.T, sampled.T, names, strict=False):
        _histogram(ax, *column)
    for ax in axes[len(names) :]:
        ax.axis("off")


def _histogram(ax: Any, real: Array, sampled: Array, name: str) -> None:
    edges = _edges(real)
    weights = [np.full(len(values), 1 / len(values)) for values in (real, sampled)]
    ax.hist(real, edges, weights=weights[0], color=LINE)
    ax.hist(sampled, edges, weights=weights[1], histtype="step", color=VERMILLION, linewidth=1.3)
    ax.set_title(name, fontsize=8)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.tick_params(labelsize=7)


def _edges(real: Array) -> list[float]:
    """Bins over the range of ``real [N]``: whole numbers are centred in theirs."""
    low, high = float(real.min()), float(real.max())
    bins = int(np.clip(2 * len(real) ** (1 / 3), 8, 30))
    if bool((real == np.round(real)).all()):
        step = max(1, -(-(high - low) // bins))
        return [float(edge) for edge in np.arange(low - 0.5, high + step + 0.5, step)]
    return [float(edge) for edge in np.linspace(low, high, bins + 1)]


def column_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The names of ``count`` columns as figures can draw them; numbers from 1 without ``names``."""
    if names is None:
        return tuple(f"column {place + 1}" for place in range(count))
    if len(names) != count:
        raise ValueError(f"names has {len(names)} names for rows of {count} values; give one for each.")
    return tuple(plain(name) for name in names)
