"""ELBOs of some rows: of the encoder's q, and of a q optimised for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.targets import Target, of_model
from lowerbound.inference.row_family import RowFamily, elbo_gradient
from lowerbound.inference.searched import Searched
from lowerbound.local_posteriors import Gradient, LocalPosterior, Optimisation, moments
from lowerbound.model import LatentVariableModel, nodes_of
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource

Richer = Literal["FullNormal", "LowRankNormal", "NormalMixture"]
_RANK, _COMPONENTS = 2, 4


@dataclass(frozen=True)
class Part:
    """Some rows under a model, for which bounds are computed."""

    model: LatentVariableModel
    posterior: Posterior
    rows: RowSource
    batch: Batch
    target: Target
    family: RowFamily

    @classmethod
    @torch.no_grad()
    def of(cls, model: LatentVariableModel, posterior: Posterior, rows: RowSource) -> Part:
        weight = torch.full((len(rows),), 1 / len(rows), dtype=rows.dtype, device=rows.device)
        batch = rows.batch(torch.arange(len(rows), device=rows.device), weight)
        target = of_model(model, posterior)(batch)
        family = RowFamily(posterior.amortised, batch, target.source("prior"))
        if isinstance(posterior, Searched):
            family.start = posterior.found(model, batch)[1]
        return cls(model, posterior, rows, batch, target, family)

    def gradient(self, family: Posterior) -> Gradient:
        """Return the gradient of the ELBO in the outputs of ``family``."""
        return elbo_gradient(self.model, self.batch, self.target.source("prior"), family)

    @torch.no_grad()
    def log_weights(self, family: Posterior, out: Tensor, samples: int, seed: int, stream: int) -> Array:
        """Return log w ``[S, B]`` for new draws; families with the same kind of noise get the same noise."""
        q, found = family.distribution(out), []
        for noise in self._noise(family, samples, seed, stream):
            found.append(self.target.log_weights(q, noise).double().cpu())
        return torch.cat(found).numpy()

    @torch.no_grad()
    def kl(self, samples: int, seed: int, stream: int) -> dict[str, Array]:
        """Return KL(q ‖ p) ``[S, B]`` of each latent of the encoder's q: in closed form given its parents' draws, or
        log q − log p; the draws are those of ``log_weights``."""
        found: dict[str, list[Tensor]] = {}
        target, prior = self.target, self.target.source("prior")
        for noise in self._noise(self.posterior, samples, seed, stream):
            for node in nodes_of(target.posterior, prior, target.event, noise):
                each = node.log_q - node.log_p if node.kl is None else node.kl.expand(len(noise), -1)
                found.setdefault(node.name, []).append(each.double().cpu())
        return {name: torch.cat(parts).numpy() for name, parts in found.items()}

    def _noise(self, family: Posterior, samples: int, seed: int, stream: int) -> Iterator[Tensor]:
        rows, like = len(self.batch.x), self.batch.x
        for number, draws in enumerate(chunks(samples, rows, self.target.width)):
            rng = generator(seed, "gaps", "fresh", stream, number, device=like.device)
            yield family.noise(draws, rows, rng, like.dtype)

    def richer(
        self, optimisation: Optimisation, family: Posterior, best: LocalPosterior, rng: torch.Generator
    ) -> LocalPosterior:
        """Find the best q of another family, starting from the mean and covariance of the ``best`` of a first."""
        q, end = best.family.distribution(best.end), best.end
        loc, covariance = moments(q, best.family.event, end, rng)
        return optimisation.of_moments(self.gradient(family), family, loc, covariance, rng, end.dtype)


def families(own: Posterior, richer: Sequence[Richer | Posterior] | None) -> list[Posterior]:
    """Return the posteriors that stand for the families of ``richer``; for None, those that suit the encoder's."""
    vector = own.unconstrained and len(own.event) == 1
    asked: Sequence[Richer | Posterior] = () if richer is None else richer
    if richer is None and vector and not isinstance(own, posteriors.FullNormal):
        asked = ("FullNormal",)
    if asked and not vector:
        raise ValueError(f"richer needs real-valued latents, but {own.family_name} has others; leave richer out.")
    found = [each if isinstance(each, Posterior) else _named(each, own.latent_dim) for each in asked]
    names = [each.family_name for each in (own, *found)]
    if len(set(names)) < len(names):
        raise ValueError(
            f"families must have different names, but the encoder's and those of richer are {', '.join(names)}."
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
