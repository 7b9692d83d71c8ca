"""Tables whose cells are missing because of the values they would have had."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.distributions import negative_binomial_log_prob, poisson_log_prob
from lowerbound.likelihoods.atoms import InflatedLogitNormal, ZeroInflatedLogNormal
from lowerbound.likelihoods.base import Factorised, Likelihood, Measure
from lowerbound.likelihoods.continuous import LocationScale, LogitNormal, LogNormal, Normal, StudentT
from lowerbound.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from lowerbound.likelihoods.discrete import Bernoulli, Categorical, Ordinal
from lowerbound.likelihoods.levels import DiscretizedLogistic, RoundedLogistic, log_mass
from lowerbound.likelihoods.logistic import count_expectation, normal_expectation, t_expectation
from lowerbound.likelihoods.moments import deviation_of, mean_of
from lowerbound.likelihoods.product import Product

_DRAWS = 64
_AT_ONCE = 2**20  # numbers of the parameters of draws taken together


class SelfMasking(Likelihood):
    """p(x_observed, mask|z) where a cell is missing by its own value alone. Ipsen, Mattei & Frellsen 2021 (not-MIWAE).

    log p = Σ over observed [log p(x_j|z) + log P(observed|x_j)] + Σ over missing log ∫ P(missing|x_j) p(x_j|z) dx_j
    with P(missing|x_j) = sigmoid(a_j + b_j u), u = (x_j − centre_j)/unit_j, or of log x_j where ``likelihood``, a
    ``Product``, has a log-normal, and of logit x_j where it has a logit-normal; values that have a probability of their
    own, 0 and 1, have a logit of their own, and so has each class. No draws are needed: the integrals are sums, or good
    to 1e-8 (normal) and 1e-4 (Student's t, counts; see ``logistic.py``).

    The data cannot show that missingness is of this kind: it is assumed. A column that ``initialise`` sees
    without missing cells, or without others, keeps a constant probability of them. A row of which nothing is observed
    has log p(mask|z), not 0.
    """

    informative: ClassVar[bool] = True

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        if not isinstance(likelihood, Product):
            raise ValueError(
                f"SelfMasking is of the columns of a Product, and got {type(likelihood).__name__}: give "
                "SelfMasking(Product([…])), with a likelihood for each column."
            )
        self.likelihood = likelihood
        self.n_parameters = likelihood.n_parameters
        self.measure = likelihood.measure
        self.measures: tuple[Measure, ...] = likelihood.measures
        pairs = zip(likelihood.likelihoods, likelihood.of, strict=True)
        self.columns = nn.ModuleList([_curve_of(part, len(block)) for part, block in pairs])

    @property
    def likelihoods(self) -> tuple[Factorised, ...]:
        """Split values by the blocks of columns."""
        return self.likelihood.likelihoods

    @property
    def curves(self) -> tuple[Curve, ...]:
        """P(missing|x), one for each block of columns."""
        return tuple(curve for curve in self.columns if isinstance(curve, Curve))

    @property
    def support(self) -> constraints.Constraint:
        return self.likelihood.support

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        safe = x if mask is None else torch.where(mask, x, 0)
        values = self.log_prob_per_value(params, safe) + self.log_observed(safe)
        return (values if mask is None else torch.where(mask, values, self.log_missing(params))).flatten(2).sum(2)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x_j|z) of each value, ``[K, B, *X]``: of its value alone, whether it is observed or not."""
        return self.likelihood.log_prob_per_value(params, x)

    def log_observed(self, x: Tensor) -> Tensor:
        """log P(observed|x_j), ``[B, *X]``."""
        pairs = zip(self.curves, self._by_block(x), strict=True)
        return self.likelihood.joined([functional.logsigmoid(-curve.logit(own)) for curve, own in pairs])

    def log_missing(self, params: Tensor) -> Tensor:
        """log P(missing|z) of each cell, its value integrated out, ``[K, B, *X]``."""
        triples = zip(self.curves, self.likelihoods, self.likelihood.split(params), strict=True)
        return self.likelihood.joined([curve.log_missing(part, own) for curve, part, own in triples])

    def mean(self, params: Tensor) -> Tensor:
        return self.likelihood.mean(params)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return self.likelihood.sample(params, generator)

    def sample_missing(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from p(x_j|z, missing) ∝ p(x_j|z) P(missing|x_j) of each cell, ``[K, B, *X]``.

        Exact for classes; else one of 64 draws of p(x_j|z) by their P(missing|x_j), near to it where that is seldom far
        below its largest.
        """
        triples = zip(self.curves, self.likelihoods, self.likelihood.split(params), strict=True)
        return self.likelihood.joined([curve.sample_missing(part, own, generator) for curve, part, own in triples])

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = self.likelihood.initialise(x, mask)
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        blocks = zip(self.curves, self.likelihoods, self._by_block(x), self._by_block(seen), strict=True)
        for curve, part, own, there in blocks:
            curve.initialise(part, own, there)
        return bias

    def _by_block(self, values: Tensor) -> list[Tensor]:
        return [values[..., list(block)] for block in self.likelihood.of]


class Curve(nn.Module, ABC):
    """P(missing|x) of the d columns of one likelihood; ``learned [d]``: of which it is more than a constant."""

    learned: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("learned", torch.ones(columns, dtype=torch.bool))

    @abstractmethod
    def logit(self, x: Tensor) -> Tensor:
        """logit P(missing|x), ``[…, d]``."""

    @abstractmethod
    def log_missing(self, part: Factorised, params: Tensor) -> Tensor:
        """log ∫ P(missing|x) p(x|z) dx, ``[K, B, …, d]``."""

    @abstractmethod
    def sample_missing(self, part: Factorised, params: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from p(x|z, missing), ``[K, B, …, d]``."""

    @abstractmethod
    def initialise(self, part: Factorised, x: Tensor, mask: Tensor) -> None:
        """Start at the share of missing cells of each column, whatever x."""

    def _share(self, mask: Tensor) -> Tensor:
        """The logit of each column's share of missing cells, half a row from none and from all; sets ``learned``."""
        rows = mask.flatten(0, -2)
        share = (~rows).double().mean(0)
        self.learned.copy_((share > 0) & (share < 1))
        half = 0.5 / (len(rows) + 1)
        return share.clamp(half, 1 - half).logit()


class Classes(Curve):
    """A logit for each class."""

    def __init__(self, columns: int, n_classes: int) -> None:
        super().__init__(columns)
        self.logits = nn.Parameter(torch.zeros(columns, n_classes))

    def logit(self, x: Tensor) -> Tensor:
        logits = self._logits()
        index = x.long().clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
        return logits.expand(*x.shape, logits.shape[-1]).gather(-1, index).squeeze(-1)

    def log_missing(self, part: Factorised, params: Tensor) -> Tensor:
        return self._joint(part, params).logsumexp(-1)

    def sample_missing(self, part: Factorised, params: Tensor, generator: torch.Generator) -> Tensor:
        probs = self._joint(part, params).softmax(-1)
        drawn = torch.multinomial(probs.flatten(0, -2), 1, generator=generator)
        return drawn.view(probs.shape[:-1]).to(params.dtype)

    @torch.no_grad()
    def initialise(self, part: Factorised, x: Tensor, mask: Tensor) -> None:
        self.logits.copy_(self._share(mask).unsqueeze(-1).expand_as(self.logits))

    def _logits(self) -> Tensor:
        return torch.where(self.learned.unsqueeze(-1), self.logits, self.logits.detach())

    def _joint(self, part: Factorised, params: Tensor) -> Tensor:
        """log p(x = c, missing|z), ``[K, B, …, d, C]``."""
        if isinstance(part, Bernoulli):
            logit = params.squeeze(2)
            log_p = functional.logsigmoid(torch.stack([-logit, logit], -1))
        else:
            mean = part.mean(params)
            log_p = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
        return log_p + functional.logsigmoid(self._logits())


class Line(Curve):
    """logit P(missing|x) = ``intercept`` + ``slope`` · (u − ``centre``)/``unit`` with u = x, log x or logit x.

    ``at_zero``: the logit at x = 0 where that is an atom, and ``at_one`` at x = 1. ``centre`` and ``unit`` are 0 and 1
    until ``initialise``.
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, columns: int, of: Literal["value", "log", "logit"] = "value", atoms: int = 0) -> None:
        super().__init__(columns)
        self.of = of
        self.register_buffer("centre", torch.zeros(columns))
        self.register_buffer("unit", torch.ones(columns))
        self.intercept = nn.Parameter(torch.zeros(columns))
        self.slope = nn.Parameter(torch.zeros(columns))
        self.at_zero = nn.Parameter(torch.zeros(columns)) if atoms > 0 else None
        self.at_one = nn.Parameter(torch.zeros(columns)) if atoms > 1 else None

    def logit(self, x: Tensor) -> Tensor:
        logit = self._held(self.intercept) + self._held(self.slope) * (self._value(x) - self.centre) / self.unit
        logit = logit if self.at_zero is None else torch.where(x == 0, self._held(self.at_zero), logit)
        return logit if self.at_one is None else torch.where(x == 1, self._held(self.at_one), logit)

    def _value(self, x: Tensor) -> Tensor:
        """The quantity that the logit is linear in; any number where there is none."""
        if self.of == "log":
            return torch.where(x > 0, x, 1).log()
        return torch.where((x > 0) & (x < 1), x, 0.5).logit() if self.of == "logit" else x

    def log_missing(self, part: Factorised, params: Tensor) -> Tensor:
        match part:
            case Normal() | LogNormal() | LogitNormal():
                return normal_expectation(*self._line(part, params))
            case StudentT():
                return t_expectation(*self._line(part, params), part.degrees())
            case ZeroInflatedLogNormal():
                assert self.at_zero is not None
                above = normal_expectation(*self._line(part.above, params[:, :, 1:]))
                return _with_zeros(params[:, :, 0], self._held(self.at_zero), above)
            case InflatedLogitNormal():
                assert self.at_zero is not None
                assert self.at_one is not None
                inside = normal_expectation(*self._line(part.inside, params[:, :, 2:]))
                ends = functional.logsigmoid(torch.stack([self._held(self.at_zero), self._held(self.at_one)]))
                gone = torch.cat([ends.expand(*params.shape[:2], 2, *ends.shape[1:]), inside.unsqueeze(2)], 2)
                return (part.log_shares(params) + gone).logsumexp(2)
            case DiscretizedLogistic():
                return self._of_levels(part, params)
            case Poisson():
                mean = params.squeeze(2).exp()
                tail = torch.ones_like(mean)
                return self._of_counts(lambda x: poisson_log_prob(x, params.movedim(2, -1)), mean, mean.sqrt(), tail)
            case RoundedLogistic():
                loc = part.mu(params)
                scale = part.sigma(params).expand_as(loc)
                at, of = loc.unsqueeze(-1), scale.unsqueeze(-1)
                wide = 5 * scale + 0.5  # its tails fall by e a scale, on both sides
                return self._of_counts(lambda x: log_mass(x, at, of), loc.clamp(min=0), wide, scale)
            case NegativeBinomial():
                return self._of_negative_binomial(params[:, :, 0], params[:, :, 1])
            case ZeroInflatedNegativeBinomial():
                zero = self.logit(torch.zeros_like(self.centre))
                return _with_zeros(params[:, :, 0], zero, self._of_negative_binomial(params[:, :, 1], params[:, :, 2]))
        raise AssertionError

    def sample_missing(self, part: Factorised, params: Tensor, generator: torch.Generator) -> Tensor:
        """Choose one of ``_DRAWS`` draws of x in proportion to P(missing|x): the largest log P + Gumbel noise."""
        chosen, best = torch.zeros((), device=params.device), torch.full((), -torch.inf, device=params.device)
        together = max(1, min(_DRAWS, _AT_ONCE // max(1, params.numel())))
        for first in range(0, _DRAWS, together):
            count = min(together, _DRAWS - first)
            x = part.sample(params.repeat(count, *[1] * (params.dim() - 1)), generator).unflatten(0, (count, -1))
            uniform = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            score, place = (functional.logsigmoid(self.logit(x)) - (-uniform.log()).log()).max(0, keepdim=True)
            chosen = torch.where(score > best, x.gather(0, place), chosen)
            best = torch.maximum(score, best)
        return chosen.squeeze(0)

    @torch.no_grad()
    def initialise(self, part: Factorised, x: Tensor, mask: Tensor) -> None:
        """Also takes ``centre`` and ``unit`` from the likelihood, or of counts from the data."""
        own = part.above if isinstance(part, ZeroInflatedLogNormal) else part
        own = own.inside if isinstance(own, InflatedLogitNormal) else own
        if isinstance(own, LocationScale):
            centre, unit = own.shift, own.spread
        else:
            rows, seen = x.flatten(0, -2), mask.flatten(0, -2)
            centre, unit = mean_of(rows, seen), deviation_of(rows, seen)
        self.centre.copy_(centre)
        self.unit.copy_(torch.where(unit > 0, unit, 1.0))
        self.slope.zero_()
        self.intercept.copy_(self._share(mask))
        for atom in (self.at_zero, self.at_one):
            if atom is not None:
                atom.copy_(self.intercept)

    def _held(self, parameter: Tensor) -> Tensor:
        return torch.where(self.learned, parameter, parameter.detach())

    def _line(self, part: LocationScale, params: Tensor) -> tuple[Tensor, Tensor]:
        """The logit's location and scale given z."""
        slope = self._held(self.slope) / self.unit
        loc = self._held(self.intercept) + slope * (part.mu(params) - self.centre)
        return loc, (slope * part.sigma(params)).expand_as(loc)

    def _of_levels(self, part: DiscretizedLogistic, params: Tensor) -> Tensor:
        """The sum over all levels, ``[K, B, …, d]``."""
        x = torch.arange(part.levels, dtype=params.dtype, device=params.device)
        gone = functional.logsigmoid(self.logit(x.unsqueeze(-1))).movedim(0, -1)
        return (part.log_prob_per_value(params.unsqueeze(-1), x) + gone).logsumexp(-1)

    def _of_negative_binomial(self, log_mean: Tensor, log_r: Tensor) -> Tensor:
        mean, r = log_mean.unsqueeze(-1), log_r.unsqueeze(-1)
        tail = 1 + (log_mean - log_r).exp()
        deviation = (0.5 * log_mean).exp() * tail.sqrt()
        return self._of_counts(lambda x: negative_binomial_log_prob(x, mean, r), log_mean.exp(), deviation, tail)

    def _of_counts(self, log_prob: Callable[[Tensor], Tensor], mean: Tensor, deviation: Tensor, tail: Tensor) -> Tensor:
        return count_expectation(log_prob, mean, deviation, tail, lambda x: self.logit(x.movedim(-1, 0)).movedim(0, -1))


def _with_zeros(logit: Tensor, at_zero: Tensor, log_missing: Tensor) -> Tensor:
    """log P(missing|z) where x is 0 with the probability sigmoid(``logit``), and else as ``log_missing`` has it."""
    zero = functional.logsigmoid(logit) + functional.logsigmoid(at_zero)
    return torch.logaddexp(zero, functional.logsigmoid(-logit) + log_missing)


def _curve_of(part: Factorised, columns: int) -> Curve:
    match part:
        case Bernoulli():
            return Classes(columns, 2)
        case Categorical() | Ordinal():
            return Classes(columns, part.n_classes)
        case LogNormal() | ZeroInflatedLogNormal():
            return Line(columns, "log", isinstance(part, ZeroInflatedLogNormal))
        case LogitNormal() | InflatedLogitNormal():
            return Line(columns, "logit", 2 * isinstance(part, InflatedLogitNormal))
        case LocationScale() | DiscretizedLogistic() | Poisson() | NegativeBinomial() | ZeroInflatedNegativeBinomial():
            return Line(columns)
    raise ValueError(
        f"SelfMasking integrates over the value of a missing cell, and has no rule for {type(part).__name__}: take "
        "Normal, StudentT, LogNormal, LogitNormal, Bernoulli, Categorical, Ordinal or a likelihood of counts for it."
    )
