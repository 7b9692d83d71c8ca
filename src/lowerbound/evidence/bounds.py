"""Bounds of some rows: the ELBO of the encoder's q, and of other q of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.data import Rows
from lowerbound.distributions import Distribution, generator
from lowerbound.draw import Batch, Draw, Node
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.targets import Target, of_model
from lowerbound.gradients import by_family
from lowerbound.local_posteriors import Gradient, LocalPosterior, Optimisation, by_path, moments
from lowerbound.model import LatentVariableModel
from lowerbound.objectives import elbo
from lowerbound.posteriors import Posterior

Richer = Literal["FullNormal", "LowRankNormal", "NormalMixture"]
_RANK, _COMPONENTS = 2, 4


@dataclass(frozen=True)
class Part:
    """Some rows under a model, whose bounds are wanted."""

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
        """Return the encoder's outputs, ``[B, n_outputs]``."""
        return self.posterior.outputs(self.batch.x, self.batch.mask, self.batch.context)

    def gradient(self, family: Posterior) -> Gradient:
        """Return the gradient of the ELBO: through the draws where all of them allow it, else ``by_family``."""
        if all(family.paths):
            return by_path(self.target.slope_at, family)

        def gradient(out: Tensor, noise: Tensor) -> Tensor:
            bound = by_family(self.draw(family.distribution(out), noise), elbo)
            return torch.autograd.grad(bound.sum(), out)[0]

        return gradient

    def draw(self, q: Distribution, noise: Tensor) -> Draw:
        """Draw as ``model.draw`` does, from ``q`` instead of the encoder's."""
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
        """Return log w ``[S, B]`` of fresh draws; families with one kind of noise get the same noise."""
        q, found = family.distribution(out), []
        for number, draws in enumerate(chunks(samples, len(out), self.target.width)):
            rng = generator(seed, "gaps", "fresh", stream, number, device=out.device)
            noise = family.noise(draws, len(out), rng, out.dtype)
            found.append(self.target.log_weights(q, noise).double().cpu())
        return torch.cat(found).numpy()

    def richer(
        self, optimisation: Optimisation, family: Posterior, best: LocalPosterior, rng: torch.Generator
    ) -> LocalPosterior:
        """Find the best q of another family, starting from the mean and covariance of the ``best`` of a first."""
        q, end = best.family.distribution(best.end), best.end
        loc, covariance = moments(q, best.family.event, end, rng)
        return optimisation.of_moments(self.gradient(family), family, loc, covariance, rng, end.dtype)


def families(own: Posterior, richer: Sequence[Richer | Posterior] | None) -> list[Posterior]:
    """Return the posteriors that stand for the families of ``richer``; for None, those that suit the encoder's."""
    vector = own.family.unconstrained and len(own.event) == 1
    asked: Sequence[Richer | Posterior] = () if richer is None else richer
    if richer is None and vector and not isinstance(own, posteriors.FullNormal):
        asked = ("FullNormal",)
    if asked and not vector:
        raise ValueError(f"richer is of real vectors, and {type(own).__name__} of other latents: leave richer out.")
    found = [each if isinstance(each, Posterior) else _named(each, own.latent_dim) for each in asked]
    names = [type(each).__name__ for each in (own, *found)]
    if len(set(names)) < len(names):
        raise ValueError(
            f"families are distinguished by name; the encoder's and those of richer are {', '.join(names)}."
        )
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
