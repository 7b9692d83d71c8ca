"""Models of tables: a likelihood for each kind of column, and networks that take missing values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from lowerbound import nn as networks
from lowerbound.likelihoods import (
    Atoms,
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Factorised,
    InflatedLogitNormal,
    Likelihood,
    LogitNormal,
    LogNormal,
    NegativeBinomial,
    Ordinal,
    Product,
    RoundedLogistic,
    StudentT,
    Warped,
    ZeroInflatedLogNormal,
    ZeroInflatedNegativeBinomial,
)
from lowerbound.likelihoods.continuous import Scale
from lowerbound.schema import Column, Schema
from lowerbound.schema.column import CLASSES

_MANY_ZEROS = 0.5  # share of zeros above which a count is zero-inflated
_NARROW = 0.8  # a variance/mean below this is narrower than Poisson; for 1,000 Poisson counts it is 1 ± 0.045
_NORMAL = 1e6  # degrees of freedom with which Student's t is a normal
_LEAST_SCALE = 1e-3  # relative to a column's spread


_DENSITIES = (StudentT, LogNormal, ZeroInflatedLogNormal, LogitNormal, InflatedLogitNormal)


def product_of(schema: Schema) -> Product:
    """The likelihood of the modelled columns, chosen by their kinds; columns of one family share a likelihood.

    It is for values standardised by ``Schema.standardise``; log p is in the columns' own units.
    """
    families: dict[tuple[type[Factorised], int, str, bool, bool, bool], list[int]] = {}
    for j, column in enumerate(schema.modelled):
        one, classes = family_of(column)
        domain = column.domain if one is Warped else ""
        tails = column.heavy_tailed and (one is StudentT or domain == "real")
        family = (one, classes, domain, bool(atoms_of(column)), _has_zeros(column), tails)
        families.setdefault(family, []).append(j)  # those with heavy tails have degrees of freedom of their own
    parts = [likelihood_of([schema.modelled[j] for j in block]) for block in families.values()]
    return Product(parts, list(families.values()), [column.scale for column in schema.modelled])


def family_of(column: Column) -> tuple[type[Factorised], int]:
    """The likelihood of a column and its number of classes.

    Real numbers have Student's t with learned degrees of freedom and a scale from the decoder; a normal with such a
    scale would be dominated by outliers (Mattei & Frellsen 2019). Counts that vary less than a Poisson's have a rounded
    logistic, because a negative binomial cannot be narrower than a Poisson. Numbers between two bounds have a
    logit-normal with a probability at each bound, and counts between two bounds a discretised logistic. Where a density
    of a simple shape is far from the data (``Column.curved``), it is ``Warped``. ``atoms_of`` gives the values that
    have a point mass besides.
    """
    family: type[Factorised] = StudentT
    counted, atom = column.kind == "count" and not column.large, (column.atoms or 0) if column.atom == 0 else 0
    if column.kind in CLASSES:
        classes: dict[str, type[Factorised]] = {"binary": Bernoulli, "categorical": Categorical, "ordinal": Ordinal}
        family = classes[column.kind]
    elif column.is_between and counted and column.low is not None and column.high is not None:
        return DiscretizedLogistic, int(column.high - column.low) + 1
    elif column.is_between:
        family = LogitNormal if column.heavy else InflatedLogitNormal
    elif counted and column.dispersion is not None and column.dispersion < _NARROW:
        family = RoundedLogistic
    elif counted:
        family = ZeroInflatedNegativeBinomial if atom > _MANY_ZEROS else NegativeBinomial
    elif column.domain == "positive":
        family = LogNormal if column.low != 0 or set(column.heavy) - {0} else ZeroInflatedLogNormal
    return (Warped if column.curved and family in _DENSITIES else family), column.n_classes


def atoms_of(column: Column) -> tuple[float, ...]:
    """The encoded values to which ``Atoms`` gives a probability; empty if the family itself holds those of the column.

    Next to other heavy values, 0 is one of a log-normal's, and the two bounds are of a logit-normal's; those of a
    ``Warped`` density always are.
    """
    family = family_of(column)[0]
    if family is LogitNormal or (family is Warped and column.domain == "unit"):
        assert column.low is not None
        assert column.high is not None
        return (column.low, column.high, *column.heavy)
    if _has_zeros(column):
        return (0.0, *(value for value in column.heavy if value != 0))
    if family in (ZeroInflatedLogNormal, ZeroInflatedNegativeBinomial):
        return tuple(value for value in column.heavy if value != 0)
    return column.heavy if column.kind not in CLASSES else ()


def likelihood_of(columns: Sequence[Column]) -> Factorised:
    """The likelihood of columns of one family, with point masses at their heavy values."""
    atoms = [atoms_of(column) for column in columns]
    base = base_of(columns)
    return Atoms(base, [_standardised(*each) for each in zip(columns, atoms, strict=True)]) if any(atoms) else base


def likelihood_name(column: Column) -> str:
    """The likelihood of a column, in words."""
    name = family_of(column)[0].__name__
    return f"Atoms({name})" if atoms_of(column) else name


def _has_zeros(column: Column) -> bool:
    """Whether 0 is one of the point masses that ``Atoms`` adds to positive numbers."""
    return column.domain == "positive" and column.low == 0 and family_of(column)[0] in (LogNormal, Warped)


def _standardised(column: Column, values: tuple[float, ...]) -> tuple[float, ...]:
    """Encoded values as ``Schema.standardise`` gives them; one of those that are equal in single precision."""
    found = np.array(values) / column.scale - column.centre / column.scale
    first = np.unique(found.astype(np.float32), return_index=True)[1]
    return tuple(found[np.sort(first)].tolist())


def base_of(columns: Sequence[Column]) -> Factorised:
    """The likelihood of columns of one family, without point masses at heavy values.

    If values are rounded, a continuous density can grow without bound; the scale of real and positive columns therefore
    has a floor at the rounding error.
    """
    family, classes = family_of(columns[0])
    shape, steps = (len(columns),), [(column.precision or 0.0) / column.scale for column in columns]
    if family is StudentT:
        floors = [float(np.clip(step / math.sqrt(12), _LEAST_SCALE, 0.5)) for step in steps]
        return StudentT("learned", "entry", shape, floors)
    if family is Warped:
        domain = columns[0].domain
        scales: Scale = "dimension" if _has_zeros(columns[0]) else "entry"
        return Warped(domain, scales, shape, _LEAST_SCALE, steps, "learned" if domain == "real" else _NORMAL)
    if family is RoundedLogistic:
        return RoundedLogistic("entry", shape)
    if family is LogNormal:
        scale: Scale = "dimension" if _has_zeros(columns[0]) else "entry"
        return LogNormal(scale, shape, _LEAST_SCALE, steps, _largest(columns))
    if family is LogitNormal:
        return LogitNormal("entry", shape, _LEAST_SCALE, steps)
    if family is InflatedLogitNormal:
        return InflatedLogitNormal("entry", shape, _LEAST_SCALE, steps)
    if family is DiscretizedLogistic:
        return DiscretizedLogistic(classes)
    if family is ZeroInflatedLogNormal:
        return ZeroInflatedLogNormal("dimension", shape, _LEAST_SCALE, steps, _largest(columns))
    if family is Categorical:
        return Categorical(classes)
    return Ordinal(classes) if family is Ordinal else family()


def _largest(columns: Sequence[Column]) -> list[float] | None:
    """The largest standardised value of each positive column; None if that of one is unknown."""
    found = [column.high / column.scale for column in columns if column.high is not None and column.high > 0]
    return found if len(found) == len(columns) else None


def cells_of(schema: Schema) -> networks.Cells:
    """The inputs of an encoder for the modelled columns."""
    columns = schema.modelled
    classes = [column.n_classes if column.n_classes > 2 else 0 for column in columns]
    logs = [column.kind in ("count", "positive") and not column.is_between for column in columns]
    atoms = [_standardised(column, column.heavy) for column in columns]
    return networks.Cells(classes, logs, atoms if any(atoms) else ())


def table_networks(
    schema: Schema,
    n_outputs: int,
    event: tuple[int, ...],
    hidden: Sequence[int],
    activation: type[nn.Module],
    likelihood: Likelihood,
    context: int,
) -> tuple[networks.Cells, nn.Module, nn.Module]:
    """Build a module that prepares cells, an encoder that reads its output, and a decoder of latents of ``event``."""
    cells, columns = cells_of(schema), len(schema.modelled)
    encoder = networks.MLP((cells.out_features,), (n_outputs,), hidden, activation, context, linear=True)
    out_shape = (columns,) if likelihood.n_parameters == 1 else (likelihood.n_parameters, columns)
    return cells, encoder, networks.MLP(event, out_shape, tuple(hidden)[::-1], activation, context, linear=True)
