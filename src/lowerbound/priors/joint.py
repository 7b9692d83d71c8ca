"""Several latents of different kinds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions.joint import check_names
from lowerbound.priors.base import Encode, Prior


class Joint(Prior):
    """p(z) = Π_n p_n(z_n) over latents with ``names``, ``parts`` the prior of each."""

    family = distributions.Joint

    def __init__(self, names: Sequence[str], parts: Sequence[Prior]) -> None:
        super().__init__()
        check_names(names, len(parts))
        self.names, self.latents = tuple(names), nn.ModuleList(parts)

    @property
    def parts(self) -> tuple[Prior, ...]:
        return tuple(part for part in self.latents if isinstance(part, Prior))

    @property
    def event(self) -> tuple[int, ...]:
        return (sum(torch.Size(part.event).numel() for part in self.parts),)

    def forward(self, context: Tensor | None = None, encode: Encode | None = None) -> distributions.Joint:
        latents = {name: part(context) for name, part in zip(self.names, self.parts, strict=True)}
        batched = max(part.batch_dims for part in latents.values())
        return distributions.Joint(latents, tuple(part.event for part in self.parts), batched)

    def initialise(self, x: Tensor) -> None:
        for part in self.parts:
            part.initialise(x)
