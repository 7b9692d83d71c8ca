"""Several latents of their own families, as one distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from lowerbound.distributions.family import Distribution


@dataclass(frozen=True)
class Joint(Distribution):
    """p(z) = Π_n p_n(z_n) over named latents of shapes ``events``; z is them flattened, one after the other.

    A draw of it has a node for each: see ``nodes``. Its noise is that of its latents, flattened likewise.
    """

    latents: Mapping[str, Distribution]
    events: tuple[tuple[int, ...], ...]
    batch_dims: int = 1

    def nodes(self) -> Mapping[str, Distribution]:
        return self.latents

    def noise(  # type: ignore[override]  # of the families of its latents
        self, lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        parts = zip(self.latents.values(), self.events, strict=True)
        return torch.cat([part.noise(lead, own, generator, dtype).flatten(len(lead)) for part, own in parts], -1)

    def draw(self, noise: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Each latent's own z ``[K, B, *E]`` and noise, by its name."""
        found, first = {}, 0
        for (name, part), event in zip(self.latents.items(), self.events, strict=True):
            shape = part.noise((0, 0), event, torch.Generator(noise.device), noise.dtype).shape[2:]
            own = noise[..., first : first + shape.numel()].unflatten(-1, shape)
            found[name] = part.sample(own), own
            first += shape.numel()
        return found

    def sample(self, noise: Tensor) -> Tensor:
        return self.join({name: z for name, (z, _) in self.draw(noise).items()})

    def join(self, latents: Mapping[str, Tensor]) -> Tensor:
        """z ``[K, B, d]`` of each latent's own ``[K, B, *E]``."""
        return torch.cat([latents[name].flatten(2) for name in self.latents], -1)

    def log_prob(self, z: Tensor) -> Tensor:
        sizes = [torch.Size(event).numel() for event in self.events]
        pieces = zip(self.latents.values(), z.split(sizes, -1), self.events, strict=True)
        terms = [part.log_prob(own.unflatten(-1, event)) for part, own, event in pieces]
        return torch.stack(terms).sum(0)

    def entropy(self) -> Tensor | None:
        terms = [part.entropy() for part in self.latents.values()]
        known = [term for term in terms if term is not None]
        return torch.stack(known).sum(0) if len(known) == len(terms) else None

    def mean(self) -> Tensor | None:
        terms = [part.mean() for part in self.latents.values()]
        known = [term.flatten(self.batch_dims) for term in terms if term is not None]
        return torch.cat(known, -1) if len(known) == len(terms) else None

    def take(self, index: Tensor) -> Self:
        return replace(self, latents={name: part.take(index) for name, part in self.latents.items()})


def check_names(names: Sequence[str], latents: int) -> None:
    """Refuse names that are not one for each of the ``latents``, or not all different."""
    if len(names) != latents or len(set(names)) < len(names) or not names:
        raise ValueError(f"{latents} latents need as many names, each another; got {', '.join(names) or 'none'}.")
