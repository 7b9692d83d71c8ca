"""Mean-field coordinate ascent by closed-form updates of conjugate nodes, and its stochastic natural-gradient form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.inference.conjugate_nodes import ConjugateModel
from lowerbound.model import LatentVariableModel
from lowerbound.row_source import RowSource
from lowerbound.training import OF_ROWS, Metrics, Procedure, Scalars, State


@dataclass(frozen=True)
class CoordinateAscent:
    """Maximise mean_N bound − KL(q ‖ p)/N over q of conjugate nodes, one after the other, each in closed form.

    ``nodes``: a ``ConjugateModel``, such as ``BayesianMixture`` or ``BayesianRegression``; it holds the result. Fit
    ``nodes.model()``, which has the nodes' expectation after each epoch. Each node is updated at the end of an epoch,
    from the sums of all batches: the bound of the training rows never falls, and batch_size changes nothing but memory.

    ``forgetting``: if given, each batch updates the nodes instead: η ← (1 − ρ_t) η + ρ_t η̂, with η̂ the update as if
    all rows were like those of the batch, and ρ_t = (``delay`` + t)^(−``forgetting``) at step t = 0, 1, …. η̂ − η is the
    natural gradient; with ``forgetting`` in (½, 1] it converges. Hoffman et al. 2013.
    """

    nodes: ConjugateModel
    forgetting: float | None = None
    delay: float = 1.0

    posterior = None
    is_bound = True

    def __post_init__(self) -> None:
        if self.forgetting is not None and not 0.5 < self.forgetting <= 1:
            raise ValueError(
                f"forgetting must be above 0.5 and at most 1, or None for one update per epoch; got {self.forgetting}."
            )
        if self.delay < 1:
            raise ValueError(f"delay must be at least 1, got {self.delay}.")

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        priors = {name: self.nodes.node(name).prior.cpu().numpy().tobytes() for name in self.nodes.nodes}
        return {
            "nodes": type(self.nodes).__qualname__,
            "priors": {name: hashlib.sha256(prior).hexdigest() for name, prior in priors.items()},
            "forgetting": None if self.forgetting is None else float(self.forgetting),
            "delay": float(self.delay),
        }

    def start(self, model: LatentVariableModel, rows: RowSource) -> CoordinateAscentProcedure:
        """Begin a fit: updates of the nodes, which set ``model`` to their expectation."""
        if rows.has_missing:
            raise ValueError("CoordinateAscent takes rows without missing values; use EM or AEVB for these.")
        self.nodes.to(next(model.parameters()).device)
        self.nodes.check()
        return CoordinateAscentProcedure(self, model, len(rows))


class CoordinateAscentProcedure(Procedure):
    """The steps of ``CoordinateAscent``."""

    def __init__(self, settings: CoordinateAscent, model: LatentVariableModel, rows: int) -> None:
        self.settings, self.model, self.nodes, self.rows = settings, model, settings.nodes, rows
        self.sums = _Sums(self.nodes.size).to(next(model.parameters()).device)
        self.state = State({"model": model, "nodes": self.nodes, "sums": self.sums}, draws=False)

    @torch.no_grad()
    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        real = (batch.weight > 0).double()  # padding adds nothing
        total, bound = self.nodes.rows(batch.x.double(), batch.context, real)
        objective = batch.weight.double() @ bound - self.nodes.kl() / self.rows
        if self.settings.forgetting is None:
            self.sums.total += total
        else:
            rate = (self.settings.delay + self.sums.steps) ** -self.settings.forgetting
            self._update(self.rows / real.sum() * total, rate)
            self.sums.steps += 1
        return state, {"objective": objective}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        each = self.nodes.rows(batch.x.double(), batch.context, batch.weight.double())[1] - self.nodes.kl() / self.rows
        return {"objective": batch.weight.double() @ each, OF_ROWS: each}

    @torch.no_grad()
    def epoch_end(self, state: State) -> None:
        if self.settings.forgetting is None:
            self._update(self.sums.total, torch.ones(()).to(self.sums.total))
            self.sums.total.zero_()
        self.nodes.fill(self.model)

    def _update(self, total: Tensor, rate: Tensor) -> None:
        for name in self.nodes.nodes:
            self.nodes.node(name).natural.lerp_(self.nodes.update_of(name, total), rate)


class _Sums(nn.Module):
    """The statistics of the rows of an epoch so far, and the steps of a fit so far."""

    total: Tensor
    steps: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
