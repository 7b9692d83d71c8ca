"""Views of a model with the rows to report on: as a frame with its column names; of a table, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lowerbound.estimators import VAE


def _word(level: Any) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


@dataclass(frozen=True, eq=False)
class OfFrame:
    """A fitted VAE that reads a ``frame`` of rows, which has its feature names, in place of the array it is given."""

    vae: VAE
    frame: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, x: Any) -> Any:
        return self.vae.encode(self.frame)

    def kl(self, x: Any) -> Any:
        return self.vae.kl(self.frame)

    def kl_of_latents(self, x: Any) -> Any:
        return self.vae.kl_of_latents(self.frame)

    def reconstruct(self, x: Any) -> Any:
        return self.vae.reconstruct(self.frame)


@dataclass(frozen=True, eq=False)
class AsNumbers(OfFrame):
    """The frame of a table converted to numbers ``x [N, D]`` with column ``names``: codes of classes, NaN if missing.

    ``levels``: per column, the names of its classes; empty for numbers.
    """

    x: NDArray[np.float64]
    names: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, vae: VAE, frame: Any) -> AsNumbers:
        """Convert a frame with the columns of the fit."""
        assert vae.schema_ is not None
        columns = vae.schema_.modelled
        levels = tuple((*map(_word, column.levels), *["other"] * bool(column.pooled)) for column in columns)
        names = tuple(str(column.name) for column in columns)
        return cls(vae, frame, vae.schema_.encode(frame, lenient=True).values, names, levels)

    def reconstruct(self, x: Any) -> Any:
        return self._numbers(super().reconstruct(x))

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> Any:
        return self._numbers(self.vae.sample(n_samples, random_state))

    def _numbers(self, frame: Any) -> Any:
        assert self.vae.schema_ is not None
        return self.vae.schema_.encode(frame).values
