"""The best q of a row by itself: an ascent of the ELBO in what an encoder would give, without the encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.data import Rows
from lowerbound.distributions import Distribution, Normal, generator, inverse_positive
from lowerbound.distributions.covariance import CorrelatedNormal
from lowerbound.draw import Batch, Draw, Node
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.targets import Target, of_model, slope_of
from lowerbound.gradients import by_family
from lowerbound.model import LatentVariableModel
from lowerbound.objectives import elbo
from lowerbound.posteriors import Posterior
from lowerbound.posteriors.normal import MIN_SCALE

Array = NDArray[np.float64]
Richer = Literal["FullNormal", "LowRankNormal", "NormalMixture"]
_RANK, _COMPONENTS = 2, 4
_APART = 0.3  # of a deviation: how far from each other the parts start that by symmetry would never part
_LAST = 0.1  # of the steps
_POWER = 3
_MOMENTS = 2000  # draws for the mean and covariance of a family that has no closed form of them


@dataclass(frozen=True)
class Local:
    """A family with its outputs ``[B, n_outputs]`` for each row: at the ``end``, ``before`` the last tenth of steps."""

    family: Posterior
    before: Tensor
    end: Tensor

    @property
    def name(self) -> str:
        return type(self.family).__name__


@dataclass(frozen=True)
class Part:
    """Some rows under a model: what bounds are of."""

    model: LatentVariableModel
    posterior: Posterior
    rows: Rows
    batch: Batch
    target: Target

    @classmethod
    @torch.no_grad()
    def of(cls, model: LatentVariableModel, posterior: Posterior, rows: Rows) -> Part:
        weight = torch.full((len(rows),), 1 / len(rows), dtype=rows.dtype, device=rows.device)
        batch = rows.batch(torch.arange(len(rows), device=rows.device), weight)
        return cls(model, posterior, rows, batch, of_model(model, posterior)(batch))

    @torch.no_grad()
    def encoded(self) -> Tensor:
        """What the encoder gives, ``[B, n_outputs]``."""
        return self.posterior.outputs(self.batch.x, self.batch.mask, self.batch.context)

    def gradient(self, family: Posterior) -> Gradient:
        """``sticking_the_landing`` where it flows through every draw, and else ``leave_one_out``."""
        if all(family.paths):
            return by_path(self.target, family)

        def gradient(out: Tensor, noise: Tensor) -> Tensor:
            bound = by_family(self.draw(family.distribution(out), noise), elbo)
            return torch.autograd.grad(bound.sum(), out)[0]

        return gradient

    def draw(self, q: Distribution, noise: Tensor) -> Draw:
        """As ``model.draw``, with a q of its own in place of the encoder's."""
        assert self.target.prior is not None
        families, priors, z, noises = q.nodes(), self.target.prior.nodes(), {}, {}
        for name, (value, own) in q.draw(noise).items():
            z[name] = value.detach() if families[name].reparameterisation is None else value
            noises[name] = own
        log_lik = self.model.log_lik(q.join(z), self.batch.x, self.batch.mask, self.batch.context)
        nodes = tuple(Node(name, z[name], each, priors[name], noises[name]) for name, each in families.items())
        return Draw(nodes, log_lik)

    @torch.no_grad()
    def log_weights(self, family: Posterior, out: Tensor, samples: int, seed: int, stream: int) -> Array:
        """log w ``[S, B]`` of fresh draws: the same noise for families whose noise is of one kind."""
        q, found = family.distribution(out), []
        for number, draws in enumerate(chunks(samples, len(out), self.target.width)):
            rng = generator(seed, "gaps", "fresh", stream, number, device=out.device)
            noise = family.noise(draws, len(out), rng, out.dtype)
            found.append(self.target.log_weights(q, noise).double().cpu())
        return torch.cat(found).numpy()


Gradient = Callable[[Tensor, Tensor], Tensor]
"""That of the ELBO in the outputs ``[B, n_outputs]`` of a family, from noise ``[S, B, …]``, up to a constant factor."""


def by_path(target: Target, family: Posterior) -> Gradient:
    """∂/∂z [log p(x, z) − log q(z)], pulled back to the outputs through z: 0 at every draw where q is p(z|x).

    Roeder et al. 2017.
    """

    def gradient(out: Tensor, noise: Tensor) -> Tensor:
        still = family.distribution(out.detach())
        with torch.enable_grad():
            z = family.distribution(out).sample(noise)
        at = z.detach()
        slope = slope_of(target.log_joint, at) if target.slope is None else target.slope(at)
        (found,) = torch.autograd.grad(z, out, slope - slope_of(still.log_prob, at))
        return found

    return gradient


@dataclass(frozen=True)
class Ascent:
    """``steps`` of Adam, each with ``draws`` of z, at a rate that falls from ``rate`` to 0.

    What it comes to is the mean of its path, step t counting t³: far nearer the top than its end, for the gradients
    are noisy. Rows do not see each other. Shamir & Zhang 2013.
    """

    steps: int
    draws: int
    rate: float

    def run(
        self,
        gradient: Gradient,
        family: Posterior,
        start: Tensor,
        rng: torch.Generator,
        units: Tensor | float = 1.0,
        shared: bool = False,
    ) -> Local:
        """The best q of each row that is found from ``start [B, n_outputs]``, in steps of the ``units`` of each.

        ``shared``: with the same noise for all rows, so that what a row gets does not depend on its place.
        """
        moved = torch.zeros_like(start).requires_grad_()
        optimiser = torch.optim.Adam([moved], betas=(0.9, 0.99))
        before = mean = start
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = self.rate * (1 - step / self.steps)
            noise = family.noise(self.draws, 1 if shared else len(start), rng, start.dtype)
            noise = noise.expand(-1, len(start), *noise.shape[2:])
            slope = units * gradient((start + units * moved).detach().requires_grad_(), noise)
            moved.grad = -slope.nan_to_num(0, 0, 0)  # a draw beyond the model's precision moves nothing
            optimiser.step()
            if step == self.steps - math.ceil(_LAST * self.steps):
                before = mean
            mean = torch.lerp(mean, start + units * moved.detach(), (1 + _POWER) / (step + 1 + _POWER))
        return Local(family, before, mean)

    def richer(self, part: Part, family: Posterior, best: Local, rng: torch.Generator) -> Local:
        """The same for another family, from the mean and covariance of the ``best`` of a first."""
        q, end = best.family.distribution(best.end), best.end
        loc, covariance = moments(q, best.family.event, end, rng)
        start, units = started(family, loc, covariance, rng).to(end), scales(family, covariance).to(end)
        return self.run(part.gradient(family), family, start, rng, units)


def families(own: Posterior, richer: Sequence[Richer | Posterior] | None) -> list[Posterior]:
    """Posteriors that stand for their families, by name or as they are; of None, what suits the encoder's family."""
    vector = own.family.unconstrained and len(own.event) == 1
    asked: Sequence[Richer | Posterior] = () if richer is None else richer
    if richer is None and vector and not isinstance(own, posteriors.FullNormal):
        asked = ("FullNormal",)
    if asked and not vector:
        raise ValueError(f"richer is of real vectors, and {type(own).__name__} of other latents: leave richer out.")
    found = [each if isinstance(each, Posterior) else _named(each, own.latent_dim) for each in asked]
    names = [type(each).__name__ for each in (own, *found)]
    if len(set(names)) < len(names):
        raise ValueError(f"families are told apart by name; the encoder's and those of richer are {', '.join(names)}.")
    return found


def _named(name: str, dim: int) -> Posterior:
    match name:
        case "FullNormal":
            return posteriors.FullNormal(dim, nn.Identity())
        case "LowRankNormal":
            return posteriors.LowRankNormal(dim, min(_RANK, dim), nn.Identity())
        case "NormalMixture":
            return posteriors.NormalMixture(dim, _COMPONENTS, nn.Identity())
    raise ValueError(f'richer holds {name!r}; it takes "FullNormal", "LowRankNormal", "NormalMixture", or a posterior.')


@torch.no_grad()
def moments(q: Distribution, event: tuple[int, ...], like: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The mean ``[B, d]`` and covariance ``[B, d, d]`` of the q of each row of ``like [B, …]``, in double precision."""
    if isinstance(q, Normal):
        return q.loc.double(), torch.diag_embed(q.scale.double().square())
    if isinstance(q, CorrelatedNormal):
        root = q.root().double()
        return q.loc.double(), root @ root.mT
    noise = q.noise((_MOMENTS, len(like)), event, rng, like.dtype)
    z = q.sample(noise).double().transpose(0, 1)  # [B, S, d]
    away = z - z.mean(1, keepdim=True)
    return z.mean(1), away.mT @ away / (_MOMENTS - 1)


@torch.no_grad()
def started(family: Posterior, loc: Tensor, covariance: Tensor, rng: torch.Generator) -> Tensor:
    """Outputs ``[B, n_outputs]`` with this mean and these variances; ``FullNormal`` has all of the covariance."""
    rows, dim = loc.shape
    scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
    if isinstance(family, posteriors.FullNormal):
        lower = torch.linalg.cholesky_ex(covariance).L
        below = torch.tril_indices(dim, dim, -1, device=loc.device)
        return torch.cat([loc, _raw(lower.diagonal(dim1=1, dim2=2)), lower[:, below[0], below[1]]], 1)
    if isinstance(family, posteriors.LowRankNormal):
        factor = torch.randn((rows, dim, family.rank), generator=rng, dtype=loc.dtype, device=loc.device)
        factor = _APART * scale.unsqueeze(2) * nn.functional.normalize(factor, dim=2)
        return torch.cat([loc, _raw(scale * math.sqrt(1 - _APART**2)), factor.flatten(1)], 1)
    if isinstance(family, posteriors.NormalMixture):
        away = torch.randn((rows, family.components, dim), generator=rng, dtype=loc.dtype, device=loc.device)
        locs = loc.unsqueeze(1) + _APART * scale.unsqueeze(1) * away
        logits = loc.new_zeros(rows, family.components)
        return torch.cat([logits, locs.flatten(1), _raw(scale).repeat(1, family.components)], 1)
    raise ValueError(f"no {type(family).__name__} can start from a mean and a covariance: leave it out of richer.")


def scales(family: Posterior, covariance: Tensor) -> Tensor:
    """How far each output ``[B, n_outputs]`` goes for about a deviation of q: what a step is measured in.

    Of a row of L they share it: all move at once.
    """
    scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
    rows, dim = scale.shape
    ones = torch.ones_like(scale)
    if isinstance(family, posteriors.FullNormal):
        below = torch.tril_indices(dim, dim, -1, device=scale.device)
        return torch.cat([scale, ones, scale[:, below[0]] / dim**0.5], 1)
    if isinstance(family, posteriors.LowRankNormal):
        return torch.cat([scale, ones, scale.repeat_interleave(family.rank, 1) / family.rank], 1)
    assert isinstance(family, posteriors.NormalMixture)  # as ``started`` has seen
    wide = scale.repeat(1, family.components)
    return torch.cat([scale.new_ones(rows, family.components), wide, torch.ones_like(wide)], 1)


def _raw(scale: Tensor) -> Tensor:
    """The outputs that a family reads as these scales."""
    return inverse_positive((scale - MIN_SCALE).clamp(min=MIN_SCALE))
