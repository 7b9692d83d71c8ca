"""Style of all figures: colours, safe text, PNG files. Global matplotlib settings are restored."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib.image
import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Okabe & Ito's palette: colour-blind readers can distinguish its colours.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY = "#CC79A7", "#56B4E9"
INK, SOFT, LINE = "#1d2330", "#5b6475", "#c9ced8"
SEQUENCE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
DPI = 200  # twice what a page shows, for dense screens
_FONT = "DejaVu Sans"
_METADATA = {"Software": "lowerbound"}
_STYLE = {
    "font.family": _FONT,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.formatter.use_mathtext": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.06,
}


@dataclass(frozen=True)
class Panel:
    """Picture of the page: a PNG file in base64, its size in CSS pixels, its alt text and caption."""

    data: str
    width: int
    height: int
    alt: str
    caption: str
    half: bool

    @classmethod
    def of(cls, file: bytes, alt: str, caption: str = "", *, half: bool = False, width: int | None = None) -> Panel:
        """Make from a PNG file, shown at half its width in pixels. ``half``: two fit side by side."""
        across, down = struct.unpack(">II", file[16:24])
        width = width or across // 2
        return cls(base64.b64encode(file).decode(), width, round(down * width / across), alt, caption, half)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw in this package's style, independent of the user's settings."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def plain(text: object, longest: int = 24) -> str:
    """Make ``text`` safe to draw: one line, limited length, no mathtext, only glyphs of the font."""
    words = " ".join(str(text).split())
    words = words if len(words) <= longest else words[: longest - 1] + "…"
    font = font_manager.get_font(font_manager.findfont(_FONT))
    shown = "".join(char if font.get_char_index(ord(char)) else "□" for char in words)
    shown = shown.replace("$", r"\$")
    return (
        f" {shown}" if shown.startswith("_") else shown
    )  # matplotlib omits labels with a leading underscore from legends


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Save the figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata=_METADATA)
    return buffer.getvalue()


def image_png(pixels: NDArray[Any]) -> bytes:
    """Save an image ``[H, W, 3]`` of numbers in [0, 1] as a PNG file."""
    buffer = io.BytesIO()
    bytes_ = np.ascontiguousarray((pixels * 255).round().astype(np.uint8))
    matplotlib.image.imsave(buffer, bytes_, format="png", metadata=_METADATA)
    return buffer.getvalue()
