"""A proposal of its own for each row: a normal of full covariance, fitted to p(z|x), with the tails of Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lowerbound.distributions import Distribution, Normal, NormalMixture
from lowerbound.distributions import FullNormal as Full
from lowerbound.distributions.covariance import CorrelatedNormal
from lowerbound.distributions.family import standard_normal, uniform
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
DRAWS = _SEARCH.draws
COST = 2 * _SEARCH.steps * _SEARCH.draws
"""Draws that a fit is worth: each of its own goes through the decoder forwards and backwards."""


def fits(target: Target) -> bool:
    """Whether rows of it can have a normal of their own: q is a normal too, and of a vector that is not too long."""
    vector = len(target.event) == 1 and target.event[0] <= _MOST_LATENTS
    return vector and isinstance(target.posterior, Normal | CorrelatedNormal)


def fitted(
    target: Target, like: Tensor, rng: torch.Generator, shared: bool = False, q: Distribution | None = None
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


def mixed(
    target: Target, like: Tensor, samples: int, rng: torch.Generator, shared: bool = False
) -> tuple[Tensor, Tensor]:
    """Draws z ``[S, B, d]`` of q and of a ``proposal`` fitted to p(z|x), half of each; log-weights ``[S, B]``.

    The weights are p(x, z) over the mean of the two densities, so that a fit that has failed costs half of the draws
    and no more. Unless ``shared``, which is with the same noise for all rows, it is fitted twice, the second time from
    where the first has come: in units of q a far p(z|x) is out of reach. Veach & Guibas 1995.
    """
    outputs = fitted(target, like, rng, shared)
    if not shared:
        outputs = fitted(target, like, rng, q=_family(target).distribution(outputs))
    both = target.posterior, proposal(target, outputs).posterior
    found, rows = [], len(like)
    for own, share in zip(both, (samples - samples // 2, samples // 2), strict=True):
        for count in chunks(share, rows, target.width):
            noise = own.noise((count, 1 if shared else rows), target.event, rng, like.dtype)
            z = own.sample(noise.expand(count, rows, *noise.shape[2:]))
            log_q = torch.stack([each.log_prob(z).double() for each in both]).logsumexp(0) - math.log(2)
            found.append((z, target.log_joint(z).double() - log_q))
    z, log_w = (torch.cat(each) for each in zip(*found, strict=True))
    largest = torch.finfo(torch.float64).max
    return z, torch.nan_to_num(log_w, nan=-torch.inf, posinf=largest, neginf=-torch.inf)


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
    if not isinstance(q, Normal | CorrelatedNormal | NormalMixture):
        return q
    if q.loc.dim() != 2 + isinstance(q, NormalMixture) or q.loc.shape[-1] > _MOST_LATENTS:
        return q
    loc, covariance = moments(q, q.loc.shape[-1:], like, rng)
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


def _degrees(dim: int) -> int:
    return 2 * -(-dim // 2)


def _family(target: Target) -> FullNormal:
    return FullNormal(target.event[0], nn.Identity())
