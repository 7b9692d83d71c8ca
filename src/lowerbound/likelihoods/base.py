"""The interface of likelihoods p(x|z)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.distributions import constraints

Measure = Literal["counting", "Lebesgue", "mixed"]


class Likelihood(nn.Module, ABC):
    """p(x|z), by the parameters that the decoder computes from z.

    To write one: give ``n_parameters``, ``measure``, ``support``, and the abstract methods; of values that are
    independent given z, write a ``Factorised`` instead.
    """

    n_parameters: int = 1
    measure: Measure
    informative: ClassVar[bool] = False  # which values are missing tells of them: p(mask|x) is a part of it
    counts: ClassVar[bool] = False  # whole numbers from 0 on, without a largest
    one_scale: ClassVar[bool] = False  # all values of a row lie in one range, so that they are standardised together
    needs: ClassVar[Literal["nothing", "shape", "largest", "max_value"]] = "nothing"  # of the data, to be made by name
    one_hot_mean: ClassVar[bool] = False  # ``mean`` has a trailing axis: the probability of each class

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """The likelihood of data of which it ``needs`` a fact, ``given``: a row's shape, the largest value, …"""
        return cls()

    def point(self, params: Tensor) -> Tensor:
        """One value for each ``[K, B, *X]``: the mean, or the most probable class."""
        mean = self.mean(params)
        return mean.argmax(-1).to(mean.dtype) if self.one_hot_mean else mean

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The values x can take."""

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x|z) ``[K, B]`` of the observed values.

        ``mask [B, *X]`` is True where x is observed; the rest is integrated out and has a zero gradient, whatever x
        holds.
        """

    def slope(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """∂ log p(x|z)/∂params ``[K, B, P, *X]``; a family may have it for less than log p and a backward pass."""
        with torch.enable_grad():
            params = params.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.log_prob(params, x, mask).sum(), params)
        return found

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """E[x|z], ``[K, B, *X]``."""

    @abstractmethod
    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from p(x|z), ``[K, B, *X]``."""

    @abstractmethod
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The ``params [P, *X]`` at which p is each value's own distribution in ``x [N, *X]``.

        Also sets what the likelihood itself learns or scales by.
        """


class Factorised(Likelihood):
    """p(x|z) = Π over observed values of p(x_i | params_i)."""

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x|z) ``[K, B]``: the sum over observed values."""
        if mask is None:
            return self.log_prob_of_row(params, x)
        # Both sides of a `where` are differentiated, so the density must never see what is not observed.
        values = self.log_prob_per_value(params, torch.where(mask, x, 0))
        return torch.where(mask, values, 0).flatten(2).sum(2)

    def log_prob_of_row(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) ``[K, B]`` of rows observed throughout; a family may have it for less than its values'."""
        return self.log_prob_per_value(params, x).flatten(2).sum(2)

    @abstractmethod
    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x_i|z) of each value, ``[K, B, *X]``; its gradient is finite at x = 0, in the support or not."""
