"""Wake-sleep and reweighted wake-sleep: encoder and decoder have objectives of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowerbound.draw import Batch, Draw
from lowerbound.gradients import GradientEstimator, Objective
from lowerbound.gradients.base import estimator, is_mean, sensitivity
from lowerbound.inference.aevb import AEVB, AEVBProcedure, Optimizer
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.modes import eval_mode
from lowerbound.nn import Precision
from lowerbound.objectives import elbo, iwae
from lowerbound.posteriors import Latents, Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import Metrics, Scalars, Schedule, State

__all__ = ["ReweightedWakeSleep", "WakeSleep", "WakeSleepProcedure", "dream", "wake"]


@estimator(detached=True)
def wake(draw: Draw, objective: Objective, phi: float) -> Tensor:
    """The gradient of the wake phases: Σ_k w̃_k [∂log p(x, z_k) + ``phi`` · ∂log q(z_k|x)] at fixed z_k ~ q(z|x).

    w̃_k = ∂L/∂log w_k: the normalised importance weights where the objective L is ``iwae``, 1/K where it is ``elbo``.
    In θ this is the gradient of L.
    """
    weights = 1 / len(draw.log_lik) if is_mean(objective) else sensitivity(draw, objective).log_lik
    log_p = draw.log_lik + draw.log_prior
    return (weights * (log_p + phi * draw.log_q if phi else log_p)).sum(0)


@dataclass(frozen=True)
class _Phases(ABC):
    """What both methods share. ``is_bound``: the objective, by which the best epoch is chosen, is a lower bound."""

    posterior: Posterior
    draws: int = 1
    learning_rate: float | Schedule = 1e-3
    optimizer: Optimizer = partial(torch.optim.Adam, fused=True)
    precision: Precision = "float32"
    clip_norm: float | None = None

    objective: ClassVar[Objective]
    is_bound: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._wake_phase()  # which checks the settings

    @property
    @abstractmethod
    def share_of_sleep(self) -> float:
        """The weight of the sleep phase in the encoder's gradient; the rest is that of the wake phase."""

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return self._wake_phase().describe()

    def start(self, model: LatentVariableModel, rows: RowSource | None = None) -> WakeSleepProcedure:
        """Make a procedure for the training loop, with a fresh optimiser. ``rows`` are not needed."""
        _check(self, model)
        settings = self._wake_phase()
        return WakeSleepProcedure(settings, model, settings.start(model).state, self.share_of_sleep)

    def _wake_phase(self) -> AEVB:
        gradient: GradientEstimator = partial(wake, phi=1 - self.share_of_sleep)
        return AEVB(
            self.posterior,
            type(self).objective,
            self.draws,
            gradient=gradient,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            precision=self.precision,
            clip_norm=self.clip_norm,
        )


@dataclass(frozen=True)
class WakeSleep(_Phases):
    """The wake-sleep algorithm. Hinton, Dayan, Frey & Neal 1995.

    Wake: the model maximises log p(x, z) at z ~ q(z|x) of the batch's rows x; the gradient in θ is that of the ELBO.
    Sleep: the posterior maximises log q(z|x) at as many pairs (x, z) drawn from the model. This reduces KL(p(z|x) ‖ q),
    not the KL of the ELBO, so the two phases together need not converge. Latents may be discrete or continuous.

    ``posterior``: q(z|x). ``draws``: latents drawn per row in the wake phase. For the other settings see ``AEVB``.
    Missing values must be missing at random: drawn rows get the missing cells of the batch.
    """

    objective: ClassVar[Objective] = staticmethod(elbo)

    @property
    def share_of_sleep(self) -> float:
        return 1.0


@dataclass(frozen=True)
class ReweightedWakeSleep(_Phases):
    """Reweighted wake-sleep. Bornschein & Bengio 2015; with ``sleep=0``, wake-wake of Le et al. 2019.

    With w̃_k, the importance weights of K = ``draws`` latents z_k ~ q(z|x), normalised to sum to 1:
    wake-θ: the model maximises Σ_k w̃_k log p(x, z_k); the gradient in θ is that of the IWAE bound of K draws.
    wake-φ: the posterior maximises Σ_k w̃_k log q(z_k|x), an estimate of E_p(z|x)[log q(z|x)] with a bias of order 1/K.
    sleep-φ: the posterior maximises log q(z|x) at pairs (x, z) drawn from the model.

    ``sleep``: the weight of sleep-φ, from 0 to 1; that of wake-φ is 1 − ``sleep``. For the other settings see ``AEVB``.
    With ``sleep`` above 0, missing values must be missing at random: drawn rows get the missing cells of the batch.
    """

    draws: int = 5
    sleep: float = 0.5

    objective: ClassVar[Objective] = staticmethod(iwae)

    def __post_init__(self) -> None:
        if not 0 <= self.sleep <= 1:
            raise ValueError(f"sleep must be a weight from 0 to 1, got {self.sleep}.")
        super().__post_init__()

    @property
    def share_of_sleep(self) -> float:
        return float(self.sleep)


@dataclass
class WakeSleepProcedure(AEVBProcedure):
    """The steps of both methods: those of ``AEVB`` with the gradient ``wake``, to which the sleep phase is added."""

    sleep: float

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        self._rng = rng  # the draws of the sleep phase follow those of the wake phase
        return super().noise(rows, rng)

    def loss(self, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[Tensor, Metrics]:
        """Compute −(mean_B wake + sleep · mean log q(z|x) of pairs (x, z) from the model), and the batch's metrics."""
        loss, metrics = super().loss(batch, noise, scalars)
        return (loss - self.sleep * self._sleep_phase(batch) if self.sleep else loss), metrics

    def explain(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> str:
        before = self._rng.get_state()
        found = super().explain(state, batch, noise, scalars)
        self._rng.set_state(before)  # for the step that follows
        return found

    def _sleep_phase(self, batch: Batch) -> Tensor:
        z, x = dream(self.model, batch, self._rng)
        q, _ = distributions_of(self.model, self.settings.posterior, x, batch.mask, batch.context)
        return batch.weight @ q.log_prob(z).squeeze(0)


@torch.no_grad()
def dream(model: LatentVariableModel, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents ``[1, B, *E]`` and rows ``[B, *X]`` from the model, one for each row of the batch, given its context."""
    with eval_mode(model):
        z = model.sample_latents(len(batch.index), rng, batch.context).unsqueeze(0)
        return z, model.likelihood.sample(model.decode(z, batch.context), rng).squeeze(0)


def _check(settings: _Phases, model: LatentVariableModel) -> None:
    """Refuse a model that has no parameters of its own, and one that cannot draw rows like the batch's."""
    posterior, name = settings.posterior, type(settings).__name__
    parts = posterior.parts.values() if isinstance(posterior, Latents) else [posterior]
    shared = not set(model.parameters()).isdisjoint(posterior.parameters())
    if shared or model.prior.needs_posterior or any(part.merges for part in parts):
        raise ValueError(
            f"{name} changes the model and the posterior by different gradients, and these two have parameters in "
            "common; choose a prior and a posterior that are not made of each other, or use AEVB."
        )
    if settings.share_of_sleep and getattr(model.likelihood, "informative", False):
        raise ValueError(
            f"{name} draws rows from the model, and {type(model.likelihood).__name__} does not draw which cells are "
            "missing; use ReweightedWakeSleep(sleep=0), or AEVB."
        )
