"""Compare models by the differences of log p(x) per row, with separate errors for each source of variation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lowerbound.evidence.estimates import error_of_mean
from lowerbound.evidence.importance import LogLikelihood

Array = NDArray[np.float64]
_HEAD = ("first", "second", "difference", "± rows", "± Monte Carlo", "± seeds", "first better", "not reliable")


@dataclass(frozen=True)
class Difference:
    """log p(x) of the ``first`` model less that of the ``second``, mean over ``rows``, in nats per row.

    Each fit gives d_nab = log p_a(x_n) − log p_b(x_n); d_n is its mean over fits. Three standard errors of the mean,
    each with the other sources as they are; Monte Carlo error, which has no other way to show, is part of all three:

    ``row_error``: were there other rows, std(d_n)/√N. ``monte_carlo_error``: were the latents drawn anew for these
    rows and fits. ``seed_error``: were the models fitted anew and scored on these rows, from the variance over fits of
    each model's mean; NaN if either was fitted once.

    ``first_better``: the share of rows where d_n > 0. ``fits``: how many of each. ``unreliable``: rows whose k̂ is
    too large in any fit of either, and so both estimate and error are unreliable.
    """

    first: str
    second: str
    mean: float
    row_error: float
    monte_carlo_error: float
    seed_error: float
    first_better: float
    fits: tuple[int, int]
    rows: int
    unreliable: int

    @property
    def note(self) -> str:
        """Caveats about the figures, if any."""
        once = [name for name, fits in zip((self.first, self.second), self.fits, strict=True) if fits == 1]
        notes = [f"only one seed of {' and of '.join(once)}: the variation over fits is unknown" if once else ""]
        notes.append("" if math.isfinite(self.mean) else "log p of a row is −∞ under a model")
        notes.append(f"{self.unreliable} of {self.rows} rows are unreliable" if self.unreliable else "")
        return "; ".join(filter(None, notes))


@dataclass(frozen=True)
class Comparison:
    """The differences of every pair of models, in the order given, under one base ``measure``."""

    differences: tuple[Difference, ...]
    measure: str

    def table(self) -> list[dict[str, object]]:
        """A dict for each pair, for JSON: what is not a finite number is None, and the note says why."""
        return [
            {name: _for_json(value) for name, value in asdict(d).items()} | {"measure": self.measure, "note": d.note}
            for d in self.differences
        ]

    def __str__(self) -> str:
        lines = [_HEAD, *map(_cells, self.differences)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
        body = ["  ".join(_aligned(line, widths)).rstrip() for line in lines]
        title = f"log p(x) of the first minus the second: nats per row, {self.differences[0].rows} rows, {self.measure}"
        notes = [f"{d.first} − {d.second}: {d.note}." for d in self.differences if d.note]
        return "\n".join([title, *body, *notes])


def compare(
    estimates: Mapping[str, LogLikelihood | Sequence[LogLikelihood]], measures: Mapping[str, str]
) -> Comparison:
    """Compare models by name, each fitted once or with several seeds, on the same rows in the same order.

    ``measures``: the base measure of each name, as "counting" or "Lebesgue"; densities and probabilities are not
    compared. Monte Carlo errors assume draws of their own for each row and fit, as ``log_likelihood`` takes them.
    """
    fits = {name: [one] if isinstance(one, LogLikelihood) else list(one) for name, one in estimates.items()}
    _check(fits, measures)
    pairs = combinations(fits, 2)
    differences = tuple(_difference(a, fits[a], b, fits[b]) for a, b in pairs)
    return Comparison(differences, measures[next(iter(fits))])


def _check(fits: Mapping[str, Sequence[LogLikelihood]], measures: Mapping[str, str]) -> None:
    if len(fits) < 2:
        raise ValueError(f"estimates holds {len(fits)} models; give at least two to compare.")
    for name, of_name in fits.items():
        if not of_name:
            raise ValueError(f"estimates holds no fit of {name!r}; give at least one.")
        if name not in measures:
            raise ValueError(f"measures lacks the base measure of {name!r}; give that of its likelihood.")
    first = next(iter(fits))
    rows = len(fits[first][0].estimate)
    for name, of_name in fits.items():
        if measures[name] != measures[first]:
            raise ValueError(
                f"{name!r} has the base measure {measures[name]} and {first!r} {measures[first]}, and log p(x) under "
                "different measures is not comparable; compare models with the same measure."
            )
        for one in of_name:
            if len(one.estimate) != rows:
                raise ValueError(
                    f"a fit of {name!r} has {len(one.estimate)} rows and the first of {first!r} has {rows}; "
                    "estimate all on the same rows in the same order."
                )


def _difference(a: str, of_a: Sequence[LogLikelihood], b: str, of_b: Sequence[LogLikelihood]) -> Difference:
    with np.errstate(invalid="ignore"):  # −∞ − (−∞)
        per_row = _mean_of(of_a) - _mean_of(of_b)
    reliable = np.all([one.reliable for one in (*of_a, *of_b)], 0)
    return Difference(
        first=a,
        second=b,
        mean=float(per_row.mean()),
        row_error=error_of_mean(per_row),
        monte_carlo_error=math.hypot(_monte_carlo_error(of_a), _monte_carlo_error(of_b)),
        seed_error=math.hypot(_seed_error(of_a), _seed_error(of_b)),
        first_better=float((per_row > 0).mean()),
        fits=(len(of_a), len(of_b)),
        rows=len(per_row),
        unreliable=int((~reliable).sum()),
    )


def _mean_of(fits: Sequence[LogLikelihood]) -> Array:
    """log p(x) ``[N]``, mean over fits."""
    mean: Array = np.mean([one.estimate for one in fits], 0)
    return mean


def _monte_carlo_error(fits: Sequence[LogLikelihood]) -> float:
    """Of the mean over rows and fits, whose draws are independent."""
    return math.hypot(*(one.mean_monte_carlo_error for one in fits)) / len(fits)


def _seed_error(fits: Sequence[LogLikelihood]) -> float:
    """Of the mean over fits of the mean over rows; NaN for one fit."""
    return error_of_mean(np.array([one.mean for one in fits]))


def _for_json(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(d: Difference) -> tuple[str, ...]:
    errors = [f"± {e:.4f}" if math.isfinite(e) else "unknown" for e in (d.row_error, d.monte_carlo_error, d.seed_error)]
    return d.first, d.second, f"{d.mean:+.4f}", *errors, f"{d.first_better:.1%}", f"{d.unreliable} of {d.rows}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, figures to the right."""
    return [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
