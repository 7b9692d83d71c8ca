"""Overview picture of a fitted VAE: rows, samples, latents, training."""

from __future__ import annotations

from matplotlib.figure import Figure

from lowerbound.report import figures, style
from lowerbound.report.colours import Colouring
from lowerbound.report.facts import Latents, Training
from lowerbound.report.row_figures import RowsShown

_WIDTH, _DPI = 8.0, 150  # inches, dots per inch: 1200 pixels
_TITLE, _PLOTS = 0.35, 3.2  # inches high


def picture(
    rows: RowsShown,
    latents: Latents | None,
    training: Training | None,
    colouring: Colouring,
    title: str,
    headline: str,
) -> bytes:
    """Draw the picture as a PNG file; a long ``title`` is shortened, ``headline`` never."""
    top = rows.overview_height
    figure = Figure((_WIDTH, _TITLE + top + _PLOTS), layout="constrained")
    figure.suptitle(f"{style.plain(title, 60)}: {headline}", x=0.01, ha="left", fontsize=11.5)
    across = 1 if latents is None else 2
    parts = figure.subfigures(2, across, squeeze=False, height_ratios=(top, _PLOTS), hspace=0.04, wspace=0.04)
    rows.draw_samples(parts[0, -1])
    if latents is not None:
        rows.draw_reconstructions(parts[0, 0])
        ax = parts[1, 0].subplots()
        figures.draw_latents(ax, latents, colouring)
        ax.set_title("Posterior means of the rows")
    if training is not None:
        ax = parts[1, -1].subplots()
        figures.draw_bound(ax, training)
        ax.set_title("The bound during training")
    return style.png(figure, _DPI)
