"""Likelihoods of continuous values: real, positive, or between 0 and 1."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.distributions import inverse_positive, normal_log_prob, positive, student_t_log_prob
from lowerbound.distributions.densities import HALF_LOG_2PI
from lowerbound.likelihoods.base import Factorised, Measure
from lowerbound.likelihoods.logistic import normal_expectation, t_expectation
from lowerbound.likelihoods.missingness import Line, Of
from lowerbound.likelihoods.moments import TINY, deviation_of, mean_of, median_and_quartiles, moments_of, open_unit

_LEAST = 1e-12  # a learned σ above its floor, in its unit: the raw scale stays finite
_MORE_THAN_HALF = 0.51  # of a rounding step; exactly half a step may be rounded down

Scale = float | Literal["scalar", "dimension", "entry", "row"]


class LocationScale(Factorised):
    """Base class: x, or a function of x, is μ + σ · noise, with μ = ``shift`` + ``spread`` · (first parameter).

    ``scale``: how σ is chosen. A number is a fixed σ in the data's units; "scalar" learns one σ; "dimension" learns one
    per value of a row (give its ``shape``); "entry" takes σ from the decoder's second parameter; "row" takes one σ for
    all values of a row from the mean of that parameter.
    ``min_scale``: a learned σ is at least ``min_scale`` times the data's spread (one number, or one per value of a
    row). Without this floor, the density of repeated values can grow without bound.
    ``shift`` and ``spread`` are 0 and 1 until ``initialise`` sets them from data (for each value of ``shape``).
    """

    measure: Measure = "Lebesgue"
    needs: ClassVar[Literal["nothing", "shape", "largest", "max_value"]] = "shape"
    shift: Tensor
    spread: Tensor
    floors: Tensor | None

    def __init__(
        self, scale: Scale = "scalar", shape: tuple[int, ...] = (), min_scale: float | Sequence[float] = 1e-3
    ) -> None:
        super().__init__()
        if isinstance(scale, str) and scale not in ("scalar", "dimension", "entry", "row"):
            raise ValueError(f'scale must be a number, "scalar", "dimension", "entry" or "row"; got {scale!r}.')
        if not isinstance(scale, str) and not scale > 0:
            raise ValueError(f"a fixed scale must be positive, got {scale}.")
        if scale == "dimension" and not shape:
            raise ValueError('scale="dimension" needs the shape of a row of data, as shape=(D,).')
        self.scale = scale
        self.shape = tuple(shape)
        self.min_scale = _numbers(min_scale, self.shape, "min_scale")
        floors = torch.tensor(self.min_scale) if isinstance(self.min_scale, tuple) else None
        self.register_buffer("floors", floors, persistent=False)
        self.n_parameters = 2 if scale in ("entry", "row") else 1
        self.register_buffer("shift", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))
        if scale in ("scalar", "dimension"):
            self.raw_scale = nn.Parameter(torch.zeros(self.shape if scale == "dimension" else ()))

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """With one learned scale per value of a row of shape ``given``."""
        return cls(scale="dimension", shape=given)

    @property
    def _floor(self) -> Tensor | float:
        return self.floors if self.floors is not None else self.min_scale  # type: ignore[return-value]

    def mu(self, params: Tensor) -> Tensor:
        """The location, ``[K, B, *X]``."""
        return self.shift + self.spread * params[:, :, 0]

    def sigma(self, params: Tensor | None = None) -> Tensor:
        """The scale, broadcastable to ``[K, B, *X]``; "entry" and "row" need the decoder's ``params``."""
        if not isinstance(self.scale, str):
            return torch.full_like(self.spread, self.scale)
        if self.scale == "entry":
            assert params is not None
            return self.spread * (positive(params[:, :, 1]) + self._floor)
        if self.scale == "row":
            assert params is not None
            raw = params[:, :, 1]
            mean = raw.mean(tuple(range(2, raw.dim())), keepdim=True)
            return (self._root_mean_square() * (positive(mean) + self._floor)).expand_as(raw)
        unit = self._root_mean_square() if self.scale == "scalar" else self.spread
        return unit * (positive(self.raw_scale) + self._floor)

    def _root_mean_square(self) -> Tensor:
        """The root mean square of ``spread``, the unit of a scale that all values share."""
        return self.spread.double().square().mean().sqrt().to(self.spread.dtype)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = x.new_zeros(self.n_parameters, *x.shape[1:])
        if not self.shape:
            x, mask = x.reshape(-1), None if mask is None else mask.reshape(-1)
        shift, spread = self._location_and_spread(x, mask)
        self.shift.copy_(shift)
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))
        if self.scale in ("scalar", "dimension"):
            self.raw_scale.zero_()
        return bias

    def centre_and_unit(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.shift, self.spread

    @abstractmethod
    def _location_and_spread(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """μ and σ of each value's marginal distribution; σ is 0 for a value that does not vary."""


class Normal(LocationScale):
    """x ∈ ℝ, N(μ, σ²); arguments as in ``LocationScale``."""

    support = constraints.real
    masked_by = "value"

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return normal_log_prob(x, self.mu(params), self.sigma(params))

    def mean(self, params: Tensor) -> Tensor:
        return self.mu(params)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return _normal_sample(self.mu(params), self.sigma(params), generator)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        return normal_expectation(*line.image(self.mu(params), self.sigma(params)))

    def standardised(self, x: Tensor) -> Tensor:
        """(x − shift)/spread, in double precision: the unit of the decoder's location."""
        return (x.double() - self.shift) / self.spread

    def statistics(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """1, u and u² with u = (x − shift)/spread; None unless σ is the decoder's."""
        return moments_of(self.standardised(x), mask) if self.scale in ("entry", "row") else None

    def natural(self, params: Tensor) -> Tensor:
        """log N(u; m, s²) − log spread = −(m²/s²)/2 − log σ − log(2π)/2 + (m/s²) u − (1/2s²) u²."""
        mean, sigma = params[:, 0].double(), self.sigma(params.unsqueeze(1))[:, 0].double()
        precision = (self.spread / sigma).square()
        constant = -0.5 * precision * mean.square() - sigma.log() - HALF_LOG_2PI
        return torch.stack([constant, precision * mean, -0.5 * precision.expand_as(mean)], 1)

    def maximised(self, sums: Tensor) -> Tensor:
        count, first, second = sums[:, 0].clamp(min=TINY), sums[:, 1], sums[:, 2]
        mean = first / count
        squares = (second - count * mean.square()).clamp(min=0)
        if self.scale == "row":
            wide = (-1, *[1] * (mean.dim() - 1))
            squares, count = (each.flatten(1).sum(1).view(wide) for each in (self._pooled(squares), count))
        return torch.stack([mean, self._raw(squares / count).expand_as(mean)], 1)

    @torch.no_grad()
    def maximise_scale(self, squares: Tensor, count: Tensor) -> None:
        """Set a learned σ to its value of maximum likelihood; a fixed one stays.

        ``squares [*X]``: the sums over ``count [*X]`` observations of the expected squared error, in units of
        ``spread``.
        """
        if self.scale == "scalar":
            squares, count = self._pooled(squares).sum(), count.sum()
        if self.scale in ("scalar", "dimension"):
            self.raw_scale.copy_(self._raw(squares / count.clamp(min=TINY)))

    def _pooled(self, squares: Tensor) -> Tensor:
        """``squares`` from units of ``spread`` to the unit of a scale that all values share."""
        return squares * (self.spread / self._root_mean_square()).square()

    def _raw(self, variance: Tensor) -> Tensor:
        """The raw scale at which σ², in its unit, is ``variance``, or the least that is allowed."""
        return inverse_positive((variance.sqrt() - self._floor).clamp(min=_LEAST))

    def _location_and_spread(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return mean_of(x, mask), deviation_of(x, mask)


class Transformed(LocationScale):
    """Base class: an increasing function y of x is normal.

    ``resolution``: the step to which x was rounded (one number, or one per value of a row; 0: not rounded). A learned σ
    is then at least the standard deviation of the rounding error of y, resolution/(√12 dx/dy) at y = ``shift``. This
    floor is at most half of ``spread``.
    """

    log_step: Tensor

    def __init__(
        self,
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__(scale, shape, min_scale)
        self.resolution, log_step = step_logs(resolution, self.shape)
        if scale in ("scalar", "row") and self.shape and np.any(self.resolution):
            raise ValueError(
                f'scale="{scale}" is one scale for all values, but resolution has one number per value; use '
                'scale="dimension".'
            )
        self.register_buffer("log_step", log_step, persistent=False)

    @property
    def _floor(self) -> Tensor | float:
        if not np.any(self.resolution):
            return super()._floor
        rounding = (self.log_step - self._log_slope(self.shift)).exp() / (math.sqrt(12) * self.spread)
        return rounding.clamp(max=0.5).clamp(min=super()._floor)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        return normal_expectation(*line.image(self.mu(params), self.sigma(params)))

    @abstractmethod
    def _log_slope(self, y: Tensor) -> Tensor:
        """log dx/dy at y."""


class LogNormal(Transformed):
    """x > 0, log x ~ N(μ, σ²): p(x) = N(log x; μ, σ²) / x, a density in the data's units.

    The arguments are those of ``LocationScale``; ``scale``, ``shift`` and ``spread`` refer to log x. ``resolution``: a
    step to which x was rounded (one number, or one per value of a row). A learned σ is then at least the standard
    deviation of the rounding error at the geometric mean of x, resolution/(√12 exp(shift)); this floor is at most half
    of ``spread``. ``largest``: the largest value in the data (one number, or one per value of a row; None: unknown),
    which only ``typical`` uses.
    """

    support = constraints.positive
    masked_by = "log"

    log_largest: Tensor

    def __init__(
        self,
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
        largest: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(scale, shape, min_scale, resolution)
        self.largest = None if largest is None else _numbers(largest, self.shape, "largest")
        if self.largest is not None and not np.min(self.largest) > 0:
            raise ValueError(f"largest must be above 0, or None if it is unknown; got {largest}.")
        largest = math.inf if self.largest is None else self.largest
        self.register_buffer("log_largest", torch.tensor(largest).log(), persistent=False)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        inside = x > 0
        log_x = torch.where(inside, x, 1).log()
        return torch.where(inside, normal_log_prob(log_x, self.mu(params), self.sigma(params)) - log_x, -torch.inf)

    def mean(self, params: Tensor) -> Tensor:
        return (self.mu(params) + 0.5 * self.sigma(params).square()).exp()

    def typical(self, params: Tensor) -> Tensor:
        """E[min(x, largest)|z], because the mean of x can depend mostly on values far above any in the data.

        exp(μ + σ²/2) Φ(t − σ) + largest (1 − Φ(t)), t = (log largest − μ)/σ.
        """
        if self.largest is None:
            return self.mean(params)
        mu, sigma = self.mu(params).double(), self.sigma(params).double()
        t = (self.log_largest - mu) / sigma
        below: Tensor = mu + 0.5 * sigma.square() + torch.special.log_ndtr(t - sigma)
        above: Tensor = self.log_largest + torch.special.log_ndtr(-t)
        return below.exp() + above.exp()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return _normal_sample(self.mu(params), self.sigma(params), generator).exp()

    def _location_and_spread(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return mean_of(x.log(), mask), deviation_of(x.log(), mask)

    def _log_slope(self, y: Tensor) -> Tensor:
        return y


class LogitNormal(Transformed):
    """0 < x < 1, logit x ~ N(μ, σ²): p(x) = N(logit x; μ, σ²) / x(1 − x). Atchison & Shen 1980.

    The arguments are those of ``LogNormal``, for logit x = log(x/(1 − x)). With a ``resolution``, draws are kept so far
    from 0 and 1 that rounding cannot turn them into 0 or 1, which are outside the support.
    """

    support = open_unit
    masked_by = "logit"
    needs = "nothing"

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """With one learned scale for all values."""
        return cls()

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        inside = (x > 0) & (x < 1)
        safe = torch.where(inside, x, 0.5)
        log_x, log_rest = safe.log(), torch.log1p(-safe)
        normal = normal_log_prob(log_x - log_rest, self.mu(params), self.sigma(params))
        return torch.where(inside, normal - log_x - log_rest, -torch.inf)

    def mean(self, params: Tensor) -> Tensor:
        loc = self.mu(params)
        return normal_expectation(loc, self.sigma(params).expand_as(loc)).exp()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        drawn = _normal_sample(self.mu(params), self.sigma(params), generator).sigmoid()
        return away_from_ends(drawn, self.log_step)

    def _location_and_spread(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return mean_of(x.logit(), mask), deviation_of(x.logit(), mask)

    def _log_slope(self, y: Tensor) -> Tensor:
        return functional.logsigmoid(y) + functional.logsigmoid(-y)


class StudentT(LocationScale):
    """x ∈ ℝ: μ + σ·t with Student's t, whose density falls as |x|^−(df + 1). Lange, Little & Taylor 1989.

    ``df``: the degrees of freedom, above 1 (otherwise there is no mean), or "learned": one parameter for all values,
    initially 5 and always above 1. The other arguments are those of ``LocationScale``; σ is the scale, the standard
    deviation is σ √(df/(df − 2)). μ and σ are initialised from medians and quartiles, because outliers distort moments.
    """

    support: constraints.Constraint = constraints.real
    masked_by: Of | None = "value"

    def __init__(
        self,
        df: float | Literal["learned"] = "learned",
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
    ) -> None:
        super().__init__(scale, shape, min_scale)
        if isinstance(df, str) and df != "learned":
            raise ValueError(f'df must be a number or "learned"; got {df!r}.')
        if not isinstance(df, str) and not df > 1:
            raise ValueError(f"df must be above 1, so that the distribution has a mean; got {df}.")
        self.df = df
        if df == "learned":
            self.raw_df = nn.Parameter(torch.zeros(()))

    def degrees(self) -> Tensor:
        """df as a tensor."""
        return 1 + 4 * positive(self.raw_df) if isinstance(self.df, str) else self.spread.new_full((), self.df)

    def quartile(self) -> Tensor:
        """The upper quartile of t, within 0.1 %. Cornish & Fisher 1938."""
        inverse = 1 / self.degrees()
        return 0.6744898 + inverse * (0.2453340 + 0.0794893 * inverse)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return student_t_log_prob(x, self.mu(params), self.sigma(params), self.degrees())

    def mean(self, params: Tensor) -> Tensor:
        return self.mu(params)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        loc, half = self.mu(params), 0.5 * self.degrees()
        width = (half / torch._standard_gamma(half.expand(loc.shape), generator=generator)).sqrt()
        return _normal_sample(loc, self.sigma(params) * width, generator)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        return t_expectation(*line.image(self.mu(params), self.sigma(params)), self.degrees())

    def _location_and_spread(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if isinstance(self.df, str):
            self.raw_df.zero_()
        median, half = median_and_quartiles(x, mask)
        return median, torch.where(half > 0, half / self.quartile(), deviation_of(x, mask))


def step_logs(resolution: float | Sequence[float], shape: tuple[int, ...]) -> tuple[float | tuple[float, ...], Tensor]:
    """The steps to which values of ``shape`` were rounded, and their logarithms (−∞: not rounded)."""
    steps = _numbers(resolution, shape, "resolution")
    if not np.min(steps) >= 0:
        raise ValueError(f"resolution must be 0 or more, got {resolution}.")
    return steps, torch.tensor(steps).log()


def away_from_ends(x: Tensor, log_step: Tensor) -> Tensor:
    """x in [0, 1] moved so far from 0 and 1 that rounding to the given step, or to the type, does not give them."""
    limits = torch.finfo(x.dtype)
    least = (_MORE_THAN_HALF * log_step.exp()).clamp(max=0.5)
    return x.maximum(least.clamp(min=limits.tiny)).minimum((1 - least).clamp(max=1 - limits.eps / 2))


def _numbers(given: float | Sequence[float], shape: tuple[int, ...], name: str) -> float | tuple[float, ...]:
    """One number for all values of ``shape``, or a tuple with one per value."""
    found = given if isinstance(given, float | int) else tuple(float(each) for each in given)
    if isinstance(found, tuple) and (len(found),) != shape:
        raise ValueError(f"{name} has {len(found)} numbers, but a row has shape {shape}; give one, or one per value.")
    return found


def _normal_sample(loc: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    return loc + scale * torch.randn(loc.shape, generator=generator, device=loc.device, dtype=loc.dtype)
