"""MCMC chains with stationary distribution p(z|x_observed), for rows for which importance sampling failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lowerbound.distributions import Distribution, Normal, Randomness, by_row
from lowerbound.draw import Batch
from lowerbound.evidence.targets import Target
from lowerbound.likelihoods import Factorised
from lowerbound.mcmc import Path, StepSize, transition, warm_up
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.posteriors import Posterior

Refine = Literal["hmc", "gibbs"]
KEPT = 20  # states kept of each chain
_ACCEPT, _LEAPFROGS = 0.8, 10
_WARM_UP = 60  # transitions of each of the two phases of adaptation; the second uses the chains' spread as units
_SETTLE = 30
_SHOW_SPREAD = 20  # chains whose spread is close to that of the posterior
_SWEEPS, _THIN = 300, 5


def check(
    refine: Refine | None, model: LatentVariableModel, posterior: Distribution, prior: Distribution | None
) -> None:
    """Raise ValueError if this model does not support the type of chains."""
    if refine == "hmc":
        for name, part in [*posterior.families().items(), *(prior.families().items() if prior is not None else ())]:
            if not part.unconstrained:
                raise ValueError(
                    f'refine="hmc" needs real-valued latents, but latent {name!r} is a '
                    f'{part.name}; use refine="gibbs" or refine=None.'
                )
    if refine == "gibbs" and (not isinstance(model.likelihood, Factorised) or is_informative(model)):
        raise ValueError(
            'refine="gibbs" needs cells that are independent given z, but those of '
            f'{type(model.likelihood).__name__} are not; use refine="hmc" or refine=None.'
        )


def is_informative(model: LatentVariableModel) -> bool:
    """Whether the likelihood includes p(mask|x)."""
    return model.likelihood.informative


def hmc(target: Target, z: Tensor, rng: Randomness, kept: int = KEPT) -> Tensor:
    """The last T = ``kept`` states ``[T, C, B, *E]`` of Hamiltonian chains from ``z [C, B, *E]``. Neal 2011.

    Each row has its own step size, which is adapted in a warm-up and then fixed. The scale of each dimension is the
    chains' spread in the middle of the warm-up; fewer than 20 chains run there for a while, to show it.
    """
    one = torch.ones_like(z[:1])
    z, step = _adapted(target, z, one, rng)
    states = z.unsqueeze(0) if len(z) >= _SHOW_SPREAD else _states(target, z, one, step, 0, _WARM_UP, rng)
    spread = states.flatten(0, 1).std(0, keepdim=True)
    units = torch.where((spread > 0) & spread.isfinite(), spread, 1.0)
    z, step = _adapted(target, states[-1], units, rng)
    return _states(target, z, units, step, _SETTLE, kept, rng)


def _states(
    target: Target, z: Tensor, units: Tensor, step: StepSize, settle: int, kept: int, rng: Randomness
) -> Tensor:
    """The states ``[T, C, B, *E]`` of chains from ``z`` with a frozen step size, after ``settle`` others."""
    path, states = _path(target, z, units), []
    point = path.at(z / units)
    for number in range(settle + kept):
        point, _ = transition(path, point, 1.0, step.value, _LEAPFROGS, rng)
        if number >= settle:
            states.append(point.z * units)
    return torch.stack(states)


def _adapted(target: Target, z: Tensor, units: Tensor, rng: Randomness) -> tuple[Tensor, StepSize]:
    """The states after a warm-up, and each row's step size in ``units [1, B, *E]``."""
    path = _path(target, z, units)
    point, step = warm_up(path, path.at(z / units), _WARM_UP, _LEAPFROGS, _ACCEPT, rng)
    return point.z * units, step


def _path(target: Target, z: Tensor, units: Tensor) -> Path:
    """log p(x, z) in ``units`` as the end of an annealing path; only the end is used, the start is arbitrary."""
    zero = torch.zeros(target.event, dtype=z.dtype, device=z.device)
    slope = target.slope
    return Path(
        lambda u: target.log_joint(u * units),
        Normal(zero, torch.ones_like(zero), batch_dims=0),
        None if slope is None else lambda u: slope(u * units) * units,
    )


def gibbs(model: LatentVariableModel, posterior: Posterior, batch: Batch, z: Tensor, rng: Randomness) -> Tensor:
    """The last ``KEPT`` states ``[T, C, B, *E]`` of Metropolis-within-Gibbs chains from ``z [C, B, *E]``.

    Two steps alternate: x_missing ~ p(x|z); and z' ~ q(z|x) for the completed row, accepted with probability
    min(1, p(x, z') q(z|x) / (p(x, z) q(z'|x))). Without the acceptance step, the chains would have the errors of q.
    Rezende et al. 2014, appendix F; Mattei & Frellsen 2018.
    """
    chains, rows = z.shape[:2]
    wide = _repeated(batch, chains)
    assert wide.mask is not None
    there = replace(wide, mask=torch.ones_like(wide.mask))
    prior = model.prior_given(wide.context, posterior)
    z = z.reshape(1, chains * rows, *z.shape[2:])

    def of_rows(draw: Callable[[torch.Generator, range, Tensor], Tensor], like: Tensor) -> Tensor:
        """Call ``draw`` for each row's chains, ``[C, n, …]``, and return the results in the order of ``wide``."""
        grid = like.reshape(chains, rows, *like.shape[2:])
        return by_row(rng, rows, lambda own, some: draw(own, some, grid[:, some.start : some.stop])).flatten(0, 1)

    params, kept = model.decode(z, wide.context), []
    for sweep in range(1, _SWEEPS + KEPT * _THIN + 1):
        sampled = of_rows(lambda own, _, params: model.likelihood.sample(params, own), params)
        x = torch.where(wide.mask, wide.x, sampled)
        q, _ = distributions_of(model, posterior, x, there.mask, wide.context)
        noise = of_rows(partial(_noise, q, model.prior.event), z).unsqueeze(0)
        new = q.sample(noise)
        new_params = model.decode(new, wide.context)
        change = model.likelihood.log_prob(new_params, x).double() + prior.log_prob(new).double()
        change = change - model.likelihood.log_prob(params, x).double() - prior.log_prob(z).double()
        change = change + q.log_prob(z).double() - q.log_prob_of_sample(new, noise).double()
        level = of_rows(lambda own, _, like: _uniform(like, own), change).unsqueeze(0).log()
        accept = (level < torch.nan_to_num(change, nan=-torch.inf)).squeeze(0)
        z, params = _where(accept, new, z), _where(accept, new_params, params)
        if sweep > _SWEEPS and (sweep - _SWEEPS) % _THIN == 0:
            kept.append(z.unflatten(1, (chains, rows)).squeeze(0))
    return torch.stack(kept)


def _noise(q: Distribution, event: tuple[int, ...], rng: torch.Generator, rows: range, like: Tensor) -> Tensor:
    return q.noise((len(like), len(rows)), event, rng, like.dtype)


def _uniform(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=rng, dtype=like.dtype, device=like.device)


def _where(accept: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accept.view(1, -1, *[1] * (new.dim() - 2)), new, old)


def _repeated(batch: Batch, times: int) -> Batch:
    """The rows of ``batch`` repeated ``times`` times, with equal weights."""
    index = torch.arange(len(batch.x), device=batch.x.device).repeat(times)
    mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
    context = None if batch.context is None else batch.context[index]
    return Batch(batch.x[index], mask[index], batch.index[index], batch.weight[index], context)
