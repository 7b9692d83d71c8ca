"""Likelihoods of 8-bit values and other whole numbers, by rounding a logistic distribution."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.distributions import inverse_positive, logistic_noise, positive
from lowerbound.likelihoods.base import Factorised, Measure
from lowerbound.likelihoods.continuous import LocationScale
from lowerbound.likelihoods.missingness import Line
from lowerbound.likelihoods.moments import deviation_of, mean_of

_MIN_SCALE = 0.01  # in levels: all mass is already in one level, and smaller scales would overflow
_NEAR = 88  # whole numbers around the location, beyond which a logistic of scale 2 or less has 1e-9 of its mass
_MACLAURIN = (
    (-1 / 24, (1,)),
    (7 / 5760, (1, -6)),
    (-31 / 967680, (1, -30, 120)),
    (127 / 154828800, (1, -126, 1680, -5040)),
)
"""B_2k(½)/(2k)!, and the odd derivatives of the sigmoid divided by its first, as polynomials in the first."""


class DiscretizedLogistic(Factorised):
    """x ∈ {0, …, ``levels`` − 1}, by default 8-bit values: a logistic distribution rounded to the nearest level.

    P(x) = F(x + ½) − F(x − ½), where F is the logistic CDF; the first and the last level include the tails. The two
    parameters determine its location and scale. Salimans et al. 2017 (PixelCNN++), eq. 2.
    """

    measure = "counting"
    one_scale = True
    needs = "max_value"
    n_parameters = 2

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2; got {levels}.")
        self.levels = levels

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """For levels up to the largest possible value, ``given``."""
        return cls(given + 1)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def _loc_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        raw_loc, raw_scale = params.unbind(2)
        return _in_levels(raw_loc, raw_scale, self.levels)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return log_mass(x, *self._loc_scale(params), self.levels)

    def mean(self, params: Tensor) -> Tensor:
        return _mean(*self._loc_scale(params), self.levels)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return _sample(*self._loc_scale(params), self.levels, generator)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        middle = (self.levels - 1) / 2
        deviation = deviation_of(x, mask).clamp(min=0.5)
        return torch.stack([mean_of(x, mask) / middle - 1, _raw_scale(deviation, self.levels)])


class DiscretizedLogisticMixture(Factorised):
    """x ∈ {0, …, ``levels`` − 1}: P(x) = Σ_m π_m [F_m(x + ½) − F_m(x − ½)], M ``components`` for each value.

    The 3M parameters are M logits of π, M locations and M scales, as in ``DiscretizedLogistic``. All values of a row,
    including the colours of a pixel, are independent given z. Salimans et al. 2017 (PixelCNN++), eq. 2.
    """

    measure = "counting"
    one_scale = True
    needs = "max_value"

    def __init__(self, levels: int = 256, components: int = 5) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2; got {levels}.")
        if components < 1:
            raise ValueError(f"components must be at least 1; got {components}.")
        self.levels = levels
        self.components = components
        self.n_parameters = 3 * components

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """For levels up to the largest possible value, ``given``."""
        return cls(given + 1)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, locations and scales, ``[K, B, M, *X]`` each."""
        logits, raw_loc, raw_scale = params.chunk(3, 2)
        return logits.log_softmax(2), *_in_levels(raw_loc, raw_scale, self.levels)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        log_weight, loc, scale = self._parts(params)
        return (log_weight + log_mass(x.unsqueeze(1), loc, scale, self.levels)).logsumexp(2)

    def mean(self, params: Tensor) -> Tensor:
        log_weight, loc, scale = self._parts(params)
        return (log_weight.exp() * _mean(loc, scale, self.levels)).sum(2)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        log_weight, loc, scale = self._parts(params)
        weight = log_weight.exp().movedim(2, -1)
        chosen = torch.multinomial(weight.flatten(0, -2), 1, generator=generator).view(weight.shape[:-1]).unsqueeze(2)
        return _sample(loc.gather(2, chosen).squeeze(2), scale.gather(2, chosen).squeeze(2), self.levels, generator)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Evenly spaced components, with half of the variance between them and half within."""
        middle = (self.levels - 1) / 2
        deviation = deviation_of(x, mask).clamp(min=0.5)
        at = torch.linspace(-1, 1, self.components, dtype=x.dtype, device=x.device)
        between = at / at.square().mean().sqrt() * math.sqrt(0.5) if self.components > 1 else torch.zeros_like(at)
        within = deviation * (1 - between.square().mean()).sqrt()
        offsets = between.view(-1, *[1] * deviation.dim()) * deviation
        locs = (mean_of(x, mask) + offsets) / middle - 1
        return torch.cat([torch.zeros_like(locs), locs, _raw_scale(within, self.levels).expand(locs.shape)])


class RoundedLogistic(LocationScale):
    """x ∈ {0, 1, …}: a logistic rounded to whole numbers, P(x) = F(x + ½) − F(x − ½); 0 includes the lower tail.

    For counts that vary less than a Poisson's, such as grades or numbers of rooms. The arguments are those of
    ``LocationScale``; the standard deviation of a logistic with scale σ is πσ/√3. Salimans et al. 2017, eq. 2, without
    a last level.
    """

    measure: Measure = "counting"
    counts = True
    support = constraints.nonnegative_integer
    masked_by = "value"

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        return log_mass(x, self.mu(params), self.sigma(params))

    def mean(self, params: Tensor) -> Tensor:
        return _mean_above_0(self.mu(params), self.sigma(params))

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return _sample(self.mu(params), self.sigma(params), math.inf, generator)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        loc = self.mu(params)
        scale = self.sigma(params).expand_as(loc)
        at, of = loc.unsqueeze(-1), scale.unsqueeze(-1)
        wide = 5 * scale + 0.5  # a logistic has heavier tails than a normal
        return line.of_counts(lambda x: log_mass(x, at, of), loc.clamp(min=0), wide, scale)

    def _location_and_spread(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The location at which the rounded, truncated distribution has the data's mean, and a scale.

        The scale is at least so large that the few values that differ from the mean are in the tails.
        """
        mean, deviation = mean_of(x, mask), deviation_of(x, mask)
        tails = 0.5 / (2 / deviation.square().clamp(max=0.25)).log()  # P(|x − mean| > ½) is then the variance
        spread = torch.where(deviation > 0, (deviation * (math.sqrt(3) / math.pi)).maximum(tails), 0)
        loc, scale = mean, torch.where(spread > 0, spread, 1)
        for _ in range(20):  # Newton's method
            loc = loc + (mean - _mean_above_0(loc, scale)) / (loc / scale).sigmoid().clamp(min=0.1)
        return loc, spread


def _in_levels(raw_loc: Tensor, raw_scale: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Location and scale, in levels, from two unconstrained numbers."""
    middle = (levels - 1) / 2
    return middle * (1 + raw_loc), middle * positive(raw_scale) + _MIN_SCALE


def _raw_scale(deviation: Tensor, levels: int) -> Tensor:
    """The inverse of ``_in_levels``: the raw scale that gives this standard deviation."""
    return inverse_positive(deviation * (math.sqrt(3) / math.pi) / ((levels - 1) / 2))


def log_mass(x: Tensor, loc: Tensor, scale: Tensor, levels: float = math.inf) -> Tensor:
    """log-probability of x for a logistic rounded to 0, …, ``levels`` − 1."""
    precision = 1 / scale
    centred = (x - loc) * precision
    # F(a) − F(b) = F(a) F(−b) (1 − e^(b−a)), which is accurate in both tails
    below_top, above_bottom = x < levels - 1, x > 0
    upper = torch.where(below_top, functional.logsigmoid(centred + 0.5 * precision), 0)
    lower = torch.where(above_bottom, functional.logsigmoid(0.5 * precision - centred), 0)
    width = torch.where(below_top & above_bottom, torch.log(-torch.expm1(-precision)), 0)
    return upper + lower + width


def _mean(loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    mean = torch.zeros_like(loc)
    for level in range(1, levels):  # E[x] = Σ_k P(x ≥ k)
        mean += ((loc - level + 0.5) / scale).sigmoid()
    return mean


def _mean_above_0(loc: Tensor, scale: Tensor) -> Tensor:
    """E[x] = Σ_k≥1 F(loc − k + ½): summed near ``loc`` if the scale is below 2, else by the Euler-Maclaurin formula."""
    below = (loc.floor() - _NEAR / 2).clamp(min=0)
    near = below.clone()
    for place in range(1, _NEAR + 1):
        near += ((loc - below - place + 0.5) / scale).sigmoid()
    wide = scale.clamp(min=2)
    slope = (loc / wide).sigmoid() * (-loc / wide).sigmoid()
    far = wide * functional.softplus(loc / wide)
    for order, (factor, derivative) in enumerate(_MACLAURIN):
        far += factor * slope * sum(c * slope**power for power, c in enumerate(derivative)) / wide ** (2 * order + 1)
    return torch.where(scale < 2, near, far)


def _sample(loc: Tensor, scale: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(loc.shape, generator=generator, device=loc.device, dtype=loc.dtype)
    return (loc + scale * logistic_noise(uniform)).round().clamp(0, levels - 1)
