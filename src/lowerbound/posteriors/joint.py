"""Several latents of different kinds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions.joint import check_names
from lowerbound.posteriors.base import Posterior


class Joint(Posterior):
    """q(z|x) = Π_n q_n(z_n|x) over latents with ``names``, each of its own family; the decoder sees them end to end.

    ``parts``: a posterior for each, whose own encoder is not asked (``nn.Identity()``): ``encoder`` gives the numbers
    of all, in their order. Each latent is a node of the draw, and has the gradient that its family allows.
    """

    family = distributions.Joint

    def __init__(self, names: Sequence[str], parts: Sequence[Posterior], encoder: nn.Module) -> None:
        check_names(names, len(parts))
        super().__init__(sum(torch.Size(part.event).numel() for part in parts), encoder)
        self.names, self.latents = tuple(names), nn.ModuleList(parts)

    @property
    def parts(self) -> tuple[Posterior, ...]:
        return tuple(part for part in self.latents if isinstance(part, Posterior))

    @property
    def n_outputs(self) -> int:
        return sum(part.n_outputs for part in self.parts)

    @property
    def paths(self) -> tuple[bool, ...]:
        return tuple(path for part in self.parts for path in part.paths)

    def distribution(self, out: Tensor) -> distributions.Joint:
        each = zip(self.names, self.parts, out.split([part.n_outputs for part in self.parts], -1), strict=True)
        latents = {name: part.distribution(own) for name, part, own in each}
        return distributions.Joint(latents, tuple(part.event for part in self.parts))

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.cat([part.noise(draws, rows, generator, dtype).flatten(2) for part in self.parts], -1)
