"""Rows of a table with their reconstructions, and rows sampled from the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from lowerbound.report import table_figures
from lowerbound.report.facts import FittedVAE, grey, reconstructed
from lowerbound.report.style import Panel, png
from lowerbound.report.table_figures import Columns

Array = NDArray[Any]
_SAMPLED_ROWS = 1000
_HISTOGRAMS = (2, 3)  # histograms per picture: rows, columns
_OVERVIEW_COLUMNS = 14


@dataclass(frozen=True)
class TableRows:
    """Columns of real rows, and ``sampled [S, c]`` rows of the same columns."""

    columns: Columns
    sampled: Array
    left_out: int
    categories: bool

    @classmethod
    def of(cls, vae: FittedVAE, x: Array, names: Sequence[str] | None) -> TableRows:
        flat = x.reshape(len(x), -1)
        shown = min(flat.shape[1], table_figures.MOST_COLUMNS)
        titles = table_figures.column_names(names, flat.shape[1])[:shown]
        sampled = vae.sample(_SAMPLED_ROWS).reshape(_SAMPLED_ROWS, -1)
        parts = (grey(vae, flat), reconstructed(vae, x).reshape(len(x), -1))
        real, again = (part[:, :shown].astype(np.float64) for part in parts)
        columns = Columns(real, again, titles, getattr(vae, "levels", ())[:shown])
        return cls(
            columns,
            sampled[:, :shown].astype(np.float64),
            flat.shape[1] - shown,
            vae.model_.likelihood.one_hot_mean,
        )

    @property
    def _which(self) -> str:
        count = len(self.columns.names)
        return f"the first {count} of {count + self.left_out:,} columns" if self.left_out else f"{count} columns"

    @property
    def about_reconstructions(self) -> tuple[str, ...]:
        rows = min(len(self.columns.real), table_figures.MOST_ROWS)
        point = "most probable class" if self.categories else "mean"
        if any(self.columns.levels):
            point += " (for classes, the most probable)"
        missing = " Grey cells are missing." if np.isnan(self.columns.real).any() else ""
        return (
            f"{rows} of {len(self.columns.real):,} rows, evenly spaced and side by side, in {self._which}. "
            f"The model's reconstruction of a row is the {point} of p(x|z) at the mean z of q(z|x).{missing}",
        )

    @property
    def about_samples(self) -> tuple[str, ...]:
        real = self.columns.real
        low, high = np.fmin.reduce(real), np.fmax.reduce(real)  # over observed cells
        outside = ((self.sampled < low) | (self.sampled > high)).mean()
        return (
            f"{self._which.capitalize()} of {len(self.sampled):,} rows drawn from p(x) (orange outline) and of the "
            f"real rows (grey), as shares of rows. Each axis is the range of the real rows; {outside:.1%} of "
            "the sampled values lie outside it.",
        )

    def reconstructions(self) -> tuple[Panel, ...]:
        count = len(self.columns.names)
        cells = Figure((4.6, max(2.2, 1.15 + 0.19 * count)), layout="constrained")
        table_figures.draw_cells(cells, self.columns)
        panels = [Panel.of(png(cells), "Real and reconstructed rows as shaded cells, and their difference.", half=True)]
        if not self.categories:
            bars = Figure((4.6, max(1.6, 0.65 + 0.19 * count)), layout="constrained")
            table_figures.draw_explained(bars, self.columns)
            alt = "Bars: the share of each column over its observed cells that reconstructions explain."
            caption = "Over all observed cells: 1 − Σ(x − x̂)² / Σ(x − mean)². A column that the latents ignore has 0."
            if any(self.columns.levels):
                caption += " For classes: 1 − errors / errors of always predicting the most frequent class."
            panels.append(Panel.of(png(bars), alt, caption, half=True))
        return tuple(panels)

    def samples(self) -> tuple[Panel, ...]:
        at_once = _HISTOGRAMS[0] * _HISTOGRAMS[1]
        panels = []
        for start in range(0, len(self.columns.names), at_once):
            chosen = slice(start, start + at_once)
            names = ", ".join(self.columns.names[chosen])
            lines = -(-len(self.columns.names[chosen]) // _HISTOGRAMS[1])
            figure = Figure((4.6, 1.25 * lines), layout="constrained")
            self._draw_histograms(figure, chosen, lines)
            panels.append(Panel.of(png(figure), f"Histograms of real and sampled values of {names}.", half=True))
        return tuple(panels)

    @property
    def overview_height(self) -> float:
        return 3.2

    def draw_reconstructions(self, figure: Figure | SubFigure) -> None:
        table_figures.draw_cells(figure, self.columns.some(slice(_OVERVIEW_COLUMNS)))

    def draw_samples(self, figure: Figure | SubFigure) -> None:
        figure.suptitle("Real rows (grey) and samples (outline)", x=0.01, ha="left", fontsize=9.5)
        shown = min(len(self.columns.names), _HISTOGRAMS[0] * _HISTOGRAMS[1])
        self._draw_histograms(figure, slice(0, shown), -(-shown // _HISTOGRAMS[1]))

    def _draw_histograms(self, figure: Figure | SubFigure, chosen: slice, lines: int) -> None:
        table_figures.draw_histograms(
            figure, self.columns.some(chosen), self.sampled[:, chosen], (lines, _HISTOGRAMS[1])
        )
