"""Clean rows from corrupted ones: E[x|y] under a model of x and a stated p(y|x)."""

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
from lowerbound.distributions import Distribution, FullNormal, Latents, LowRankNormal, Normal
from lowerbound.distributions.latents import Known
from lowerbound.draw import Batch
from lowerbound.evidence import pareto
from lowerbound.evidence.importance import WeightTotal, chunks
from lowerbound.evidence.targets import Target
from lowerbound.model import LatentVariableModel, distributions_of
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries.denoising.channels import Channel, channel_of, check
from lowerbound.queries.denoising.noise import Noise
from lowerbound.queries.posterior_sampling import ENOUGH
from lowerbound.queries.refining import KEPT, hmc
from lowerbound.training import in_order

Array = NDArray[np.float64]
_WIDEN = 1.2  # see _widened
_MOVES = 0.2  # acceptance below which chains hardly do
_ROWS = 100  # of a batch
_LATENTS = 2**22  # latents of a batch held at once
_CHAIN_VALUES = 2**22  # decoder outputs of all chains at once: their gradients are held too
_CHAIN_ROWS = 2**12  # chains × rows at once


@dataclass(frozen=True)
class Denoised:
    """What is known of the clean rows x given the corrupted y; the shape of a clean row is X.

    ``mean [N, *X]``: E[x|y]. ``standard_deviation [N, *X]``: of x given y, all told (not the error of the mean, which
    is about that over √ess). ``draws [M, N, *X]`` of p(x|y), where asked for. ``ess [N]``: effective draws of z behind
    them. ``log_evidence [N]``: log p(y) in nats, a density where y is continuous, and its Monte Carlo
    ``standard_error [N]``. ``refined [N]``: rows whose draws are of Hamiltonian chains. ``trusted [N]``: rows with
    enough draws, or whose chains have settled; of the others a warning was given.
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
    context: Tensor | None = None,
) -> Denoised:
    """E[x|y] = Σ_k w_k E[x|y, z_k] / Σ_k w_k with w_k = p(y|z_k) p(z_k)/q(z_k), of each row of ``y [N, *Y]``.

    ``noise``: p(y|x), a ``Gaussian`` (with an operator: super-resolution, deblurring) or ``Flips``; with it p(y|z) and
    the moments of x given y and z are exact, and only z is drawn. NaN in y is missing: with noise of single values it
    is filled in too, which is inpainting of noisy rows (of exact ones it is the imputation of missing cells).
    ``samples``: K, from the encoder's q at a guess of x, widened. Rows with fewer than 50 effective draws, or
    whose k̂ says that the weights are unreliable, are ``refine``d: K draws of Hamiltonian chains on p(z|y), 20 of each,
    replace theirs, and log p(y) is by importance sampling from a normal fitted to them.
    ``draws``: M, how many of p(x|y) to give. ``context [N, C]``: for a model that is given one.
    Raises ``ValueError`` for arguments that do not fit one another, ``DataError`` for values of y that cannot be.
    Vincent et al. 2008 (the task); Vehtari et al. 2024 (k̂); Neal 2011 (chains).
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, to have a standard error; got {samples}.")
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, or None for none; got {draws}.")
    like = next(model.parameters())
    one = None if context is None else context[:1].to(like)
    shape = tuple(model.decode(like.new_zeros(1, 1, *model.prior.event), one).shape[3:])
    channel, y = channel_of(noise, model.likelihood, shape, like), y.to(like)
    check(y, noise, channel, shape)
    channel.width = max(channel.width, math.prod(shape) * model.likelihood.n_parameters)
    asked = _Asked(model, posterior, channel, samples, draws, rng)
    rows = Rows(y, dtype=like.dtype, context=context)
    size = min(len(y), _ROWS, max(1, _LATENTS // (samples * math.prod(model.prior.event))))
    parts = [_of_batch(asked, batch[:real], refine) for batch, real in in_order(rows, max(1, size))]
    found = {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}
    refined, trusted = found["refined"].astype(bool), found["trusted"].astype(bool)
    _warn(found["ess"], refined, trusted, refine)
    drawn = None if draws is None else np.moveaxis(found["draws"], 1, 0)
    deviation, error = np.sqrt(found["variance"]), found["standard_error"]
    return Denoised(found["mean"], deviation, drawn, found["ess"], found["log_evidence"], error, refined, trusted)


@dataclass(frozen=True)
class _Asked:
    """What is asked of every batch."""

    model: LatentVariableModel
    posterior: Posterior
    channel: Channel
    samples: int
    draws: int | None
    rng: torch.Generator

    def target(self, batch: Batch) -> Target:
        """log p(y, z) of corrupted rows, and the widened q at a guess of the clean ones."""
        guess, seen = self.channel.guess(batch.x)
        mask = None if bool(seen.all()) else seen
        q, prior = distributions_of(self.model, self.posterior, guess, mask, batch.context)
        q = _widened(q)

        def log_joint(z: Tensor) -> Tensor:
            log_prior: Tensor = prior.log_prob(z)
            return self.channel.log_prob(self.model.decode(z, batch.context), batch.x) + log_prior

        return Target(log_joint, self.model.prior.event, q, prior, self.channel.width)


def _of_batch(asked: _Asked, batch: Batch, refine: bool) -> dict[str, Tensor]:
    """What is found of each row, the weak ones refined where asked and possible."""
    found, target = _by_weights(asked, batch), asked.target(batch)
    weak = (~found["trusted"]).nonzero()[:, 0]
    nodes = [*target.posterior.families().values(), *target.source("prior").families().values()]
    if not refine or not len(weak) or not all(node.unconstrained for node in nodes):
        return found
    chains, width = _count(asked), asked.channel.width
    at_once = max(1, min(_CHAIN_ROWS, _CHAIN_VALUES // width) // chains)
    for index in weak.split(at_once):
        context = None if batch.context is None else batch.context[index]
        some = Batch(batch.x[index], None, batch.index[index], batch.weight[index], context)
        for name, values in _by_chains(asked, some).items():
            found[name][index] = values
    return found


def _by_weights(asked: _Asked, batch: Batch) -> dict[str, Tensor]:
    """By importance sampling from q."""
    target, y, rows = asked.target(batch), batch.x, len(batch.x)
    q, prior = target.posterior, target.source("prior")
    total, moments = WeightTotal(pareto.tail_size(asked.samples) + 1), _Moments()
    latents, weights = [], []
    for count in chunks(asked.samples, rows, target.width):
        noise = q.noise((count, rows), target.event, asked.rng, y.dtype)
        z = q.sample(noise)
        params = asked.model.decode(z, batch.context)
        log_w = asked.channel.log_prob(params, y) + prior.log_prob(z) - q.log_prob_of_sample(z, noise)
        total.add(log_w)
        moments.add(log_w, *asked.channel.moments(params, y))
        latents.append(z)
        weights.append(log_w)
    evidence, error, ess, _ = total.result()
    shape = torch.from_numpy(pareto.pareto_k(total.largest().cpu().numpy())).to(ess)
    found = {"mean": moments.mean, "variance": moments.variance, "ess": ess, "log_evidence": evidence}
    found |= {"standard_error": error, "refined": torch.zeros_like(ess, dtype=torch.bool)}
    found["trusted"] = (ess >= ENOUGH) & (shape <= float(pareto.threshold(asked.samples)))
    return found | _drawn(asked, batch, torch.cat(latents), torch.cat(weights))


def _by_chains(asked: _Asked, batch: Batch) -> dict[str, Tensor]:
    """By Hamiltonian chains on p(z|y), from q; log p(y) from the normal fitted to them."""
    target, y = asked.target(batch), batch.x
    noise = target.posterior.noise((_count(asked), len(y)), target.event, asked.rng, y.dtype)
    kept = hmc(target, target.posterior.sample(noise), asked.rng)
    z, moments, heights, prior = kept.flatten(0, 1), _Moments(), [], target.source("prior")
    for some in z.split(next(chunks(len(z), len(y), target.width))):
        params = asked.model.decode(some, batch.context)
        moments.add(some.new_zeros(some.shape[:2]), *asked.channel.moments(params, y))
        heights.append(asked.channel.log_prob(params, y).double() + prior.log_prob(some).double())
    fitted, total = _fitted(z), WeightTotal()
    joint = replace(target, log_joint=lambda flat: target.log_joint(flat.unflatten(2, target.event)), slope=None)
    for count in chunks(asked.samples, len(y), target.width):
        noise = fitted.noise((count, len(y)), tuple(fitted.loc.shape[1:]), asked.rng, y.dtype)
        total.add(joint.log_weights(fitted, noise))
    evidence, error, _, _ = total.result()
    settled = _settled(kept, torch.cat(heights).unflatten(0, kept.shape[:2]))
    found = {"mean": moments.mean, "variance": moments.variance, "ess": _ess(kept), "log_evidence": evidence}
    found |= {"standard_error": error, "refined": torch.ones_like(settled), "trusted": settled}
    return found | _drawn(asked, batch, z, z.new_zeros(z.shape[:2]))


def _count(asked: _Asked) -> int:
    """Chains for each row; so many at the least, for their scatter to tell how far they have come."""
    return max(20, math.ceil(asked.samples / KEPT))


def _settled(kept: Tensor, heights: Tensor) -> Tensor:
    """Whether a row's chains ``[T, C, B, *E]`` move, and log p(y, z) ``[T, C, B]`` drifts no more: of chains that are
    independent the mean drift is within 5 of its standard errors, but for one row in 10⁵."""
    moved = (kept[1:] != kept[:-1]).flatten(3).any(3).double().mean((0, 1))
    early, late = heights.tensor_split(2)
    drift = late.mean(0) - early.mean(0)
    return (moved > _MOVES) & (drift.mean(0).abs() <= 5 * drift.std(0) / math.sqrt(len(drift)))


def _ess(kept: Tensor) -> Tensor:
    """C · Var(z)/Var(means of chains) ``[B]`` of draws ``[T, C, B, *E]``, of the worst latent: chains are independent,
    and how their means scatter tells what their draws are worth."""
    kept = kept.flatten(3).double()
    spread, scatter = kept.flatten(0, 1).var(0), kept.mean(0).var(0)
    return (kept.shape[1] * spread / scatter).clamp(max=kept.shape[0] * kept.shape[1]).amin(1)


def _fitted(z: Tensor) -> FullNormal:
    """A normal of the mean and covariance of draws ``[K, B, *E]``, widened; the covariance drawn to its diagonal where
    they are few. Any proposal is right for log p(y): that it comes from draws of p(z|y) makes it a good one."""
    flat = z.flatten(2).double()
    away = flat - flat.mean(0)
    covariance = torch.einsum("kbi,kbj->bij", away, away) / (len(flat) - 1)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    share = flat.shape[2] / (flat.shape[2] + len(flat))
    covariance = (1 - share) * covariance + share * torch.diag_embed(diagonal)
    # a latent in which no chain moved has no spread, and still needs a density
    lower = torch.linalg.cholesky(covariance + torch.diag_embed(1e-12 + 1e-9 * diagonal))
    return FullNormal(flat.mean(0).to(z.dtype), (_WIDEN * lower).to(z.dtype))


def _widened(q: Distribution) -> Distribution:
    """Normals are made a fifth wider: q learned of clean rows, and given a corrupted one z is less certain. Weights of
    a proposal that is too narrow have an infinite variance; one that is too wide costs 5 % of the draws a latent."""
    match q:
        case Normal():
            return replace(q, scale=_WIDEN * q.scale)
        case FullNormal():
            return replace(q, scale_tril=_WIDEN * q.scale_tril)
        case LowRankNormal():
            return replace(q, factor=_WIDEN * q.factor, scale=_WIDEN * q.scale)
        case Latents():
            known = {
                n: replace(one, distribution=_widened(one.distribution))
                for n, one in q.conditionals.items()
                if isinstance(one, Known)
            }
            return replace(q, conditionals={**q.conditionals, **known})
    return q


def _drawn(asked: _Asked, batch: Batch, z: Tensor, log_w: Tensor) -> dict[str, Tensor]:
    """Draws of p(x|y) ``[B, M, *X]``: z from those at hand by their weights, then x given y and z."""
    if asked.draws is None:
        return {}
    shares = log_w.double().nan_to_num(-math.inf).softmax(0).T
    shares = torch.where(shares.isnan(), 1.0, shares)  # of a row that has no weight at all, any
    chosen = torch.multinomial(shares, asked.draws, replacement=True, generator=asked.rng).T
    z = z[chosen, torch.arange(len(batch.x), device=z.device)]
    parts = []
    for some in z.split(next(chunks(len(z), len(batch.x), asked.channel.width))):
        params = asked.model.decode(some, batch.context)
        parts.append(asked.channel.sample(params, batch.x, asked.rng))
    return {"draws": torch.cat(parts).transpose(0, 1)}


class _Moments:
    """The mean and the variance of x over weighted draws of z, taken in chunks, in double precision. West 1979."""

    mean: Tensor
    variance: Tensor

    def __init__(self) -> None:
        self.scale: Tensor | None = None
        self.weight: Tensor | float = 0.0

    def add(self, log_w: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Take in ``log_w [K, B]``, and the moments of x given each z, ``[K, B, *X]``."""
        log_w, mean, variance = log_w.double(), mean.double(), variance.double()
        scale = log_w.amax(0).clamp(min=torch.finfo(torch.float64).min)
        if self.scale is None:
            self.mean, self.variance, before = mean[0], torch.zeros_like(mean[0]), torch.zeros_like(scale)
        else:
            scale = torch.maximum(self.scale, scale)
            before = self.weight * (self.scale - scale).exp()
        weights = (log_w - scale).exp()
        self.scale, self.weight = scale, before + weights.sum(0)
        known = torch.where(self.weight > 0, self.weight, 1)  # nothing is, of draws that all are impossible
        shares, old = weights / known, before / known
        away = mean - self.mean
        self.mean = self.mean + torch.einsum("kb,kb...->b...", shares, away)
        spread = torch.einsum("kb,kb...->b...", shares, variance + away * (mean - self.mean))
        self.variance = old.view(-1, *[1] * (spread.dim() - 1)) * self.variance + spread


def _warn(ess: Array, refined: NDArray[Any], trusted: NDArray[Any], refine: bool) -> None:
    """Say which rows are not to be trusted, and what can be done."""
    way = "more samples (latents not of real numbers have no chains)" if refine else "refine=True, or more samples"
    for rows, why, what in (
        (~trusted & ~refined, "too few draws of the encoder's q count", way),
        (~trusted & refined, "the Hamiltonian chains have not settled", "an encoder fitted to rows like these"),
    ):
        if rows.any():
            worst = int(np.flatnonzero(rows)[ess[rows].argmin()])
            message = (
                f"of {rows.sum()} of {len(rows)} rows {why} (row {worst}: {ess[worst]:.1f} effective): take {what}."
            )
            warnings.warn(message, RuntimeWarning, stacklevel=4)
