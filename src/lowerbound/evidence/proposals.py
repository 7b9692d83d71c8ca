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
from lowerbound.evidence.importance import WeightTotal, chunks, same_noise
from lowerbound.evidence.targets import Target, of_model
from lowerbound.likelihoods.support import check_batch
from lowerbound.local_posteriors import Optimisation, by_path, moments
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import FullNormal, Posterior

_SEARCH = Optimisation(steps=150, draws=4, rate=0.15)
_MOST_LATENTS = 128  # a row's covariance has half of their square
_WALK, _ROUNDS, _SHARE = 400, 20, 0.2  # draws and rounds of a walk; the effective share that a round keeps
_WIDER = 1.2  # than p(z|x) in variance: the weights of a proposal that is too narrow have no bound
_LEAST = 1e-6  # of the prior's variance
DRAWS = _SEARCH.draws
COST = 2 * _SEARCH.steps * _SEARCH.draws
"""Draws that a fit is worth: each of its own goes through the decoder forwards and backwards."""


def fits(target: Target) -> bool:
    """Whether rows of it can have a normal of their own: q is a normal too, and of a vector that is not too long."""
    vector = len(target.event) == 1 and target.event[0] <= _MOST_LATENTS
    return vector and _is_normal(target.posterior)


def _is_normal(q: Distribution) -> bool:
    """Whether q is a normal or, of several latents, each is one given its parents."""
    if not isinstance(q, Latents):
        return isinstance(q, Normal | CorrelatedNormal)
    families = [one.family if isinstance(one.family, type) else type(one.family) for one in q.conditionals.values()]
    return all(issubclass(family, Normal | CorrelatedNormal) for family in families)


def fitted(
    target: Target, like: Tensor, rng: Randomness, shared: bool = False, q: Distribution | None = None
) -> Tensor:
    """Normals that are near p(z|x) of each row of ``like [B, …]``, as outputs for ``proposal``: ``[B, n]``.

    ``shared``: by the same noise for all rows. ``q``: where to start, in place of q(z|x).
    """
    family = _family(target)
    loc, covariance = moments(target.posterior if q is None else q, target.event, like, rng)
    loc, covariance = loc.expand(len(like), -1), covariance.expand(len(like), -1, -1)  # q may be one for all rows
    gradient = by_path(target.slope_at, family)
    return _SEARCH.of_moments(gradient, family, loc, covariance, rng, like.dtype, shared).end


def proposal(target: Target, outputs: Tensor) -> Target:
    """The same rows with a ``StudentT`` of the location and scale of their fitted normals in place of q."""
    q = _family(target).distribution(outputs)
    return replace(target, posterior=StudentT(q.loc, q.scale_tril))


def mixed(target: Target, like: Tensor, samples: int, rng: Randomness, shared: bool = False) -> tuple[Tensor, Tensor]:
    """Return draws z ``[S, B, d]``, half of q and half of a proposal near p(z|x), and their log-weights ``[S, B]``.

    The weights are p(x, z) over the mean of the two densities, so that a proposal that has failed costs half of the
    draws and no more. The proposal is ``walked`` to or, with the noise ``shared`` by all rows, ``fitted``. Veach &
    Guibas 1995.
    """
    own = proposal(target, fitted(target, like, rng, shared)).posterior if shared else walked(target, like, rng)
    both, found, rows = (target.posterior, own), [], len(like)
    for q, share in zip(both, (samples - samples // 2, samples // 2), strict=True):
        for count in chunks(share, rows, target.width):
            noise = _noise(q, count, 1 if shared else rows, target, rng, like)
            z = q.sample(noise.expand(count, rows, *noise.shape[2:]))
            log_q = torch.stack([each.log_prob(z).double() for each in both]).logsumexp(0) - math.log(2)
            found.append((z, target.log_joint(z).double() - log_q))
    z, log_w = (torch.cat(each) for each in zip(*found, strict=True))
    largest = torch.finfo(torch.float64).max
    return z, torch.nan_to_num(log_w, nan=-torch.inf, posinf=largest, neginf=-torch.inf)


def walked(target: Target, like: Tensor, rng: Randomness) -> StudentT:
    """Return a Student's t near p(z|x) of each row, reached from a wide normal around E_q[z|x].

    A normal π is moved to the moments of π^(1−t) p^t, with t as large as the weights bear, until t = 1 twice: q itself
    may be too narrow, or far off, and its weights do not tell. All rounds use the same noise, and a row that has
    arrived stays, so that no row waits for another. Cappé et al. 2004; Del Moral et al. 2006.
    """
    loc, _ = moments(target.posterior, target.event, like, rng)
    loc, prior = loc.expand(len(like), -1), target.prior
    tril = torch.diag_embed(torch.ones_like(loc))
    if prior is not None and _is_normal(prior):
        _, covariance = moments(prior, target.event, like, rng)
        tril = torch.linalg.cholesky(covariance).expand_as(tril)
    least = _LEAST * tril.square().sum(-1)
    draws = max(_WALK, 20 * target.event[0])
    noise = by_row(rng, len(like), lambda own, some: Full.noise((draws, len(some)), target.event, own, like.dtype))
    near = there = torch.zeros(len(loc), dtype=torch.bool, device=loc.device)
    for _ in range(_ROUNDS):
        z, log_w = _weighed(target, Full(loc.to(like.dtype), tril.to(like.dtype)), noise)
        t = _temper(log_w)
        shares = (t * log_w).softmax(0).unsqueeze(-1)
        mean = (shares * z).sum(0)
        away = (z - loc) * shares.sqrt()  # from where it was: the spread grows along the way
        covariance = _WIDER * torch.einsum("kbi,kbj->bij", away, away)
        covariance.diagonal(dim1=1, dim2=2).mul_(1 + _LEAST).add_(least)
        loc = torch.where(there[:, None], loc, mean)
        tril = torch.where(there[:, None, None], tril, torch.linalg.cholesky(covariance))
        near, there = t >= 1, there | (near & (t >= 1))  # twice: weights of a narrow proposal may deceive once
        if bool(there.all()):
            break
    return StudentT(loc.to(like.dtype), tril.to(like.dtype))


def _weighed(target: Target, q: Full, noise: Tensor) -> tuple[Tensor, Tensor]:
    """z ``[S, B, d]`` and log p(x, z) − log q(z) ``[S, B]``, in double precision."""
    found, first = [], 0
    for count in chunks(len(noise), noise.shape[1], target.width):
        z = q.sample(noise[first : first + count])
        found.append((z, target.log_joint(z).double() - q.log_prob(z).double()))
        first += count
    z, log_w = (torch.cat(each) for each in zip(*found, strict=True))
    largest = torch.finfo(torch.float64).max
    return z.double(), torch.nan_to_num(log_w, nan=-largest, posinf=largest, neginf=-largest)


def _temper(log_w: Tensor) -> Tensor:
    """Return the largest t ``[B]`` up to 1 whose weights w^t keep a share of effective draws, by bisection."""
    least, low, high = _SHARE * len(log_w), torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
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
    """What ``WeightTotal`` gives ``[4, B]`` of draws with the same noise for every row, as in ``score_rows``.

    From q or, to ``fit``, half of them from a proposal for each row (``mixed``), where rows can have one.
    """
    check_batch(model.likelihood, batch)
    target = of_model(model, posterior)(batch)
    if not (fit and fits(target)):
        return same_noise(target, batch, samples, rng)
    total = WeightTotal()
    total.add(mixed(target, batch.x, samples, rng, shared=True)[1])
    return total.result()


def around(q: Distribution, like: Tensor, rng: torch.Generator) -> Distribution:
    """A ``StudentT`` of the mean and covariance of the normal, or mixture of normals, ``q`` of each row of ``like
    [B, …]``; q itself where it is of another kind."""
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
    """Multivariate Student's t: ``loc [B, d]``, ``scale_tril`` L ``[B, d, d]``, as many degrees of freedom as
    dimensions, to the next even number.

    z = loc + L ε √(ν/χ²), ε ~ N(0, I); the noise is ε and, last, the square root. Fitted normals are narrower than
    p(z|x) and miss its tails; under t the importance weights are bounded wherever p(x, z) falls off faster than a
    power of z. Where p(z|x) is a normal they keep an effective sample of .85 K in any dimension. Owen & Zhou 2000.
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
        # of any condition, as that of ``FullNormal``
        return self._at((noise[..., :-1] * noise[..., -1:]).square().sum(-1))

    @property
    def _normal(self) -> Full:
        return Full(self.loc, self.scale_tril, self.batch_dims)

    def _at(self, squared: Tensor) -> Tensor:
        """The log-density where (z − loc)ᵀ (L Lᵀ)⁻¹ (z − loc) is ``squared``."""
        d, v = self.loc.shape[-1], _degrees(self.loc.shape[-1])
        constant = math.lgamma((v + d) / 2) - math.lgamma(v / 2) - 0.5 * d * math.log(v * math.pi)
        return constant - 0.5 * self._normal.log_det() - 0.5 * (v + d) * (squared / v).log1p()


def _noise(q: Distribution, draws: int, rows: int, target: Target, rng: Randomness, like: Tensor) -> Tensor:
    return by_row(rng, rows, lambda own, some: q.noise((draws, len(some)), target.event, own, like.dtype))


def _degrees(dim: int) -> int:
    return 2 * -(-dim // 2)


def _family(target: Target) -> FullNormal:
    return FullNormal(target.event[0], nn.Identity())
