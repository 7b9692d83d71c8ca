"""Estimate log p(x) of rows by a fitted estimator, in nats, with its error."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lowerbound import evidence
from lowerbound.data import Rows
from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.estimators import frames
from lowerbound.estimators.fitted import USE_BATCH, Fitted
from lowerbound.estimators.parameters import whole
from lowerbound.evidence.proposals import row_totals
from lowerbound.evidence.targets import of_model, settled
from lowerbound.likelihoods import Product
from lowerbound.schema.column import Name
from lowerbound.training import in_order

STANDARD_ERROR, BUDGET = 0.1, 3000  # of a row's log p(x), in nats; draws per row, on average
_DRAWS, _MORE_DRAWS, _FEW = 100, 1000, 3  # of score_samples: draws, those of rows with few effective ones, and how few


class Scoring(Fitted):
    """The estimator's methods that give log p(x), and how far to trust it."""

    def score_samples(
        self,
        X: ArrayLike,
        samples: int | None = None,
        context: ArrayLike | None = None,
        standardised: bool = False,
        keep: Sequence[Name] = (),
    ) -> Any:
        """log p(x) of each row in nats, ``[N]``: importance sampling, low in expectation.

        From q(z|x), 100 draws of each row; rows of which fewer than 3 are effective get 1,000, half of them from a
        proposal of their own (``evidence.proposals``), and a warning counts those of which even these are too few. With
        ``samples``, as many for all rows, from q alone.

        Of a table it is that of the observed cells, 0 where a row has none; densities are in the columns' own units or,
        with ``standardised``, per unit of their spread. With ``keep``, columns of the frame ``X``, it is a frame of
        these and of log_p.

        All rows share the same noise, so that a row's score does not depend on the other rows; a mean over rows
        therefore has a Monte Carlo error that more rows do not reduce. For a mean with its standard error, use
        ``log_likelihood``.
        """
        if samples is not None:
            whole("samples", samples, 1)
        x = self._checked(X, kept=keep)
        rows = self._supported(x, "mean", context)
        scores, ess = self._scored(rows, _DRAWS if samples is None else samples, standardised)
        low = torch.empty(0) if samples is not None else torch.nonzero(ess < _FEW)[:, 0]
        if len(low):
            scores[low], ess = self._scored(rows.subset(low), _MORE_DRAWS, standardised, fit=True)
            if few := int((ess < _FEW).sum()):
                warnings.warn(
                    f"importance sampling has fewer than {_FEW} effective draws for {few} of {len(scores)} rows, whose "
                    "scores are noisy and biased low; log_likelihood chooses the draws per row.",
                    stacklevel=2,
                )
        found = self._given(scores, x.dtype)
        return frames.beside(X, keep, {"log_p": found}) if len(keep) else found

    def _scored(self, rows: Rows, samples: int, standardised: bool, fit: bool = False) -> tuple[Tensor, Tensor]:
        """log p(x) ``[N]``, and effective draws: those of rows without any observed cell are none too few."""
        scores, effective = [], []
        thresholds = torch.rand(self.shape_, generator=self._rng("thresholds"), device=self.device)
        for batch, real in in_order(rows, USE_BATCH):
            if rows.binarise == "mean":
                batch = replace(batch, x=(batch.x > thresholds).to(batch.x.dtype))
            rng = self._rng("score again" if fit else "score")
            log_p, _, ess, _ = row_totals(self.model_, self.posterior_, batch, samples, rng, fit)
            if not self.model_.likelihood.informative:
                holds = _holds_something(batch)
                log_p, ess = torch.where(holds, log_p, 0), torch.where(holds, ess, samples)  # exactly: q is not p(z)
            scores.append((log_p + self._per_spread(batch) if standardised else log_p)[:real])
            effective.append(ess[:real])
        return torch.cat(scores), torch.cat(effective)

    def score(self, X: ArrayLike, y: object = None, context: ArrayLike | None = None) -> float:
        """Mean over rows of ``score_samples``, in nats per row."""
        return float(np.mean(self.score_samples(X, context=context), dtype=np.float64))

    def log_likelihood(
        self,
        X: ArrayLike,
        samples: int | None = None,
        context: ArrayLike | None = None,
        seed: int | None = None,
        *,
        standard_error: float = STANDARD_ERROR,
        budget: float | None = BUDGET,
    ) -> evidence.LogLikelihood:
        """log p(x) by importance sampling, with draws of each row's own: estimates, errors, effective sizes, k̂.

        Each row has the draws that it needs for ``standard_error``, from a Student's t fitted to p(z|x) where q's
        serve it badly, and all together cost at most ``budget`` draws per row on average (``evidence.to_precision``).
        With ``samples``, as many of each row from q instead: the bound of Burda et al. 2016. ``seed`` fixes the draws,
        and how grey values are binarised; without one they are the model's own.
        """
        seed = self.seed_ if seed is None else seed
        return self._log_likelihood(X, samples, context, seed, 0, standard_error, budget)

    def _log_likelihood(
        self,
        X: ArrayLike,
        samples: int | None,
        context: ArrayLike | None,
        seed: int,
        stream: int,
        standard_error: float = STANDARD_ERROR,
        budget: float | None = BUDGET,
    ) -> evidence.LogLikelihood:
        """``log_likelihood`` of rows that depend on ``seed`` alone, and draws that depend on ``stream`` too."""
        rows = self._supported(self._checked(X), "afresh", context)
        device, targets = next(self.model_.parameters()).device, of_model(self.model_, self.posterior_)
        rng = generator(seed, "evidence", device=device)
        rows = settled(rows, self.model_, rng)
        own = generator(seed, "evidence", stream, device=device) if stream else rng
        if samples is not None:
            return evidence.importance_sampling(targets, rows, own, samples)
        return evidence.to_precision(targets, rows, own, standard_error, budget)

    def evidence(
        self,
        X: ArrayLike,
        *,
        standard_error: float = STANDARD_ERROR,
        budget: float | None = BUDGET,
        anneal: int = 50,
        simulate: int = 50,
        settings: evidence.Settings | None = None,
        gaps: int = 50,
        simulations: int = 500,
        train: ArrayLike | None = None,
        context: ArrayLike | None = None,
    ) -> evidence.Evidence:
        """log p(x) of rows, by as many draws as each needs, with annealing, a sandwich and a verdict: ``judge_model``.

        Print it for the verdict; ``importance`` holds each row's estimate, its standard error, ESS and k̂.
        """
        rows = self._supported(self._checked(X), "afresh", context)
        return evidence.judge_model(
            self.model_,
            self.posterior_,
            rows,
            standard_error=standard_error,
            budget=budget,
            anneal=anneal,
            simulate=simulate,
            settings=settings,
            gaps=gaps,
            simulations=simulations,
            train=None if train is None else self._supported(self._checked(train), "afresh", None),
            seed=self.seed_,
        )

    def _per_spread(self, batch: Batch) -> Tensor | float:
        """The term ``[B]`` to add to log p(x) if densities are per unit of the columns' spread."""
        likelihood = self.model_.likelihood.of_values
        if not isinstance(likelihood, Product):
            return 0.0
        logs = likelihood.log_scale.expand(batch.x.shape)
        return (logs if batch.mask is None else torch.where(batch.mask, logs, 0)).double().sum(1)


def _holds_something(batch: Batch) -> Tensor:
    """Rows ``[B]`` of which at least one value is observed."""
    if batch.mask is None:
        return torch.ones(len(batch.x), dtype=torch.bool, device=batch.x.device)
    return batch.mask.flatten(1).any(1)
