"""Maximum a posteriori: the most probable parameters of a model under a prior."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lowerbound.draw import Draw
from lowerbound.inference.aevb import AEVB, AEVBProcedure
from lowerbound.inference.weights import LogPrior, NormalWeights, described, learned
from lowerbound.model import LatentVariableModel
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource


@dataclass(frozen=True)
class MAP:
    """``AEVB`` with a prior of the model's parameters θ: maximise mean_N objective + log p(θ)/N, the posterior's mode.

    ``learning``: how the rest is learnt. ``log_prior``: log p(θ) in nats, a function of the parameters by name. With
    ``NormalWeights(1.0)`` the gradient is that of a ``weight_decay`` of 1/N in Adam or Adagrad; a flat prior is maximum
    likelihood. N is the number of training rows.
    """

    learning: AEVB
    log_prior: LogPrior = field(default_factory=NormalWeights)

    @property
    def posterior(self) -> Posterior:
        """q(z|x)."""
        return self.learning.posterior

    @property
    def is_bound(self) -> bool:
        """False: log p(θ)/N is part of the objective."""
        return False

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return {"learning": self.learning.describe(), "log_prior": described(self.log_prior)}

    def start(self, model: LatentVariableModel, rows: RowSource) -> AEVBProcedure:
        """Begin a fit of ``model``, with a fresh optimiser. ``rows`` are counted only."""
        penalty = _MinusLogPrior(model, self.log_prior, len(rows))
        return replace(self.learning, penalties=(*self.learning.penalties, penalty)).start(model, rows)


@dataclass(frozen=True)
class _MinusLogPrior:
    """The penalty −log p(θ)/N."""

    model: LatentVariableModel
    log_prior: LogPrior
    rows: int

    def __call__(self, draw: Draw, weight: Tensor) -> Tensor:
        return -self.log_prior(learned(self.model)) / self.rows
