"""Student's t of a learned monotone transform of x, so that p(x) has the marginal of the data whatever its shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.distributions.splines import inverse_spline, spline
from lowerbound.likelihoods.continuous import Scale, StudentT, away_from_ends, step_logs
from lowerbound.likelihoods.logistic import t_expectation
from lowerbound.likelihoods.missingness import Line, Of
from lowerbound.likelihoods.moments import mean_of, open_unit

Domain = Literal["real", "positive", "unit"]

_BINS = 16
_FEWEST = 30  # observed values below which the transform stays linear
_NOISE = 1.0  # a difference of CDFs, in standard errors, that needs no further knot
_RATIO = 3  # the largest ratio of the slope at a knot to that of a chord; above, the density could nearly vanish
_STEEPEST = 1e3  # relative to the slope that a normal column would have
_NODES, _REACH = 33, 4.5  # of quadrature over t = sinh u: its number of nodes, and their range in u
_LEAST_WEIGHT = 1e-8  # of a node that counts
_PLACES = 2048  # at which g⁻¹ is computed for ``mean``; between them it is interpolated


class _Link(NamedTuple):
    """x ↦ u ∈ ℝ, its inverse, log du/dx as a function of u; the support; a value inside."""

    to: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    log_slope: Callable[[Tensor], Tensor]
    support: constraints.Constraint
    masked_by: Of


_LINKS: dict[Domain, _Link] = {
    "real": _Link(lambda x: x, lambda u: u, torch.zeros_like, constraints.real, "value"),
    "positive": _Link(torch.log, torch.exp, torch.neg, constraints.positive, "log"),
    "unit": _Link(
        torch.logit,
        torch.sigmoid,
        lambda u: -functional.logsigmoid(u) - functional.logsigmoid(-u),
        open_unit,
        "logit",
    ),
}


class Warped(StudentT):
    """g(x) = μ + σ·t with Student's t, where g is increasing: p(x) = t(g(x); μ, σ) g'(x), in the data's units.

    g is a spline of x (``domain`` "real"), of log x ("positive") or of logit x ("unit": 0 < x < 1), set in
    ``initialise`` so that g(x) of the data is normal (its normal scores; van der Waerden 1952): p(x) can then have two
    modes, be skewed or end abruptly. Until then, and for values with fewer than 30 observations, the spline is linear.

    ``resolution``: the step to which x was rounded (one number, or one per value of a row; 0: not rounded). σ is then
    at least the standard deviation of the rounding error of g(x), resolution · g'(x)/√12, with the geometric mean of
    g' over the data, up to half of ``spread``. The other arguments are those of ``StudentT``; ``shift`` and ``spread``
    refer to x, log x or logit x.

    ``mean`` counts x outside the range of the data in ``initialise`` as its end, because E[x] can depend mostly on
    values far above any in the data, or be infinite.
    """

    knots: Tensor
    log_slope: Tensor
    log_step: Tensor

    def __init__(
        self,
        domain: Domain = "real",
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
        df: float | Literal["learned"] = "learned",
    ) -> None:
        super().__init__(df, scale, shape, min_scale)
        if domain not in get_args(Domain):
            raise ValueError(f'domain must be "real", "positive" or "unit"; got {domain!r}.')
        self.domain: Domain = domain
        self.support, self.masked_by = _LINKS[domain].support, _LINKS[domain].masked_by
        self.resolution, log_step = step_logs(resolution, self.shape)
        self.register_buffer("log_step", log_step, persistent=False)
        self.register_buffer("log_slope", torch.zeros(self.shape))
        line = torch.linspace(-8, 8, _BINS + 1)
        knots = torch.stack([line, line, torch.ones_like(line)])
        self._table: tuple[object, tuple[Tensor, Tensor, Tensor]] | None = None  # of ``_places``
        self.register_buffer("knots", knots.view(3, -1, *[1] * len(self.shape)).repeat(1, 1, *self.shape))

    def warp(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The spline of u = x, log x or logit x, and the logarithm of its slope."""
        y, log_slope = spline(self.knots, (u - self.shift) / self.spread)
        return self.shift + self.spread * y, log_slope

    def unwarp(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The u with ``warp(u)`` = y, and the logarithm of the slope of the spline there."""
        u, log_slope = inverse_spline(self.knots, (y - self.shift) / self.spread)
        return self.shift + self.spread * u, log_slope

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        link, inside = _LINKS[self.domain], self.support.check(x)
        u = link.to(torch.where(inside, x, 0.5))
        y, log_slope = self.warp(u)
        density = super().log_prob_per_value(params, y) + (log_slope + link.log_slope(u))
        return torch.where(inside, density, -torch.inf)

    def sigma(self, params: Tensor | None = None) -> Tensor:
        sigma = super().sigma(params)
        if not np.any(self.resolution):
            return sigma
        rounding = (self.log_step + self.log_slope).exp() / math.sqrt(12)
        return sigma + rounding.minimum(0.5 * self.spread)

    def mean(self, params: Tensor) -> Tensor:
        """E[x|z] with x limited to the range of the data, by quadrature over t."""
        t = torch.linspace(-_REACH, _REACH, _NODES, dtype=params.dtype, device=params.device).sinh()
        df, (start, slope, step) = self.degrees(), self._places(params)
        weights = (0.5 * torch.log1p(t.square()) - 0.5 * (df + 1) * torch.log1p(t.square() / df)).softmax(0)
        low = self.shift + self.spread * self.knots[1, 0]
        centre, sigma = (self.mu(params) - low) / step, self.sigma(params) / step
        first = torch.arange(0, start.numel(), _PLACES, device=start.device).view(low.shape)  # of each column
        found = torch.zeros_like(centre)
        for weight, at in zip(weights.tolist(), t.tolist(), strict=True):
            if weight > _LEAST_WEIGHT:
                place = torch.add(centre, sigma, alpha=at).clamp(0, _PLACES - 1)
                index = place.long() + first
                found = found.add_(torch.addcmul(start.take(index), slope.take(index), place.frac()), alpha=weight)
        return found

    def _places(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A table for interpolation of x = g⁻¹(y) between equal steps of y over the range of the data; the steps.

        For y at n + f steps, 0 ≤ f < 1, x is start[n] + slope[n] · f, with both ``[columns · _PLACES]``.
        """
        of = (self.shift, self.spread, self.knots)
        key = (like.dtype, *((each.data_ptr(), each._version) for each in of))
        if self._table is None or self._table[0] != key:
            self._table = (key, self._interpolated(like))
        return self._table[1]

    @torch.no_grad()
    def _interpolated(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = (self.shift + self.spread * self.knots[1, end] for end in (0, -1))
        shares = torch.linspace(0, 1, _PLACES, dtype=like.dtype, device=like.device)
        y = low + (high - low) * shares.view(-1, *[1] * low.dim())
        start = _LINKS[self.domain].back(self.unwarp(y)[0]).reshape(_PLACES, -1).T.contiguous()
        return start.flatten(), functional.pad(start.diff(), (0, 1)).flatten(), (high - low) / (_PLACES - 1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        drawn = _LINKS[self.domain].back(self.unwarp(super().sample(params, generator))[0])
        if self.domain == "unit":
            return away_from_ends(drawn, self.log_step)
        limits = torch.finfo(drawn.dtype)
        return drawn.clamp(limits.tiny if self.domain == "positive" else limits.min, limits.max)

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        """By quadrature with intervals that are short around 0 and around the y at which the logit is 0."""
        mu, sigma = self.mu(params), self.sigma(params).expand_as(params[:, :, 0])
        with torch.no_grad():
            slope = line.slope / line.unit
            turn = line.centre - line.intercept / torch.where(slope.abs() < 1e-6, 1e-6, slope)
            y, log_slope = self.warp(turn)
            steep = (slope * sigma / log_slope.exp()).abs()

        def logit(t: Tensor) -> Tensor:
            return line.of_value(self.unwarp(mu + sigma * t.movedim(-1, 0))[0]).movedim(0, -1)

        return t_expectation(steep * (mu - y) / sigma, steep, self.degrees(), logit)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Also set the spline and the geometric mean of its slope over the data."""
        bias = super().initialise(x, mask)
        link, inside = _LINKS[self.domain], self.support.check(x)
        u = link.to(torch.where(inside, x, 0.5))
        log_slope = self.warp(u)[1] + link.log_slope(u)
        log_slope = log_slope if self.shape else log_slope.reshape(-1)
        seen = mask if mask is None or self.shape else mask.reshape(-1)
        self.log_slope.copy_(mean_of(log_slope, seen))
        return bias

    def _location_and_spread(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of u; also sets the spline."""
        u = _LINKS[self.domain].to(x)
        shift, spread = super()._location_and_spread(u, mask)
        unit = torch.where(spread > 0, spread, 1).double()
        standard = ((u.double() - shift) / unit).reshape(len(u), -1)
        seen = torch.ones_like(standard, dtype=torch.bool) if mask is None else mask.reshape(len(u), -1)
        wide = float(self.quartile()) / _QUARTILE
        found = [_knots(own[there], wide) for own, there in zip(standard.T, seen.T, strict=True)]
        self.knots.copy_(torch.stack(found, -1).view(self.knots.shape))
        return shift, spread


_QUARTILE = 0.6744898  # of a standard normal


def _knots(u: Tensor, unit: float) -> Tensor:
    """The knots of a spline from the observed values ``u`` of one column to ``unit`` times their normal scores."""
    values, counts = (each.cpu().numpy() for each in u.unique(return_counts=True))
    shares = (counts.cumsum() - counts / 2) / len(u)  # of tied values, the middle
    if len(u) < _FEWEST or len(values) < 3:
        low, high = (float(values[0]), float(values[-1])) if len(values) > 1 else (-1.0, 1.0)
        line = torch.linspace(low, high, _BINS + 1, dtype=u.dtype)
        return torch.stack([line, line, torch.ones_like(line)])
    scores = ndtri(shares)
    chosen = _chosen(values, scores, _NOISE / math.sqrt(len(u)))
    return _filled(_spaced(values[chosen], unit * scores[chosen])).squeeze(-1)


def _chosen(x: np.ndarray, scores: np.ndarray, error: float) -> np.ndarray:
    """The first and the last point, and those where the CDF differs most from lines through the points chosen so far.

    They are added one at a time, until no difference exceeds ``error`` or each of ``_BINS`` bins is used.
    """
    chosen, shares = np.array([0, len(x) - 1]), ndtr(scores)
    unit = np.sqrt(shares * (1 - shares))
    for _ in range(_BINS - 1):
        found = spline(_spaced(x[chosen], scores[chosen]), torch.from_numpy(x).unsqueeze(-1))[0]
        away = np.abs(ndtr(found.squeeze(-1).numpy()) - shares) / unit
        away[chosen] = 0
        if away.max() <= error:
            break
        chosen = np.sort(np.append(chosen, away.argmax()))
    return chosen


def _filled(knots: Tensor) -> Tensor:
    """The same spline with as many knots as each has: further ones lie in the highest bin."""
    lacking, y = _BINS + 1 - knots.shape[1], knots[1, :, 0]
    bin_ = int(y.diff().argmax())
    more = torch.linspace(float(y[bin_]), float(y[bin_ + 1]), lacking + 2, dtype=y.dtype)[1:-1].unsqueeze(-1)
    x, log_slope = inverse_spline(knots, more)
    new = torch.stack([x, more, log_slope.exp()])
    return torch.cat([knots[:, : bin_ + 1], new, knots[:, bin_ + 1 :]], 1)


def _spaced(x: np.ndarray, y: np.ndarray) -> Tensor:
    """Knots ``[3, n, 1]`` through (x, y), moved apart where x are too near for a finite slope in single precision.

    An inner slope is the geometric mean of those of the two chords, in which that of the shorter one weighs more.
    """
    ends, height = np.maximum(np.abs(x[1:]), np.abs(x[:-1])), np.diff(y)
    width = np.maximum(np.diff(x), np.maximum(height / _STEEPEST, 1e-6 * ends))
    middle = len(x) // 2  # moved apart from here, so that a far outlier does not round the others
    x = np.concatenate(
        [x[middle] - width[:middle][::-1].cumsum()[::-1], [x[middle]], x[middle] + width[middle:].cumsum()]
    )
    log_chord, weight = np.log(height / width), width[1:] / (width[1:] + width[:-1])
    inner = weight * log_chord[:-1] + (1 - weight) * log_chord[1:]
    inner = np.minimum(inner, np.minimum(log_chord[:-1], log_chord[1:]) + math.log(_RATIO))
    slopes = np.exp(np.concatenate([log_chord[:1], inner, log_chord[-1:]]))
    return torch.from_numpy(np.stack([x, y, slopes])).unsqueeze(-1)
