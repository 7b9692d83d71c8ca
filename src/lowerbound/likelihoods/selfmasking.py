"""Likelihoods of tables whose cells are missing depending on their own values (missing not at random)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.likelihoods.base import Factorised, Likelihood, Measure
from lowerbound.likelihoods.missingness import Curve
from lowerbound.likelihoods.product import Product


class SelfMasking(Likelihood):
    """p(x_observed, mask|z), where a cell is missing with a probability that depends on its own value only.

    log p = Σ over observed [log p(x_j|z) + log P(observed|x_j)] + Σ over missing log ∫ P(missing|x_j) p(x_j|z) dx_j.

    P(missing|x_j) = sigmoid(a_j + b_j u), with u = (x_j − centre_j)/unit_j; x_j is replaced by its logarithm for
    log-normal columns of ``likelihood`` (a ``Product``), and by its logit for logit-normal ones. Each class has its own
    logit, and so have 0 and 1 where they have a positive probability. The integrals need no sampling: they are finite
    sums, or quadrature with an error of 1e-8 (normal) or 1e-4 (Student's t, counts; see ``logistic.py``).

    Self-masking is an assumption that the data cannot confirm. For a column that has no missing cells, or only missing
    cells, in ``initialise``, the probability of missing stays constant. A row in which nothing is observed has
    log p(mask|z), not 0. Ipsen, Mattei & Frellsen 2021 (not-MIWAE).
    """

    informative: ClassVar[bool] = True

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        if not isinstance(likelihood, Product):
            raise ValueError(
                f"SelfMasking needs a Product, but got {type(likelihood).__name__}; give SelfMasking(Product([…])), "
                "with a likelihood for each column."
            )
        self.likelihood = likelihood
        self.n_parameters = likelihood.n_parameters
        self.measure = likelihood.measure
        self.measures: tuple[Measure, ...] = likelihood.measures
        pairs = zip(likelihood.likelihoods, likelihood.of, strict=True)
        self.columns = nn.ModuleList([_curve_of(part, len(block)) for part, block in pairs])

    @property
    def used(self) -> Tensor | None:
        return self.likelihood.used

    @property
    def of_values(self) -> Likelihood:
        return self.likelihood

    @property
    def likelihoods(self) -> tuple[Factorised, ...]:
        """The likelihood of each block of columns."""
        return self.likelihood.likelihoods

    @property
    def curves(self) -> tuple[Curve, ...]:
        """P(missing|x) of each block of columns."""
        return tuple(curve for curve in self.columns if isinstance(curve, Curve))

    @property
    def support(self) -> constraints.Constraint:
        return self.likelihood.support

    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        safe = x if mask is None else torch.where(mask, x, 0)
        values = self.log_prob_per_value(params, safe) + self.log_observed(safe)
        return (values if mask is None else torch.where(mask, values, self.log_missing(params))).flatten(2).sum(2)

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x_j|z) of each value, ``[K, B, *X]``, without the probability that it is observed."""
        return self.likelihood.log_prob_per_value(params, x)

    def log_observed(self, x: Tensor) -> Tensor:
        """log P(observed|x_j), ``[B, *X]``."""
        pairs = zip(self.curves, self.likelihood.by_block(x), strict=True)
        return self.likelihood.joined([functional.logsigmoid(-curve.logit(own)) for curve, own in pairs])

    def log_missing(self, params: Tensor) -> Tensor:
        """log P(missing|z) of each cell, with its value integrated out, ``[K, B, *X]``."""
        triples = zip(self.curves, self.likelihoods, self.likelihood.split(params), strict=True)
        return self.likelihood.joined([curve.log_missing(part, own) for curve, part, own in triples])

    def mean(self, params: Tensor) -> Tensor:
        return self.likelihood.mean(params)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return self.likelihood.sample(params, generator)

    def sample_missing(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """Draw each cell from p(x_j|z, missing) ∝ p(x_j|z) P(missing|x_j), ``[K, B, *X]``.

        Exact for classes. Otherwise one of 64 draws from p(x_j|z) is chosen in proportion to P(missing|x_j), a good
        approximation unless large values of P(missing|x_j) are rare.
        """
        triples = zip(self.curves, self.likelihoods, self.likelihood.split(params), strict=True)
        return self.likelihood.joined([curve.sample_missing(part, own, generator) for curve, part, own in triples])

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = self.likelihood.initialise(x, mask)
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        blocks = zip(
            self.curves, self.likelihoods, self.likelihood.by_block(x), self.likelihood.by_block(seen), strict=True
        )
        for curve, part, own, there in blocks:
            curve.initialise(part, own, there)
        return bias


def _curve_of(part: Factorised, columns: int) -> Curve:
    if (curve := part.missingness(columns)) is None:
        raise ValueError(
            f"SelfMasking does not support columns of {type(part).__name__}; use Normal, StudentT, Warped, "
            "LogNormal, LogitNormal, Bernoulli, Categorical, Ordinal or a likelihood of counts."
        )
    return curve
