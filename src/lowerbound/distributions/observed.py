"""Categorical latents whose class was observed in some rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from lowerbound.distributions.discrete import Categorical
from lowerbound.distributions.family import Distribution
from lowerbound.distributions.latents import Conditional, Known, Latents

_OFF = -1e4  # logit of the classes that were not observed: exp(_OFF) is exactly 0 in single and double precision


@dataclass(frozen=True)
class Observed(Categorical):
    """q(y|x) with all probability at the class that was observed, in the rows where one was.

    There log q(y) = 0 and the entropy is 0, so that log p(x, z, y) − log q is a bound on log p(x, y), and no gradient
    flows to the logits that the encoder gave. ``inferred``: q(y|x) without the observations. ``seen [B]``: the rows
    in which the class was observed.
    """

    inferred: Categorical | None = None
    seen: Tensor | None = None

    @property
    def probabilities(self) -> Tensor:
        """The probability of each class, of the shape of the logits."""
        return self.logits.softmax(-1)

    def score(self, z: Tensor) -> Tensor:
        return Categorical(self.logits, self.batch_dims).score(z)

    def take(self, index: Tensor) -> Self:
        inferred = None if self.inferred is None else self.inferred.take(index)
        seen = None if self.seen is None else self.seen.index_select(0, index)
        logits = self.logits.index_select(self.batch_dims - 1, index)
        return dataclasses.replace(self, logits=logits, inferred=inferred, seen=seen)


@dataclass(frozen=True)
class ObservedClass(Conditional):
    """A categorical latent with its class in some rows: ``labels [B]``, −1 where it was not observed."""

    own: Conditional
    labels: Tensor

    @property
    def event(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.own.event

    @property
    def parents(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.own.parents

    @property
    def family(self) -> type[Distribution] | Distribution:  # type: ignore[override]
        return self.own.family

    def given(self, latents: Mapping[str, Tensor]) -> Observed:
        q = self.own.given(latents)
        assert isinstance(q, Categorical)
        seen = self.labels >= 0
        there = functional.one_hot(self.labels.clamp(min=0), q.logits.shape[-1]).unsqueeze(1)  # [B, 1, C]
        logits = torch.where(seen[:, None, None], (1 - there) * _OFF, q.logits)
        return Observed(logits.to(q.logits.dtype), max(1, q.batch_dims), q, seen)

    def take(self, index: Tensor) -> Self:
        return dataclasses.replace(self, own=self.own.take(index), labels=self.labels[index])


def observed(of: Distribution, labels: Mapping[str, Tensor], event: tuple[int, ...]) -> Distribution:
    """``of`` with the classes of some latents observed: ``labels [B]`` by the latents' names, −1 where not.

    ``of``: a distribution of latents of shape ``event`` together; a single latent is named "z".
    """
    if isinstance(of, Latents):
        own = {name: ObservedClass(of.conditionals[name], each) for name, each in labels.items()}
        return dataclasses.replace(of, conditionals={**of.conditionals, **own})
    return ObservedClass(Known(event, of), labels["z"]).given({})
