"""Components of mixtures: conjugate variables that a row depends on alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from lowerbound import likelihoods
from lowerbound.inference.conjugate_nodes import Node

_LOG_2PI = math.log(2 * math.pi)


class Component(Node):
    """A node that a row x depends on alone: log p(x|β) = T(x)·t(β) + log h(x).

    To write one: a node with ``statistics`` and ``log_base``. ``likelihood`` and ``moments`` are for a model that has
    the components' expectation; without them ``fit`` needs a model of your own, whose decoder is left as it is.
    """

    @abstractmethod
    def statistics(self, x: Tensor) -> Tensor:
        """T(x) ``[B, S]`` of rows ``x [B, D]``."""

    @abstractmethod
    def log_base(self, x: Tensor) -> Tensor:
        """log h(x) ``[B]``."""

    def likelihood(self) -> likelihoods.Likelihood:
        """The likelihood of a mixture whose components have parameters of their own, as a ``nn.Table`` holds them."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no likelihood: give fit a model of your own, or define its likelihood and "
            "moments."
        )

    def moments(self) -> Tensor | None:
        """The mean statistics ``[L, …]`` of that likelihood (``Likelihood.statistics``) at the expectation of β."""
        return None


class NormalGamma(Component):
    """D independent values of a row, x_d ~ N(μ_d, 1/τ_d), τ_d ~ Gamma(a, rate b), μ_d|τ_d ~ N(m, 1/(κτ_d)).

    t = (log τ, τ, τμ, τμ²), η = (a − ½, −b − κm²/2, κm, −κ/2). ``mean`` m and ``rate`` b are ``[D]``; ``copies``: L
    components with the same prior.
    """

    def __init__(
        self, mean: Tensor, rate: Tensor, mean_precision: float = 1.0, shape: float = 1.0, copies: int = 1
    ) -> None:
        mean, rate = mean.double(), rate.double()
        one = torch.ones_like(mean)
        second = -rate - mean_precision * mean.square() / 2
        prior = torch.stack([(shape - 0.5) * one, second, mean_precision * mean, -mean_precision / 2 * one], 1)
        super().__init__(prior.flatten().repeat(copies, 1))

    @classmethod
    def from_data(cls, x: Tensor, copies: int = 1) -> Self:
        """Priors as wide as the data ``x [N, D]``: m their mean, κ = 1, a = ½, and b half their variance."""
        return cls(x.double().mean(0), x.double().var(0) / 2, 1.0, 0.5, copies)

    def log_normaliser(self, natural: Tensor) -> Tensor:
        shape, rate, _, precision = self._read(natural)
        each = torch.lgamma(shape) - shape * rate.log() - 0.5 * (precision.log() - _LOG_2PI)
        return each.sum(1)

    def statistics(self, x: Tensor) -> Tensor:
        half = torch.full_like(x, 0.5)
        return torch.stack([half, -0.5 * x.square(), x, -half], 2).flatten(1)

    def log_base(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), -0.5 * x.shape[1] * _LOG_2PI)

    def likelihood(self) -> likelihoods.Likelihood:
        return likelihoods.Normal("entry", (self.prior.shape[1] // 4,))

    def moments(self) -> Tensor:
        shape, rate, mean, _ = self._read(self.natural)
        return torch.stack([torch.ones_like(mean), mean, rate / shape + mean.square()], 1)

    @staticmethod
    def _read(natural: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b, m and κ, each ``[L, D]``."""
        first, second, third, fourth = natural.unflatten(1, (-1, 4)).unbind(2)
        precision = -2 * fourth
        mean = third / precision
        return first + 0.5, -second - 0.5 * precision * mean.square(), mean, precision


class NormalWishart(Component):
    """Rows x ~ N(μ, Λ⁻¹), Λ ~ Wishart(W, ν), μ|Λ ~ N(m, (κΛ)⁻¹).

    t = (log|Λ|, Λ, Λμ, μᵀΛμ), η = ((ν − D)/2, −½(W⁻¹ + κ m mᵀ), κm, −κ/2). ``mean`` m ``[D]``; ``inverse_scale`` W⁻¹
    ``[D, D]``; ``freedom`` ν > D − 1; ``copies``: L components with the same prior.
    """

    def __init__(
        self,
        mean: Tensor,
        inverse_scale: Tensor,
        mean_precision: float = 1.0,
        freedom: float | None = None,
        copies: int = 1,
    ) -> None:
        self.size = len(mean)
        freedom = float(self.size) if freedom is None else freedom
        if not freedom > self.size - 1:
            raise ValueError(f"freedom must be above {self.size - 1} for rows of {self.size} values, got {freedom}.")
        mean, inverse_scale = mean.double(), inverse_scale.double()
        second = -0.5 * (inverse_scale + mean_precision * mean.outer(mean))
        ends = mean.new_tensor([(freedom - self.size) / 2, -mean_precision / 2])
        prior = torch.cat([ends[:1], second.flatten(), mean_precision * mean, ends[1:]])
        super().__init__(prior.repeat(copies, 1))

    @classmethod
    def from_data(cls, x: Tensor, copies: int = 1) -> Self:
        """Priors of the data ``x [N, D]`` as in scikit-learn: m their mean, κ = 1, ν = D, W⁻¹ their covariance."""
        return cls(x.double().mean(0), torch.atleast_2d(torch.cov(x.double().T)), copies=copies)

    def log_normaliser(self, natural: Tensor) -> Tensor:
        freedom, inverse_scale, _, precision = self._read(natural)
        log_det: Tensor = torch.linalg.slogdet(inverse_scale)[1]
        gammas = torch.mvlgamma(freedom / 2, self.size) + 0.5 * self.size * math.log(2) * freedom
        return gammas - 0.5 * freedom * log_det - 0.5 * self.size * (precision.log() - _LOG_2PI)

    def statistics(self, x: Tensor) -> Tensor:
        half, outer = x.new_full((len(x), 1), 0.5), x.unsqueeze(2) * x.unsqueeze(1)
        return torch.cat([half, -0.5 * outer.flatten(1), x, -half], 1)

    def log_base(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), -0.5 * self.size * _LOG_2PI)

    def likelihood(self) -> likelihoods.Likelihood:
        return likelihoods.CholeskyNormal((self.size,))

    def moments(self) -> Tensor:
        """By the mean m and the covariance E[Λ]⁻¹."""
        freedom, inverse_scale, mean, _ = self._read(self.natural)
        second = inverse_scale / freedom.view(-1, 1, 1) + mean.unsqueeze(2) * mean.unsqueeze(1)
        return torch.cat([torch.stack([torch.ones_like(mean), mean], 1), second], 1)

    def _read(self, natural: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ν ``[L]``, W⁻¹ ``[L, D, D]``, m ``[L, D]`` and κ ``[L]``."""
        first, second, third, fourth = natural.split([1, self.size**2, self.size, 1], 1)
        precision = -2 * fourth
        mean = third / precision
        outer = precision.unsqueeze(2) * mean.unsqueeze(2) * mean.unsqueeze(1)
        inverse_scale = -2 * second.unflatten(1, (self.size, self.size)) - outer
        return 2 * first.squeeze(1) + self.size, inverse_scale, mean, precision.squeeze(1)
