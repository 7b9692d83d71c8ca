"""Semi-amortised inference: the encoder's q of each row, refined by a few steps on its ELBO."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from lowerbound.draw import Batch, Draw
from lowerbound.gradients import GradientEstimator, Objective
from lowerbound.inference.aevb import AEVB, AEVBProcedure, Optimizer
from lowerbound.inference.row_family import elbo_gradient
from lowerbound.inference.searched import Method, Searched
from lowerbound.model import LatentVariableModel, draw_from
from lowerbound.nn import Precision
from lowerbound.objectives import elbo
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import Schedule


@dataclass(frozen=True)
class SemiAmortised:
    """Maximise the ELBO of the encoder's q after ``steps`` steps of its refinement for each row.

    The model's gradient is that of the ELBO of the refined q. By default the refined q counts as a constant in it, and
    the encoder learns by the ELBO of its own q, where the refinement starts (Krishnan, Liang & Hoffman 2018). With
    ``unrolled=True`` encoder and model learn by the ELBO of the refined q, differentiated through the steps of the
    refinement, which are then those of gradient ascent (Kim et al. 2018); this needs latents with reparameterised
    draws.

    ``amortised``: the encoder's q(z|x), with its family. ``steps``, ``step_draws``, ``step_rate``: of the refinement,
    see ``Searched``, which is the posterior that is learnt: new rows get a refined q, too. The other settings are those
    of ``AEVB``.
    """

    amortised: Posterior
    steps: int = 5
    step_draws: int = 4
    step_rate: float = 0.1
    unrolled: bool = False
    objective: Objective = elbo
    draws: int = 1
    gradient: GradientEstimator | None = None
    learning_rate: float | Schedule = 1e-3
    optimizer: Optimizer = partial(torch.optim.Adam, fused=True)
    precision: Precision = "float32"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.unrolled and not all(self.amortised.paths):
            raise ValueError(
                "unrolled steps need draws that can be differentiated, and those of "
                f"{self.amortised.family_name} cannot: leave unrolled out."
            )
        self._learning  # noqa: B018  (its settings are checked when it is made)

    @cached_property
    def posterior(self) -> Searched:
        """q(z|x): the encoder's, refined."""
        method: Method = "unrolled" if self.unrolled else "ascent"
        return Searched(self.amortised, self.steps, self.step_draws, self.step_rate, method)

    @cached_property
    def _learning(self) -> AEVB:
        names = ("objective", "draws", "gradient", "learning_rate", "optimizer", "precision", "clip_norm")
        return AEVB(self.posterior, **{name: getattr(self, name) for name in names})

    @property
    def is_bound(self) -> bool:
        """Whether the objective is known to be a lower bound on log p(x)."""
        return self._learning.is_bound

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON; those of the steps are the posterior's."""
        return self._learning.describe()

    def start(self, model: LatentVariableModel, rows: RowSource | None = None) -> AEVBProcedure:
        """Make a procedure for the training loop, with a fresh optimiser. ``rows`` are not needed."""
        procedure = self._learning.start(model)
        if not self.unrolled:
            procedure.drawn = partial(_drawn, self.posterior, model)
        return procedure


def _drawn(posterior: Searched, model: LatentVariableModel, batch: Batch, noise: Tensor, detached: bool) -> Draw:
    """Draws from the refined q. What reaches the encoder is the gradient of the ELBO of its own q."""
    family, end = posterior.found(model, batch)
    gradient = elbo_gradient(model, batch, family.prior, family)
    own = batch.weight.unsqueeze(1) * gradient(family.start.detach().requires_grad_(), noise)
    nothing = family.start - family.start.detach()
    if nothing.requires_grad:
        nothing.register_hook(lambda _: -own)  # a loss is minimised
    return draw_from(family.distribution(end + nothing), family.prior, model, batch, noise, detached)
