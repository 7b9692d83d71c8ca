"""Figures of latents and training. Each function draws on given axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lowerbound.report.colours import Array, Colouring, Group
from lowerbound.report.facts import Latents, Training, visible_range
from lowerbound.report.style import BLUE, INK, LINE, ORANGE, SOFT

MOST_POINTS = 5000
_COLOURS = (BLUE, ORANGE)
_HATCHES = {"o": "", "^": "////", "s": "...."}
_SHORT = 3  # longest name, in characters, that is drawn among the points
_STEPS = (1, 2, 2.5, 5, 10)


def draw_latents(ax: Axes, latents: Latents, colouring: Colouring) -> None:
    """Draw posterior means: a histogram, a scatter plot, or the first two principal components."""
    dimensions = latents.means.shape[1]
    if dimensions == 1:
        _histogram(ax, latents.means[:, 0].astype(np.float64), colouring.groups)
        return
    points = latents.means if dimensions == 2 else latents.plane()[0]
    _scatter(ax, points, colouring)
    names = ("E[z₁|x]", "E[z₂|x]") if dimensions == 2 else ("first principal component", "second principal component")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    low, high = points.min(0), points.max(0)
    half = 0.54 * float((high - low).max()) or 1.0
    across, up = (low + high) / 2
    ax.set(xlim=(across - half, across + half), ylim=(up - half, up + half))
    ax.set_aspect("equal", anchor="NW")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=_STEPS))


def _scatter(ax: Axes, points: Array, colouring: Colouring) -> None:
    """Draw points ``[N, 2]``; of many, an evenly spaced subset."""
    shown = np.zeros(len(points), dtype=bool)
    shown[np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).astype(int)] = True
    size = float(np.clip(5000 / shown.sum(), 4, 16))
    if colouring.values is not None:
        known = shown & np.isfinite(colouring.values)
        _dots(ax, points[shown & ~known], size, c=LINE)
        drawn = _dots(ax, points[known], size, c=colouring.values[known], cmap="viridis")
        ax.figure.colorbar(drawn, cax=ax.inset_axes((1.04, 0, 0.04, 1)), label="label").outline.set_visible(False)
    elif not colouring.groups:
        _dots(ax, points[shown], size, c=BLUE, alpha=0.6)
    else:
        _scatter_groups(ax, points, shown, size, colouring.groups)


def _dots(ax: Axes, points: Array, size: float, **style: Any) -> PathCollection:
    return ax.scatter(points[:, 0], points[:, 1], s=size, linewidths=0, **style)


def _scatter_groups(ax: Axes, points: Array, shown: Array, size: float, groups: Sequence[Group]) -> None:
    """Draw the points of each group in its colour, with its name at their median."""
    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.9)]
    for group in groups:
        rows = points[shown & group.rows]
        _dots(ax, rows, size, c=group.colour, marker=group.marker, alpha=0.8, label=group.name)
        if len(rows) and group.named and len(group.name) <= _SHORT:
            across, up = np.median(rows, 0)
            ax.text(across, up, group.name, weight="bold", fontsize=11, ha="center", va="center", path_effects=halo)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=2, handletextpad=0.2, labelspacing=0.35)


def _histogram(ax: Axes, means: Array, groups: Sequence[Group]) -> None:
    """Draw a histogram of the posterior means ``[N]`` of one latent, stacked by label."""
    low, high = float(means.min()), float(means.max())
    edges = np.linspace(low, high if high > low else low + 1, int(np.clip(len(means) ** 0.5, 10, 40)) + 1)
    base = np.zeros(len(edges) - 1)
    for group in groups or (Group("", np.full(len(means), True), BLUE, "o"),):
        counts = np.histogram(means[group.rows], edges)[0]
        ax.bar(
            edges[:-1],
            counts,
            np.diff(edges),
            base,
            align="edge",
            color=group.colour,
            hatch=_HATCHES[group.marker],
            edgecolor="white",
            linewidth=0.4,
            label=group.name,
        )
        base += counts
    if groups:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), labelspacing=0.35)
    ax.set_xlabel("E[z|x]")
    ax.set_ylabel("rows")
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_bound(ax: Axes, training: Training) -> int:
    """Draw the objective per epoch; return the number of first epochs outside the axes."""
    outside = _lines(ax, training, {name: training.maximised(course) for name, course in training.courses.items()})
    ax.set_ylabel(f"{'ELBO' if training.is_elbo else 'objective'}, nats per row")
    ax.set_xlabel("epoch")
    if training.kept is not None and training.valid is not None:
        best = training.maximised(training.valid)[np.flatnonzero(training.epochs == training.kept)[0]]
        label = f"{'best' if training.last else 'kept'}: epoch {training.kept}"
        ax.plot([training.kept], [best], "o", color=INK, markersize=5, label=label, zorder=5)
    ax.legend(loc="best")
    return outside


def draw_split(figure: Figure, training: Training) -> int:
    """Draw the two terms of the bound; return the number of first epochs outside the axes."""
    top, bottom = figure.subplots(2, 1, sharex=True)

    def parts(name: str) -> dict[str, Array]:
        return {rows: getattr(course, name) for rows, course in training.courses.items()}

    outside = max(_lines(top, training, parts("log_lik")), _lines(bottom, training, parts("kl")))
    top.set_title("Reconstruction, E[log p(x|z)]")
    bottom.set_title("KL(q ‖ p)")
    bottom.set_xlabel("epoch")
    figure.supylabel("nats per row", color=SOFT, fontsize=9)
    for ax in (top, bottom):
        if training.kept is not None:
            ax.axvline(training.kept, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    if len(training.courses) > 1:
        figure.legend(*top.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return outside


def _lines(ax: Axes, training: Training, curves: Mapping[str, Array]) -> int:
    low, high, outside = visible_range(list(curves.values()))
    marker = "o" if len(training.epochs) <= 12 else ""
    if training.last:
        ax.axvspan(
            training.epochs[-training.last] - 0.5, training.epochs[-1] + 0.5, color="#eceef2", label="last phase"
        )
    for (name, values), colour in zip(curves.items(), _COLOURS, strict=False):
        ax.plot(training.epochs, values, color=colour, label=name, marker=marker, markersize=3)
    ax.set_ylim(low, high)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=_STEPS))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    ax.grid(axis="y", color="#eceef2", linewidth=0.8)
    return outside


def draw_kl(ax: Axes, kl: Array, is_active: Array, names: Sequence[str] = ()) -> None:
    """Draw the KL of each latent ``[d]`` as bars, largest first; mark inactive latents. ``names``: instead of 1 … d."""
    order = np.argsort(-kl, kind="stable")
    places, active = np.arange(1, len(order) + 1), is_active[order]
    ax.bar(places[active], kl[order][active], color=BLUE, label="active")
    if not active.all():
        heights = kl[order][~active]
        ax.bar(places[~active], heights, color="white", edgecolor=SOFT, hatch="////", label="inactive")
        ax.legend(loc="upper right")
    if len(order) <= 30:
        ax.set_xticks(places, [names[latent] if names else str(latent + 1) for latent in order])
        ax.set_xlabel(f"latent{'' if names else ' (index)'}, largest KL first")
        if names:
            ax.tick_params("x", rotation=45 if len(order) > 6 else 0)
    else:
        ax.set_xlabel("latents, largest KL first")
    ax.set_xlim(0.4, max(len(order), 4) + 0.6)
    ax.set_ylabel("KL, nats per row")
    ax.set_ylim(bottom=0)
