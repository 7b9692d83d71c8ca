"""Several named latents, each given its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Distribution
from lowerbound.distributions.latents import Computed, Conditional, Known, check_parents
from lowerbound.posteriors.base import Posterior


class Latents(Posterior):
    """q(z|x) = Π_n q(z_n | x, parents): ``parts`` the posterior of each latent, ``parents`` the latents it reads.

    ``encoder`` gives each row features ``[B, F]`` once, which the parts' own encoders read; without it they read the
    rows. Where the parts have none of their own (``nn.Identity()``), the features are the numbers of all parts, in
    order. The encoder of a latent with parents takes a context (``nn.apply``): the draws of its parents, flattened and
    joined in order, and after them the model's own context if there is one. ``features``: F, where a ``VAE`` builds the
    encoder and the parts have their own.
    """

    family = distributions.Latents

    def __init__(
        self,
        parts: Mapping[str, Posterior],
        encoder: nn.Module | None = None,
        parents: Mapping[str, Sequence[str]] | None = None,
        features: int | None = None,
    ) -> None:
        checked = check_parents(parts, parents)
        super().__init__(sum(distributions.size(part.event) for part in parts.values()), encoder)  # type: ignore[arg-type]
        self.names, self.latents, self.parents = tuple(parts), nn.ModuleList(parts.values()), checked
        self.features, self.own_rows = features, encoder is None
        shared = [isinstance(part.encoder, nn.Identity) for part in parts.values()]
        self.shared = encoder is not None and all(shared)
        if encoder is not None and any(shared) and not self.shared:
            raise ValueError(
                "some of the latents have encoders of their own and some have none (nn.Identity()); give each one its "
                "own, or none."
            )
        for name in self.parents:
            if not getattr(parts[name].encoder, "context", 0):
                raise ValueError(
                    f"latent {name!r} has parents, and its encoder {type(parts[name].encoder).__name__} takes no "
                    "context: take nn.MLP(…, context=…), or a network of your own with an attribute context, how many "
                    "numbers its parents have."
                )

    @property
    def parts(self) -> dict[str, Posterior]:
        """The posterior of each latent."""
        each = (part for part in self.latents if isinstance(part, Posterior))
        return dict(zip(self.names, each, strict=True))

    @property
    def n_outputs(self) -> int:
        if self.shared:
            return sum(part.n_outputs for part in self.parts.values())
        if self.features is None:
            raise ValueError(
                "the latents have encoders of their own: give features=, the numbers of each row they read."
            )
        return self.features

    @property
    def unconstrained(self) -> bool:
        return all(part.unconstrained for part in self.parts.values())

    @property
    def paths(self) -> tuple[bool, ...]:
        return tuple(path for part in self.parts.values() for path in part.paths)

    def outputs(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        if not self.shared and self.features is None:
            return self.encoded(x, mask, context)
        return super().outputs(x, mask, context)

    def distribution(self, out: Tensor) -> distributions.Latents:
        return self.given(out)

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> distributions.Latents:
        return self.given(*self.read(x, mask, context), context)

    def read(self, x: Tensor, mask: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the parts read of rows: the features of ``encoder``, or the rows themselves with their mask."""
        return (x, mask) if self.own_rows else (self.outputs(x, mask, context), None)

    def given(
        self, features: Tensor, mask: Tensor | None = None, context: Tensor | None = None, shift: Tensor | None = None
    ) -> distributions.Latents:
        """q(z|x) of what the parts ``read``. ``shift [B, n]``: what is added to the numbers that each part's network
        gives, n of all parts in order."""
        sizes = [part.n_outputs for part in self.parts.values()]
        found: dict[str, Conditional] = {}
        if self.shared:
            columns = (features if shift is None else features + shift).split(sizes, -1)
            for (name, part), own in zip(self.parts.items(), columns, strict=True):
                found[name] = Known(part.event, part.distribution(own))
            return distributions.Latents(found)
        more = [()] * len(sizes) if shift is None else [(own,) for own in shift.split(sizes, -1)]
        for (name, part), own_shift in zip(self.parts.items(), more, strict=True):
            network, inputs = _Shifted(part) if own_shift else part, (features, mask, *own_shift)
            if name in self.parents:
                found[name] = Computed(part.event, part.family, self.parents[name], network, inputs, context)
            else:
                found[name] = Known(part.event, network(*inputs, context))
        return distributions.Latents(found)

    def latent(self, name: str, x: Tensor) -> Distribution:
        """q(z_n|x) of one latent, which must have no parents."""
        found: Conditional = self(x).conditionals[name]
        if found.parents:
            raise ValueError(
                f"the prior of latent {name!r} is made of its posterior, which must have no parents; it has "
                f"{', '.join(found.parents)}."
            )
        return found.given({})

    def noise(self, draws: int, rows: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        each = [part.noise(draws, rows, generator, dtype).flatten(2) for part in self.parts.values()]
        return torch.cat(each, -1)


class _Shifted(nn.Module):
    """A part of which the network gives more than it does, by ``shift [B, n_outputs]``."""

    def __init__(self, part: Posterior) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor, mask: Tensor | None, shift: Tensor, context: Tensor | None) -> Distribution:
        return self.part.distribution(self.part.outputs(x, mask, context) + shift)
