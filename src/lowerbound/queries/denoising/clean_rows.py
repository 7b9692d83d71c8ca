"""Denoise rows: E[x|y] under a model of x and a stated p(y|x)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.data import Rows
from lowerbound.distributions import RowGenerators, by_row
from lowerbound.draw import Batch
from lowerbound.evidence.importance import WeightTotal, chunks
from lowerbound.evidence.proposals import StudentT
from lowerbound.evidence.targets import Target, Targets
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries.denoising.channels import Channel, channel_of, check
from lowerbound.queries.denoising.noise import Noise
from lowerbound.queries.posterior_sampling import Part, Sampling, noise_of, parts, too_few
from lowerbound.queries.refining import KEPT

Array = NDArray[np.float64]
_MOVES = 0.2  # acceptance rate below which chains count as stuck


@dataclass(frozen=True)
class Denoised:
    """The clean rows x given corrupted rows y; X is the shape of a clean row.

    - ``mean [N, *X]``: E[x|y].
    - ``standard_deviation [N, *X]``: that of p(x|y). (The Monte Carlo error of ``mean`` is about this over √ess.)
    - ``draws [M, N, *X]``: draws from p(x|y), if requested.
    - ``ess [N]``: effective sample size of the draws of z.
    - ``log_evidence [N]`` and ``standard_error [N]``: log p(y) in nats (a density if y is continuous), and its Monte
      Carlo error.
    - ``refined [N]``: rows whose draws are from Hamiltonian chains.
    - ``trusted [N]``: rows with enough effective draws, or converged chains. A warning is given for the others.
    """

    mean: Array
    standard_deviation: Array
    draws: Array | None
    ess: Array
    log_evidence: Array
    standard_error: Array
    refined: NDArray[np.bool_]
    trusted: NDArray[np.bool_]


@read_only
def denoise(
    model: LatentVariableModel,
    posterior: Posterior,
    y: Tensor,
    noise: Noise,
    rng: torch.Generator,
    *,
    samples: int = 1000,
    draws: int | None = None,
    refine: bool = True,
    fit: bool = True,
    context: Tensor | None = None,
) -> Denoised:
    """E[x|y] = Σ_k w_k E[x|y, z_k] / Σ_k w_k with w_k = p(y|z_k) p(z_k)/q(z_k), of each row of ``y [N, *Y]``.

    Given z, p(y|z) and the moments of x are exact; only z is sampled.

    - ``noise``: p(y|x), a ``Gaussian`` (with an operator: super-resolution, deblurring) or ``Flips``. NaN in y is
      missing; with independent noise per value, it is filled in too (inpainting of noisy rows).
    - ``samples``: K, the number of draws from the encoder's q at a rough estimate of x. Rows with too few effective
      draws are sampled again as described in ``Sampling``: half of the draws from a proposal fitted to the row
      (``fit``), then more draws and a better proposal, then Hamiltonian chains on p(z|y) (``refine``). For chains,
      log p(y) is estimated by importance sampling from a Student's t fitted to their draws.
    - ``draws``: M, the number of draws from p(x|y) to return.
    - ``context [N, C]``: the context of each row, if the model has one.

    A row's result depends only on that row, the model and ``rng``. Raises ``ValueError`` for arguments that do not fit
    together, ``DataError`` for impossible values of y. Vincent et al. 2008 (the task); Vehtari et al. 2024 (k̂); Neal
    2011 (chains).
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, so that there is a standard error; got {samples}.")
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, or None for none; got {draws}.")
    like = next(model.parameters())
    one = None if context is None else context[:1].to(like)
    shape = tuple(model.decode(like.new_zeros(1, 1, *model.prior.event), one).shape[3:])
    channel, y = channel_of(noise, model.likelihood, shape, like), y.to(like)
    check(y, noise, channel, shape)
    channel.width = max(channel.width, math.prod(shape) * model.likelihood.n_parameters)
    rows, targets = Rows(y, dtype=like.dtype, context=context), _targets(model, posterior, channel)
    chains = refine and _unconstrained(targets(rows.batch(torch.zeros(1, dtype=torch.int64), torch.ones(1))))
    how = Sampling(samples, draws or 0, "hmc" if chains else None, fit=fit)
    found: dict[str, Array] = {}
    for part in parts(model, posterior, rows, rng, how, warn=False, targets=targets):
        for name, values in _answers(model, channel, targets, part, how).items():
            own = part.answered(values).cpu().double().numpy()
            found.setdefault(name, np.empty((len(y), *own.shape[1:])))[part.places] = own
    refined, trusted = found["refined"].astype(bool), found["trusted"].astype(bool)
    _warn(found["ess"], refined, trusted, refine)
    drawn = None if draws is None else np.moveaxis(found["draws"], 1, 0)
    deviation, error = np.sqrt(found["variance"]), found["standard_error"]
    return Denoised(found["mean"], deviation, drawn, found["ess"], found["log_evidence"], error, refined, trusted)


def _targets(model: LatentVariableModel, posterior: Posterior, channel: Channel) -> Targets:
    """The target for corrupted rows: log p(y, z), with q at a rough estimate of the clean rows."""

    def of(batch: Batch) -> Target:
        guess, seen = channel.guess(batch.x)
        q, prior = distributions_of(model, posterior, guess, seen, batch.context)

        def log_joint(z: Tensor) -> Tensor:
            log_prior: Tensor = prior.log_prob(z)
            return channel.log_prob(model.decode(z, batch.context), batch.x) + log_prior

        return Target(log_joint, model.prior.event, q, prior, channel.width)

    return of


def _unconstrained(target: Target) -> bool:
    nodes = [*target.posterior.families().values(), *target.source("prior").families().values()]
    return all(node.unconstrained for node in nodes)


def _answers(
    model: LatentVariableModel, channel: Channel, targets: Targets, part: Part, how: Sampling
) -> dict[str, Tensor]:
    """The results for each row of a batch."""
    mean, variance = _moments(model, channel, part)
    evidence, error, ess, _ = part.totals
    trusted = ~too_few(part, how)
    if part.refined:
        target = targets(part.batch)
        kept = part.z.unflatten(0, (KEPT, -1))
        evidence, error = _evidence(target, part, how.samples)
        ess, trusted = _ess(kept), _settled(kept, _heights(target, part).unflatten(0, (KEPT, -1)))
    found = {"mean": mean, "variance": variance, "ess": ess, "log_evidence": evidence, "standard_error": error}
    found |= {"refined": torch.full_like(trusted, part.refined), "trusted": trusted}
    return found | ({"draws": _drawn(model, channel, part)} if how.draws else {})


def _moments(model: LatentVariableModel, channel: Channel, part: Part) -> tuple[Tensor, Tensor]:
    """E[x|y] and Var[x|y], ``[B, *X]``, from moments about a value near the mean, to avoid cancellation."""
    y = part.batch.x
    centre = channel.moments(model.decode(part.z[:1], part.batch.context), y)[0].double()

    def statistic(params: Tensor) -> Tensor:
        mean, variance = (each.double() for each in channel.moments(params, y))
        away = mean - centre
        return torch.stack([away, variance + away.square()], 2)

    away, square = part.mean(model, statistic).unbind(1)
    return centre.squeeze(0) + away, (square - away.square()).clamp(min=0)


def _evidence(target: Target, part: Part, samples: int) -> tuple[Tensor, Tensor]:
    """log p(y) and its standard error, ``[B]``, by importance sampling from a distribution fitted to the chains."""
    fitted, total, rng = _fitted(part.z), WeightTotal(), part.streams.generators("evidence")
    joint = replace(target, log_joint=lambda flat: target.log_joint(flat.unflatten(2, target.event)), slope=None)
    noise = noise_of(fitted, samples, tuple(fitted.loc.shape[1:]), rng, part.batch.x)
    for some in noise.split(next(chunks(samples, len(part.batch.x), part.width))):
        total.add(joint.log_weights(fitted, some))
    return total.result()[0], total.result()[1]


def _heights(target: Target, part: Part) -> Tensor:
    """log p(y, z) of all draws, ``[S, B]``."""
    each = part.z.split(next(chunks(len(part.z), len(part.batch.x), part.width)))
    return torch.cat([target.log_joint(z).double() for z in each])


def _settled(kept: Tensor, heights: Tensor) -> Tensor:
    """Whether a row's chains ``[T, C, B, *E]`` move, and log p(y, z) ``[T, C, B]`` no longer drifts.

    The mean drift over chains must be within 5 standard errors, which is wrong for one stationary row in 10⁵.
    """
    moved = (kept[1:] != kept[:-1]).flatten(3).any(3).double().mean((0, 1))
    early, late = heights.tensor_split(2)
    drift = late.mean(0) - early.mean(0)
    return (moved > _MOVES) & (drift.mean(0).abs() <= 5 * drift.std(0) / math.sqrt(len(drift)))


def _ess(kept: Tensor) -> Tensor:
    """Effective sample size of chains ``[T, C, B, *E]``: C · Var(z)/Var(means of chains) ``[B]``, of the worst latent.

    Chains are independent, so the scatter of their means measures the autocorrelation of their draws.
    """
    kept = kept.flatten(3).double()
    spread, scatter = kept.flatten(0, 1).var(0), kept.mean(0).var(0)
    return (kept.shape[1] * spread / scatter).clamp(max=kept.shape[0] * kept.shape[1]).amin(1)


def _fitted(z: Tensor) -> StudentT:
    """A Student's t with the mean and covariance of draws ``[K, B, *E]``; the covariance is shrunk to its diagonal if
    there are few draws. Importance sampling is valid for any proposal; one fitted to p(z|y) is efficient."""
    flat = z.flatten(2).double()
    away = flat - flat.mean(0)
    covariance = torch.einsum("kbi,kbj->bij", away, away) / (len(flat) - 1)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    share = flat.shape[2] / (flat.shape[2] + len(flat))
    covariance = (1 - share) * covariance + share * torch.diag_embed(diagonal)
    # a latent in which no chain moved has a variance of 0, but needs a density
    lower = torch.linalg.cholesky(covariance + torch.diag_embed(1e-12 + 1e-9 * diagonal))
    return StudentT(flat.mean(0).to(z.dtype), lower.to(z.dtype))


def _drawn(model: LatentVariableModel, channel: Channel, part: Part) -> Tensor:
    """Draws of x given y and each drawn z, ``[B, M, *X]``."""
    found, rng, y = [], part.streams.generators("cells"), part.batch.x
    for z in part.drawn.split(next(chunks(len(part.drawn), len(y), part.width))):
        found.append(_sampled(channel, model.decode(z, part.batch.context), y, rng))
    return torch.cat(found).transpose(0, 1)


def _sampled(channel: Channel, params: Tensor, y: Tensor, rng: RowGenerators) -> Tensor:
    def of(own: torch.Generator, some: range) -> Tensor:
        rows = slice(some.start, some.stop)
        return channel.sample(params[:, rows], y[rows], own)

    return by_row(rng, len(y), of)


def _warn(ess: Array, refined: NDArray[Any], trusted: NDArray[Any], refine: bool) -> None:
    """Warn of unreliable rows, with what to do."""
    way = "more samples (chains need real-valued latents)" if refine else "refine=True, or more samples"
    for rows, why, what in (
        (~trusted & ~refined, "have too few effective draws from the encoder's q", way),
        (~trusted & refined, "have Hamiltonian chains that have not converged", "an encoder fitted to rows like these"),
    ):
        if rows.any():
            worst = int(np.flatnonzero(rows)[ess[rows].argmin()])
            message = f"{rows.sum()} of {len(rows)} rows {why} (row {worst}: {ess[worst]:.1f} effective); use {what}."
            warnings.warn(message, RuntimeWarning, stacklevel=4)
