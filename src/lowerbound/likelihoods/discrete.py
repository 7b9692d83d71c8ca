"""Likelihoods of classes."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from lowerbound.distributions import inverse_positive, logistic_noise, positive
from lowerbound.likelihoods.base import Factorised
from lowerbound.likelihoods.moments import TINY, class_counts, mean_of, moments_of, n_observed

_LEAST = 1e-10  # of a probability in closed form: its logarithm stays finite


class Bernoulli(Factorised):
    """x ∈ {0, 1}; the parameter is the logit of p(x = 1)."""

    measure = "counting"
    support = constraints.boolean
    one_scale = classes = True
    inverse_link = "sigmoid"

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        # equals x·logit − softplus(logit), but without cancellation and with fewer passes over K·B·X values
        return functional.logsigmoid((2 * x - 1) * params.squeeze(2))

    def log_prob_of_row(self, params: Tensor, x: Tensor) -> Tensor:
        """Without gradients: Σ min(t, 0) + log Π σ(|t|), t = ±logit, which needs fewer logarithms."""
        if torch.is_grad_enabled():
            return super().log_prob_of_row(params, x)
        t = ((2 * x - 1) * params.squeeze(2)).flatten(2)
        total = t.clamp(max=0).sum(2)
        factors = t.abs_().sigmoid_()  # each at least ½
        for size in _together(t.shape[2]):
            factors = factors.unflatten(2, (size, -1)).prod(2)
        return total.add_(factors.log_().sum(2))

    @torch.no_grad()
    def slope(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x − σ(logit)."""
        found = x - params.sigmoid().squeeze(2)
        return (found if mask is None else torch.where(mask, found, 0)).unsqueeze(2)

    def log_probs(self, params: Tensor) -> Tensor:
        logit = params.squeeze(2)
        return functional.logsigmoid(torch.stack([-logit, logit], -1))

    def mean(self, params: Tensor) -> Tensor:
        return params.squeeze(2).sigmoid()

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(self.mean(params), generator=generator)

    def statistics(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """1 and x."""
        return moments_of(x.double(), mask)[:, :2]

    def natural(self, params: Tensor) -> Tensor:
        return torch.cat([functional.logsigmoid(-params), params], 1).double()

    def maximised(self, sums: Tensor) -> Tensor:
        return torch.logit((sums[:, 1:] / sums[:, :1].clamp(min=TINY)).clamp(_LEAST, 1 - _LEAST))

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        count = n_observed(x, mask)
        return torch.logit((mean_of(x, mask) * count + 0.5) / (count + 1)).unsqueeze(0)


@lru_cache
def _together(values: int) -> tuple[int, ...]:
    """Small divisors of ``values`` with a product up to 64, so many factors of at least ½ do not underflow."""
    found: list[int] = []
    for size in (8, 7, 6, 5, 4, 3, 2):
        while values % size == 0 and math.prod(found) * size <= 64:
            found, values = [*found, size], values // size
    return tuple(found)


class OfClasses(Factorised):
    """Base class of x ∈ {0, …, C − 1}. The last axis of ``mean`` is the probability of each class."""

    measure = "counting"
    one_hot_mean = one_scale = classes = True
    needs = "largest"

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2; got {n_classes}.")
        self.n_classes = n_classes

    @classmethod
    def from_data(cls, given: Any) -> Self:
        """For classes up to the largest value, ``given``."""
        return cls(max(2, given + 1))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.n_classes - 1)

    def mean(self, params: Tensor) -> Tensor:
        return self.log_probs(params).exp()


class Categorical(OfClasses):
    """x ∈ {0, …, C − 1}; the parameters are C logits. The last axis of ``mean`` is the probability of each class."""

    ordered = False
    inverse_link = "softmax"

    def __init__(self, n_classes: int) -> None:
        super().__init__(n_classes)
        self.n_parameters = n_classes

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        known = (x >= 0) & (x < self.n_classes)  # other values, including NaN, have probability 0
        index = torch.where(known, x, 0).long().unsqueeze(1).expand(*params.shape[:2], 1, *x.shape[1:])
        log_prob = (params.gather(2, index) - params.logsumexp(2, keepdim=True)).squeeze(2)
        return torch.where(known, log_prob, -math.inf)

    def log_probs(self, params: Tensor) -> Tensor:
        return params.log_softmax(2).movedim(2, -1)

    def mean(self, params: Tensor) -> Tensor:
        return params.softmax(2).movedim(2, -1)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        probs = self.mean(params)
        classes = torch.multinomial(probs.flatten(0, -2), 1, generator=generator)
        return classes.view(probs.shape[:-1]).to(params.dtype)

    def statistics(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """1, and whether x is each class."""
        seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        return torch.stack([seen, *(seen & (x == c) for c in range(self.n_classes))], 1).double()

    def natural(self, params: Tensor) -> Tensor:
        log_p = params.double().log_softmax(1)
        return torch.cat([torch.zeros_like(log_p[:, :1]), log_p], 1)

    def maximised(self, sums: Tensor) -> Tensor:
        return (sums[:, 1:] / sums[:, :1].clamp(min=TINY)).clamp(min=_LEAST).log()

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.log(class_counts(x, mask, self.n_classes) / (n_observed(x, mask) + 0.5 * self.n_classes))


class Ordinal(OfClasses):
    """Ordered x ∈ {0, …, C − 1}: p(x ≤ c) = F(θ_c − μ), with the logistic CDF F and cut points θ_0 < … < θ_C−2.

    The parameter is μ. The cut points are learned (the first one, and the positive gaps between them), once for all
    values or for each value of ``shape``. The last axis of ``mean`` is the probability of each class. McCullagh 1980.
    """

    _LEAST_GAP = 1e-6  # a class that is never seen keeps a finite log-probability

    def __init__(self, n_classes: int, shape: tuple[int, ...] = ()) -> None:
        super().__init__(n_classes)
        self.shape = tuple(shape)
        self.first_cut = nn.Parameter(torch.full((*self.shape, 1), 1 - n_classes / 2))
        self.raw_gaps = nn.Parameter(torch.zeros(*self.shape, n_classes - 2))

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        known = (x >= 0) & (x < self.n_classes)
        (cuts, gaps), loc = self._cuts_and_gaps(), params.squeeze(2)
        lower, upper = functional.pad(cuts, (1, 0), value=-math.inf), functional.pad(cuts, (0, 1), value=math.inf)
        each = torch.stack([lower, upper, functional.pad(torch.log(-torch.expm1(-gaps)), (1, 1))])
        level = torch.where(known, x, 0).long()
        index = level.expand(3, *level.shape).unsqueeze(-1)
        each = each.view(3, *[1] * (level.dim() - len(self.shape)), *each.shape[1:]).expand(*index.shape[:-1], -1)
        below, above, width = each.gather(-1, index).squeeze(-1).unbind(0)
        # as in ``log_probs``, at the level of x alone
        value = functional.logsigmoid(above - loc) + functional.logsigmoid(loc - below) + width
        return torch.where(known, value, -math.inf)

    def best(self, expected: Tensor) -> Tensor:
        """The median, which minimises the mean number of levels between estimate and value."""
        return (expected.cumsum(-1) < 0.5).sum(-1).to(expected.dtype)

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        loc = params.squeeze(2)
        uniform = torch.rand(loc.shape, generator=generator, device=loc.device, dtype=loc.dtype)
        cuts, _ = self._cuts_and_gaps()
        return ((loc + logistic_noise(uniform)).unsqueeze(-1) > cuts).sum(-1).to(loc.dtype)

    @torch.no_grad()
    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = x.new_zeros(1, *x.shape[1:])
        if not self.shape:
            x, mask = x.reshape(-1), None if mask is None else mask.reshape(-1)
        counts = class_counts(x, mask, self.n_classes).double()
        below, above = counts.cumsum(0)[:-1], counts.flip(0).cumsum(0).flip(0)[1:]
        cuts = (below.log() - above.log()).movedim(0, -1)
        self.first_cut.copy_(cuts[..., :1])
        self.raw_gaps.copy_(inverse_positive((cuts.diff() - self._LEAST_GAP).clamp(min=self._LEAST_GAP)))
        return bias

    def _cuts_and_gaps(self) -> tuple[Tensor, Tensor]:
        gaps = positive(self.raw_gaps) + self._LEAST_GAP
        return torch.cat([self.first_cut, self.first_cut + gaps.cumsum(-1)], -1), gaps

    def log_probs(self, params: Tensor) -> Tensor:
        cuts, gaps = self._cuts_and_gaps()
        loc = params.squeeze(2).unsqueeze(-1)
        zero = torch.zeros_like(loc)
        # F(a) − F(b) = F(a) F(−b) (1 − e^(b−a)), which is accurate in both tails
        upper = torch.cat([functional.logsigmoid(cuts - loc), zero], -1)
        lower = torch.cat([zero, functional.logsigmoid(loc - cuts)], -1)
        return upper + lower + functional.pad(torch.log(-torch.expm1(-gaps)), (1, 1))
