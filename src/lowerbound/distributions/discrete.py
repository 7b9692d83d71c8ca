"""Latents with finitely many values, and their relaxations to continuous ones."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lowerbound.distributions.densities import logistic_noise
from lowerbound.distributions.family import Distribution, uniform

MAX_STATES = 1 << 16


class Discrete(Distribution):
    """Independent variables with finitely many values.

    ``noise [K, B, *E, 2]`` holds two uniform values for each element: the first draws z, the second draws the relaxed
    variable given z (``relaxed_given``).
    """

    logits: Tensor

    @staticmethod
    def noise(lead: tuple[int, ...], event: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        return uniform((*lead, *event, 2), generator, dtype)

    @abstractmethod
    def relaxed(self, noise: Tensor, temperature: float | Tensor) -> Tensor:
        """A differentiable continuous relaxation of z; its limit at temperature 0 is ``sample(noise)``."""

    @abstractmethod
    def relaxed_given(self, z: Tensor, noise: Tensor, temperature: float | Tensor) -> Tensor:
        """A differentiable draw of the relaxation conditional on its limit z, from the second value of the noise."""

    @abstractmethod
    def log_prob_per_dim(self, z: Tensor) -> Tensor: ...

    def log_prob(self, z: Tensor) -> Tensor:
        return self.log_prob_per_dim(z).flatten(2).sum(2)


@dataclass(frozen=True)
class Bernoulli(Discrete):
    """z ∈ {0, 1}, with ``logits`` of p(z = 1), ``[B, *E]`` (a posterior) or ``[*E]`` (a prior).

    Relaxed: the binary concrete, σ((logit + L)/τ) with L logistic noise. Maddison et al. 2017.
    """

    domain = "zeros and ones"
    logits: Tensor
    batch_dims: int = 1

    def sample(self, noise: Tensor) -> Tensor:
        return (self.logits + logistic_noise(noise[..., 0]) > 0).to(self.logits.dtype)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        return z * self.logits - functional.softplus(self.logits)

    def entropy(self) -> Tensor:
        return _bernoulli_entropy(self.logits).flatten(self.batch_dims).sum(self.batch_dims)

    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    def states(self) -> Tensor:
        event = self.logits.shape[self.batch_dims :]
        size = math.prod(event)
        _refuse_many(2.0**size)
        values = torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)), dtype=self.logits.dtype)
        return values.view(-1, *event).to(self.logits.device)

    def relaxed(self, noise: Tensor, temperature: float | Tensor) -> Tensor:
        return ((self.logits + logistic_noise(noise[..., 0])) / temperature).sigmoid()

    def relaxed_given(self, z: Tensor, noise: Tensor, temperature: float | Tensor) -> Tensor:
        """With θ = p(z = 1) and v uniform: u = v(1 − θ) where z = 0, vθ + 1 − θ where z = 1. Tucker et al. 2017."""
        v = noise[..., 1]
        off, on = self.logits.neg().sigmoid(), self.logits.sigmoid()
        # log u − log(1 − u), each computed without subtracting nearly equal numbers
        below, above = v * off, v * on + off
        upper = torch.where(z > 0, above.log() - (on * (1 - v)).log(), below.log() - (1 - below).log())
        return ((self.logits + upper) / temperature).sigmoid()


@dataclass(frozen=True)
class Categorical(Discrete):
    """z is one of C classes, one-hot: ``logits [B, *E, C]`` (a posterior) or ``[*E, C]`` (a prior), z of that shape.

    Relaxed: Gumbel-softmax, softmax((logits + G)/τ) with G Gumbel noise. Jang et al. 2017; Maddison et al. 2017.
    """

    domain = "one-hot classes"
    logits: Tensor
    batch_dims: int = 1

    def sample(self, noise: Tensor) -> Tensor:
        return _one_hot(self.logits.detach() + _gumbel(noise[..., 0])).to(self.logits.dtype)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        """``[K, B, *E]`` without the classes."""
        return (z * self.logits.log_softmax(-1)).sum(-1)

    def entropy(self) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).flatten(self.batch_dims).sum(self.batch_dims)

    def mean(self) -> Tensor:
        return self.logits.softmax(-1)

    def states(self) -> Tensor:
        *event, classes = self.logits.shape[self.batch_dims :]
        size = math.prod(event)
        _refuse_many(float(classes) ** size)
        one_hot = torch.eye(classes, dtype=self.logits.dtype, device=self.logits.device)
        indices = torch.tensor(list(itertools.product(range(classes), repeat=size)), device=self.logits.device)
        return one_hot[indices].view(-1, *event, classes)

    def relaxed(self, noise: Tensor, temperature: float | Tensor) -> Tensor:
        return ((self.logits + _gumbel(noise[..., 0])) / temperature).softmax(-1)

    def relaxed_given(self, z: Tensor, noise: Tensor, temperature: float | Tensor) -> Tensor:
        """Gumbel values given which is largest: −log(E_top/Σeˡ) for the largest, −log(E/eˡ + E_top/Σeˡ) for others.

        E are standard exponential values, l the logits.
        """
        exponential = -noise[..., 1].log()
        top = (exponential * z).sum(-1, keepdim=True)
        log_p = self.logits.log_softmax(-1)
        perturbed = torch.where(z > 0, -top.log(), -torch.log(exponential / log_p.exp() + top))
        return (perturbed / temperature).softmax(-1)


def kl_bernoulli(q: Bernoulli, p: Bernoulli) -> Tensor:
    """KL(q ‖ p) per dimension, ``[B, *E]``."""
    on = q.logits.sigmoid()
    return on * (q.logits - p.logits) - functional.softplus(q.logits) + functional.softplus(p.logits)


def kl_categorical(q: Categorical, p: Categorical) -> Tensor:
    """KL(q ‖ p) per variable, ``[B, *E]``."""
    log_q = q.logits.log_softmax(-1)
    return (log_q.exp() * (log_q - p.logits.log_softmax(-1))).sum(-1)


def _bernoulli_entropy(logits: Tensor) -> Tensor:
    return functional.softplus(logits) - logits * logits.sigmoid()


def _gumbel(uniforms: Tensor) -> Tensor:
    return -(-uniforms.log()).log()


def _one_hot(values: Tensor) -> Tensor:
    return torch.zeros_like(values).scatter(-1, values.argmax(-1, keepdim=True), 1.0)


def _refuse_many(states: float) -> None:
    if states > MAX_STATES:
        raise ValueError(
            f"the latent has {states:g} states, but at most {MAX_STATES} can be enumerated; sample it instead, or use "
            "fewer dimensions."
        )
