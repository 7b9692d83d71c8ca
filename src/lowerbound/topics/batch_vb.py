"""Batch variational Bayes of LDA."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowerbound.row_source import RowSource
from lowerbound.topics import dirichlet
from lowerbound.topics.csr import Csr
from lowerbound.topics.lda import Inferred, LDAModel
from lowerbound.topics.steps import on_cpu
from lowerbound.topics.variational import Array, VariationalBayes, VariationalProcedure, expected_logs
from lowerbound.training import State


@dataclass(frozen=True)
class BatchVB(VariationalBayes):
    """λ_kw = η + Σ_d n_dw φ_dwk at the end of each epoch, over all documents. Blei, Ng & Jordan 2003.

    ``warm``: whether the search for a document's q(θ) begins where it ended in the epoch before, for which N K numbers
    are kept; then no epoch lowers the bound of the training rows. Otherwise it begins at random numbers near 1.
    batch_size changes nothing but memory.
    """

    warm: bool = False

    def start(self, model: LDAModel, rows: RowSource) -> BatchVBProcedure:
        return BatchVBProcedure(self, model, rows)


class BatchVBProcedure(VariationalProcedure):
    """The steps of ``BatchVB``."""

    settings: BatchVB

    def __init__(self, settings: BatchVB, model: LDAModel, rows: RowSource) -> None:
        self.sums = _Sums(model, rows.total if settings.warm else 0)
        super().__init__(settings, model, rows, {"sums": self.sums})

    def update(self, csr: Csr, start: Array, index: Tensor) -> Inferred:
        if self.settings.warm:
            before = self.sums.gamma[index]
            start = torch.where(before > 0, before, torch.from_numpy(start).to(before.dtype)).numpy()
        found = self.infer(csr, start)
        on_cpu(self.sums.totals)[:, found.used] += found.totals
        if self.settings.learn_alpha:
            self.sums.logs += torch.from_numpy(expected_logs(found.gamma))
        if self.settings.warm:
            self.sums.gamma[index] = torch.from_numpy(found.gamma)
        return found

    def epoch_end(self, state: State) -> None:
        """Update λ, then α and η if they are learnt."""
        self.model.word_weights.copy_(self.sums.totals + self.model.eta)
        self.sums.totals.zero_()
        if self.settings.learn_alpha:
            alpha = dirichlet.of_logs(on_cpu(self.model.alpha), self.sums.logs.numpy() / self.rows)
            self.model.alpha.copy_(torch.from_numpy(alpha))
            self.sums.logs.zero_()
        super().epoch_end(state)


class _Sums(nn.Module):
    """Sums over the documents of an epoch so far, and the last γ of each document."""

    totals: Tensor
    logs: Tensor
    gamma: Tensor

    def __init__(self, model: LDAModel, kept: int) -> None:
        super().__init__()
        self.register_buffer("totals", torch.zeros_like(model.word_weights, dtype=torch.float64))
        self.register_buffer("logs", torch.zeros(model.n_topics, dtype=torch.float64))
        self.register_buffer("gamma", model.word_weights.new_zeros(kept, model.n_topics))
