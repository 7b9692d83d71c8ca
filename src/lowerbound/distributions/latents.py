"""Several named latents, each drawn given its parents, as one distribution of a flat vector."""

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
    """The names of the latents that it reads."""
    family: type[Distribution] | Distribution
    """The family of the distribution, for its noise and its properties."""

    @abstractmethod
    def given(self, latents: Mapping[str, Tensor]) -> Distribution:
        """The distribution at the parents' draws ``[K, B, *E]``, with parameters ``[K, B, *P]``."""

    @abstractmethod
    def take(self, index: Tensor) -> Self:
        """The conditionals of the rows ``index``."""

    def noise(self, lead: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Noise for draws of shape ``lead``, ``[*lead, …]``."""
        return self.family.noise(lead, self.event, generator, dtype)

    def stopped(self) -> Self:
        """The same conditional without gradients to its parameters or networks; those to the parents' draws stay."""
        return dataclasses.replace(self, **detached_fields(self))  # type: ignore[type-var]


@dataclass(frozen=True)
class Known(Conditional):
    """A latent without parents: its distribution is known for the whole batch."""

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
    """A latent whose distribution ``network`` computes from ``inputs [B, …]`` of the rows and its parents' draws.

    The parents, flattened, and then ``context [B, C]`` are the network's context ``[K·B, C']``, its last argument.
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
    """A posterior made with its prior: ``merge(q, p)`` of the two distributions at the parents' draws."""

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
        return self.merge(self.own.given(latents), self.prior.given(latents))

    def take(self, index: Tensor) -> Self:
        return dataclasses.replace(self, own=self.own.take(index), prior=self.prior.take(index))


@dataclass(frozen=True)
class Latents(Distribution):
    """Π_n p(z_n | parents) over named latents; z ``[K, B, d]`` is all of them, flattened and joined end to end.

    ``conditionals``: each latent's distribution, by its name. Draws are ancestral: parents first. The noise is that of
    the latents, flattened and joined in the order of ``conditionals``; z is in the order of ``names``, where given.
    """

    conditionals: Mapping[str, Conditional]
    batch_dims: int = 1
    names: tuple[str, ...] = ()

    @property
    def reparameterisation(self) -> Reparameterisation | None:  # type: ignore[override]  # of all its latents
        return "composition" if all(each.differentiable for each in self.families().values()) else None

    @property
    def unconstrained(self) -> bool:  # type: ignore[override]  # as its latents are
        return all(each.unconstrained for each in self.families().values())

    @property
    def events(self) -> dict[str, tuple[int, ...]]:
        """The shape of each latent, in the order in which z joins them."""
        return {name: self.conditionals[name].event for name in self.names or self.conditionals}

    def nodes(self) -> Mapping[str, Distribution]:
        for name, one in self.conditionals.items():
            if one.parents:
                raise ValueError(
                    f"latent {name!r} has the parents {', '.join(one.parents)}, so its distribution is known given "
                    "their draws only: ask given(latents)."
                )
        return self.given({})

    def families(self) -> Mapping[str, Family]:
        return {name: _family(one.family) for name, one in self.conditionals.items()}

    def given(self, latents: Mapping[str, Tensor]) -> dict[str, Distribution]:
        """The distribution of each latent at the draws ``[K, B, *E]`` of its parents."""
        return {name: one.given(latents) for name, one in self.conditionals.items()}

    def noise(  # type: ignore[override]  # of the families of its latents
        self, lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        each = [one.noise(lead, generator, dtype).flatten(len(lead)) for one in self.conditionals.values()]
        return torch.cat(each, -1)

    def noises(self, noise: Tensor) -> dict[str, Tensor]:
        """The noise of each latent, from the joined ``noise [K, B, …]``."""
        found, first = {}, 0
        for name, one in self.conditionals.items():
            shape = one.noise((0, 0), torch.Generator(noise.device), noise.dtype).shape[2:]
            found[name] = noise[..., first : first + shape.numel()].unflatten(-1, shape)
            first += shape.numel()
        return found

    def draw(self, noise: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Each latent's own z ``[K, B, *E]`` and noise, by its name."""
        noises, found = self.noises(noise), dict[str, Tensor]()
        for name in order(self.conditionals):
            found[name] = self.conditionals[name].given(found).sample(noises[name])
        return {name: (found[name], noises[name]) for name in self.conditionals}

    def sample(self, noise: Tensor) -> Tensor:
        return self.join({name: z for name, (z, _) in self.draw(noise).items()})

    def join(self, latents: Mapping[str, Tensor]) -> Tensor:
        """z ``[K, B, d]`` of each latent's own ``[K, B, *E]``."""
        return torch.cat([latents[name].flatten(2) for name in self.events], -1)

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Each latent's own ``[K, B, *E]``, from z ``[K, B, d]``: the inverse of ``join``."""
        return split(z, self.events)

    def log_prob(self, z: Tensor) -> Tensor:
        latents = self.split(z)
        terms = [one.log_prob(latents[name]) for name, one in self.given(latents).items()]
        return torch.stack(terms).sum(0)

    def entropy(self) -> Tensor | None:
        """The sum of the latents' entropies, ``[B]``; None where a latent has none, or has parents."""
        if any(one.parents for one in self.conditionals.values()):
            return None
        terms = [part.entropy() for part in self.nodes().values()]
        known = [term for term in terms if term is not None]
        return torch.stack(known).sum(0) if len(known) == len(terms) else None

    def mean(self) -> Tensor | None:
        """The latents' means joined, ``[B, d]``; None where a latent has none, or has parents."""
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
    """The latents of a distribution by name: those of ``Latents``, or the one of any other, ``"z"``."""
    return distribution.conditionals if isinstance(distribution, Latents) else {"z": Known(event, distribution)}


def split(z: Tensor, events: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Latents of shapes ``events`` by name, from z ``[K, B, d]`` of all of them joined."""
    pieces = z.split([size(event) for event in events.values()], -1)
    return {name: own.unflatten(-1, event) for (name, event), own in zip(events.items(), pieces, strict=True)}


def order(latents: Mapping[str, Conditional]) -> tuple[str, ...]:
    """The names with parents before their children."""
    return parents_first({name: one.parents for name, one in latents.items()})


def descendants(latents: Mapping[str, Conditional]) -> dict[str, set[str]]:
    """For each latent, the latents that are drawn given it: its children, theirs, and so on."""
    found: dict[str, set[str]] = {name: set() for name in latents}
    for name in reversed(order(latents)):
        for above in latents[name].parents:
            found[above] |= {name} | found[name]
    return found


def parents_first(parents: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names with each one's ``parents`` before it. Refuses a parent that is no latent, and cycles."""
    for name, above in parents.items():
        for each in above:
            if each not in parents:
                raise ValueError(
                    f"latent {name!r} has the parent {each!r}, which is no latent; they are {', '.join(parents)}."
                )
    try:
        return tuple(graphlib.TopologicalSorter(parents).static_order())
    except graphlib.CycleError as error:
        cycle: list[Any] = error.args[1]
        raise ValueError(f"latents cannot be their own ancestors: {' → '.join(cycle)}; remove a parent.") from None


def check_parents(
    parts: Mapping[str, nn.Module], parents: Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """The parents of each latent that has any. Refuses names that are none, parents that are unknown, and cycles."""
    if not parts or not all(isinstance(name, str) and name for name in parts):
        raise ValueError(f"give each latent its part by name; got {', '.join(map(repr, parts)) or 'none'}.")
    for name, part in parts.items():
        if getattr(part, "family", None) is Latents:
            raise ValueError(f"latent {name!r} is itself of several latents; name them all in one.")
    given = {name: tuple(above) for name, above in (parents or {}).items() if above}
    if unknown := given.keys() - parts.keys():
        raise ValueError(f"parents= has {sorted(unknown)[0]!r}, which is no latent; they are {', '.join(parts)}.")
    parents_first({name: given.get(name, ()) for name in parts})
    return given


def size(event: tuple[int, ...]) -> int:
    """How many numbers a latent of this shape has."""
    return torch.Size(event).numel()


def _family(of: type[Distribution] | Distribution) -> Family:
    if isinstance(of, Distribution):
        return of.families()["z"]
    return Family(of.__name__, of.unconstrained, of.reparameterisation is not None)


def _repeated(value: Tensor, lead: torch.Size) -> Tensor:
    """``value [B, …]`` for each of K draws, ``[K·B, …]``."""
    return value.expand(*lead, *value.shape[1:]).flatten(0, 1)
