"""Black-box variational inference: a normal q(z) per row of any model of which log p(x, z) is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.distributions import Distribution
from lowerbound.draw import Batch, Draw
from lowerbound.gradients import GradientEstimator, sticking_the_landing, traits
from lowerbound.inference.aevb import AEVB, Optimizer
from lowerbound.model import LatentVariableModel, draw_from
from lowerbound.objectives import elbo_sampled
from lowerbound.posteriors.normal import raw
from lowerbound.process import may_draw
from lowerbound.row_source import RowSource
from lowerbound.training import Event, Metrics, Procedure, Scalars, Schedule, State, as_schedule

Family = Literal["diagonal", "full"]


class RowPosteriors(nn.Module):
    """q(z) of each of ``rows`` rows: a normal over ``latent_dim`` values, "diagonal" (mean-field) or "full".

    ``scale``: the standard deviations at the start, around 0. ``averaged``: the mean of the numbers over the steps
    since the last multiple of ``BlackBox.window``, which has far less noise than those of a single step.
    """

    averaged: Tensor
    steps: Tensor

    def __init__(self, rows: int, latent_dim: int, family: Family = "diagonal", scale: float = 1.0) -> None:
        super().__init__()
        if family not in get_args(Family):
            raise ValueError(f'family is {family!r}; it takes "diagonal" or "full".')
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}.")
        make = posteriors.DiagonalNormal if family == "diagonal" else posteriors.FullNormal
        self.kind = family
        self.family: posteriors.Posterior = make(latent_dim, nn.Identity())  # used without an encoder
        start = torch.zeros(rows, self.family.n_outputs)
        start[:, latent_dim : 2 * latent_dim] = raw(torch.tensor(float(scale)))
        self.outputs = nn.Parameter(start)
        self.register_buffer("averaged", start.clone())
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, index: Tensor | None = None) -> Distribution:
        """q(z) of the rows ``index [B]``, or of all, by the averaged numbers."""
        return self.family.distribution(self.averaged if index is None else self.averaged[index])

    @torch.no_grad()
    def count_step(self, window: int) -> None:
        """Take the present numbers into the average."""
        self.steps.copy_(self.steps % window + 1)
        self.averaged.lerp_(self.outputs, 1 / self.steps)


@dataclass(frozen=True)
class Settled:
    """A callback that ends a fit once the objective has settled.

    Every ``window`` epochs, the means of its values in the last two windows are compared: the fit ends if the later one
    is not larger by more than the standard error of the difference.
    """

    window: int = 100

    def __call__(self, event: Event) -> bool:
        records, size = event.history.records, self.window
        if event.record is None or len(records) % size or len(records) < 2 * size:
            return False
        values = torch.tensor([record["train_objective"] for record in records[-2 * size :]], dtype=torch.float64)
        before, last = values.split(size)
        error = ((before.var() + last.var()) / size).sqrt()
        return bool(last.mean() - before.mean() <= error)


@dataclass(frozen=True)
class BlackBox:
    """Maximise the ELBO of each row over its own q(z), with the model fixed. Ranganath et al. 2014; Kucukelbir 2017.

    ``q``: the distributions to optimise, a ``RowPosteriors``. ``gradient``: any gradient estimator; those of
    ``gradients`` that use the score need no gradient of log p(x, z). ``draws``: of z per row and step. ``window``:
    steps over which the result is averaged. All rows are updated in each step, so a batch holds them all: fit with
    ``batch_size`` of at least their number and ``validation=0``, and end by ``Settled``. ``evidence.black_box`` does.
    """

    q: RowPosteriors
    gradient: GradientEstimator = sticking_the_landing
    draws: int = 10
    learning_rate: float | Schedule = 0.05
    optimizer: Optimizer = partial(torch.optim.Adam, betas=(0.9, 0.99))
    window: int = 100

    posterior = None
    is_bound = True

    def __post_init__(self) -> None:
        self._learning  # noqa: B018  (which checks the settings that it has)
        if self.window < 2:
            raise ValueError(f"window must be at least 2 steps, got {self.window}.")

    @cached_property
    def _learning(self) -> AEVB:
        return AEVB(self.q.family, elbo_sampled, self.draws, gradient=self.gradient, learning_rate=self.learning_rate)

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        own = {"family": self.q.kind, "shape": list(self.q.outputs.shape), "window": int(self.window)}
        return self._learning.describe() | own

    def start(self, model: LatentVariableModel, rows: RowSource) -> BlackBoxProcedure:
        """Begin a fit of q to the rows; the model stays as it is."""
        like = next(model.parameters())
        if len(rows) != len(self.q.outputs) or self.q.family.event != model.prior.event:
            there = f"{len(self.q.outputs)} rows of z {list(self.q.family.event)}"
            raise ValueError(
                f"q is of {there}, and the fit of {len(rows)} training rows of z {list(model.prior.event)}: make "
                "RowPosteriors of these, and give validation=0."
            )
        return BlackBoxProcedure(self, model, self.q.to(like.device, like.dtype))


class BlackBoxProcedure(Procedure):
    """The steps of ``BlackBox``."""

    def __init__(self, settings: BlackBox, model: LatentVariableModel, q: RowPosteriors) -> None:
        self.settings, self.model, self.q = settings, model, q
        modules: dict[str, nn.Module] = {"model": model, "q": q}
        own = settings.gradient
        if isinstance(own, nn.Module):
            modules["gradient"] = own
        self._learned = [q.outputs, *(own.parameters() if isinstance(own, nn.Module) else ())]
        self.state = State(modules, settings.optimizer(self._learned), draws=may_draw([model, own]))

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        return {"learning_rate": as_schedule(self.settings.learning_rate)}

    def check_batches(self, rows: int) -> None:
        if rows < (all_rows := len(self.q.outputs)):
            raise ValueError(f"BlackBox updates all rows in each step: give batch_size={all_rows}, not {rows}.")

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return self.q.family.noise(self.settings.draws, rows, rng, self.q.outputs.dtype)

    def draw(self, batch: Batch, noise: Tensor) -> Draw:
        """Draw z of each row from its q."""
        q = self.q.family.distribution(self.q.outputs[batch.index])
        p = self.model.prior_given(batch.context)
        return draw_from(q, p, self.model, batch, noise, detached=traits(self.settings.gradient).detached)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        draw = self.draw(batch, noise)
        loss = -self.settings.gradient(draw, elbo_sampled).sum()  # rows do not interact
        found = torch.autograd.grad(loss, self._learned, allow_unused=True)
        for parameter, gradient in zip(self._learned, found, strict=True):
            parameter.grad = gradient
        assert state.optimizer is not None
        state.set_learning_rate(scalars["learning_rate"])
        state.optimizer.step()
        self.q.count_step(self.settings.window)
        return state, {"objective": batch.weight @ draw.log_w.detach().mean(0)}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        raise ValueError("rows that are held out have no q: give BlackBox validation=0.")
