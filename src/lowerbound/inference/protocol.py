"""The interface of a way to learn a model."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import Procedure


@runtime_checkable
class Inference(Protocol):
    """A way to learn a model from rows: ``AEVB``, or a class of your own with these four members."""

    @property
    def posterior(self) -> Posterior | None:
        """The approximate posterior q(z|x) that is learnt with the model; None if there is none."""
        ...

    @property
    def is_bound(self) -> bool:
        """Whether the objective is known to be a lower bound on log p(x)."""
        ...

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        ...

    def start(self, model: LatentVariableModel, rows: RowSource) -> Procedure:
        """Begin a fit of ``model`` to the training rows: the steps that the training loop repeats."""
        ...
