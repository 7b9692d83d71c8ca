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
    """p(x|z), given the parameters that the decoder computes from z.

    To write your own: define ``n_parameters``, ``measure``, ``support`` and the abstract methods. If the values of a
    row are independent given z, subclass ``Factorised`` instead.
    """

    n_parameters: int = 1
    measure: Measure
    informative: ClassVar[bool] = False  # whether it includes p(mask|x): missingness depends on x
    counts: bool = False  # whether x is a whole number of 0 or more without an upper bound
    one_scale: bool = False  # whether all values of a row are standardised by one location and scale
    needs: ClassVar[Literal["nothing", "shape", "largest", "max_value"]] = "nothing"  # the argument of ``from_data``
    one_hot_mean: ClassVar[bool] = False  # whether ``mean`` has a trailing axis, the probability of each class
    ordered: ClassVar[bool] = True  # whether the values have an order
    inverse_link: Literal["", "sigmoid", "softmax"] = ""  # maps parameters that are logits to probabilities

    @property
    def used(self) -> Tensor | None:
        """The places of the parameters that it uses among the flattened ``[P, *X]``, if it takes these alone.

        ``log_prob`` then takes ``[K, B, n, 1]`` as well. None: it takes all.
        """
        return None

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """Make the likelihood from the property of the data that it ``needs``: a row's shape, the largest value, …"""
        return cls()

    @property
    def n_values(self) -> int | None:
        """C if the possible values of x are 0, …, C − 1; otherwise None."""
        if self.support is constraints.boolean:
            return 2
        low, high = (getattr(self.support, f"{end}_bound", None) for end in ("lower", "upper"))
        return int(high) + 1 if self.support.is_discrete and low == 0 and high is not None else None

    @property
    def of_values(self) -> Likelihood:
        """The likelihood of the values alone, p(x|z), without that of which values are missing."""
        return self

    def typical(self, params: Tensor) -> Tensor:
        """The estimate of a missing value given z: by default the mean, which has the least squared error."""
        return self.mean(params)

    def best(self, expected: Tensor) -> Tensor:
        """The best value, given the expectation of ``typical`` over z: that expectation, or the most probable class."""
        return expected.argmax(-1).to(expected.dtype) if self.one_hot_mean else expected

    def point(self, params: Tensor) -> Tensor:
        """A point estimate, ``[K, B, *X]``: the mean, or the most probable class."""
        return Likelihood.best(self, self.mean(params))

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The values that x can have."""

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x|z) ``[K, B]`` of the observed values.

        ``mask [B, *X]`` is True where x is observed. Other values are integrated out: whatever x contains there has no
        effect and a gradient of 0.
        """

    def slope(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """∂ log p(x|z)/∂params, ``[K, B, P, *X]``. Subclasses may override it with a faster formula."""
        with torch.enable_grad():
            params = params.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.log_prob(params, x, mask).sum(), params)
        return found

    def statistics(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Sufficient statistics ``[B, M, *X]`` of rows for the parameters, in double precision; 0 where unobserved.

        The first is 1 where a value is observed. None if it is no exponential family, or ``maximised`` has no closed
        form. Used where the decoder is a table of parameters, as in a mixture.
        """
        return None

    def natural(self, params: Tensor) -> Tensor:
        """The natural parameters ``[S, M, *X]`` of ``params [S, P, *X]``: log p(x) = Σ natural · ``statistics``."""
        raise NotImplementedError(f"{type(self).__name__} has no sufficient statistics.")

    def maximised(self, sums: Tensor) -> Tensor:
        """The parameters ``[S, P, *X]`` of maximum likelihood, given weighted sums ``[S, M, *X]`` of ``statistics``."""
        raise NotImplementedError(f"{type(self).__name__} has no sufficient statistics.")

    def fitted(self, params: Tensor, x: Tensor) -> Tensor:
        """The parameters of the values of ``x [B, *X]``: all of ``params``, or of sequences those of its steps."""
        return params

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """E[x|z], ``[K, B, *X]``."""

    @abstractmethod
    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from p(x|z), ``[K, B, *X]``."""

    @abstractmethod
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fit each value's marginal distribution in ``x [N, *X]``; return its ``params [P, *X]``.

        Also sets the likelihood's own parameters and its scaling.
        """


class Factorised(Likelihood):
    """p(x|z) = Π over observed values of p(x_i | params_i)."""

    masked_by: Of | None = None  # logit P(missing|x) is linear in this (``SelfMasking``); None: unsupported
    atoms: int = 0  # for ``masked_by``: 1 if log x is undefined at an atom x = 0, 2 if logit x is at x = 0 and x = 1
    classes: ClassVar[bool] = False  # whether the ``n_values`` values are classes, ordered or not

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x|z) ``[K, B]``: the sum over observed values."""
        if mask is None:
            return self.log_prob_of_row(params, x)
        # where() differentiates both branches, so unobserved values must be replaced before the density is computed.
        values = self.log_prob_per_value(params, torch.where(mask, x, 0))
        return torch.where(mask, values, 0).flatten(2).sum(2)

    def log_prob_of_row(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x|z) ``[K, B]`` of rows without missing values. Subclasses may override it with a faster formula."""
        return self.log_prob_per_value(params, x).flatten(2).sum(2)

    @abstractmethod
    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x_i|z) of each value, ``[K, B, *X]``. The gradient is finite at x = 0, also outside the support."""

    def log_probs(self, params: Tensor) -> Tensor:
        """log-probability of each of the ``n_values`` possible values, ``[K, B, *X, C]``."""
        count, (_, rows, _, *event) = self.n_values, params.shape
        assert count is not None
        x = torch.arange(count, dtype=params.dtype, device=params.device).view(count, *[1] * len(event))
        x = x.expand(count, *event).repeat(rows, *[1] * len(event))
        values: Tensor = self.log_prob_per_value(params.repeat_interleave(count, 1), x).unflatten(1, (rows, count))
        return values.movedim(2, -1)

    def at_atom(self, x: Tensor) -> Tensor:
        """Which values ``[B, *X]`` have a positive probability in a likelihood that is a density elsewhere."""
        return torch.zeros_like(x, dtype=torch.bool)

    def missingness(self, columns: int) -> Curve | None:
        """A learnable P(missing|x) for ``columns`` columns of this likelihood; None if unsupported."""
        if self.classes and self.n_values is not None:
            return Classes(columns, self.n_values)
        of = self.masked_by if self.n_values is None else "value"
        return None if of is None else Line(columns, of, self.atoms)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        """log ∫ P(missing|x) p(x|z) dx, ``[K, B, …, d]``; by default a sum over the ``n_values`` possible values."""
        x = torch.arange(self.n_values or 0, dtype=params.dtype, device=params.device)
        log_joint: Tensor = self.log_probs(params) + functional.logsigmoid(line.at(x))
        return log_joint.logsumexp(-1)

    def centre_and_unit(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Location and spread, ``[d]`` each, of the quantity ``masked_by``; called after ``initialise``."""
        rows, seen = x.flatten(0, -2), mask.flatten(0, -2)
        return mean_of(rows, seen), deviation_of(rows, seen)
