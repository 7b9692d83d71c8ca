"""A proposal of its own for each row: a normal of full covariance, fitted to p(z|x)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from lowerbound.distributions import Normal
from lowerbound.distributions.covariance import CorrelatedNormal
from lowerbound.evidence.local import Ascent, by_path, moments, scales, started
from lowerbound.evidence.targets import Target
from lowerbound.posteriors import FullNormal

_ASCENT = Ascent(steps=150, draws=4, rate=0.15)
_WIDER = 1.1  # an ascent of the ELBO finds a q that is narrower than p(z|x), and weights need the tails
_MOST_LATENTS = 128  # a row's covariance has half of their square
DRAWS = _ASCENT.draws
COST = 2 * _ASCENT.steps * _ASCENT.draws
"""Draws that a fit is worth: each of its own goes through the decoder forwards and backwards."""


def fits(target: Target) -> bool:
    """Whether rows of it can have a normal of their own: q is a normal too, and of a vector that is not too long."""
    vector = len(target.event) == 1 and target.event[0] <= _MOST_LATENTS
    return vector and isinstance(target.posterior, Normal | CorrelatedNormal)


def fitted(target: Target, like: Tensor, rng: torch.Generator) -> Tensor:
    """Normals that are near p(z|x) of each row of ``like [B, …]``, as outputs for ``proposal``: ``[B, n]``."""
    family = _family(target)
    loc, covariance = moments(target.posterior, target.event, like, rng)
    loc, covariance = loc.expand(len(like), -1), covariance.expand(len(like), -1, -1)  # q may be one for all rows
    start, units = started(family, loc, covariance, rng).to(like.dtype), scales(family, covariance).to(like.dtype)
    return _ASCENT.run(by_path(target, family), family, start, rng, units).end


def proposal(target: Target, outputs: Tensor) -> Target:
    """The same rows with their fitted normals, a little widened, in place of q."""
    q = _family(target).distribution(outputs)
    return replace(target, posterior=replace(q, scale_tril=_WIDER * q.scale_tril))


def _family(target: Target) -> FullNormal:
    return FullNormal(target.event[0], nn.Identity())
