"""Auto-encoding variational Bayes: encoder and decoder maximise one stochastic bound together."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowerbound import priors
from lowerbound.draw import Batch, Draw, tempered
from lowerbound.errors import OutOfMemoryError, is_out_of_memory
from lowerbound.gradients import (
    GradientEstimator,
    Objective,
    by_family,
    leave_one_out,
    reparameterised,
    sticking_the_landing,
    traits,
)
from lowerbound.gradients.base import is_mean, sums_states
from lowerbound.inference.alerts import fallen
from lowerbound.inference.explain import explain
from lowerbound.model import LatentVariableModel, check_labels, check_latents, draw
from lowerbound.nn import Precision, products
from lowerbound.objectives import elbo, is_marked_no_bound, of_one_draw, why_no_bound
from lowerbound.objectives.penalties import least_rows
from lowerbound.posteriors import Posterior
from lowerbound.process import may_draw
from lowerbound.row_source import RowSource
from lowerbound.shapes import expect
from lowerbound.storage.parts import encode
from lowerbound.training import (
    OF_ROWS,
    Constant,
    History,
    Metrics,
    Procedure,
    Scalars,
    Schedule,
    State,
    TooLarge,
    as_schedule,
)
from lowerbound.training.captured import Captured, Step
from lowerbound.training.clipping import clip_by_norm
from lowerbound.training.compiled import Backward, Compiled

Penalty = Callable[[Draw, Tensor], Tensor]
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
_TOLERANCE = {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}  # of a compiled gradient: rounding alone is less


@dataclass(frozen=True)
class AEVB:
    """Maximise mean_B objective − penalties by stochastic gradients. Kingma & Welling 2013, algorithm 1.

    ``posterior``: q(z|x). ``objective``: a function of a draw that gives nats per row, ``[B]``. ``draws``: latents
    drawn per row, K (the paper's L). ``beta``: the factor of the prior's and posterior's terms, a number or a schedule
    (KL warm-up), or one of these for some of the latents by name. ``penalties``: functions of (draw with β applied,
    weight) that give nats, which are subtracted. ``gradient``: the gradient estimator; None for the one that the
    families of the latents allow: ``reparameterised``, or else ``leave_one_out``. The parameters of an objective or
    estimator that has some are learnt, too.

    ``learning_rate``: a number, or a schedule in epochs. ``optimizer``: a function that makes a ``torch.optim``
    optimiser of parameters. If it makes several groups of parameters, each keeps its learning rate relative to the
    optimiser's own: with ``Adam([{"params": a}, {"params": b, "lr": 1e-4}], lr=1e-3)``, b always learns at a tenth of
    ``learning_rate``. ``clip_norm``: the largest norm of the gradient of all parameters together; longer gradients are
    scaled down to it, and the records' "train_clipped" is the share of steps in which that happened.

    ``precision``: of the networks' matrix products, see ``nn.products``; "bf16" is faster on processors with units for
    it, "tf32" is for GPUs. ``compile``: trace and compile the step; the first step takes some 20 seconds longer on a
    CPU, and results are the same up to rounding. If that fails, a warning says so and the step runs uncompiled.
    """

    reads_labels: ClassVar[bool] = True  # of the rows, Batch.labels
    posterior: Posterior
    objective: Objective = elbo
    draws: int = 1
    beta: float | Schedule | Mapping[str, float | Schedule] = 1.0
    penalties: tuple[Penalty, ...] = ()
    gradient: GradientEstimator | None = None
    learning_rate: float | Schedule = 1e-3
    optimizer: Optimizer = partial(torch.optim.Adam, fused=True)
    precision: Precision = "float32"
    compile: bool = False
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f'precision is {self.precision!r}; it takes "float32", "tf32" or "bf16".')
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}; None clips nothing.")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}.")
        if self.draws < (least := traits(self.estimator).least_draws):
            raise ValueError(f"{_name(self.estimator)} needs draws of at least {least}, got {self.draws}.")
        if self.penalties and traits(self.estimator).rescales:
            raise ValueError(f"{_name(self.estimator)} rescales the gradient of the draws, so it allows no penalties.")

    @property
    def is_bound(self) -> bool:
        """Whether the objective is known to be a lower bound on log p(x); with β ≠ 1 or a penalty it is not.

        An objective of your own is not known to be one unless it is marked (``objectives.lower_bound``).
        """
        return not self._weighted and not why_no_bound(self.objective)

    @property
    def _weighted(self) -> bool:
        """Whether the objective is known not to be a bound."""
        unweighted = not self.penalties and all(beta == Constant(1.0) for beta in self.betas.values())
        return not unweighted or is_marked_no_bound(self.objective)

    @property
    def betas(self) -> dict[str, Schedule]:
        """β as schedules by the name of their records: "beta" of all latents, or "beta_NAME" of each that has one."""
        if isinstance(self.beta, Mapping):
            return {f"beta_{name}": as_schedule(own) for name, own in self.beta.items()}
        return {"beta": as_schedule(self.beta)}

    @property
    def estimator(self) -> GradientEstimator:
        """The gradient estimator: the one given, or the one that the posterior allows."""
        if self.gradient is not None:
            return self.gradient
        if sums_states(self.objective):
            return reparameterised
        paths = self.posterior.paths
        return reparameterised if all(paths) else by_family if any(paths) else leave_one_out

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON: functions by name."""
        return {
            "objective": _described(self.objective),
            "draws": int(self.draws),
            "weighted": self._weighted,
            "penalties": [_name(penalty) for penalty in self.penalties],
            "gradient": _described(self.estimator),
            # left out at their defaults, so that checkpoints from before these settings existed can be resumed
            **({} if self.precision == "float32" else {"precision": self.precision}),
            **({"compile": True} if self.compile else {}),
            **({} if self.clip_norm is None else {"clip_norm": float(self.clip_norm)}),
        }

    def start(self, model: LatentVariableModel, rows: RowSource | None = None) -> AEVBProcedure:
        """Make a procedure for the training loop, with a fresh optimiser. Of ``rows`` only the labels are read."""
        check_latents(model.prior, self.posterior)
        if rows is not None and rows.labels:
            check_labels(rows.labels, self.posterior)
        if isinstance(self.beta, Mapping):
            names = model.prior.names if isinstance(model.prior, priors.Latents) else ("z",)
            if unknown := [name for name in self.beta if name not in names]:
                raise ValueError(
                    f"beta= names {unknown[0]!r}, which is not a latent; the latents are {', '.join(names)}."
                )
        device = next(model.parameters()).device
        if self.precision == "tf32" and device.type != "cuda":
            raise ValueError(f'precision="tf32" is for GPUs, and the model is on {device}; give "float32" or "bf16".')
        if self.estimator not in (reparameterised, sticking_the_landing):
            is_mean(self.objective)  # computed and cached now: a step that is being traced cannot compute it
        if of_one_draw(self.objective, self.draws):
            warnings.warn(
                f"{_name(self.objective)} of a single draw is the ELBO: give draws=2 or more.",
                stacklevel=4,
            )
        modules: dict[str, nn.Module] = {"model": model, "posterior": self.posterior}
        learning: dict[str, object] = {"objective": self.objective, "gradient": self.estimator}
        modules |= {name: part for name, part in learning.items() if isinstance(part, nn.Module)}
        parameters = nn.ModuleDict(modules).parameters()  # each once, even if two modules share it
        optimizer = self.optimizer([p for p in parameters if p.requires_grad])
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer made a {type(optimizer).__name__}, which is no torch.optim.Optimizer.")
        parts = [modules, self.objective, self.estimator, self.penalties, type(optimizer)]
        return AEVBProcedure(self, model, State(modules, optimizer, draws=may_draw(parts)))


@dataclass
class AEVBProcedure(Procedure):
    """The steps of ``AEVB`` on one model.

    A batch that does not fit in memory is split into ``state.parts`` micro-batches, whose gradients are added up.
    ``drawn``: (batch, noise, detached) → its ``Draw``, where that is not one from the posterior of ``settings``.
    """

    settings: AEVB
    model: LatentVariableModel
    state: State
    drawn: Callable[[Batch, Tensor, bool], Draw] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._backward: Callable[[Batch, Tensor, Scalars, bool], Metrics] = Backward(self.state.modules, self.loss)
        self._update: Step = self._plain_update
        self._first: Tensor | None = None
        like = next(self.model.parameters())
        self._dtype = like.dtype
        if not self.settings.compile:
            return
        if like.is_cuda:
            self._update = Captured(self._plain_update)
            for group in self.state.groups:
                group.update({"capturable": True} if "capturable" in group else {})
        else:
            self._backward = Compiled(
                self.state.modules, self.loss, _TOLERANCE[self.settings.precision], draws=self.state.draws
            )

    def check_batches(self, rows: int) -> None:
        """Refuse batches of ``rows`` rows if a penalty compares more rows than that."""
        for penalty in self.settings.penalties:
            if rows < (least := least_rows(penalty)):
                raise ValueError(
                    f"{_name(penalty)} compares the rows of a batch: it needs {least} or more, and a batch has {rows}; "
                    "raise batch_size, or give more rows."
                )

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        return {"learning_rate": as_schedule(self.settings.learning_rate), **self.settings.betas}

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return self.settings.posterior.noise(self.settings.draws, rows, rng, self._dtype)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        metrics = self._update(state, batch, noise, scalars)
        if self._first is None:
            self._first, self._values = (metrics["log_lik"] - metrics["kl"]).clone(), math.prod(batch.x.shape[1:])
        return state, metrics

    def advise(self, history: History) -> str:
        """Describe a fit whose ELBO ended far below that of its first step."""
        return "" if self._first is None else fallen(self._first.item(), history, self._values)

    def _plain_update(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        total: Metrics = {}
        with self._room(state, len(batch.index)):
            for part, its_noise in _in_parts(state.parts, batch, noise):
                total = _sum(total, self._backward(part, its_noise, scalars, not total))
        assert state.optimizer is not None
        if (most := self.settings.clip_norm) is not None:
            norm = clip_by_norm((p for group in state.groups for p in group["params"]), most)
            total["clipped"] = (norm > most).to(self._dtype)
        state.set_learning_rate(scalars["learning_rate"])
        state.optimizer.step()
        return total

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        total: Metrics = {}
        rows: list[Tensor] = []
        with self._room(state, len(batch.index)):
            for part, its_noise in _in_parts(state.parts, batch, noise):
                plain, weighted = self._draw(part, its_noise, scalars)
                penalty = self._penalty(weighted, part.weight)
                total = _sum(total, self._metrics(plain, weighted, penalty, part.weight))
                rows.append(self.settings.objective(weighted))
        return total | {OF_ROWS: torch.cat(rows)}

    def explain(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> str:
        with self._room(state, len(batch.index)):
            parts = _in_parts(state.parts, batch, noise)
            found = (explain(state.modules, part, partial(self.loss, part, its, scalars)) for part, its in parts)
            return next((reason for reason in found if reason), "")

    @contextlib.contextmanager
    def _room(self, state: State, rows: int) -> Iterator[None]:
        """Run the block with matrix products in their precision. If it does not fit in memory, split batches of
        ``rows`` into twice as many micro-batches from now on, and raise ``TooLarge``."""
        try:
            with products(self.settings.precision):
                yield
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        why = ""
        if self.settings.penalties:
            why = "its penalties are of the whole batch"
        elif any(isinstance(part, _BatchNorm) for whole in state.modules.values() for part in whole.modules()):
            why = "batch normalisation is of the whole batch"
        elif state.parts >= rows:
            why = "not even a single row does"
        if why:
            raise OutOfMemoryError(
                f"a batch of {rows} rows does not fit in memory, and {why}; lower batch_size, draws or hidden."
            )
        state.parts = min(2 * state.parts, rows)
        warnings.warn(
            f"a batch of {rows} rows does not fit in memory: from now on it is taken in {state.parts} parts",
            RuntimeWarning,
            stacklevel=6,
        )
        raise TooLarge

    def loss(self, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[Tensor, Metrics]:
        """Compute −(mean_B surrogate − penalties), and the metrics of the batch."""
        plain, weighted = self._draw(batch, noise, scalars)
        surrogate = batch.weight @ self._surrogate(weighted)
        penalty = self._penalty(weighted, batch.weight)
        return penalty - surrogate, self._metrics(plain, weighted, penalty, batch.weight)

    def _draw(self, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[Draw, Draw]:
        """Draw latents; return the draw without β and with it."""
        settings = self.settings
        detached = traits(settings.estimator).detached
        if self.drawn is None:
            plain = draw(self.model, settings.posterior, batch, noise, detached=detached)
        else:
            plain = self.drawn(batch, noise, detached)
        if isinstance(settings.beta, Mapping):
            return plain, tempered(plain, {name: scalars[f"beta_{name}"] for name in settings.beta})
        return plain, plain if settings.betas["beta"] == Constant(1.0) else tempered(plain, scalars["beta"])

    def _surrogate(self, weighted: Draw) -> Tensor:
        """The surrogate objective whose gradient is the estimator's, ``[B]``."""
        objective, rows = self.settings.objective, weighted.log_lik.shape[1:]
        try:
            found = self.settings.estimator(weighted, objective)
        except RuntimeError:
            expect(f"the objective {_name(objective)}", objective(weighted), rows, "[B]")
            raise
        if not isinstance(found, Tensor) or found.shape != rows:
            expect(f"the objective {_name(objective)}", objective(weighted), rows, "[B]")
            expect(f"the gradient estimator {_name(self.settings.estimator)}", found, rows, "[B]")
        return found

    def _penalty(self, weighted: Draw, weight: Tensor) -> Tensor | int:
        found = [penalty(weighted, weight) for penalty in self.settings.penalties]
        for penalty, value in zip(self.settings.penalties, found, strict=True):
            expect(f"the penalty {_name(penalty)}", value, (), "[]")
        return sum(found)

    @torch.no_grad()
    def _metrics(self, plain: Draw, weighted: Draw, penalty: Tensor | int, weight: Tensor) -> Metrics:
        each = {f"kl_{node.name}": weight @ node.mean_kl for node in plain.nodes} if len(plain.nodes) > 1 else {}
        return {
            "objective": weight @ self.settings.objective(weighted) - penalty,
            "log_lik": weight @ plain.log_lik.mean(0),
            "kl": weight @ plain.mean_kl,
            **each,
        }


def _described(function: Callable[..., Any]) -> Any:
    """A function by its name; one with parameters, a module, by its settings, too."""
    return encode(function) if isinstance(function, nn.Module) else _name(function)


def _name(function: Callable[..., Any]) -> str:
    """A function by its name; a ``functools.partial`` with the arguments it was given."""
    if isinstance(function, partial):
        given = [*map(repr, function.args), *(f"{key}={value!r}" for key, value in function.keywords.items())]
        return f"{_name(function.func)}({', '.join(given)})"
    return getattr(function, "__qualname__", type(function).__qualname__)


def _in_parts(parts: int, batch: Batch, noise: Tensor) -> Iterator[tuple[Batch, Tensor]]:
    """Split a batch and its noise, ``[K, B, *E]``, into micro-batches of one size, the last smaller: views."""
    if parts == 1:
        yield batch, noise
        return
    size = -(-len(batch.index) // parts)
    for start in range(0, len(batch.index), size):
        rows = slice(start, start + size)
        yield batch[rows], noise[:, rows]


def _sum(total: Metrics, metrics: Metrics) -> Metrics:
    return {name: value + total[name] if total else value for name, value in metrics.items()}
