"""Sequences: one likelihood at each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from lowerbound.likelihoods.base import Factorised


class EachStep(Factorised):
    """p(x|z) = Π_t p(x_t|z) of sequences ``x [B, T, *X]``: the likelihood ``of`` single steps at every step.

    Its parameters are ``[K, B, P, T, *X]``; those of steps after the last of ``x`` are left out.
    """

    def __init__(self, of: Factorised) -> None:
        super().__init__()
        if not isinstance(of, Factorised):
            raise ValueError(
                f"EachStep takes a likelihood of independent values, not {type(of).__name__}; take one such as Normal "
                "or Bernoulli."
            )
        self.of = of
        self.n_parameters, self.measure = of.n_parameters, of.measure
        self.counts = of.counts

    @property
    def support(self) -> constraints.Constraint:
        return self.of.support

    def fitted(self, params: Tensor, x: Tensor) -> Tensor:
        return params[:, :, :, : x.shape[1]]

    def log_prob_per_value(self, params: Tensor, x: Tensor) -> Tensor:
        params, rows = _by_step(params[:, :, :, : x.shape[1]]), x.shape[:2]
        found: Tensor = self.of.log_prob_per_value(params, x.flatten(0, 1)).unflatten(1, rows)
        return found

    def mean(self, params: Tensor) -> Tensor:
        found: Tensor = self.of.mean(_by_step(params)).unflatten(1, (params.shape[1], params.shape[3]))
        return found

    def sample(self, params: Tensor, generator: torch.Generator) -> Tensor:
        found: Tensor = self.of.sample(_by_step(params), generator).unflatten(1, (params.shape[1], params.shape[3]))
        return found

    def initialise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fit the distribution of all steps together; return its ``params [P, *X]`` of one step."""
        steps, seen = x.flatten(0, 1), None if mask is None else mask.flatten(0, 1)
        if seen is not None:
            kept = seen.flatten(1).any(1)
            steps, seen = steps[kept], seen[kept]
            seen = None if bool(seen.all()) else seen
        return self.of.initialise(steps, seen)

    @property
    def one_hot_mean(self) -> bool:  # type: ignore[override]
        return self.of.one_hot_mean

    @property
    def ordered(self) -> bool:  # type: ignore[override]
        return self.of.ordered

    @property
    def inverse_link(self) -> Any:  # type: ignore[override]
        return self.of.inverse_link


def _by_step(params: Tensor) -> Tensor:
    """Parameters ``[K, B, P, T, *X]`` as ``[K, B·T, P, *X]``."""
    return params.movedim(3, 2).flatten(1, 2)
