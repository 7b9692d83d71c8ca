"""Point masses at single values, next to any likelihood of numbers; zeros and ones of positive numbers and shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.likelihoods.base import Factorised, Measure
from lowerbound.likelihoods.continuous import LogitNormal, LogNormal, Scale
from lowerbound.likelihoods.missingness import Line
from lowerbound.likelihoods.moments import exact_mean, n_observed

Values = Sequence[Sequence[float]]


class Atoms(Factorised):
    """p(x) = Σ_k π_k 1[x = a_k] + (1 − Σ_k π_k) p_base(x): point masses ("atoms") added to any likelihood of numbers.

    ``values``: the a_k of each column (the last axis of x), such as ``[[40], [0, 7.5]]``; one list alone holds for all
    columns. x and a_k are compared in the precision in which the model computes. The parameters are log(π_k/(1 − Σ π)),
    as many as the longest list has values, and those of ``base``; a column with fewer values does not use the rest.

    If ``base`` is a density, p(a_k) = π_k, with respect to counting measure at the a_k plus Lebesgue measure elsewhere.
    If it is a probability mass function, p(a_k) = π_k + (1 − Σ π) p_base(a_k). Aitchison 1955; Lambert 1992.
    """

    measure: Measure = "mixed"
    _BASE: ClassVar[str] = "base"  # the name of the base's parameters in saved files
    _LEAST: ClassVar[float] = 1e-6  # the largest initial probability of a value that the data lack
    points: Tensor

    def __init__(self, base: Factorised, values: Values) -> None:
        super().__init__()
        self.values = tuple(tuple(float(each) for each in own) for own in values)
        _check(base, self.values)
        self.add_module(self._BASE, base)
        self.register_buffer("points", _columns(self.values).to(torch.get_default_dtype()), persistent=False)
        self.ragged = len(set(map(len, self.values))) > 1  # columns have different numbers of atoms
        self.discrete = base.measure == "counting"
        self.n_parameters = len(self.points) + base.n_parameters
        self.measure = "counting" if self.discrete else "mixed"
        self.counts, self.one_scale, self.masked_by = base.counts, base.one_scale, base.masked_by
        self.atoms = 0 if self.discrete else {"log": 1, "logit": 2}.get(base.masked_by or "", 0)

    @property
    def rest(self) -> Factorised:
        """The likelihood of values other than the atoms."""
        base: Factorised = getattr(self, self._BASE)
        return base

    @property
    def support(self) -> constraints.Constraint:
        base = self.rest.support
        return base if self.discrete or base is constraints.real else _OrAtoms(base, self)

    def hits(self, x: Tensor) -> Tensor:
        """Which atom each value is equal to, ``[…, m, *X]`` for ``x […, *X]`` with one axis of rows."""
        return x.unsqueeze(1).to(self.points.dtype) == self._along(x.dim() - 1)

    def at_atom(self, x: Tensor) -> Tensor:
        return self.hits(x).any(1)

    def log_shares(self, params: Tensor) -> Tensor:
        """log π_1, …, log π_m and log(1 − Σ π), ``[K, B, m + 1, *X]``; −∞ for atoms that a column does not have."""
        logits = params[:, :, : len(self.points)]
        if self.ragged:
            logits = torch.where(self._along(params.dim() - 3).isnan(), -torch.inf, logits)
        return torch.cat([logits, torch.zeros_like(params[:, :, :1])], 2).log_softmax(2)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        shares, hits = self.log_shares(params), self.hits(x)
        hit = hits.any(1)
        other = self.rest.log_prob_per_value(self._own(params), x)
        if self.discrete:
            place = hits.to(torch.uint8).argmax(1, keepdim=True)
            atom = _of_rows(shares, place)
            other = torch.where(other > -torch.inf, shares[:, :, -1] + other, -torch.inf)
            return torch.where(hit, torch.logaddexp(atom, other), other)
        place = torch.where(hit, hits.to(torch.uint8).argmax(1), len(self.points)).unsqueeze(1)
        found = _of_rows(shares, place) + torch.where(hit, 0, other)
        return torch.where(hit | (other > -torch.inf), found, -torch.inf)

    def mean(self, params: Tensor) -> Tensor:
        return self._mixed(params, self.rest.mean(self._own(params)))

    def typical(self, params: Tensor) -> Tensor:
        return self._mixed(params, self.rest.typical(self._own(params)))

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        drawn = self.rest.sample(self._own(params), generator)
        uniform = torch.rand(drawn.shape, generator=generator, device=drawn.device, dtype=drawn.dtype)
        place = (uniform.unsqueeze(2) >= self.log_shares(params).exp()[:, :, :-1].cumsum(2)).sum(2)
        for k, point in enumerate(self._along(drawn.dim() - 2)):
            drawn = torch.where(place == k, point.to(drawn.dtype), drawn)
        return drawn

    def log_missing(self, params: Tensor, line: Line) -> Tensor:
        other = self.rest.log_missing(self._own(params), line).unsqueeze(2)
        at = functional.logsigmoid(line.logit(self.points.nan_to_num()))
        gone = at.view(len(at), *[1] * (other.dim() - 4), -1).expand(*params.shape[:2], len(at), *other.shape[3:])
        return (self.log_shares(params) + torch.cat([gone, other], 2)).logsumexp(2)

    def centre_and_unit(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.rest.centre_and_unit(x, mask & ~self.at_atom(x))

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Start at the shares of the atoms, kept away from 0 and 1, and at ``base``'s start for all other values."""
        hits = self.hits(x)
        other = ~hits.any(1) if mask is None else mask & ~hits.any(1)
        parts = torch.stack([exact_mean(each.to(x.dtype), mask) for each in (*hits.unbind(1), other)])
        half = 0.5 / (n_observed(x, mask).double() + 1)
        shares = torch.where(parts > 0, parts.maximum(half), half.clamp(max=self._LEAST))
        shares[-1] = parts[-1].maximum(half)
        logits = shares[:-1].log() - shares[-1].log()
        return torch.cat([logits.to(x.dtype), self.rest.initialise(torch.where(other, x, 0.5), other)])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Change the device or the floating-point type; the atoms are then rounded from ``values`` again."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.points = _columns(self.values).to(self.points)
        return self

    def _own(self, params: Tensor) -> Tensor:
        """The parameters of ``base``."""
        return params[:, :, len(self.points) :]

    def _along(self, axes: int) -> Tensor:
        """The atoms ``[m, *X]``, to be broadcast over a row's ``axes``."""
        return self.points.view(len(self.points), *[1] * (axes - 1), -1)

    def _mixed(self, params: Tensor, other: Tensor) -> Tensor:
        """Σ_k π_k a_k + (1 − Σ π) · ``other``."""
        shares = self.log_shares(params).exp()
        return (shares[:, :, :-1] * self._along(params.dim() - 3).nan_to_num()).sum(2) + shares[:, :, -1] * other


class _OrAtoms(constraints.Constraint):
    """The support of a density, or one of the atoms next to it."""

    def __init__(self, base: constraints.Constraint, atoms: Atoms) -> None:
        self.base, self.atoms = base, atoms
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = self.base.check(value)
        return inside | self.atoms.at_atom(value)


def _of_rows(shares: Tensor, place: Tensor) -> Tensor:
    """Of ``shares [K, B, m, *X]`` those at ``place [B, 1, *X]``, ``[K, B, *X]``."""
    return shares.gather(2, place.expand(len(shares), *place.shape)).squeeze(2)


def _columns(values: Values) -> Tensor:
    """The atoms as ``[m, columns]`` in double precision, with NaN, which is equal to no x, where a column has fewer."""
    most = max(map(len, values))
    rows = [[*own, *[math.nan] * (most - len(own))] for own in values]
    return torch.tensor(rows, dtype=torch.float64).T.contiguous()


def _check(base: Factorised, values: tuple[tuple[float, ...], ...]) -> None:
    name = type(base).__name__
    if base.measure == "mixed" or base.classes:
        kind = "classes" if base.classes else "values of which some are atoms already"
        raise ValueError(f"base is {name}, a likelihood of {kind}; give one of numbers without atoms, such as Normal.")
    if not any(values):
        raise ValueError("values holds no value; give the atoms of each column, such as [[0.0]].")
    for j, own in enumerate(values):
        found = torch.tensor(own, dtype=torch.float32, device="cpu")  # also where parts are built without memory
        if not found.isfinite().all() or len(found.unique()) < len(found):
            raise ValueError(f"values[{j}] is {list(own)}; give finite numbers that differ in single precision.")
        if base.measure == "counting" and not base.support.check(found).all():
            raise ValueError(f"values[{j}] is {list(own)}, but {name} cannot produce all of these; leave others out.")


class ZeroInflatedLogNormal(Atoms):
    """x ≥ 0: 0 with probability π, else log x ~ N(μ, σ²); the parameters are logit π and those of ``LogNormal``.

    p(0) = π, p(x) = (1 − π) N(log x; μ, σ²) / x, with respect to counting measure at 0 plus Lebesgue measure above 0.
    Aitchison 1955. The arguments are those of ``LogNormal`` and concern the values above 0.
    """

    support = constraints.nonnegative
    _BASE = "above"
    _LEAST = 1.0
    above: LogNormal

    def __init__(
        self,
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
        largest: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(LogNormal(scale, shape, min_scale, resolution, largest), [[0.0]])
        self.scale, self.shape, self.min_scale = self.above.scale, self.above.shape, self.above.min_scale
        self.resolution, self.largest = self.above.resolution, self.above.largest


class InflatedLogitNormal(Atoms):
    """0 ≤ x ≤ 1: 0 with probability π₀, 1 with π₁, else logit x ~ N(μ, σ²). Ospina & Ferrari 2010 (of the beta).

    p(x) = (1 − π₀ − π₁) N(logit x; μ, σ²) / x(1 − x) for 0 < x < 1, with respect to Lebesgue measure plus counting
    measure at 0 and 1. The parameters are log(π₀/(1 − π₀ − π₁)), log(π₁/(1 − π₀ − π₁)) and those of ``LogitNormal``;
    the arguments are those of ``LogitNormal``. If the data contain no 0 (or no 1), its probability starts at 1e-6.
    """

    support = constraints.unit_interval
    _BASE = "inside"
    inside: LogitNormal

    def __init__(
        self,
        scale: Scale = "scalar",
        shape: tuple[int, ...] = (),
        min_scale: float | Sequence[float] = 1e-3,
        resolution: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__(LogitNormal(scale, shape, min_scale, resolution), [[0.0, 1.0]])
        self.scale, self.shape, self.min_scale = self.inside.scale, self.inside.shape, self.inside.min_scale
        self.resolution = self.inside.resolution
