"""Tables whose cells are missing because of the values they would have had."""

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
    def of_values(self) -> Likelihood:
        return self.likelihood

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
        pairs = zip(self.curves, self.likelihood.by_block(x), strict=True)
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
        blocks = zip(
            self.curves, self.likelihoods, self.likelihood.by_block(x), self.likelihood.by_block(seen), strict=True
        )
        for curve, part, own, there in blocks:
            curve.initialise(part, own, there)
        return bias


def _curve_of(part: Factorised, columns: int) -> Curve:
    if (curve := part.missingness(columns)) is None:
        raise ValueError(
            "SelfMasking integrates over the value of a missing cell, and has no rule for "
            f"{type(part).__name__}: take Normal, StudentT, LogNormal, LogitNormal, Bernoulli, Categorical, Ordinal or "
            "a likelihood of counts for it."
        )
    return curve
