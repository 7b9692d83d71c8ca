"""Figures of rows, as images or as a table: real, reconstructed and sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from matplotlib.figure import Figure, SubFigure

from lowerbound.report.facts import Array, FittedVAE
from lowerbound.report.image_rows import ImageRows
from lowerbound.report.pictures import Look
from lowerbound.report.style import Panel
from lowerbound.report.table_rows import TableRows


class RowsShown(Protocol):
    """Pictures of rows and sentences about them, for the page and the overview."""

    @property
    def about_reconstructions(self) -> tuple[str, ...]: ...
    @property
    def about_samples(self) -> tuple[str, ...]: ...

    @property
    def overview_height(self) -> float: ...

    def reconstructions(self) -> tuple[Panel, ...]: ...
    def samples(self) -> tuple[Panel, ...]: ...
    def draw_reconstructions(self, figure: Figure | SubFigure) -> None: ...
    def draw_samples(self, figure: Figure | SubFigure) -> None: ...


def rows_of(vae: FittedVAE, x: Array, names: Sequence[str] | None) -> RowsShown:
    """Show rows ``x [N, *X]`` as images if they are images, else as a table with columns ``names``."""
    look = Look.of(vae.model_.likelihood, x)
    return TableRows.of(vae, x, names) if look is None else ImageRows.of(vae, x, look)
