"""Annealed importance sampling: lower bounds on log p(x), and upper bounds by running chains backwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lowerbound.distributions import Distribution
from lowerbound.evidence.estimates import Array, Estimates
from lowerbound.evidence.targets import Source, Target, Targets, rows_for
from lowerbound.inference import Data
from lowerbound.mcmc import Path, Point, StepSize, transition
from lowerbound.modes import read_only
from lowerbound.shapes import expect
from lowerbound.training import in_order, keep_memory

_ACCEPT = 0.9  # of 0.65, 0.8 and 0.9 the least error on 50 latents: a chain that stays lags behind the path
_PILOT, _TRIES = 50, 2  # temperatures of a pilot, and transitions at each
_CHAIN_ROWS = 2**12  # chains × rows at once


@dataclass(frozen=True)
class Settings:
    """Settings of annealing: ``temperatures`` steps of β from ``start`` to p(x, z), with ``chains`` chains per row.

    At each step, every chain moves by one Hamiltonian trajectory of ``leapfrogs`` steps. ``schedule``: "sigmoid" has
    small steps at both ends; "adaptive" chooses the steps by the variance of the weights in a pilot run.
    """

    temperatures: int = 1000
    chains: int = 8
    leapfrogs: int = 10
    start: Source = "posterior"
    schedule: Literal["sigmoid", "adaptive"] = "sigmoid"

    def __post_init__(self) -> None:
        if self.temperatures < 1 or self.leapfrogs < 1:
            raise ValueError(f"temperatures and leapfrogs must be at least 1; got {self}.")
        if self.chains < 2:
            raise ValueError(f"chains must be at least 2, to have a standard error; got {self.chains}.")


@dataclass(frozen=True)
class Annealed(Estimates):
    """Results of annealing per row, in nats.

    - ``estimate [N]``: log mean over chains of w, a lower bound on log p(x) in expectation. For chains run backwards
      (``upper``), −log mean 1/w, an upper bound.
    - ``standard_error [N]``: over chains, by the delta method. For an upper bound it is too small, because all chains
      of a row start from the same draw (``sandwich`` adds the missing part).
    - ``log_weights [C, N]``: log w of each chain.
    - ``acceptance [N]``: mean acceptance rate over steps.
    - ``effective_temperatures [N]``: the effective number of steps that contribute to the variance of the weights,
      (Σ s_t)²/Σ s_t², where s_t is the standard deviation over chains of the increments of step t.
    """

    log_weights: Array
    acceptance: Array
    effective_temperatures: Array
    settings: Settings
    upper: bool = False


def sigmoid_schedule(temperatures: int, sharpness: float = 4.0) -> Array:
    """β_0 = 0 … β_T = 1 along a logistic curve. Wu et al. 2017."""
    ramp = 1 / (1 + np.exp(-sharpness * np.linspace(-1, 1, temperatures + 1)))
    betas: Array = (ramp - ramp[0]) / (ramp[-1] - ramp[0])
    betas[-1] = 1.0
    return betas


@read_only
def annealed(
    targets: Targets,
    rows: Data,
    rng: torch.Generator,
    settings: Settings | None = None,
    exact: Tensor | None = None,
) -> Annealed:
    """log p(x) of each row by annealing: log w = Σ_t (β_t − β_{t−1}) log [p(x, z_{t−1})/start(z_{t−1})].

    Step sizes, one per row and step, are adapted on separate pilot chains and then fixed, because adapting them during
    the run would invalidate the bound. ``exact [N, *E]``: one draw from p(z|x) per row; chains then run backwards from
    it, β from 1 to 0, which gives an upper bound. Neal 2001; Wu et al. 2017; Grosse et al. 2015.
    """
    keep_memory()
    settings = Settings() if settings is None else settings
    rows, results = rows_for(targets, rows), []
    size = max(1, _CHAIN_ROWS // settings.chains)
    for batch, real in in_order(rows, min(size, len(rows)), rng):
        target = targets(batch)
        start = _start(target, settings.start)
        path, dtype = Path(target.log_joint, start, target.slope), batch.x.dtype
        betas, steps = _pilot(path, target, settings, len(batch.x), rng, dtype)
        if exact is None:
            noise = start.noise((settings.chains, len(batch.x)), target.event, rng, dtype)
            run = _forwards(path, start.sample(noise), betas, steps, settings.leapfrogs, rng)
        else:
            expect("exact=", exact, (len(rows), *target.event), "[N, *E]")
            z = exact[batch.index].to(dtype).expand(settings.chains, *batch.index.shape, *target.event)
            run = _backwards(path, z, betas, steps, settings.leapfrogs, rng)
        results.append([part[..., :real].cpu().double().numpy() for part in run])
    log_weights, acceptance, effective = (np.concatenate(parts, -1) for parts in zip(*results, strict=True))
    estimate, error = log_mean(log_weights if exact is None else -log_weights)
    estimate = estimate if exact is None else -estimate
    return Annealed(estimate, error, log_weights, acceptance, effective, settings, exact is not None)


def log_mean(log_weights: Array) -> tuple[Array, Array]:
    """log mean w over chains ``[C, N]``, and its standard error by the delta method."""
    largest = log_weights.max(0)
    weights = np.exp(log_weights - largest)
    mean = weights.mean(0)
    return largest + np.log(mean), weights.std(0, ddof=1) / math.sqrt(len(weights)) / mean


def _start(target: Target, name: Source) -> Distribution:
    found = target.source(name)
    for latent, part in found.families().items():
        if not part.unconstrained:
            raise ValueError(
                f"annealing needs real-valued latents, but latent {latent!r} is a {part.name}; use "
                "importance sampling, or enumerate its states if they are few."
            )
    return found


Run = tuple[Tensor, Tensor, Tensor]  # log weights [C, B], acceptance [B], effective temperatures [B]


def _forwards(path: Path, z: Tensor, betas: Array, steps: Tensor, leapfrogs: int, rng: torch.Generator) -> Run:
    point, book = path.at(z), _Book(len(betas) - 1)
    for t in range(1, len(betas)):
        book.add(betas[t] - betas[t - 1], point)
        if t < len(betas) - 1:
            point, probability = transition(path, point, betas[t], steps[t], leapfrogs, rng)
            book.accept(probability)
    return book.run()


def _backwards(path: Path, z: Tensor, betas: Array, steps: Tensor, leapfrogs: int, rng: torch.Generator) -> Run:
    point, book = path.at(z), _Book(len(betas) - 1)
    for t in range(len(betas) - 1, 0, -1):
        point, probability = transition(path, point, betas[t], steps[t], leapfrogs, rng)
        book.accept(probability)
        book.add(betas[t] - betas[t - 1], point)
    return book.run()


class _Book:
    """Sums along a path, in double precision."""

    def __init__(self, temperatures: int) -> None:
        self.temperatures, self.accepted = temperatures, 0
        self.log_w: Tensor | float = 0.0
        self.spread: Tensor | float = 0.0
        self.spread_squares: Tensor | float = 0.0
        self.probability: Tensor | None = None

    def add(self, change: float, point: Point) -> None:
        increment = change * point.ratio
        deviation = increment.std(0)
        self.log_w = self.log_w + increment
        self.spread, self.spread_squares = self.spread + deviation, self.spread_squares + deviation.square()

    def accept(self, probability: Tensor) -> None:
        mean = probability.mean(0)
        self.probability = mean if self.probability is None else self.probability + mean
        self.accepted += 1

    def run(self) -> Run:
        assert isinstance(self.log_w, Tensor)  # one step at least
        assert isinstance(self.spread, Tensor)
        assert isinstance(self.spread_squares, Tensor)
        acceptance = torch.ones_like(self.spread) if self.probability is None else self.probability / self.accepted
        effective = torch.nan_to_num(self.spread.square() / self.spread_squares, nan=float(self.temperatures))
        return self.log_w, acceptance, effective


def _pilot(
    path: Path, target: Target, settings: Settings, rows: int, rng: torch.Generator, dtype: torch.dtype
) -> tuple[Array, Tensor]:
    """Temperatures ``[T + 1]`` and step sizes ``[T + 1, B]``, from pilot chains that are then discarded.

    At each temperature in turn, the step size is increased if the acceptance rate is above its target, and decreased if
    it is below.
    """
    coarse = sigmoid_schedule(min(_PILOT, settings.temperatures))
    noise = path.start.noise((settings.chains, rows), target.event, rng, dtype)
    point = path.at(path.start.sample(noise))
    step = StepSize.of(rows, point.z, _ACCEPT)
    found, speed = [], []
    for t, beta in enumerate(coarse):
        for attempt in range(_TRIES if t else 10 * _TRIES):
            point, probability = transition(path, point, beta, step.value, settings.leapfrogs, rng)
            step = step.adapted(probability, 3.0 if t == 0 and attempt < 5 * _TRIES else 0.5)
        found.append(step.log_step)
        speed.append(float(point.ratio.std(0).mean()))
    betas = sigmoid_schedule(settings.temperatures)
    if settings.schedule == "adaptive":
        betas = _evenly(coarse, np.array(speed), settings.temperatures)
    return betas, _interpolated(torch.stack(found), coarse, betas)


def _evenly(coarse: Array, speed: Array, temperatures: int) -> Array:
    """Choose β so that the standard deviation of the weights' increments is equal in all steps. Gelman & Meng 1998."""
    lengths = np.diff(coarse) * 0.5 * (speed[1:] + speed[:-1])
    along = np.concatenate([[0.0], np.cumsum(lengths + 1e-3 * lengths.sum() / len(lengths))])
    betas: Array = np.interp(np.linspace(0, along[-1], temperatures + 1), along, coarse)
    betas[0], betas[-1] = 0.0, 1.0
    return betas


def _interpolated(log_steps: Tensor, coarse: Array, betas: Array) -> Tensor:
    """Step sizes at ``betas``: smoothed over five pilot temperatures and interpolated linearly."""
    width = min(5, len(log_steps))
    padded = torch.cat([log_steps[:1].expand(width // 2, -1), log_steps, log_steps[-1:].expand(width // 2, -1)])
    smooth = padded.unfold(0, width, 1).mean(-1)[: len(log_steps)]
    place = np.clip(np.searchsorted(coarse, betas, side="right") - 1, 0, len(coarse) - 2)
    share = (betas - coarse[place]) / (coarse[place + 1] - coarse[place])
    below, weight = torch.from_numpy(place).to(smooth.device), torch.from_numpy(share).to(smooth).unsqueeze(1)
    return torch.lerp(smooth[below], smooth[below + 1], weight).exp()
