"""ELBOs of some rows: of the encoder's q, and of a q optimised for each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lowerbound import posteriors
from lowerbound.distributions import Distribution, generator
from lowerbound.draw import Batch
from lowerbound.evidence.estimates import Array
from lowerbound.evidence.importance import chunks
from lowerbound.evidence.targets import Target, of_model
from lowerbound.gradients import by_family
from lowerbound.local_posteriors import Gradient, LocalPosterior, Optimisation, by_path, moments
from lowerbound.model import LatentVariableModel, draw_from, nodes_of, with_prior
from lowerbound.objectives import elbo
from lowerbound.posteriors import Posterior
from lowerbound.row_source import RowSource

Richer = Literal["FullNormal", "LowRankNormal", "NormalMixture"]
_RANK, _COMPONENTS = 2, 4


class Local(Posterior):
    """A q for each row of a batch from the family of the encoder's ``posterior`` (merged with the prior, if that is).

    With several latents, ``out [B, n_outputs]`` is added to the output of each latent's network, so that a latent with
    parents still depends on them through its network.
    """

    def __init__(self, posterior: Posterior, batch: Batch, prior: Distribution) -> None:
        super().__init__(posterior.latent_dim, nn.Identity())
        self.posterior, self.prior, self.context = posterior, prior, batch.context
        self.several = posterior if isinstance(posterior, posteriors.Latents) else None
        if self.several is None:
            self.start = posterior.outputs(batch.x, batch.mask, batch.context)
        else:
            self.features, self.mask = self.several.read(batch.x, batch.mask, batch.context)
            self.start = batch.x.new_zeros(len(batch.x), self.n_outputs)

    @property
    def family_name(self) -> str:
        return self.posterior.family_name

    @property
    def event(self) -> tuple[int, ...]:
        return self.posterior.event

    @property
    def n_outputs(self) -> int:
        parts = [self.posterior] if self.several is None else self.several.parts.values()
        return sum(part.n_outputs for part in parts)

    @property
    def paths(self) -> tuple[bool, ...]:
        return self.posterior.paths

    def distribution(self, out: Tensor) -> Distribution:
        if self.several is None:
            return with_prior(self.posterior, self.posterior.distribution(out), self.prior)
        return with_prior(self.several, self.several.given(self.features, self.mask, self.context, out), self.prior)

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return self.posterior.noise(draws, rows, generator, dtype)


@dataclass(frozen=True)
class Part:
    """Some rows under a model, for which bounds are computed."""

    model: LatentVariableModel
    posterior: Posterior
    rows: RowSource
    batch: Batch
    target: Target
    family: Local

    @classmethod
    @torch.no_grad()
    def of(cls, model: LatentVariableModel, posterior: Posterior, rows: RowSource) -> Part:
        weight = torch.full((len(rows),), 1 / len(rows), dtype=rows.dtype, device=rows.device)
        batch = rows.batch(torch.arange(len(rows), device=rows.device), weight)
        target = of_model(model, posterior)(batch)
        return cls(model, posterior, rows, batch, target, Local(posterior, batch, target.source("prior")))

    def gradient(self, family: Posterior) -> Gradient:
        """Return the gradient of the ELBO: through the draws if all latents allow it, else ``by_family``."""
        if all(family.paths):
            return by_path(self.target.slope_at, family)
        prior = self.target.source("prior")

        def gradient(out: Tensor, noise: Tensor) -> Tensor:
            there = draw_from(family.distribution(out), prior, self.model, self.batch, noise)
            return torch.autograd.grad(by_family(there, elbo).sum(), out)[0]

        return gradient

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
