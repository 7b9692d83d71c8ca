"""Several named latents, and conditional priors of any family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lowerbound import distributions
from lowerbound.distributions import Distribution
from lowerbound.distributions.latents import Computed, Conditional, Known, check_parents
from lowerbound.priors.base import Prior


class Given(Prior):
    """p(z|c) of any family: ``of`` is a posterior whose encoder reads the context c ``[B, C]`` in place of rows.

    ``Given(posteriors.Bernoulli(3, MLP((2,), (3,))))`` is Π Bernoulli(z_i; σ(logit_i(c))).
    """

    conditional = True

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of

    @property
    def family(self) -> type[Distribution]:  # type: ignore[override]
        family: type[Distribution] = self.of.family  # type: ignore[assignment]
        return family

    @property
    def event(self) -> tuple[int, ...]:
        return tuple(self.of.event)  # type: ignore[arg-type]

    def forward(self, context: Tensor | None = None) -> Distribution:
        if context is None:
            raise ValueError("this prior is p(z|context), and no context was given.")
        found: Distribution = self.of(context)
        return found


class Latents(Prior):
    """p(z) = Π_n p(z_n | parents): ``parts`` the prior of each latent by its name, ``parents`` the latents it reads.

    A latent with parents has a conditional prior, such as ``Given`` or ``ConditionalNormal``. Its context is the draws
    of its parents, flattened and joined in order, and after them the model's own context if there is one. z is all
    latents, flattened and joined in the order of ``parts``.
    """

    family = distributions.Latents
    conditional = True

    def __init__(self, parts: Mapping[str, Prior], parents: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__()
        self.parents = check_parents(parts, parents)
        self.names, self.latents = tuple(parts), nn.ModuleList(parts.values())
        for name, part in parts.items():
            if name in self.parents and not (part.conditional and part.family is not None):
                raise ValueError(
                    f"latent {name!r} has parents, and its prior {type(part).__name__} does not read them: take a "
                    "conditional prior, such as priors.Given or priors.ConditionalNormal; a class of your own says "
                    "conditional = True and its family."
                )

    @property
    def parts(self) -> dict[str, Prior]:
        """The prior of each latent."""
        each = (part for part in self.latents if isinstance(part, Prior))
        return dict(zip(self.names, each, strict=True))

    @property
    def events(self) -> dict[str, tuple[int, ...]]:
        """The shape of each latent."""
        return {name: part.event for name, part in self.parts.items()}

    @property
    def event(self) -> tuple[int, ...]:
        return (sum(distributions.size(event) for event in self.events.values()),)

    @property
    def needs_posterior(self) -> bool:  # type: ignore[override]
        return any(part.needs_posterior for part in self.parts.values())

    def forward(self, context: Tensor | None = None, posterior: Any = None) -> distributions.Latents:
        found: dict[str, Conditional] = {}
        for name, part in self.parts.items():
            if name in self.parents:
                assert part.family is not None
                found[name] = Computed(part.event, part.family, self.parents[name], part, context=context)
            else:
                encode = (None if posterior is None else partial(posterior.latent, name),)
                found[name] = Known(part.event, part(context, *(encode if part.needs_posterior else ())))
        known = (one.distribution.batch_dims for one in found.values() if isinstance(one, Known))
        return distributions.Latents(found, max((*known, int(context is not None and bool(self.parents)))))

    def initialise(self, x: Tensor) -> None:
        for part in self.parts.values():
            part.initialise(x)
