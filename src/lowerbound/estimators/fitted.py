"""Attributes and conversions that the methods of a fitted estimator share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.data.row_arrays import RowArray
from lowerbound.data.rows import Binarise
from lowerbound.distributions import generator
from lowerbound.errors import NoPosteriorError
from lowerbound.estimators import frames
from lowerbound.estimators.learning import name_of
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.schema import Encoded, Schema
from lowerbound.schema.column import Name

USE_BATCH = 128  # a fixed batch size, so that a row's result does not depend on the other rows


class Fitted(ABC):
    """Base class of a fitted estimator: it has a model and, depending on the inference, a posterior."""

    model_: LatentVariableModel
    inference: Any
    _posterior: Posterior | None
    schema_: Schema | None
    seed_: int
    shape_: tuple[int, ...]
    n_context_: int | None
    device: str

    @abstractmethod
    def _checked(self, X: ArrayLike, reset: bool = False, kept: Sequence[Name] = ()) -> RowArray: ...

    @abstractmethod
    def _encoded(self, X: Any, kept: Sequence[Name] | None = (), keep: bool = True) -> Encoded: ...

    @abstractmethod
    def _supported(self, x: RowArray, binarise: Binarise, context: ArrayLike | None) -> Rows: ...

    @property
    def posterior_(self) -> Posterior:
        """The fitted q(z|x). Raises ``NoPosteriorError`` if the inference learnt none."""
        if not hasattr(self, "_posterior"):
            raise AttributeError(f"this {type(self).__name__} is not fitted, so it has no posterior_.")
        if self._posterior is None:
            raise NoPosteriorError(
                f"this method needs a posterior q(z|x), but the inference {name_of(self.inference)} learnt none; "
                "sample, inverse_transform and save need none."
            )
        return self._posterior

    @posterior_.setter
    def posterior_(self, posterior: Posterior | None) -> None:
        self._posterior = posterior

    @property
    def inference_(self) -> str:
        """The name of the inference."""
        return name_of(self.inference)

    @property
    def _event(self) -> tuple[int, ...]:
        """The shape of z."""
        return self.model_.prior.event if self._posterior is None else self._posterior.event

    def _rng(self, stream: str) -> torch.Generator:
        return generator(self.seed_, stream, device=self.device)

    def _given(self, values: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Convert to NumPy, in the input's ``dtype`` if that is a floating type."""
        return values.cpu().numpy().astype(dtype if dtype.kind == "f" else np.float32, copy=False)

    def _framed(self, x: NDArray[Any], coded: Encoded | None = None, random_state: int | None = None) -> Any:
        """Convert rows to a frame if the model was fitted to one.

        ``coded``: rows whose types and identifiers the frame gets.
        """
        if self.schema_ is None:
            return x
        rng = np.random.default_rng(self.seed_ if random_state is None else random_state)
        return frames.decoded(x, self.schema_, rng, coded)
