"""Expectation–maximisation with an exact E-step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowerbound import priors
from lowerbound.draw import Batch
from lowerbound.inference.aevb import Optimizer
from lowerbound.inference.e_steps import is_linear, of_normal, of_states
from lowerbound.inference.m_steps import ClosedForm, OfLinear, OfTable
from lowerbound.likelihoods import Normal
from lowerbound.model import LatentVariableModel
from lowerbound.nn import Table
from lowerbound.process import may_draw
from lowerbound.row_source import RowSource
from lowerbound.training import OF_ROWS, Metrics, Procedure, Scalars, Schedule, State, as_schedule


@dataclass(frozen=True)
class EM:
    """Maximise log p(x) by expectation–maximisation with the exact p(z|x). Dempster, Laird & Rubin 1977.

    For latents with finitely many values, which are enumerated, and for a normal prior with a linear decoder and a
    ``likelihoods.Normal`` whose scale is not the decoder's (factor analysis, probabilistic PCA). The objective of a
    row is log p(x) itself. ``lowerbound.recipes`` makes such models, ``inference.exact_posterior`` their p(z|x).

    The M-step is in closed form where the decoder is linear with a normal likelihood, or a ``Table`` with a likelihood
    that has a closed form of its maximum. It comes at the end of each epoch, from the sums of all batches, so that
    batch_size changes nothing but memory, and log p(x) of the training rows never falls (a scale at its floor, or a
    probability at 1e-10, is the best within these limits). Missing values are integrated out.

    Other decoders of finite latents take a gradient step of E[log p(x, z)] per batch instead, with ``learning_rate``
    and ``optimizer``. By Fisher's identity that is the gradient of log p(x).
    """

    learning_rate: float | Schedule = 1e-3
    optimizer: Optimizer = partial(torch.optim.Adam, fused=True)
    posterior = None
    is_bound = True

    def describe(self) -> dict[str, Any]:
        """Nothing: the model says which M-step it takes, and the optimiser is described with the fit."""
        return {}

    def start(self, model: LatentVariableModel, rows: RowSource) -> Procedure:
        """Make the procedure that suits the model. Raises ValueError if its E-step is not exact."""
        finite = _is_finite(model, rows)
        sums = _closed_form(model, rows, finite)
        if sums is not None:
            return ExactEM(model, sums, finite)
        if not finite:
            raise ValueError(
                "EM needs an exact p(z|x): latents with finitely many values, or a normal prior with a linear decoder "
                "and a likelihoods.Normal of a fixed, scalar or dimension scale; use MonteCarloEM or AEVB for this "
                "model."
            )
        return GradientEM(self, model)


def _is_finite(model: LatentVariableModel, rows: RowSource) -> bool:
    """Whether the latents of ``model`` can be enumerated."""
    context = None if rows.context is None else rows.context[:1]
    return not model.prior.needs_posterior and model.prior_given(context).states() is not None


def _closed_form(model: LatentVariableModel, rows: RowSource, finite: bool) -> ClosedForm | None:
    """The sums of the M-step of ``model``; None if it has no closed form, or if some parameters are not learned."""
    likelihood, learned = model.likelihood, all(p.requires_grad for p in model.parameters())
    known = priors.Bernoulli | priors.Categorical if finite else priors.Normal
    if not isinstance(model.prior, known) or not learned or rows.context is not None:
        return None
    if isinstance(likelihood, Normal) and likelihood.scale not in ("entry", "row"):
        if not is_linear(model.decoder):
            return None
        return OfLinear(model, torch.Size(rows.shape).numel(), finite, rows.has_missing)
    if not isinstance(model.decoder, Table) or model.prior.event != (1, model.decoder.n_states):
        return None
    index, rng = torch.zeros(1, dtype=torch.int64, device=rows.device), torch.Generator(rows.device)
    batch = rows.batch(index, torch.ones(1, dtype=rows.dtype, device=rows.device), rng)
    statistics = likelihood.statistics(batch.x, batch.mask)
    return None if statistics is None else OfTable(model, model.decoder, statistics)


class ExactEM(Procedure):
    """EM in closed form: each step is the E-step of a batch, and the end of an epoch the M-step."""

    def __init__(self, model: LatentVariableModel, sums: ClosedForm, finite: bool) -> None:
        self.model, self.sums, self.finite = model, sums, finite
        self.state = State({"model": model, "sums": sums}, draws=False)

    @torch.no_grad()
    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        return state, {"objective": batch.weight @ self.sums.add(self.model, batch)}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        log_p = of_states(self.model, batch)[1].logsumexp(0) if self.finite else of_normal(self.model, batch)[0]
        log_p = log_p.to(batch.x.dtype)
        return {"objective": batch.weight @ log_p, OF_ROWS: log_p}

    @torch.no_grad()
    def epoch_end(self, state: State) -> None:
        self.sums.maximise(self.model)
        self.sums.start_again()


class GradientEM(Procedure):
    """EM of finite latents whose M-step is a gradient step per batch."""

    def __init__(self, settings: EM, model: LatentVariableModel) -> None:
        self.settings, self.model = settings, model
        optimizer = settings.optimizer([p for p in model.parameters() if p.requires_grad])
        self.state = State({"model": model}, optimizer, draws=may_draw([model, type(optimizer)]))

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        return {"learning_rate": as_schedule(self.settings.learning_rate)}

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        assert state.optimizer is not None
        state.optimizer.zero_grad()
        _, log_joint = of_states(self.model, batch)
        still = log_joint.detach()
        expected = (still.softmax(0) * log_joint).sum(0)
        (-batch.weight @ expected).backward()
        state.set_learning_rate(scalars["learning_rate"])
        state.optimizer.step()
        return state, {"objective": batch.weight @ still.logsumexp(0)}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        log_p = of_states(self.model, batch)[1].logsumexp(0)
        return {"objective": batch.weight @ log_p, OF_ROWS: log_p}
