"""Rows whose columns are of different kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.likelihoods.base import Factorised, Likelihood, Measure


class Product(Factorised):
    """p(x|z) = Π_j p_j(x_j|z): a likelihood for each of the D columns, the last axis of x. Nazábal et al. 2020.

    ``blocks``: the columns of each likelihood, such as ``[[0, 2], [1]]``, so that columns of one family are evaluated
    together; by default each likelihood has one column. A likelihood gets data of shape ``[B, …, its columns]``. P is
    the largest number of parameters of any column; column j uses the first P_j. ``measure`` is "mixed" if the columns'
    measures differ. In ``mean``, a column of classes has its most probable class.

    ``scale [D]``: the numbers by which the columns were divided when the data were standardised. log p is then a
    density in the original units: log p(x_j|z) = log p(x_j/s_j|z) − log s_j; an atom's probability has no unit.
    """

    of: tuple[tuple[int, ...], ...]
    """The columns of each likelihood."""
    order: Tensor
    place: Tensor
    places: Tensor
    log_scale: Tensor

    def __init__(
        self,
        likelihoods: Sequence[Likelihood],
        blocks: Sequence[Sequence[int]] | None = None,
        scale: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not likelihoods:
            raise ValueError("likelihoods is empty; a Product needs at least one.")
        self.columns = nn.ModuleList(_checked(likelihoods))
        self.blocks = None if blocks is None else tuple(tuple(each) for each in blocks)
        self.of = tuple((j,) for j in range(len(likelihoods))) if self.blocks is None else self.blocks
        order = [j for block in self.of for j in block]
        if len(self.of) != len(likelihoods) or sorted(order) != list(range(len(order))):
            raise ValueError(f"blocks is {blocks}; give one list per likelihood, with each of 0 to D − 1 once.")
        self.scale = None if scale is None else tuple(float(each) for each in scale)
        if self.scale is not None and (len(self.scale) != len(order) or not min(self.scale) > 0):
            raise ValueError(f"scale is {scale}; give one number above 0 per column ({len(order)}).")
        self.n_parameters = max(part.n_parameters for part in self.likelihoods)
        kinds = {j: part.measure for part, block in zip(self.likelihoods, self.of, strict=True) for j in block}
        self.measures: tuple[Measure, ...] = tuple(kinds[j] for j in range(len(order)))
        self.measure = self.measures[0] if len(set(self.measures)) == 1 else "mixed"
        self.in_order = order == sorted(order)
        pairs = zip(self.likelihoods, self.of, strict=True)
        used = [p * len(order) + j for part, block in pairs for p in range(part.n_parameters) for j in block]
        self.register_buffer("places", torch.tensor(used), persistent=False)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("place", torch.tensor(order).argsort(), persistent=False)
        logs = torch.tensor(self.scale or [1.0] * len(order), dtype=torch.float64).log().to(torch.get_default_dtype())
        self.register_buffer("log_scale", logs, persistent=False)

    @property
    def likelihoods(self) -> tuple[Factorised, ...]:
        """The likelihood of each block of columns."""
        return tuple(part for part in self.columns if isinstance(part, Factorised))

    @property
    def used(self) -> Tensor | None:
        return self.places if len(self.of) > 1 else None

    @property
    def support(self) -> constraints.Constraint:
        return _Columns(self)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        triples = zip(self.likelihoods, self.split(params), self.by_block(x), strict=True)
        values = self.joined([part.log_prob_per_value(own, columns) for part, own, columns in triples])
        return values if self.scale is None else values - self.log_units(x)

    def log_units(self, x: Tensor) -> Tensor:
        """log s_j of each value of ``x [B, D]`` that has a density, and 0 of atoms; ``[B, D]``, or ``[D]``."""
        if self.scale is None or "mixed" not in self.measures:
            return self.log_scale
        return torch.where(self.at_atom(x), 0, self.log_scale)

    def at_atom(self, x: Tensor) -> Tensor:
        pairs = zip(self.likelihoods, self.by_block(x), strict=True)
        return self.joined([part.at_atom(columns) for part, columns in pairs])

    def mean(self, params: Tensor) -> Tensor:
        pairs = zip(self.likelihoods, self.split(params), strict=True)
        return self.joined([part.point(own) for part, own in pairs])

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        pairs = zip(self.likelihoods, self.split(params), strict=True)
        return self.joined([part.sample(own, generator) for part, own in pairs])

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        masks = [None] * len(self.of) if mask is None else self.by_block(mask)
        triples = zip(self.likelihoods, self.by_block(x), masks, strict=True)
        biases = [part.initialise(columns, seen) for part, columns, seen in triples]
        return self.joined([_padded(bias, self.n_parameters) for bias in biases])

    def split(self, params: Tensor) -> list[Tensor]:
        """Split the parameters by likelihood: ``[K, B, P_j, …, its columns]`` each.

        ``params``: ``[K, B, P, …, D]``, or ``[K, B, n, 1]`` if they are only those of the places in ``used``.
        """
        if params.shape[2:] == (len(self.places), 1) and len(self.order) > 1:
            sizes = [(part.n_parameters, len(block)) for part, block in zip(self.likelihoods, self.of, strict=True)]
            parts = params.squeeze(3).split([math.prod(size) for size in sizes], 2)
            return [own.unflatten(2, size) for own, size in zip(parts, sizes, strict=True)]
        pairs = zip(self.likelihoods, self.by_block(params), strict=True)
        return [own[:, :, : part.n_parameters] for part, own in pairs]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Join values by likelihood, ``[…, its columns]``, in the order of the columns: ``[…, D]``."""
        values = torch.cat(list(parts), -1)
        return values if self.in_order else values.index_select(-1, self.place)

    def by_block(self, values: Tensor) -> list[Tensor]:
        """Split the last axis by likelihood."""
        if values.shape[-1] != len(self.order):
            raise ValueError(
                f"the Product has likelihoods for {len(self.order)} columns, but the data have {values.shape[-1]}; "
                "give one per column."
            )
        ordered = values if self.in_order else values.index_select(-1, self.order)
        return list(ordered.split([len(block) for block in self.of], -1))


class _Columns(constraints.Constraint):
    """The support of each column of a ``Product``."""

    def __init__(self, product: Product) -> None:
        self.product, self.is_discrete = product, any(part.support.is_discrete for part in product.likelihoods)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        pairs = zip(self.product.likelihoods, self.product.by_block(value), strict=True)
        return self.product.joined([part.support.check(columns) for part, columns in pairs])


def _checked(likelihoods: Sequence[Likelihood]) -> list[Factorised]:
    parts = []
    for at, part in enumerate(likelihoods):
        if not isinstance(part, Factorised):
            raise ValueError(
                f"column {at}: {type(part).__name__} is a density of whole rows; give a likelihood of single values, "
                "such as Normal."
            )
        parts.append(part)
    if len(set(map(id, parts))) < len(parts):
        raise ValueError("the same likelihood object is given twice; give each block its own.")
    return parts


def _padded(bias: Tensor, count: int) -> Tensor:
    """``bias [P, *X]`` with zeros after it, ``[count, *X]``."""
    return functional.pad(bias, [0, 0] * (bias.dim() - 1) + [0, count - len(bias)])
