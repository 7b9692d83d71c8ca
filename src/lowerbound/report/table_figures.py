"""Figures of a table: rows as shaded cells, variance explained per column, histograms."""

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
_MOST_BARS, _LONGEST_LEVEL = 7, 12


@dataclass(frozen=True)
class Columns:
    """Columns to show: ``real [N, c]`` (NaN for a missing cell), ``reconstructed [N, c]`` and names.

    ``levels``: per column, the names of its classes, if it holds class codes.
    """

    real: Array
    reconstructed: Array
    names: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...] = ()

    def some(self, which: slice) -> Columns:
        """Select some of the columns."""
        return Columns(self.real[:, which], self.reconstructed[:, which], self.names[which], self.levels[which])

    def levels_of(self, column: int) -> tuple[str, ...]:
        """Return the class names of a column; empty for numbers."""
        return self.levels[column] if self.levels else ()

    @property
    def explained(self) -> Array:
        """Share explained per column over observed cells, ``[c]``: 1 − Σ(x − x̂)²/Σ(x − mean)²; NaN if constant.

        For classes: 1 − errors / errors of always predicting the most frequent class.
        """
        found = np.full(len(self.names), np.nan)
        for j, (column, told) in enumerate(zip(self.real.T, self.reconstructed.T, strict=True)):
            seen = ~np.isnan(column)
            x, x_hat = column[seen], told[seen]
            if self.levels_of(j):
                left, spread = (x != x_hat).sum(), len(x) - np.unique(x, return_counts=True)[1].max(initial=0)
            else:
                left, spread = np.square(x - x_hat).sum(), np.square(x - x.mean()).sum() if len(x) else 0
            found[j] = 1 - left / spread if spread > 0 else np.nan
        return found


def draw_cells(figure: Figure | SubFigure, columns: Columns) -> None:
    """Draw real rows, reconstructed rows and their difference, in standard deviations of each column."""
    observed = np.ma.masked_invalid(columns.real)
    mean, deviation = (np.ma.filled(of, 0) for of in (observed.mean(0), observed.std(0)))
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
        ax.set_facecolor(LINE)  # colour of missing cells
        ax.set_xticks([])
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(columns.names)), list(columns.names), fontsize=8)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", fraction=0.03, pad=0.02, aspect=40, extend="both")
    bar.set_label("standard deviations from the mean", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)


def draw_explained(figure: Figure | SubFigure, columns: Columns) -> None:
    """Draw the share of each column explained by its reconstruction, as bars from 0 to 1."""
    explained = columns.explained
    places = np.arange(len(explained))
    ax = figure.subplots()
    ax.barh(places, np.nan_to_num(explained).clip(0, 1), color=BLUE, height=0.7)
    for place, value in enumerate(explained):
        if not value >= 0:
            nothing = "nothing observed" if np.isnan(columns.real[:, place]).all() else "constant"
            said = nothing if np.isnan(value) else "below 0"
            ax.text(0.01, place, said, va="center", fontsize=7.5, color=SOFT)
    ax.set_yticks(places, list(columns.names), fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_ylim(len(explained) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    what = "share" if any(columns.levels) else "share of variance"
    ax.set_xlabel(f"{what} explained by the reconstruction")
    ax.grid(axis="x", color="#eceef2", linewidth=0.8)
    ax.set_axisbelow(True)


def draw_histograms(figure: Figure | SubFigure, columns: Columns, sampled: Array, shape: tuple[int, int]) -> None:
    """Draw a histogram per column over the range of the real rows: real filled, ``sampled [S, c]`` as an outline."""
    axes = figure.subplots(*shape, squeeze=False).ravel()
    for j, (ax, name) in enumerate(zip(axes, columns.names, strict=False)):
        real, drawn = columns.real[:, j], sampled[:, j]
        real = real[~np.isnan(real)]
        levels = columns.levels_of(j)
        if levels:
            _bars(ax, real, drawn, levels)
        elif len(real):
            _histogram(ax, real, drawn)
        ax.set_title(name, fontsize=8)
    for ax in axes[len(columns.names) :]:
        ax.axis("off")


def _histogram(ax: Any, real: Array, sampled: Array) -> None:
    edges = _edges(real)
    weights = [np.full(len(values), 1 / len(values)) for values in (real, sampled)]
    ax.hist(real, edges, weights=weights[0], color=LINE)
    ax.hist(sampled, edges, weights=weights[1], histtype="step", color=VERMILLION, linewidth=1.3)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.tick_params(labelsize=7)


def _bars(ax: Any, real: Array, sampled: Array, levels: tuple[str, ...]) -> None:
    """Draw the shares of classes in order; of many, the most frequent, with the others combined."""
    shares = [np.bincount(codes.astype(int), minlength=len(levels)) / max(len(codes), 1) for codes in (real, sampled)]
    kept = np.sort(np.argsort(-shares[0], kind="stable")[: _MOST_BARS - 1]) if len(levels) > _MOST_BARS else slice(None)
    names = [plain(level, _LONGEST_LEVEL) for level in np.array(levels, object)[kept]]
    shown = [share[kept] for share in shares]
    if len(levels) > _MOST_BARS:
        names.append(f"{len(levels) - len(names)} others")
        shown = [np.append(own, share.sum() - own.sum()) for own, share in zip(shown, shares, strict=True)]
    places = np.arange(len(names))
    ax.barh(places, shown[0], color=LINE, height=0.8)
    ax.barh(places, shown[1], fill=False, edgecolor=VERMILLION, height=0.8, linewidth=1.1)
    ax.set_yticks(places, names, fontsize=5.5)
    ax.invert_yaxis()
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(axis="y", length=0, pad=1)


def _edges(real: Array) -> list[float]:
    """Return bin edges over the range of ``real [N]``; whole numbers are at the centres of bins."""
    low, high = float(real.min()), float(real.max())
    bins = int(np.clip(2 * len(real) ** (1 / 3), 8, 30))
    if bool((real == np.round(real)).all()):
        step = max(1, -(-(high - low) // bins))
        return [float(edge) for edge in np.arange(low - 0.5, high + step + 0.5, step)]
    return [float(edge) for edge in np.linspace(low, high, bins + 1)]


def column_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return names of ``count`` columns that are safe to draw; without ``names``, numbered from 1."""
    if names is None:
        return tuple(f"column {place + 1}" for place in range(count))
    if len(names) != count:
        raise ValueError(f"names has {len(names)} names for rows of {count} values; give one per column.")
    return tuple(plain(name) for name in names)
