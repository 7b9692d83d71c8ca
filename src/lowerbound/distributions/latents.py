"""Several named latents, each drawn given its parents, as one distribution over their concatenation."""

from __future__ import annotations

import dataclasses
import graphlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowerbound.distributions.detaching import detached_fields
from lowerbound.distributions.family import Distribution, Family, Reparameterisation


class Conditional(ABC):
    """The distribution of one latent given the draws of its ``parents``: q(z_n | x, parents) or p(z_n | parents)."""

    event: tuple[int, ...]
    """E: the shape of z_n."""
    parents: tuple[str, ...]
    """The names of the latents on which it depends."""
    family: type[Distribution] | Distribution
    """The family of the distribution, for its noise and its properties."""

    @abstractmethod
    def given(self, latents: Mapping[str, Tensor]) -> Distribution:
        """The distribution given the parents' draws ``[K, B, *E]``; its parameters are ``[K, B, *P]``."""

    @abstractmethod
    def take(self, index: Tensor) -> Self:
        """The conditionals of the rows ``index``."""

    def noise(self, lead: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Noise for draws of shape ``lead``, ``[*lead, …]``."""
        return self.family.noise(lead, self.event, generator, dtype)

    def stopped(self) -> Self:
        """A copy without gradients to its parameters or networks; gradients to the parents' draws are kept."""
        return dataclasses.replace(self, **detached_fields(self))  # type: ignore[type-var]


@dataclass(frozen=True)
class Known(Conditional):
    """A latent without parents: its distribution does not depend on other latents."""

    event: tuple[int, ...]
    distribution: Distribution

    @property
    def parents(self) -> tuple[str, ...]:  # type: ignore[override]
        return ()

    @property
    def family(self) -> Distribution:  # type: ignore[override]
        return self.distribution

    def given(self, latents: Mapping[str, Tensor]) -> Distribution:
        return self.distribution

    def take(self, index: Tensor) -> Self:
        rows = self.distribution.batch_dims > 0
        return dataclasses.replace(self, distribution=self.distribution.take(index)) if rows else self


@dataclass(frozen=True)
class Computed(Conditional):
    """A latent whose distribution is ``network(*inputs, context)``, computed for every draw of its parents.

    ``inputs [B, …]`` are those of the rows. The last argument of the network is the concatenation of the parents' draws
    (flattened) and ``context [B, C]``: ``[K·B, C']``.
    """

    event: tuple[int, ...]
    family: type[Distribution]
    parents: tuple[str, ...]
    network: nn.Module
    inputs: tuple[Tensor | None, ...] = ()
    context: Tensor | None = None

    def given(self, latents: Mapping[str, Tensor]) -> Distribution:
        each = [latents[name].flatten(2) for name in self.parents]
        rows = [value.shape[:1] for value in (*self.inputs, self.context) if value is not None]
        lead = torch.broadcast_shapes(*(value.shape[:2] for value in each), *rows)
        each += [] if self.context is None else [self.context]
        context = torch.cat([value.expand(*lead, -1) for value in each], -1).flatten(0, 1)
        inputs = [None if value is None else _repeated(value, lead) for value in self.inputs]
        found: Distribution = self.network(*inputs, context)
        return found.by_draw(*lead)

    def take(self, index: Tensor) -> Self:
        inputs = tuple(None if value is None else value[index] for value in self.inputs)
        return dataclasses.replace(self, inputs=inputs, context=None if self.context is None else self.context[index])


@dataclass(frozen=True)
class Merged(Conditional):
    """A posterior that is combined with its prior: ``merge(q, p)`` of both distributions given the parents' draws."""

    own: Conditional
    prior: Conditional
    merge: Callable[[Distribution, Distribution], Distribution]

    @property
    def event(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.own.event

    @property
    def parents(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys((*self.own.parents, *self.prior.parents)))

    @property
    def family(self) -> type[Distribution] | Distribution:  # type: ignore[override]
        return self.own.family

    def given(self, latents: Mapping[str, Tensor]) -> Distribution:
        return self.both(latents)[0]

    def both(self, latents: Mapping[str, Tensor]) -> tuple[Distribution, Distribution]:
        """The posterior and the prior given the parents' draws."""
        p = self.prior.given(latents)
        return self.merge(self.own.given(latents), p), p

    def take(self, index: Tensor) -> Self:
        return dataclasses.replace(self, own=self.own.take(index), prior=self.prior.take(index))


@dataclass(frozen=True)
class Latents(Distribution):
    """Π_n p(z_n | parents) over named latents; z ``[K, B, d]`` is their concatenation, each flattened.

    ``conditionals``: each latent's distribution by name. Sampling is ancestral: parents first. The noise is the
    concatenation of the latents' noise in the order of ``conditionals``; z is in the order of ``names``, if given.
    """

    conditionals: Mapping[str, Conditional]
    batch_dims: int = 1
    names: tuple[str, ...] = ()

    @property
    def reparameterisation(self) -> Reparameterisation | None:  # type: ignore[override]  # depends on the latents
        return "composition" if all(each.differentiable for each in self.families().values()) else None

    @property
    def unconstrained(self) -> bool:  # type: ignore[override]  # depends on the latents
        return all(each.unconstrained for each in self.families().values())

    @property
    def events(self) -> dict[str, tuple[int, ...]]:
        """The shape of each latent, in the order of z."""
        return {name: self.conditionals[name].event for name in self.names or self.conditionals}

    def nodes(self) -> Mapping[str, Distribution]:
        for name, one in self.conditionals.items():
            if one.parents:
                raise ValueError(
                    f"latent {name!r} has the parents {', '.join(one.parents)}, so its distribution depends on their "
                    "draws; use given(latents) instead of nodes()."
                )
        return self.given({})

    def families(self) -> Mapping[str, Family]:
        return {name: _family(one.family) for name, one in self.conditionals.items()}

    def given(self, latents: Mapping[str, Tensor]) -> dict[str, Distribution]:
        """The distribution of each latent given the draws ``[K, B, *E]`` of its parents."""
        return {name: one.given(latents) for name, one in self.conditionals.items()}

    def noise(  # type: ignore[override]  # depends on the latents
        self, lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        each = [one.noise(lead, generator, dtype).flatten(len(lead)) for one in self.conditionals.values()]
        return torch.cat(each, -1)

    def noises(self, noise: Tensor) -> dict[str, Tensor]:
        """Split the concatenated ``noise [K, B, …]`` into the noise of each latent."""
        found, first = {}, 0
        for name, one in self.conditionals.items():
            shape = one.noise((0, 0), torch.Generator(noise.device), noise.dtype).shape[2:]
            found[name] = noise[..., first : first + shape.numel()].unflatten(-1, shape)
            first += shape.numel()
        return found

    def draw(self, noise: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Draw each latent: its z ``[K, B, *E]`` and its noise, by name."""
        noises, found = self.noises(noise), dict[str, Tensor]()
        for name in order(self.conditionals):
            found[name] = self.conditionals[name].given(found).sample(noises[name])
        return {name: (found[name], noises[name]) for name in self.conditionals}

    def sample(self, noise: Tensor) -> Tensor:
        return self.join({name: z for name, (z, _) in self.draw(noise).items()})

    def join(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Concatenate the latents ``[K, B, *E]`` to z ``[K, B, d]``."""
        return torch.cat([latents[name].flatten(2) for name in self.events], -1)

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Split z ``[K, B, d]`` into the latents ``[K, B, *E]``: the inverse of ``join``."""
        return split(z, self.events)

    def log_prob(self, z: Tensor) -> Tensor:
        latents = self.split(z)
        terms = [one.log_prob(latents[name]) for name, one in self.given(latents).items()]
        return torch.stack(terms).sum(0)

    def log_prob_of_sample(self, z: Tensor, noise: Tensor) -> Tensor:
        latents, noises = self.split(z), self.noises(noise)
        terms = [one.log_prob_of_sample(latents[name], noises[name]) for name, one in self.given(latents).items()]
        return torch.stack(terms).sum(0)

    def entropy(self) -> Tensor | None:
        """The sum of the latents' entropies, ``[B]``; None if a latent has parents, or no closed-form entropy."""
        if any(one.parents for one in self.conditionals.values()):
            return None
        terms = [part.entropy() for part in self.nodes().values()]
        known = [term for term in terms if term is not None]
        return torch.stack(known).sum(0) if len(known) == len(terms) else None

    def mean(self) -> Tensor | None:
        """The concatenated means of the latents, ``[B, d]``; None if a latent has parents, or no closed-form mean."""
        if any(one.parents for one in self.conditionals.values()):
            return None
        nodes = self.nodes()
        terms = [nodes[name].mean() for name in self.events]
        known = [term.flatten(self.batch_dims) for term in terms if term is not None]
        return torch.cat(known, -1) if len(known) == len(terms) else None

    def take(self, index: Tensor) -> Self:
        return dataclasses.replace(
            self, conditionals={name: one.take(index) for name, one in self.conditionals.items()}
        )


def conditionals(distribution: Distribution, event: tuple[int, ...]) -> Mapping[str, Conditional]:
    """The latents of a distribution by name: those of ``Latents``; the only latent of another distribution is "z"."""
    return distribution.conditionals if isinstance(distribution, Latents) else {"z": Known(event, distribution)}


def split(z: Tensor, events: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Split the concatenation z ``[K, B, d]`` into latents of shapes ``events``, by name."""
    pieces = z.split([size(event) for event in events.values()], -1)
    return {name: own.unflatten(-1, event) for (name, event), own in zip(events.items(), pieces, strict=True)}


def order(latents: Mapping[str, Conditional]) -> tuple[str, ...]:
    """The names of the latents, parents before their children."""
    return parents_first({name: one.parents for name, one in latents.items()})


def descendants(latents: Mapping[str, Conditional]) -> dict[str, set[str]]:
    """For each latent, its children, their children, and so on."""
    found: dict[str, set[str]] = {name: set() for name in latents}
    for name in reversed(order(latents)):
        for above in latents[name].parents:
            found[above] |= {name} | found[name]
    return found


def parents_first(parents: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names, ``parents`` before their children. Raises ValueError for an unknown parent or a cycle."""
    for name, above in parents.items():
        for each in above:
            if each not in parents:
                raise ValueError(
                    f"latent {name!r} has the parent {each!r}, which is not a latent; the latents are "
                    f"{', '.join(parents)}."
                )
    try:
        return tuple(graphlib.TopologicalSorter(parents).static_order())
    except graphlib.CycleError as error:
        cycle: list[Any] = error.args[1]
        raise ValueError(f"the parents form a cycle: {' → '.join(cycle)}; remove one of them.") from None


def check_parents(
    parts: Mapping[str, nn.Module], parents: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """The parents of each latent that has any. Raises ValueError for an invalid name, an unknown parent or a cycle."""
    named = isinstance(parts, Mapping) and all(isinstance(name, str) and name for name in parts)
    if not parts or not named:
        got = ", ".join(map(repr, parts)) if isinstance(parts, Mapping) else repr(parts)
        raise ValueError(f"latents need names, as in Latents({{'z': …}}); got {got or 'none'}.")
    for name, part in parts.items():
        if getattr(part, "family", None) is Latents:
            raise ValueError(f"latent {name!r} itself consists of several latents; list them all in one Latents.")
    given = {name: tuple(above) for name, above in (parents or {}).items() if above}
    if unknown := given.keys() - parts.keys():
        raise ValueError(
            f"parents= names {sorted(unknown)[0]!r}, which is not a latent; the latents are {', '.join(parts)}."
        )
    parents_first({name: given.get(name, ()) for name in parts})
    return given


def size(event: tuple[int, ...]) -> int:
    """The number of elements of a latent of this shape."""
    return torch.Size(event).numel()


def _family(of: type[Distribution] | Distribution) -> Family:
    if isinstance(of, Distribution):
        return of.families()["z"]
    return Family(of.__name__, of.unconstrained, of.reparameterisation is not None)


def _repeated(value: Tensor, lead: torch.Size) -> Tensor:
    """Repeat ``value [B, …]`` for each of K draws: ``[K·B, …]``."""
    return value.expand(*lead, *value.shape[1:]).flatten(0, 1)
