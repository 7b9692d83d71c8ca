"""Local variational inference: parameters of q for each row, in place of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.draw import Batch, Draw
from lowerbound.gradients import GradientEstimator, Objective
from lowerbound.inference.aevb import AEVB, AEVBProcedure, Optimizer, Penalty
from lowerbound.inference.row_family import RowFamily
from lowerbound.inference.searched import Searched, without_encoder
from lowerbound.model import LatentVariableModel, draw_from
from lowerbound.nn import Constant, Precision
from lowerbound.objectives import elbo
from lowerbound.posteriors import Latents, Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import Metrics, Procedure, Scalars, Schedule, State, as_schedule

_DECAY, _LEAST = 0.95, 1e-8  # of the running mean of squared gradients; added to its root
_VALIDATION = 5  # a search for a held-out row takes this fraction of the steps of others


@dataclass(frozen=True)
class Local:
    """Maximise the objective over the model and over the parameters of one q_i(z) per row, with no encoder.

    ``family``: a posterior whose family the q_i are of; its encoder is not used (``nn.Identity()``). Each row has its
    numbers in a table, of which a step changes those of the batch's rows alone, by RMSprop with the learning rate
    ``local_rate`` and one gradient for each visit of a row. The model learns as by ``AEVB``, whose settings these are.

    A row that is not in the table gets its q by a local search of ``search_steps`` steps with the model as it is:
    ``posterior`` is a ``Searched``. For rows that are held out in the fit, the search has a fifth of the steps, along
    the gradient. Hoffman et al. 2013.
    """

    family: Posterior
    local_rate: float | Schedule = 0.1
    search_steps: int = 100
    objective: Objective = elbo
    draws: int = 1
    beta: float | Schedule = 1.0
    penalties: tuple[Penalty, ...] = ()
    gradient: GradientEstimator | None = None
    learning_rate: float | Schedule = 1e-3
    optimizer: Optimizer = partial(torch.optim.Adam, fused=True)
    precision: Precision = "float32"
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.family, Latents) and not self.family.shared:
            raise ValueError(
                "the latents of Local have no encoders, so none can depend on another: give each part of "
                "posteriors.Latents the encoder nn.Identity() and no parents."
            )
        self._learning  # noqa: B018  (its settings are checked when it is made)

    @cached_property
    def posterior(self) -> Searched:
        """q(z|x) of any row, by a local search from the mean of the rows' numbers."""
        return without_encoder(self.family, self.search_steps)

    @cached_property
    def _learning(self) -> AEVB:
        shared = ("objective", "draws", "beta", "penalties", "gradient", "learning_rate", "optimizer", "precision")
        given = {name: getattr(self, name) for name in (*shared, "clip_norm")}
        return AEVB(self.posterior, **given)

    @property
    def is_bound(self) -> bool:
        """Whether the objective is known to be a lower bound on log p(x)."""
        return self._learning.is_bound

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return self._learning.describe() | {"search_steps": int(self.search_steps)}

    def start(self, model: LatentVariableModel, rows: RowSource) -> LocalProcedure:
        """Begin a fit: a table with a row of numbers for each row of the data."""
        if model.prior.needs_posterior:
            raise ValueError(f"{type(model.prior).__name__} is made of an encoder, and Local has none.")
        like = next(model.parameters())
        self.posterior.to(like.device, like.dtype)
        inner = self._learning.start(model, rows)
        table = Table(rows.total, self.posterior.n_outputs).to(like.device, like.dtype)
        inner.state.modules["table"] = table
        return LocalProcedure(self, inner, table, model)


class Table(nn.Module):
    """The numbers ``value [N, n]`` of each row's q, and ``square [N, n]``, the running mean of squared gradients.

    ``square`` begins with the first gradient; it is 0 in rows that were not visited. Rows of weight 0, which fill up a
    batch, are left as they are.
    """

    value: Tensor
    square: Tensor

    def __init__(self, rows: int, n: int) -> None:
        super().__init__()
        for name in ("value", "square"):
            self.register_buffer(name, torch.zeros(rows, n))

    @torch.no_grad()
    def update(self, batch: Batch, at: Tensor, gradient: Tensor, rate: Tensor) -> None:
        """Move the rows of ``batch`` from ``at [B, n]`` along the ``gradient [B, n]`` of each row's objective."""
        index, real = batch.index, (batch.weight > 0).unsqueeze(1)
        before, square = self.square.index_select(0, index), gradient.square()
        square = torch.where(before > 0, torch.lerp(before, square, 1 - _DECAY), square)
        moved = at + rate * gradient / (square.sqrt() + _LEAST)
        self.value.index_copy_(0, index, moved)
        self.square.index_copy_(0, index, torch.where(real, square, before))

    @torch.no_grad()
    def mean(self) -> Tensor:
        """The mean ``[n]`` of the numbers of all rows that were visited."""
        visited = (self.square.sum(1) > 0).to(self.value.dtype)
        return visited @ self.value / visited.sum().clamp(min=1)


@dataclass
class LocalProcedure(Procedure):
    """The steps of ``Local``: those of ``AEVB``, with draws from the q of the batch's rows, which then move."""

    settings: Local
    inner: AEVBProcedure
    table: Table
    model: LatentVariableModel
    _at: list[tuple[Batch, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.inner.state
        self.inner.drawn = self._drawn
        searched = self.settings.posterior
        brief = Searched(searched.posterior, max(1, searched.steps // _VALIDATION), searched.draws, 1.0, "ascent")
        self._held_out = AEVBProcedure(replace(self.inner.settings, posterior=brief), self.model, self.state)

    def check_batches(self, rows: int) -> None:
        self.inner.check_batches(rows)

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        return {**self.inner.schedules, "local_rate": as_schedule(self.settings.local_rate)}

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return self.inner.noise(rows, rng)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        self._at.clear()
        state, metrics = self.inner.step(state, batch, noise, scalars)
        for part, at in self._at:
            assert at.grad is not None
            weight = torch.where(part.weight > 0, part.weight, 1).unsqueeze(1)
            self.table.update(part, at.detach(), -at.grad / weight, scalars["local_rate"])
        self._at.clear()
        return state, metrics

    def epoch_end(self, state: State) -> None:
        """Searches start at the mean of the rows' numbers from now on."""
        encoder = self.settings.posterior.posterior.encoder
        assert isinstance(encoder, Constant)
        encoder.value.copy_(self.table.mean())

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        return self._held_out.evaluate(state, batch, noise, scalars)

    def explain(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> str:
        return self.inner.explain(state, batch, noise, scalars)

    def _drawn(self, batch: Batch, noise: Tensor, detached: bool) -> Draw:
        """Draws from the q of the rows of a batch, whose numbers collect their gradients."""
        at = self.table.value.index_select(0, batch.index).requires_grad_()
        self._at.append((batch, at))
        prior = self.model.prior_given(batch.context)
        family = RowFamily(self.settings.posterior.posterior, batch, prior)
        return draw_from(family.distribution(at), prior, self.model, batch, noise, detached)
