"""The interface of likelihoods p(x|z)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.likelihoods.missingness import Classes, Curve, Line, Of
from lowerbound.likelihoods.moments import deviation_of, mean_of

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
    ordered: ClassVar[bool] = True  # of two values one is the larger, which is not so for classes without an order
    inverse_link: ClassVar[Literal["", "sigmoid", "softmax"]] = ""  # applied to the parameters, which are logits

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """The likelihood of data of which it ``needs`` a fact, ``given``: a row's shape, the largest value, …"""
        return cls()

    @property
    def n_values(self) -> int | None:
        """C, if x takes the values 0, …, C − 1 only."""
        if self.support is constraints.boolean:
            return 2
        low, high = (getattr(self.support, f"{end}_bound", None) for end in ("lower", "upper"))
        return int(high) + 1 if self.support.is_discrete and low == 0 and high is not None else None

    @property
    def of_values(self) -> Likelihood:
        """p(x|z) alone, without what the likelihood says of which values are missing."""
        return self

    def typical(self, params: Tensor) -> Tensor:
        """What a missing value is estimated by, given z: the mean, unless that hangs on a tail that few data tell."""
        return self.mean(params)

    def best(self, expected: Tensor) -> Tensor:
        """One value from the expectation of ``typical`` over z: itself, or the most probable class."""
        return expected.argmax(-1).to(expected.dtype) if self.one_hot_mean else expected

    def point(self, params: Tensor) -> Tensor:
        """One value for each ``[K, B, *X]``: the mean, or the most probable class."""
        return Likelihood.best(self, self.mean(params))

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

    masked_by: ClassVar[Of | None] = None  # what missingness is logistic in under ``SelfMasking``; None: no rule
    atoms: ClassVar[int] = 0  # how many of 0 and 1 have a probability of their own, next to a density
    classes: ClassVar[bool] = False  # each of the ``n_values`` values stands for itself, whether ordered or not

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

    def log_probs(self, params: Tensor) -> Tensor:
        """log p of each of the ``n_values`` values that x can take, ``[K, B, *X, C]``."""
        count, (_, rows, _, *event) = self.n_values, params.shape
        assert count is not None
        x = torch.arange(count, dtype=params.dtype, device=params.device).view(count, *[1] * len(event))
        x = x.expand(count, *event).repeat(rows, *[1] * len(event))
        values: Tensor = self.log_prob_per_value(params.repeat_interleave(count, 1), x).unflatten(1, (rows, count))
        return values.movedim(2, -1)

    def missingness(self, columns: int) -> Curve | None:
        """P(missing|x) of ``columns`` such columns, to be learned; None if ``log_missing`` has no rule."""
        if self.classes and self.n_values is not None:
            return Classes(columns, self.n_values)
        of = self.masked_by if self.n_values is None else "value"
        return None if of is None else Line(columns, of, self.atoms)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        """log ∫ P(missing|x) p(x|z) dx ``[K, B, …, d]``; by default the sum over all of ``n_values`` values."""
        x = torch.arange(self.n_values or 0, dtype=params.dtype, device=params.device)
        log_joint: Tensor = self.log_probs(params) + functional.logsigmoid(line.at(x))
        return log_joint.logsumexp(-1)

    def centre_and_unit(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Location and spread, ``[d]`` each, of what missingness is logistic in, once ``initialise`` has seen x."""
        rows, seen = x.flatten(0, -2), mask.flatten(0, -2)
        return mean_of(rows, seen), deviation_of(rows, seen)
