"""Tables of mixed columns: a likelihood for each kind, and networks that know what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import nn

from lowerbound import nn as networks
from lowerbound.likelihoods import (
    Bernoulli,
    Categorical,
    Factorised,
    LogNormal,
    NegativeBinomial,
    Normal,
    Ordinal,
    Product,
    StudentT,
    ZeroInflatedNegativeBinomial,
)
from lowerbound.schema import Column, Schema

_MANY_ZEROS = 0.5  # a share of a count's cells
_LEAST_SCALE = 1e-3  # of a column's spread


def product_of(schema: Schema) -> Product:
    """A likelihood for each modelled column, by its kind; of values as ``Schema.standardise`` has them."""
    return Product([likelihood_of(column) for column in schema.modelled])


def likelihood_of(column: Column) -> Factorised:
    """What suits a column: heavy tails where the data have them, and no scale below the precision they were kept in."""
    floor = _floor(column)
    match column.kind:
        case "binary":
            return Bernoulli()
        case "categorical":
            return Categorical(column.n_classes)
        case "ordinal":
            return Ordinal(column.n_classes)
        case "count":
            many = column.atom == 0 and (column.atoms or 0) > _MANY_ZEROS
            return ZeroInflatedNegativeBinomial() if many else NegativeBinomial()
        case "positive" if column.low is None or column.low > 0:
            return LogNormal("dimension", (1,), min_scale=_LEAST_SCALE)
    if column.heavy_tailed:
        return StudentT("learned", "dimension", (1,), min_scale=floor)
    return Normal("dimension", (1,), min_scale=floor)


def _floor(column: Column) -> float:
    """The deviation of rounding to the column's grid, over its spread: a density of rounded values has no bound."""
    if column.precision is None:
        return _LEAST_SCALE
    return float(np.clip(column.precision / math.sqrt(12) / column.scale, _LEAST_SCALE, 0.5))


def cells_of(schema: Schema) -> networks.Cells:
    """What an encoder sees of the modelled columns."""
    columns = schema.modelled
    classes = [column.n_classes if column.n_classes > 2 else 0 for column in columns]
    return networks.Cells(classes, [column.kind == "count" for column in columns])


def table_networks(
    schema: Schema,
    n_outputs: int,
    event: tuple[int, ...],
    hidden: Sequence[int],
    activation: type[nn.Module],
    likelihood: Product,
    context: int,
) -> tuple[networks.Cells, nn.Module, nn.Module]:
    """What prepares cells, an encoder of the prepared, and a decoder of latents of ``event``."""
    cells, columns = cells_of(schema), len(schema.modelled)
    encoder = networks.MLP((cells.out_features,), (n_outputs,), hidden, activation, context)
    out_shape = (columns,) if likelihood.n_parameters == 1 else (likelihood.n_parameters, columns)
    return cells, encoder, networks.MLP(event, out_shape, tuple(hidden)[::-1], activation, context)
