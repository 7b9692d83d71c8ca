"""Proposals per row: a normal of full covariance near p(z|x), with the tails of Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lowerbound.distributions import Distribution, Latents, Normal, NormalMixture, Randomness, by_row
from lowerbound.distributions import FullNormal as Full
from lowerbound.distributions.covariance import CorrelatedNormal
from lowerbound.distributions.family import standard_normal, uniform
from lowerbound.distributions.latents import size
from lowerbound.draw import Batch
from lowerbound.evidence.importance import WeightTotal, narrow_chunks, same_noise
from lowerbound.evidence.targets import Target, of_model
from lowerbound.likelihoods.support import check_batch
from lowerbound.local_posteriors import Optimisation, by_path, moments
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import FullNormal, Posterior

_SEARCH = Optimisation(steps=150, draws=4, rate=0.15)
_MOST_LATENTS = 128  # the size of a row's covariance grows with its square
_WALK, _ROUNDS, _SHARE = 1000, 20, 0.3  # draws per round and rounds; the least effective share of draws in a round
_QUICK_WALK, _QUICK_ROUNDS, _QUICK_SHARE = 400, 10, 0.2  # those of a quick walk
_WIDE, _FAR = 3.0, 2.0  # the first standard deviation relative to that of q(z|x), if quick, or else of the prior
_WIDER = 1.2  # inflation of the variance, because a proposal that is too narrow has unbounded weights
_LEAST = 1e-6  # least variance relative to the prior's
DRAWS = _SEARCH.draws
COST = 2 * _SEARCH.steps * _SEARCH.draws
"""The cost of a fit in draws; each draw of a fit needs a forward and a backward pass of the decoder."""


def fits(target: Target) -> bool:
    """Whether normals can be fitted to the rows of a target: q must be normal, and z not too long."""
    vector = len(target.event) == 1 and target.event[0] <= _MOST_LATENTS
    return vector and _is_normal(target.posterior)


def _is_normal(q: Distribution) -> bool:
    """Whether q is normal or, with several latents, each is normal given its parents."""
    if not isinstance(q, Latents):
        return isinstance(q, Normal | CorrelatedNormal)
    families = [one.family if isinstance(one.family, type) else type(one.family) for one in q.conditionals.values()]
    return all(issubclass(family, Normal | CorrelatedNormal) for family in families)


def fitted(
    target: Target, like: Tensor, rng: Randomness, shared: bool = False, q: Distribution | None = None
) -> Tensor:
    """Fit normals to p(z|x) of each row of ``like [B, …]``; return their parameters ``[B, n]`` for ``proposal``.

    ``shared``: whether to use the same noise for all rows. ``q``: the starting distribution (default: q(z|x)).
    """
    family = _family(target)
    loc, covariance = moments(target.posterior if q is None else q, target.event, like, rng)
    loc, covariance = loc.expand(len(like), -1), covariance.expand(len(like), -1, -1)  # q may be the same for all rows
    gradient = by_path(target.slope_at, family)
    return _SEARCH.of_moments(gradient, family, loc, covariance, rng, like.dtype, shared).end


def proposal(target: Target, outputs: Tensor) -> Target:
    """The same target with q replaced by a ``StudentT`` with the location and scale of the fitted normals."""
    q = _family(target).distribution(outputs)
    return replace(target, posterior=StudentT(q.loc, q.scale_tril))


def mixed(
    target: Target, like: Tensor, samples: int, rng: Randomness, shared: bool = False, quick: bool = False
) -> tuple[Tensor, Tensor]:
    """Return draws z ``[S, B, d]``, half from q and half from a proposal near p(z|x), and their log-weights ``[S, B]``.

    The weights are p(x, z) over the mean of the two densities, so that a failed proposal costs at most half of the
    draws (Veach & Guibas 1995). The proposal is ``fitted`` if the noise is ``shared`` by all rows, else ``walked``,
    to which ``quick`` is passed.
    """
    own = proposal(target, fitted(target, like, rng, shared)).posterior if shared else walked(target, like, rng, quick)
    both, found, rows = (target.posterior, own), [], len(like)
    for q, share in zip(both, (samples - samples // 2, samples // 2), strict=True):
        for count in narrow_chunks(share, rows, target.width):
            noise = _noise(q, count, 1 if shared else rows, target, rng, like)
            z = q.sample(noise.expand(count, rows, *noise.shape[2:]))
            log_q = torch.stack([each.log_prob(z).double() for each in both]).logsumexp(0) - math.log(2)
            found.append((z, target.log_joint(z).double() - log_q))
    z, log_w = (torch.cat(each) for each in zip(*found, strict=True))
    largest = torch.finfo(torch.float64).max
    return z, torch.nan_to_num(log_w, nan=-torch.inf, posinf=largest, neginf=-torch.inf)


def walked(target: Target, like: Tensor, rng: Randomness, quick: bool = False) -> StudentT:
    """Return a Student's t near p(z|x) of each row, by adaptive importance sampling from a wide normal around E_q[z|x].

    In each round, a normal π is replaced by one with the moments of π^(1−t) p^t, where t is the largest value up to 1
    that keeps enough effective draws, until t = 1 in two rounds. It does not start from q, which may be too narrow
    without any sign in its weights, but with twice the standard deviations of the prior; or, if ``quick``, with at most
    three times those of q, and with fewer draws and rounds. All rounds use the same noise, and converged rows no longer
    change, so that a row's result does not depend on others. Cappé et al. 2004; Del Moral et al. 2006.
    """
    loc, of_q = moments(target.posterior, target.event, like, rng)
    loc, prior = loc.expand(len(like), -1), target.prior
    tril = torch.diag_embed(torch.ones_like(loc))
    if prior is not None and _is_normal(prior):
        _, covariance = moments(prior, target.event, like, rng)
        tril = torch.linalg.cholesky(covariance).expand_as(tril)
    variance = tril.square().sum(-1)
    least = _LEAST * variance
    if quick:
        narrow = _WIDE * (of_q.diagonal(dim1=1, dim2=2) / variance).sqrt()
        tril = narrow.clamp(0.01, 1).unsqueeze(-1) * tril
    else:
        tril = _FAR * tril
    walk, rounds, share = (_QUICK_WALK, _QUICK_ROUNDS, _QUICK_SHARE) if quick else (_WALK, _ROUNDS, _SHARE)
    draws = max(walk, 20 * target.event[0])
    noise = by_row(rng, len(like), lambda own, some: Full.noise((draws, len(some)), target.event, own, like.dtype))
    near = there = torch.zeros(len(loc), dtype=torch.bool, device=loc.device)
    for _ in range(rounds):
        z, log_w = _weighed(target, Full(loc.to(like.dtype), tril.to(like.dtype)), noise)
        t = _temper(log_w, share)
        shares = (t * log_w).softmax(0).unsqueeze(-1)
        mean = (shares * z).sum(0)
        away = (z - loc) * shares.sqrt()  # around the previous location, which makes the spread larger
        covariance = _WIDER * torch.einsum("kbi,kbj->bij", away, away)
        covariance.diagonal(dim1=1, dim2=2).mul_(1 + _LEAST).add_(least)
        loc = torch.where(there[:, None], loc, mean)
        tril = torch.where(there[:, None, None], tril, torch.linalg.cholesky(covariance))
        near, there = t >= 1, there | (near & (t >= 1))  # twice: weights of a narrow proposal can mislead once
        if bool(there.all()):
            break
    return StudentT(loc.to(like.dtype), tril.to(like.dtype))


def _weighed(target: Target, q: Full, noise: Tensor) -> tuple[Tensor, Tensor]:
    """z ``[S, B, d]`` and log p(x, z) − log q(z) ``[S, B]``, in double precision."""
    found, first = [], 0
    for count in narrow_chunks(len(noise), noise.shape[1], target.width):
        z = q.sample(noise[first : first + count])
        found.append((z, target.log_joint(z).double() - q.log_prob(z).double()))
        first += count
    z, log_w = (torch.cat(each) for each in zip(*found, strict=True))
    largest = torch.finfo(torch.float64).max
    return z.double(), torch.nan_to_num(log_w, nan=-largest, posinf=largest, neginf=-largest)


def _temper(log_w: Tensor, share: float) -> Tensor:
    """Return the largest t ``[B]`` up to 1 whose weights w^t keep this ``share`` of effective draws, by bisection."""
    least, low, high = share * len(log_w), torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
    for step in range(30):
        t = high if step == 0 else (low + high) / 2
        enough = 1 / (t * log_w).softmax(0).square().sum(0) >= least
        low, high = torch.where(enough, t, low), torch.where(enough, high, t)
    return low


@read_only
def row_totals(
    model: LatentVariableModel,
    posterior: Posterior,
    batch: Batch,
    samples: int,
    rng: torch.Generator,
    fit: bool = False,
) -> Tensor:
    """The results of ``WeightTotal``, ``[4, B]``, for draws with the same noise for every row, as in ``score_rows``.

    Draws are from q; with ``fit``, half of them are from a proposal per row (``mixed``), if proposals can be fitted.
    """
    check_batch(model.likelihood, batch)
    target = of_model(model, posterior)(batch)
    if not (fit and fits(target)):
        return same_noise(target, batch, samples, rng)
    total = WeightTotal()
    total.add(mixed(target, batch.x, samples, rng, shared=True)[1])
    return total.result()


def around(q: Distribution, like: Tensor, rng: torch.Generator) -> Distribution:
    """A ``StudentT`` with the mean and covariance of q, if q is a normal or a mixture of normals; otherwise q itself.

    ``like [B, …]``: rows, for shape and dtype.
    """
    if isinstance(q, Latents):
        event, vector = (sum(map(size, q.events.values())),), _is_normal(q)
    elif isinstance(q, Normal | CorrelatedNormal | NormalMixture):
        event, vector = (q.loc.shape[-1],), q.loc.dim() == 2 + isinstance(q, NormalMixture)
    else:
        return q
    if not vector or event[0] > _MOST_LATENTS:
        return q
    loc, covariance = moments(q, event, like, rng)
    lower = torch.linalg.cholesky_ex(covariance).L
    return StudentT(loc.to(like.dtype), lower.to(like.dtype))


@dataclass(frozen=True)
class StudentT(Distribution):
    """Multivariate Student's t: ``loc [B, d]``, ``scale_tril`` L ``[B, d, d]``.

    The degrees of freedom ν are d, rounded up to an even number. z = loc + L ε √(ν/χ²), ε ~ N(0, I); the noise is ε
    and, last, the square root. Fitted normals are narrower than p(z|x) and miss its tails; under t, importance
    weights are bounded if p(x, z) falls faster than every power of z. If p(z|x) is normal, the effective sample size is
    0.85 K in any dimension. Owen & Zhou 2000.
    """

    loc: Tensor
    scale_tril: Tensor
    batch_dims: int = 1

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        normal = standard_normal(lead + event, generator, dtype)
        pairs = _degrees(event[0]) // 2
        chi_square = -2 * uniform((*lead, pairs), generator, dtype).log().sum(-1, keepdim=True)
        return torch.cat([normal, (2 * pairs / chi_square).sqrt()], -1)

    def sample(self, noise: Tensor) -> Tensor:
        return self._normal.sample(noise[..., :-1] * noise[..., -1:])

    def log_prob(self, z: Tensor) -> Tensor:
        return self._at(self._normal.squared(z - self.loc))

    def log_prob_of_sample(self, z: Tensor, noise: Tensor) -> Tensor:
        # accurate for any L, as in ``FullNormal``
        return self._at((noise[..., :-1] * noise[..., -1:]).square().sum(-1))

    @property
    def _normal(self) -> Full:
        return Full(self.loc, self.scale_tril, self.batch_dims)

    def _at(self, squared: Tensor) -> Tensor:
        """The log-density at ``squared`` = (z − loc)ᵀ (L Lᵀ)⁻¹ (z − loc)."""
        d, v = self.loc.shape[-1], _degrees(self.loc.shape[-1])
        constant = math.lgamma((v + d) / 2) - math.lgamma(v / 2) - 0.5 * d * math.log(v * math.pi)
        return constant - 0.5 * self._normal.log_det() - 0.5 * (v + d) * (squared / v).log1p()


def _noise(q: Distribution, draws: int, rows: int, target: Target, rng: Randomness, like: Tensor) -> Tensor:
    return by_row(rng, rows, lambda own, some: q.noise((draws, len(some)), target.event, own, like.dtype))


def _degrees(dim: int) -> int:
    return 2 * -(-dim // 2)


def _family(target: Target) -> FullNormal:
    return FullNormal(target.event[0], nn.Identity())
