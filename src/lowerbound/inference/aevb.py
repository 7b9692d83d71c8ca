"""Auto-encoding variational Bayes: encoder and decoder ascend one stochastic bound together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.draw import Batch, Draw, tempered
from lowerbound.errors import OutOfMemoryError, is_out_of_memory
from lowerbound.gradients import GradientEstimator, Objective, reparameterised
from lowerbound.inference.explain import explain
from lowerbound.model import LatentVariableModel, draw
from lowerbound.objectives import elbo
from lowerbound.posteriors import DiagonalNormal
from lowerbound.training import Constant, Metrics, Scalars, Schedule, State, as_schedule

Penalty = Callable[[Draw, Tensor], Tensor]
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class AEVB:
    """How to learn: ascend mean_B objective − penalties by stochastic gradients. Kingma & Welling 2013, algorithm 1.

    ``posterior``: q(z|x). ``objective``: a draw → nats per row, ``[B]``. ``draws``: K (the paper's L), latents drawn
    for each row. ``beta``: what multiplies the prior's and posterior's terms, a number or a schedule (KL warm-up).
    ``penalties``: (draw with β applied, weight) → nats, subtracted. ``gradient``: the estimator. ``learning_rate``: a
    number or a schedule of passes, for all parameters. ``optimizer``: parameters → a ``torch.optim`` optimiser, whose
    own rate is not used.
    """

    posterior: DiagonalNormal
    objective: Objective = elbo
    draws: int = 1
    beta: float | Schedule = 1.0
    penalties: tuple[Penalty, ...] = ()
    gradient: GradientEstimator = reparameterised
    learning_rate: float | Schedule = 1e-3
    optimizer: Optimizer = partial(torch.optim.Adam, fused=True)

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}.")

    @property
    def is_bound(self) -> bool:
        """Whether what is ascended is the objective itself: with β ≠ 1 or a penalty it is weighted, and no bound."""
        return as_schedule(self.beta) == Constant(1.0) and not self.penalties

    def describe(self) -> dict[str, Any]:
        """The settings that a fit cannot change half way, as JSON: functions by name."""
        return {
            "objective": _name(self.objective),
            "draws": self.draws,
            "weighted": not self.is_bound,
            "penalties": [_name(penalty) for penalty in self.penalties],
            "gradient": _name(self.gradient),
        }

    def start(self, model: LatentVariableModel) -> Ascent:
        """A procedure for the loop, with a fresh optimiser."""
        modules: dict[str, nn.Module] = {"model": model, "posterior": self.posterior}
        parameters = nn.ModuleDict(modules).parameters()  # each once, also where the two share a module
        return Ascent(self, model, State(modules, self.optimizer([p for p in parameters if p.requires_grad])))


@dataclass
class Ascent:
    """``AEVB`` under way on one model: the steps that the loop takes.

    ``parts``: in how many parts a batch is taken, one after another, for its memory; their gradients add up to the
    batch's.
    """

    settings: AEVB
    model: LatentVariableModel
    state: State
    parts: int = 1

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        return {"learning_rate": as_schedule(self.settings.learning_rate), "beta": as_schedule(self.settings.beta)}

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        return self.settings.posterior.noise(self.settings.draws, rows, rng, dtype)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        metrics = self._gradients(state, batch, noise, scalars)
        while metrics is None:
            self._halve(len(batch.index))
            metrics = self._gradients(state, batch, noise, scalars)
        for group in state.optimizer.param_groups:
            on_device = group.get("fused") or group.get("capturable")  # others take a number
            group["lr"] = scalars["learning_rate"] if on_device else float(scalars["learning_rate"])
        state.optimizer.step()
        return state, metrics

    def _gradients(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics | None:
        """Set the gradients of a batch, and give its metrics; None if it does not fit in memory."""
        state.optimizer.zero_grad(set_to_none=True)
        total: Metrics = {}
        size = -(-len(batch.index) // self.parts)
        try:
            for start in range(0, len(batch.index), size):
                rows = slice(start, start + size)
                loss, metrics = self.loss(batch[rows], noise[:, rows], scalars)
                loss.backward()
                total = {name: value + total[name] if total else value for name, value in metrics.items()}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None  # only out of this block are the tensors let go that the error holds
        return total

    def _halve(self, rows: int) -> None:
        """Take batches of ``rows`` in twice as many parts from now on, and say so."""
        if self.settings.penalties or self.parts >= rows:
            why = "its penalties are of the whole batch" if self.settings.penalties else "not even a single row does"
            raise OutOfMemoryError(
                f"a batch of {rows} rows does not fit in memory, and {why}; lower batch_size, draws or hidden."
            )
        self.parts = min(2 * self.parts, rows)
        warnings.warn(
            f"a batch of {rows} rows does not fit in memory: from now on it is taken in {self.parts} parts",
            RuntimeWarning,
            stacklevel=4,
        )

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        return self.loss(batch, noise, scalars)[1]

    def explain(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> str:
        return explain(state.modules, batch, lambda: self.loss(batch, noise, scalars))

    def loss(self, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[Tensor, Metrics]:
        """−(mean_B surrogate − penalties), and the metrics of the batch."""
        settings = self.settings
        plain = draw(self.model, settings.posterior, batch, noise)
        weighted = plain if as_schedule(settings.beta) == Constant(1.0) else tempered(plain, scalars["beta"])
        surrogate = batch.weight @ settings.gradient(weighted, settings.objective)
        penalty = sum((penalty(weighted, batch.weight) for penalty in settings.penalties), torch.zeros_like(surrogate))
        with torch.no_grad():
            kl = (plain.log_q - plain.log_prior).mean(0) if plain.kl is None else plain.kl
            metrics = {
                "objective": batch.weight @ settings.objective(weighted) - penalty,
                "log_lik": batch.weight @ plain.log_lik.mean(0),
                "kl": batch.weight @ kl,
            }
        return penalty - surrogate, metrics


def _name(function: Callable[..., Any]) -> str:
    """A function by its name, a partial one with what it was given."""
    if isinstance(function, partial):
        given = [*map(repr, function.args), *(f"{key}={value!r}" for key, value in function.keywords.items())]
        return f"{_name(function.func)}({', '.join(given)})"
    return getattr(function, "__qualname__", type(function).__qualname__)
