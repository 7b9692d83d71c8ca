"""A model of a table as one of numbers, for a report: classes as their codes, NaN for holes."""

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
class AsNumbers:
    """A fitted VAE and a ``frame`` of rows, which as numbers are ``x [N, D]``, of columns ``names``.

    ``levels``: of each column, its classes in words; none of numbers.
    """

    vae: VAE
    frame: Any
    x: NDArray[np.float64]
    names: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, vae: VAE, frame: Any) -> AsNumbers:
        """Of a frame of what the model was fitted to."""
        assert vae.schema_ is not None
        columns = vae.schema_.modelled
        levels = tuple((*map(_word, column.levels), *["other"] * bool(column.pooled)) for column in columns)
        names = tuple(str(column.name) for column in columns)
        return cls(vae, frame, vae.schema_.encode(frame, lenient=True).values, names, levels)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, x: Any) -> Any:
        return self.vae.encode(self.frame)

    def kl(self, x: Any) -> Any:
        return self.vae.kl(self.frame)

    def reconstruct(self, x: Any) -> Any:
        return self._numbers(self.vae.reconstruct(self.frame))

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> Any:
        return self._numbers(self.vae.sample(n_samples, random_state))

    def _numbers(self, frame: Any) -> Any:
        assert self.vae.schema_ is not None
        return self.vae.schema_.encode(frame).values
