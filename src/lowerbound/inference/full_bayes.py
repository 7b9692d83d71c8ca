"""Full variational Bayes: an approximate posterior of the model's parameters too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Distribution
from lowerbound.draw import Batch
from lowerbound.gradients.base import is_mean
from lowerbound.inference.aevb import AEVB
from lowerbound.inference.explain import explain
from lowerbound.inference.weights import (
    LogPrior,
    NormalWeights,
    WeightPosterior,
    described,
    learned,
    local_layers,
    locally_reparameterised,
)
from lowerbound.model import LatentVariableModel
from lowerbound.nn import products
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource
from lowerbound.training import OF_ROWS, Metrics, Procedure, Scalars, Schedule, State
from lowerbound.training.clipping import clip_by_norm
from lowerbound.training.compiled import Backward


@dataclass(frozen=True)
class FullVB:
    """Maximise mean_N objective − KL(q(θ) ‖ p(θ))/N, a lower bound on log p(x_1, …, x_N)/N if ``learning``'s is one.

    Kingma & Welling 2013, appendix F. The rows' term is an expectation over θ ~ q(θ), drawn in each step. A fitted
    model has the means of q(θ) as its parameters.

    ``learning``: how the rest is learnt. ``weights``: q(θ); None for a diagonal normal of all parameters. Give one of
    your own to draw from it after the fit. ``log_prior``: log p(θ) in nats, a function of the parameters by name; its
    KL is in closed form for ``NormalWeights``. ``draws``: draws of θ per step. ``local``: draw the outputs of the
    decoder's linear layers for each row instead of their weights, which has the same mean and less variance. It is for
    a diagonal q and an objective that is a mean over the draws of z, which is where None uses it. N is the number of
    training rows, also in the last phase of ``fit(finish=)``.
    """

    learning: AEVB
    weights: WeightPosterior | None = None
    log_prior: LogPrior = field(default_factory=NormalWeights)
    draws: int = 1
    local: bool | None = None

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}.")
        if self.learning.compile:
            raise ValueError("FullVB does not compile its steps: leave compile out of its AEVB.")
        if self.local and not is_mean(self.learning.objective):
            raise ValueError(
                "with local=True each draw of z has a θ of its own, so the objective must be a mean over the draws of "
                "z, as elbo is; give local=False."
            )

    @property
    def is_local(self) -> bool:
        """Whether outputs are drawn instead of weights, where that is possible."""
        return is_mean(self.learning.objective) if self.local is None else self.local

    @property
    def posterior(self) -> Posterior:
        """q(z|x)."""
        return self.learning.posterior

    @property
    def is_bound(self) -> bool:
        """Whether the objective is known to be a lower bound."""
        return self.learning.is_bound

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return {
            "learning": self.learning.describe(),
            "weights": ["diagonal", [""]] if self.weights is None else [self.weights.kind, list(self.weights.of)],
            "log_prior": described(self.log_prior),
            "draws": int(self.draws),
            "local": self.is_local,
        }

    def start(self, model: LatentVariableModel, rows: RowSource) -> FullVBProcedure:
        """Begin a fit of ``model``, with a fresh optimiser. ``rows`` are counted only."""
        weights = WeightPosterior(model) if self.weights is None else self.weights
        if weights.shapes != {name: value.shape for name, value in learned(model, weights.of).items()}:
            raise ValueError("weights is of another model: make it of the one that is fitted, WeightPosterior(model).")
        return FullVBProcedure(self, model, weights.to(next(model.parameters())), len(rows))


class FullVBProcedure(Procedure):
    """The steps of ``FullVB`` on one model: those of ``AEVB``, with its parameters replaced by draws from q(θ)."""

    def __init__(self, settings: FullVB, model: LatentVariableModel, weights: WeightPosterior, rows: int) -> None:
        self.settings, self.model, self.weights, self.rows = settings, model, weights, rows
        self.given = settings.learning.start(model)
        modules = self.given.state.modules | {"weights": weights}
        self._whole = _Whole(modules)
        self._layers = local_layers(model, weights) if settings.is_local else {}
        optimizer = settings.learning.optimizer([p for p in self._whole.parameters() if p.requires_grad])
        self.state = State(modules, optimizer, draws=self.given.state.draws or bool(self._layers))
        self._backward = Backward(modules, self.loss)
        self._shape = self.given.noise(1, torch.Generator(weights.spread.device)).shape

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        return self.given.schedules

    def check_batches(self, rows: int) -> None:
        self.given.check_batches(rows)

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        """The noise of z and then, for each draw, that of θ: one vector."""
        theta = self.weights.noise(self.settings.draws, rng)
        return torch.cat([self.given.noise(rows, rng).flatten(), theta.flatten()])

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        learning = self.settings.learning
        with products(learning.precision):
            metrics = self._backward(batch, noise, scalars)
        assert state.optimizer is not None
        if (most := learning.clip_norm) is not None:
            norm = clip_by_norm((p for group in state.groups for p in group["params"]), most)
            metrics["clipped"] = (norm > most).to(norm.dtype)
        state.set_learning_rate(scalars["learning_rate"])
        state.optimizer.step()
        return state, metrics

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        """The metrics at draws of θ that all rows share."""
        found, kl = self._at_draws(partial(self.given.evaluate, state), batch, noise, scalars, {})
        return _with_kl({name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]}, kl)

    def explain(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> str:
        return explain(state.modules, batch, partial(self.loss, batch, noise, scalars))

    def loss(self, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[Tensor, Metrics]:
        """Compute −(mean_B surrogate − KL/N), and the metrics of the batch."""
        found, kl = self._at_draws(self.given.loss, batch, noise, scalars, self._layers)
        total = torch.stack([loss for loss, _ in found]).mean() + kl
        metrics = {name: torch.stack([one[name] for _, one in found]).mean() for name in found[0][1]}
        return total, _with_kl(metrics, kl.detach())

    def _at_draws(
        self,
        function: Callable[[Batch, Tensor, Scalars], Any],
        batch: Batch,
        noise: Tensor,
        scalars: Scalars,
        layers: Mapping[str, nn.Linear],
    ) -> tuple[list[Any], Tensor]:
        """What ``function`` gives at each draw of θ, and KL(q(θ) ‖ p(θ))/N. ``layers`` draw their outputs instead."""
        of_theta = self.settings.draws * self.weights.size
        of_z = noise[:-of_theta].view(self._shape[0], len(batch.index), *self._shape[2:])
        q = self.weights(self.model)
        thetas = q.sample(noise[-of_theta:].view(self.settings.draws, 1, -1))
        kept = {f"{name}.{key}" for name in layers for key in ("weight", "bias")}
        scales = self.weights.by_name(q.scale.flatten()) if isinstance(q, distributions.Normal) else {}
        found = []
        with locally_reparameterised(self.model.decoder, layers, scales):
            for theta in thetas:
                named = {f"parts.model.{n}": v for n, v in self.weights.by_name(theta[0]).items() if n not in kept}
                found.append(torch.func.functional_call(self._whole, named, (function, batch, of_z, scalars)))
        return found, self._kl(q, thetas) / self.rows

    def _kl(self, q: Distribution, thetas: Tensor) -> Tensor:
        """KL(q(θ) ‖ p(θ)), in closed form or at the draws ``[M, 1, P]``."""
        log_prior = self.settings.log_prior
        if isinstance(log_prior, NormalWeights):
            closed = distributions.kl(q, log_prior.distribution(thetas[0, 0]))
            assert closed is not None
            return closed.sum()
        log_p = torch.stack([log_prior(self.weights.by_name(theta[0])) for theta in thetas])
        return (q.log_prob(thetas).squeeze(1) - log_p).mean()


class _Whole(nn.Module):
    """The modules of a fit, during a call of any function of theirs."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _with_kl(metrics: Metrics, kl: Tensor) -> Metrics:
    """Subtract KL/N from the objective, also from that of each row, and add it to the metrics."""
    less = {name: metrics[name] - kl for name in ("objective", OF_ROWS) if name in metrics}
    return metrics | less | {"kl_weights": kl}
