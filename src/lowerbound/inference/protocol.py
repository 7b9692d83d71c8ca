"""The interface of a way to learn a model."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

from lowerbound.model import Model
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import Procedure

M = TypeVar("M", bound=Model, contravariant=True)


@runtime_checkable
class Inference(Protocol[M]):
    """A way to learn a model of type M from rows: ``AEVB``, or a class of your own with these four members.

    One that learns a topic model may say ``takes_fractions = True``: then ``Counts`` need not be whole numbers.
    """

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

    def start(self, model: M, rows: RowSource) -> Procedure:
        """Begin a fit of ``model`` to the training rows: the steps that the training loop repeats."""
        ...
