"""Online variational Bayes of LDA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound.row_source import RowSource
from lowerbound.topics import dirichlet
from lowerbound.topics.csr import Csr
from lowerbound.topics.lda import Inferred, LDAModel
from lowerbound.topics.steps import on_cpu
from lowerbound.topics.variational import Array, VariationalBayes, VariationalProcedure, expected_logs


@dataclass(frozen=True)
class OnlineVB(VariationalBayes):
    """λ ← (1 − ρ_t) λ + ρ_t (η + N/B Σ_d n_dw φ_dwk) after each batch. Hoffman, Blei & Bach 2010.

    ρ_t = (``delay`` + t)^(−``forgetting``) at step t = 0, 1, …; it converges with ``forgetting`` in (½, 1]. If α is
    learnt, it is that for which the running mean of E[log θ_k] is most likely.

    The objective of training rows contains the KL of the topics at the last end of an epoch.
    """

    forgetting: float = 0.7
    delay: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.5 < self.forgetting <= 1:
            raise ValueError(f"forgetting must be above 0.5 and at most 1, got {self.forgetting}.")
        if not self.delay >= 1:
            raise ValueError(f"delay must be at least 1, got {self.delay}.")

    def start(self, model: LDAModel, rows: RowSource) -> OnlineVBProcedure:
        return OnlineVBProcedure(self, model, rows)


class OnlineVBProcedure(VariationalProcedure):
    """The steps of ``OnlineVB``."""

    settings: OnlineVB

    def __init__(self, settings: OnlineVB, model: LDAModel, rows: RowSource) -> None:
        self.past = _Past(model)
        super().__init__(settings, model, rows, {"past": self.past})

    def update(self, csr: Csr, start: Array, index: Tensor) -> Inferred:
        found = self.infer(csr, start)
        weights = on_cpu(self.model.word_weights)
        rate = (self.settings.delay + int(self.past.steps)) ** -self.settings.forgetting
        weights *= 1 - rate
        weights += rate * float(self.model.eta)
        weights[:, found.used] += found.totals * (rate * self.rows / csr.rows)
        if self.settings.learn_alpha:
            share = rate if self.past.steps else 1.0
            self.past.logs.lerp_(torch.from_numpy(expected_logs(found.gamma) / csr.rows), share)
            alpha = dirichlet.of_logs(on_cpu(self.model.alpha), self.past.logs.numpy())
            self.model.alpha.copy_(torch.from_numpy(alpha))
        self.past.steps += 1
        return found


class _Past(nn.Module):
    """The steps so far, and the running mean of E[log θ_k] ``[K]``."""

    steps: Tensor
    logs: Tensor

    def __init__(self, model: LDAModel) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("logs", torch.from_numpy(np.zeros(model.n_topics)))
