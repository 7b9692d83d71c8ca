"""Likelihoods p(x|z): one short class each.

A likelihood reads the decoder's output ``params [K, B, P, *X]``, P = ``n_parameters`` numbers per value, and data
``x [B, *X]``. Log-probabilities are in nats with respect to the measure it names: counting for discrete values,
Lebesgue in the data's own units for continuous ones. The two are never compared.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.distributions import (
    inverse_positive,
    logistic_noise,
    negative_binomial_log_prob,
    normal_log_prob,
    poisson_log_prob,
    positive,
)

Measure = Literal["counting", "Lebesgue"]


class Likelihood(nn.Module, ABC):
    """p(x|z) = Π over observed values of p(x_i | params_i).

    To write one: give ``n_parameters``, ``measure``, ``support``, and the four abstract methods.
    """

    n_parameters: int = 1
    measure: ClassVar[Measure]
    one_hot_mean: ClassVar[bool] = False  # ``mean`` has a trailing axis: the probability of each class

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x|z) ``[K, B]``: the sum over observed values.

        ``mask [B, *X]`` is True where x is observed; the rest adds 0 and has a zero gradient, whatever x holds.
        """
        if mask is None:
            return self.log_prob_per_value(params, x).flatten(2).sum(2)
        # Both sides of a `where` are differentiated, so the density must never see what is not observed.
        values = self.log_prob_per_value(params, torch.where(mask, x, 0))
        return torch.where(mask, values, 0).flatten(2).sum(2)

    def point(self, params: Tensor) -> Tensor:
        """One value for each ``[K, B, *X]``: the mean, or the most probable class."""
        mean = self.mean(params)
        return mean.argmax(-1).to(mean.dtype) if self.one_hot_mean else mean

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The values x can take."""

    @abstractmethod
    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x_i|z) of each value, ``[K, B, *X]``."""

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


class Bernoulli(Likelihood):
    """x ∈ {0, 1}; the parameter is the logit of p(x = 1)."""

    measure = "counting"
    support = constraints.boolean

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        # x·logit − softplus(logit) without its cancellation, and in fewer passes over K·B·X values
        return functional.logsigmoid((2 * x - 1) * params.squeeze(2))

    def mean(self, params: Tensor) -> Tensor:
        return params.squeeze(2).sigmoid()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(self.mean(params), generator=generator)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        count = _count(x, mask)
        return torch.logit((_mean(x, mask) * count + 0.5) / (count + 1)).unsqueeze(0)


class Normal(Likelihood):
    """x ∈ ℝ, N(μ, σ²) with μ = ``shift`` + ``spread`` · (first parameter).

    ``scale``: a number fixes σ (in the data's units); "scalar" learns one σ, "dimension" one for each value of a
    row (give its ``shape``), "entry" reads σ from the decoder. A learned σ is at least ``min_scale`` times the
    data's spread: without that floor the density of repeated values grows without bound.
    ``shift`` and ``spread`` are 0 and 1 until ``initialise`` takes them from data, for each value of ``shape``.
    """

    measure = "Lebesgue"
    support = constraints.real
    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        scale: float | Literal["scalar", "dimension", "entry"] = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        if isinstance(scale, str) and scale not in ("scalar", "dimension", "entry"):
            raise ValueError(f'scale must be a number, "scalar", "dimension" or "entry", not {scale!r}.')
        if not isinstance(scale, str) and not scale > 0:
            raise ValueError(f"a fixed scale must be positive, got {scale}.")
        if scale == "dimension" and not shape:
            raise ValueError('scale="dimension" needs the shape of a row of data, as shape=(D,).')
        self.scale = scale
        self.shape = tuple(shape)
        self.min_scale = min_scale
        self.n_parameters = 2 if scale == "entry" else 1
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))
        if scale in ("scalar", "dimension"):
            self.raw_scale = nn.Parameter(torch.zeros(self.shape if scale == "dimension" else ()))

    def sigma(self, params: Tensor | None = None) -> Tensor:
        """The standard deviation, broadcastable to ``[K, B, *X]``; "entry" needs the decoder's ``params``."""
        if not isinstance(self.scale, str):
            return torch.full_like(self.spread, self.scale)
        if self.scale == "entry":
            assert params is not None
            return self.spread * (positive(params[:, :, 1]) + self.min_scale)
        rms = self.spread.double().square().mean().sqrt().to(self.spread.dtype)
        unit = rms if self.scale == "scalar" else self.spread
        return unit * (positive(self.raw_scale) + self.min_scale)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return normal_log_prob(x, self.mean(params), self.sigma(params))

    def mean(self, params: Tensor) -> Tensor:
        return self.shift + self.spread * params[:, :, 0]

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        loc = self.mean(params)
        noise = torch.randn(loc.shape, generator=generator, device=loc.device, dtype=loc.dtype)
        return loc + self.sigma(params) * noise

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = x.new_zeros(self.n_parameters, *x.shape[1:])
        if not self.shape:
            x, mask = x.reshape(-1), None if mask is None else mask.reshape(-1)
        deviation = _deviation(x, mask)
        self.shift.copy_(_mean(x, mask))
        self.spread.copy_(torch.where(deviation > 0, deviation, 1.0))
        if isinstance(self.scale, str) and self.scale != "entry":
            self.raw_scale.zero_()
        return bias


class Categorical(Likelihood):
    """x ∈ {0, …, C − 1}; the parameters are C logits. Its ``mean`` is the probability of each class, last."""

    measure = "counting"
    one_hot_mean = True

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"a categorical needs at least 2 classes, got {n_classes}.")
        self.n_classes = self.n_parameters = n_classes

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.n_classes - 1)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        known = (x >= 0) & (x < self.n_classes)  # what is no class, NaN too, has no probability
        index = torch.where(known, x, 0).long().unsqueeze(1).expand(*params.shape[:2], 1, *x.shape[1:])
        log_prob = (params.gather(2, index) - params.logsumexp(2, keepdim=True)).squeeze(2)
        return torch.where(known, log_prob, -math.inf)

    def mean(self, params: Tensor) -> Tensor:
        return params.softmax(2).movedim(2, -1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        probs = self.mean(params)
        classes = torch.multinomial(probs.flatten(0, -2), 1, generator=generator)
        return classes.view(probs.shape[:-1]).to(params.dtype)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        classes = torch.arange(self.n_classes, device=x.device)
        rows = [(x == c).to(x.dtype) for c in classes]
        counts = torch.stack([_mean(row, mask) * _count(x, mask) for row in rows])
        return torch.log((counts + 0.5) / (_count(x, mask) + 0.5 * self.n_classes))


class DiscretizedLogistic(Likelihood):
    """x ∈ {0, …, ``levels`` − 1}, 8-bit values by default: a logistic whose mass falls into the nearest level.

    P(x) = F(x + ½) − F(x − ½), the first and last levels taking the tails; F is the logistic's CDF with location
    and scale from two parameters. Salimans et al. 2017 (PixelCNN++), eq. 2.
    """

    measure = "counting"
    n_parameters = 2
    _MIN_SCALE = 0.01  # levels: there all mass is in one level, and less would only overflow

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"a discretised logistic needs at least 2 levels, got {levels}.")
        self.levels = levels

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def _loc_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        middle = (self.levels - 1) / 2
        raw_loc, raw_scale = params.unbind(2)
        return middle * (1 + raw_loc), middle * positive(raw_scale) + self._MIN_SCALE

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        precision = 1 / scale
        centred = (x - loc) * precision
        # F(a) − F(b) = F(a) F(−b) (1 − e^(b−a)), which keeps its digits in both tails.
        below_top, above_bottom = x < self.levels - 1, x > 0
        upper = torch.where(below_top, functional.logsigmoid(centred + 0.5 * precision), 0)
        lower = torch.where(above_bottom, functional.logsigmoid(0.5 * precision - centred), 0)
        width = torch.where(below_top & above_bottom, torch.log(-torch.expm1(-precision)), 0)
        return upper + lower + width

    def mean(self, params: Tensor) -> Tensor:
        loc, scale = self._loc_scale(params)
        mean = torch.zeros_like(loc)
        for level in range(1, self.levels):  # E[x] = Σ_k P(x ≥ k)
            mean += ((loc - level + 0.5) / scale).sigmoid()
        return mean

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        loc, scale = self._loc_scale(params)
        uniform = torch.rand(loc.shape, generator=generator, device=loc.device, dtype=loc.dtype)
        return (loc + scale * logistic_noise(uniform)).round().clamp(0, self.levels - 1)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        middle = (self.levels - 1) / 2
        deviation = _deviation(x, mask).clamp(min=0.5)
        scale = deviation * (math.sqrt(3) / math.pi) / middle
        return torch.stack([_mean(x, mask) / middle - 1, inverse_positive(scale)])


class Poisson(Likelihood):
    """x ∈ {0, 1, 2, …}; the parameter is the log of the rate."""

    measure = "counting"
    support = constraints.nonnegative_integer

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return poisson_log_prob(x, params.squeeze(2))

    def mean(self, params: Tensor) -> Tensor:
        return params.squeeze(2).exp()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return torch.poisson(self.mean(params), generator=generator)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return _log_mean_count(x, mask).unsqueeze(0)


class NegativeBinomial(Likelihood):
    """x ∈ {0, 1, 2, …} with mean m and variance m + m²/r; the parameters are log m and log r.

    r → ∞ is the Poisson.
    """

    measure = "counting"
    n_parameters = 2
    support = constraints.nonnegative_integer

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        log_mean, log_r = params.unbind(2)
        return negative_binomial_log_prob(x, log_mean, log_r)

    def mean(self, params: Tensor) -> Tensor:
        return params[:, :, 0].exp()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        log_mean, log_r = params.unbind(2)
        r = log_r.exp()
        gamma = torch._standard_gamma(r, generator=generator)
        return torch.poisson(gamma * (log_mean - log_r).exp(), generator=generator)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mean = _log_mean_count(x, mask).exp()
        excess = (_deviation(x, mask).square() - mean).clamp(min=0) + 1e-3 * mean
        return torch.stack([mean.log(), (mean.square() / excess).clamp(1e-2, 1e3).log()])


def _count(x: Tensor, mask: Tensor | None) -> Tensor:
    """How many rows are observed, for each value of a row (at least 1)."""
    return x.new_tensor(float(len(x))) if mask is None else mask.sum(0).clamp(min=1).to(x.dtype)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    return _exact_mean(x, mask).to(x.dtype)


def _deviation(x: Tensor, mask: Tensor | None) -> Tensor:
    """The standard deviation; 0 where x does not vary by more than its rounding."""
    mean = _exact_mean(x, mask)
    deviation = _exact_mean((x - mean).square(), mask).sqrt()
    return torch.where(deviation > torch.finfo(x.dtype).eps * mean.abs(), deviation, 0).to(x.dtype)


def _exact_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over observed rows, in double precision."""
    values = x.double() if mask is None else torch.where(mask, x, 0).double()
    return values.sum(0) / _count(x, mask)


def _log_mean_count(x: Tensor, mask: Tensor | None) -> Tensor:
    """log of the mean count, half a count added so that a column of zeros stays finite."""
    return (_mean(x, mask) + 0.5 / _count(x, mask)).log()
