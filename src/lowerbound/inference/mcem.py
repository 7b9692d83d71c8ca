"""Monte Carlo EM: latents drawn from p(z|x) by Hamiltonian chains, then gradient steps of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.inference.aevb import Optimizer
from lowerbound.inference.local import Local
from lowerbound.local_posteriors import Optimisation, by_path
from lowerbound.mcmc import Path, Point, StepSize, slope_of, transition, warm_up
from lowerbound.model import LatentVariableModel, check_latents
from lowerbound.modes import eval_mode
from lowerbound.posteriors import FullNormal, Posterior
from lowerbound.process import may_draw
from lowerbound.row_source import RowSource
from lowerbound.training import OF_ROWS, Metrics, Procedure, Scalars, Schedule, State, as_schedule

_SEARCH = Optimisation(steps=60, draws=4, rate=0.15)
_DRAWS = 50  # of the bound of a held-out row


@dataclass(frozen=True)
class MonteCarloEM:
    """Maximise log p(x) without an encoder: z ~ p(z|x) by Hamiltonian Monte Carlo, then θ given z. Wei & Tanner 1990.

    E-step of a batch: each row has ``chains`` chains, which continue where they stood in the epoch before (in the
    first, from the prior). The row's step size is adapted to the ``acceptance`` rate in ``pilot`` transitions of
    ``leapfrogs`` steps each, and then frozen for ``transitions`` more, whose last states are the sample. M-step:
    ``updates`` gradient steps of the mean of log p(x, z) over that sample. Kingma & Welling 2013, §5.

    The objective of a step is that mean, which is no bound on log p(x): it lacks the entropy of p(z|x). For held-out
    rows the objective is a bound: log mean w over draws from a normal that is fitted to each row with the model
    frozen. Memory holds ``chains`` latents per row of the data.

    ``family``: a posterior whose encoder is not used. If given, ``posterior`` is a q(z|x) of its family for any row,
    by a local search (``Searched``), so that rows can be encoded and scored once the model is learnt.
    """

    family: Posterior | None = None
    leapfrogs: int = 10
    acceptance: float = 0.9
    pilot: int = 10
    transitions: int = 5
    chains: int = 1
    updates: int = 5
    learning_rate: float | Schedule = 1e-3
    optimizer: Optimizer = partial(torch.optim.Adam, fused=True)
    is_bound = False

    def __post_init__(self) -> None:
        for name in ("leapfrogs", "pilot", "transitions", "chains", "updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.acceptance < 1:
            raise ValueError(f"acceptance must be between 0 and 1, got {self.acceptance}.")

    @cached_property
    def posterior(self) -> Posterior | None:
        """q(z|x) of any row, by a local search in the ``family``; None without one."""
        return None if self.family is None else Local(self.family).posterior

    def describe(self) -> dict[str, Any]:
        """The settings of the E-step and the number of updates."""
        names = ("leapfrogs", "acceptance", "pilot", "transitions", "chains", "updates")
        return {name: getattr(self, name) for name in names}

    def start(self, model: LatentVariableModel, rows: RowSource) -> MonteCarloProcedure:
        """Make the procedure, with chains that have not started. Raises ValueError for latents that are not real."""
        if model.prior.needs_posterior:
            raise ValueError(f"MonteCarloEM has no posterior for the prior {type(model.prior).__name__} to read.")
        context = None if rows.context is None else rows.context[:1]
        for name, family in model.prior_given(context).families().items():
            if not family.unconstrained:
                raise ValueError(
                    f"MonteCarloEM needs real-valued latents, but latent {name!r} is a {family.name}; use EM for "
                    "latents that can be enumerated, or ReweightedWakeSleep."
                )
        optimizer = self.optimizer([p for p in model.parameters() if p.requires_grad])
        chains = Chains(rows.total, self.chains, model)
        modules: dict[str, nn.Module] = {"model": model, "chains": chains}
        if self.posterior is not None:
            check_latents(model.prior, self.posterior)
            like = next(model.parameters())
            modules["posterior"] = self.posterior.to(like.device, like.dtype)
        state = State(modules, optimizer, draws=may_draw([model, type(optimizer)]))
        return MonteCarloProcedure(self, model, chains, state)


class Chains(nn.Module):
    """The chains of all rows of the data by number: ``z [N, C, *E]``, log step sizes ``[N]``, and which have begun."""

    z: Tensor
    log_step: Tensor
    begun: Tensor

    def __init__(self, rows: int, chains: int, model: LatentVariableModel) -> None:
        super().__init__()
        like = next(model.parameters())
        self.register_buffer("z", like.new_zeros(rows, chains, *model.prior.event))
        self.register_buffer("log_step", like.new_zeros(rows))
        self.register_buffer("begun", torch.zeros(rows, dtype=torch.bool, device=like.device))

    def read(self, index: Tensor, fresh: Tensor, acceptance: float) -> tuple[Tensor, StepSize]:
        """The states ``[C, B, *E]`` and step sizes of rows ``index``; of those not begun, ``fresh`` and the default."""
        begun, first = self.begun[index], StepSize.of(len(index), fresh, acceptance)
        z = torch.where(begun.view(-1, *[1] * (fresh.dim() - 2)), self.z[index].transpose(0, 1), fresh)
        return z, StepSize(torch.where(begun, self.log_step[index], first.log_step), acceptance)

    def write(self, index: Tensor, real: Tensor, z: Tensor, step: StepSize) -> None:
        """Set the rows ``index`` that are ``real``: padding repeats rows, and must not move them a second time."""
        index = index[real]
        self.z[index] = z.transpose(0, 1)[real]
        self.log_step[index] = step.log_step[real]
        self.begun[index] = True


class MonteCarloProcedure(Procedure):
    """The steps of ``MonteCarloEM`` on one model. The noise of a step is the seed of its random numbers."""

    def __init__(self, settings: MonteCarloEM, model: LatentVariableModel, chains: Chains, state: State) -> None:
        self.settings, self.model, self.chains, self.state = settings, model, chains, state

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        return {"learning_rate": as_schedule(self.settings.learning_rate)}

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return torch.randint(2**62, (1,), generator=rng, device=rng.device)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        point, accepted = self._sample(batch, _generator(noise))
        assert state.optimizer is not None
        state.set_learning_rate(scalars["learning_rate"])
        for _ in range(self.settings.updates):
            state.optimizer.zero_grad()
            (-batch.weight @ self._log_joint(batch, point.z).mean(0)).backward()
            state.optimizer.step()
        return state, {"objective": batch.weight @ point.log_joint.mean(0), "acceptance": batch.weight @ accepted}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        bound = self._bound(batch, _generator(noise))
        return {"objective": batch.weight @ bound, OF_ROWS: bound}

    def _log_joint(self, batch: Batch, z: Tensor) -> Tensor:
        return self.model.log_joint(z, batch.x, batch.mask, batch.context)

    def _slope(self, batch: Batch, z: Tensor) -> Tensor:
        """∂ log p(x, z)/∂z."""
        prior = self.model.prior_given(batch.context)
        return self.model.slope(z, batch.x, batch.mask, batch.context) + slope_of(prior.log_prob, z)

    def _sample(self, batch: Batch, rng: torch.Generator) -> tuple[Point, Tensor]:
        """The E-step: the chains' new states, and the mean acceptance of each row ``[B]`` once its step is frozen."""
        how, prior = self.settings, self.model.prior_given(batch.context)
        path = Path(partial(self._log_joint, batch), prior, partial(self._slope, batch))
        size = (how.chains, len(batch.x))
        with torch.no_grad(), eval_mode(self.model):
            noise = prior.noise(size, self.model.prior.event, rng, batch.x.dtype)
            z, step = self.chains.read(batch.index, prior.sample(noise), how.acceptance)
            point, step = warm_up(path, path.at(z), how.pilot, how.leapfrogs, how.acceptance, rng, step)
            accepted = torch.zeros_like(step.log_step)
            for _ in range(how.transitions):
                point, probability = transition(path, point, 1.0, step.value, how.leapfrogs, rng)
                accepted += probability.mean(0).to(accepted.dtype) / how.transitions
            self.chains.write(batch.index, batch.weight > 0, point.z, step)
        return point, accepted

    def _bound(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """log mean_S p(x, z)/q(z) of each row ``[B]``, with the best normal q that a short search finds."""
        prior, event, like = self.model.prior_given(batch.context), self.model.prior.event, batch.x
        family = FullNormal(event[0], nn.Identity())
        start = prior.sample(prior.noise((_DRAWS, len(like)), event, rng, like.dtype))
        spread = start.double().var(0).diag_embed()
        gradient = by_path(partial(self._slope, batch), family)
        q = family.distribution(_SEARCH.of_moments(gradient, family, start.mean(0), spread, rng, like.dtype).end)
        noise = q.noise((_DRAWS, len(like)), event, rng, like.dtype)
        z = q.sample(noise)
        return (self._log_joint(batch, z) - q.log_prob(z)).logsumexp(0) - math.log(_DRAWS)


def _generator(seed: Tensor) -> torch.Generator:
    return torch.Generator(seed.device).manual_seed(int(seed))
