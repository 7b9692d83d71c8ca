"""Real images with their reconstructions, and images sampled from the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from lowerbound.distributions import generator
from lowerbound.report import pictures
from lowerbound.report.facts import FittedVAE, grey, reconstructed
from lowerbound.report.pictures import Look
from lowerbound.report.style import Panel, image_png

Array = NDArray[Any]
_IMAGES, _ACROSS = 20, 10
_PANEL_WIDTH = 460  # CSS pixels
_OVERVIEW_WIDTH = 3.9  # inches: width of half a page


@dataclass(frozen=True)
class ImageRows:
    """Tiles ``[n, H, W, 3]``: real rows, reconstructions, and means of and draws from p(x|z) at n prior draws."""

    look: Look
    total: int
    point: str
    binarised: bool
    missing: bool
    real: Array
    reconstructed: Array
    means: Array
    draws: Array

    @classmethod
    def of(cls, vae: FittedVAE, x: Array, look: Look) -> ImageRows:
        some = x[_evenly(len(x), _IMAGES)]
        point = "most probable class" if vae.model_.likelihood.one_hot_mean else "mean"
        stacks = (grey(vae, some), reconstructed(vae, some), *_fresh(vae, _IMAGES))
        real, again, means, draws = (look.tiles(stack) for stack in stacks)
        return cls(look, len(x), point, vae.binarise != "none", bool(np.isnan(some).any()), real, again, means, draws)

    @property
    def about_reconstructions(self) -> tuple[str, ...]:
        scale = f"Grey runs from {self.look.low:g} to {self.look.high:g} in every picture."
        if self.look.channels == 3:
            scale = f"Each colour runs from {self.look.low:g} to {self.look.high:g} in every picture."
        if self.look.channels not in (1, 3):
            scale += f" Of {self.look.channels} channels, the first is shown."
        if self.missing:
            scale += " Missing values are blue."
        if self.binarised:
            scale += " Real rows are shown before binarisation."
        return (
            f"{len(self.real)} of {self.total:,} rows, evenly spaced: each row above its "
            f"reconstruction, the {self.point} of p(x|z) at the mean z of q(z|x). {scale}",
        )

    @property
    def about_samples(self) -> tuple[str, ...]:
        return (
            f"For latents z drawn from the prior: the {self.point} of p(x|z), and a draw of x from p(x|z) at the "
            "same z. Only the latter is a sample from p(x); it includes the noise of the likelihood.",
        )

    def reconstructions(self) -> tuple[Panel, ...]:
        panels = []
        for start in range(0, len(self.real), _ACROSS):
            chosen = slice(start, start + _ACROSS)
            alt = f"Real images {start + 1} to {start + len(self.real[chosen])} above their reconstructions."
            panels.append(_image_panel(self._pairs(chosen), alt, ""))
        return tuple(panels)

    def samples(self) -> tuple[Panel, ...]:
        means, draws = (pictures.grid(tiles, _ACROSS) for tiles in (self.means, self.draws))
        count = len(self.means)
        return (
            _image_panel(means, f"{count} images decoded from the prior.", f"The {self.point} of p(x|z), z from p(z)."),
            _image_panel(draws, f"{count} images drawn from the model.", "Draws from p(x), at the same z."),
        )

    @property
    def overview_height(self) -> float:
        shapes = (self._all_pairs().shape, self._all_samples().shape)
        return 0.35 + _OVERVIEW_WIDTH * max(float(height / width) for height, width, _ in shapes)

    def draw_reconstructions(self, figure: Figure | SubFigure) -> None:
        _show(figure, self._all_pairs(), "Real rows above their reconstructions")

    def draw_samples(self, figure: Figure | SubFigure) -> None:
        _show(figure, self._all_samples(), f"Prior draws: {self.point} of p(x|z), and draws of x below")

    def _all_pairs(self) -> Array:
        lines = range(0, len(self.real), _ACROSS)
        return _stack([self._pairs(slice(start, start + _ACROSS)) for start in lines])

    def _pairs(self, chosen: slice) -> Array:
        return pictures.pairs(self.real[chosen], self.reconstructed[chosen], _ACROSS)

    def _all_samples(self) -> Array:
        return _stack([pictures.grid(tiles, _ACROSS) for tiles in (self.means, self.draws)])


@torch.no_grad()
def _fresh(vae: FittedVAE, count: int) -> tuple[Array, Array]:
    """Return means of and draws from p(x|z), ``[count, *X]`` each, at the same latents from the prior."""
    model = vae.model_
    rng = generator(vae.seed_, "report", device=next(model.parameters()).device)
    params = model.decode(model.sample_latents(count, rng, None, vae.posterior_).unsqueeze(0))
    stacks = (model.likelihood.point(params), model.likelihood.sample(params, rng))
    means, draws = (stack.squeeze(0).cpu().numpy() for stack in stacks)
    return means, draws


def _evenly(total: int, count: int) -> NDArray[np.int64]:
    return np.linspace(0, total - 1, min(total, count)).astype(np.int64)


def _image_panel(canvas: Array, alt: str, caption: str) -> Panel:
    return Panel.of(image_png(pictures.fit_size(canvas)), alt, caption, half=True, width=_PANEL_WIDTH)


def _stack(canvases: Sequence[Array]) -> Array:
    """Stack canvases of one width, each ``[H, W, 3]``, with a gap between them."""
    gap = np.ones((max(2, canvases[0].shape[1] // 50), canvases[0].shape[1], 3))
    parts = [part for canvas in canvases for part in (gap, canvas)]
    return np.concatenate(parts[1:])


def _show(figure: Figure | SubFigure, canvas: Array, title: str) -> None:
    ax = figure.subplots()
    ax.imshow(pictures.fit_size(canvas))
    ax.set_title(title)
    ax.set_anchor("NW")
    ax.axis("off")
