"""Rows whose columns are of different kinds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.likelihoods.base import Factorised, Likelihood, Measure


class Product(Factorised):
    """p(x|z) = Π_j p_j(x_j|z): a likelihood for each of the D columns, the last axis of x. Nazábal et al. 2020.

    P is that of the column with most parameters: column j reads the first P_j of its own and leaves the rest.
    Its likelihood sees data of shape ``[B, …, 1]``. ``measure`` is "mixed" where those of columns (``measures``)
    differ. In ``mean``, a column of classes has the most probable one.
    """

    def __init__(self, likelihoods: Sequence[Likelihood]) -> None:
        super().__init__()
        if not likelihoods:
            raise ValueError("a product needs at least one likelihood.")
        parts = []
        for column, part in enumerate(likelihoods):
            if not isinstance(part, Factorised):
                raise ValueError(f"column {column}: {type(part).__name__} is not of single values.")
            parts.append(part)
        if len(set(map(id, parts))) < len(parts):
            raise ValueError("a likelihood can be that of one column only: give each its own.")
        self.columns = nn.ModuleList(parts)
        self.n_parameters = max(part.n_parameters for part in parts)
        self.measures: tuple[Measure, ...] = tuple(part.measure for part in parts)
        self.measure = self.measures[0] if len(set(self.measures)) == 1 else "mixed"

    @property
    def likelihoods(self) -> tuple[Factorised, ...]:
        return tuple(part for part in self.columns if isinstance(part, Factorised))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.stack([part.support for part in self.likelihoods], -1)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        triples = zip(self.likelihoods, self._split(params), self._columns(x), strict=True)
        return torch.cat([part.log_prob_per_value(own, column) for part, own, column in triples], -1)

    def mean(self, params: Tensor) -> Tensor:
        pairs = zip(self.likelihoods, self._split(params), strict=True)
        return torch.cat([part.point(own) for part, own in pairs], -1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        pairs = zip(self.likelihoods, self._split(params), strict=True)
        return torch.cat([part.sample(own, generator) for part, own in pairs], -1)

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        masks = [None] * len(self.columns) if mask is None else self._columns(mask)
        triples = zip(self.likelihoods, self._columns(x), masks, strict=True)
        biases = [part.initialise(column, seen) for part, column, seen in triples]
        return torch.cat([_padded(bias, self.n_parameters) for bias in biases], -1)

    def _columns(self, values: Tensor) -> list[Tensor]:
        """The last axis in pieces of 1."""
        if values.shape[-1] != len(self.columns):
            raise ValueError(f"there are {len(self.columns)} likelihoods for {values.shape[-1]} columns.")
        return list(values.split(1, -1))

    def _split(self, params: Tensor) -> list[Tensor]:
        """The parameters of each column, ``[K, B, P_j, …, 1]``."""
        pairs = zip(self.likelihoods, self._columns(params), strict=True)
        return [own[:, :, : part.n_parameters] for part, own in pairs]


def _padded(bias: Tensor, count: int) -> Tensor:
    """``bias [P, *X]`` with zeros after it, ``[count, *X]``."""
    return functional.pad(bias, [0, 0] * (bias.dim() - 1) + [0, count - len(bias)])
