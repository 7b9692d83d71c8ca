"""What batch and online variational Bayes of LDA share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import psi
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.row_source import RowSource
from lowerbound.topics import dirichlet
from lowerbound.topics.csr import Csr
from lowerbound.topics.lda import ITERATIONS, TOLERANCE, Inferred, LDAModel, infer, log_coefficient
from lowerbound.topics.steps import check_words, generator_of, on_cpu, seeds
from lowerbound.training import OF_ROWS, Metrics, Procedure, Scalars, State

Array = NDArray[Any]


@dataclass(frozen=True)
class VariationalBayes(ABC):
    """The settings that ``BatchVB`` and ``OnlineVB`` share.

    ``learn_alpha``, ``learn_eta``: whether α (one number per topic) and η become those that maximise the bound.
    ``tolerance``, ``iterations``: a document's q(θ) is final when the mean of |Δγ_k| is below the one, or after the
    other.
    """

    learn_alpha: bool = False
    learn_eta: bool = False
    tolerance: float = TOLERANCE
    iterations: int = ITERATIONS

    posterior = None
    is_bound = True
    takes_fractions = True

    def __post_init__(self) -> None:
        if not self.tolerance >= 0 or self.iterations < 1:
            raise ValueError(
                f"tolerance must be at least 0 and iterations at least 1, got {self.tolerance} and {self.iterations}."
            )

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return asdict(self)

    @abstractmethod
    def start(self, model: LDAModel, rows: RowSource) -> Procedure:
        """Begin a fit of ``model`` to the documents ``rows``."""


class VariationalProcedure(Procedure):
    """The steps that ``BatchVB`` and ``OnlineVB`` share."""

    def __init__(self, settings: VariationalBayes, model: LDAModel, rows: RowSource, modules: dict[str, nn.Module]):
        check_words(model, rows)
        self.settings, self.model, self.rows = settings, model, len(rows)
        self.kl = _Kl().to(model.word_weights.device)
        self.state = State({"model": model, "kl": self.kl, **modules}, draws=False)
        self._measure()

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return seeds(rng)

    @abstractmethod
    def update(self, csr: Csr, start: Array, index: Tensor) -> Inferred:
        """Learn from the documents of a batch, whose q(θ) are found from γ = ``start [B, K]``."""

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        csr = Csr.from_batch(batch)
        start = generator_of(noise).standard_gamma(100.0, (csr.rows, self.model.n_topics)) / 100
        found = self.update(csr, start, batch.index[batch.weight > 0])
        each = self._of_rows(batch, csr, found)
        return state, {"objective": batch.weight @ each}

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        csr = Csr.from_batch(batch)
        each = self._of_rows(batch, csr, self.infer(csr, None))
        return {"objective": batch.weight @ each, OF_ROWS: each}

    def infer(self, csr: Csr, start: Array | None) -> Inferred:
        """q(θ) of the documents of a batch, with the model as it is."""
        return infer(self.model, csr, start, self.settings.tolerance, self.settings.iterations)

    def _of_rows(self, batch: Batch, csr: Csr, found: Inferred) -> Tensor:
        """The bound of each document, less its part of KL(q(β) ‖ p(β)); 0 for padding, ``[B]``."""
        bound = torch.from_numpy(found.bound + log_coefficient(csr)) - self.kl.value / self.rows
        each = torch.zeros_like(batch.weight)
        each[batch.weight > 0] = bound.to(each.dtype)
        return each

    def epoch_end(self, state: State) -> None:
        """Update η, if it is learnt, and compute KL(q(β) ‖ p(β))."""
        if self.settings.learn_eta:
            weights = on_cpu(self.model.word_weights).astype(np.float64)
            logs = float((psi(weights).mean(1) - psi(weights.sum(1))).mean())
            self.model.eta.fill_(dirichlet.of_symmetric_logs(float(self.model.eta), self.model.n_words, logs))
        self._measure()

    def _measure(self) -> None:
        self.kl.value.fill_(dirichlet.kl(on_cpu(self.model.word_weights), float(self.model.eta)))


class _Kl(nn.Module):
    """KL(q(β) ‖ p(β)) at the end of the last epoch."""

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros((), dtype=torch.float64))


def expected_logs(gamma: Array) -> NDArray[np.float64]:
    """Σ_d E[log θ_dk] for q(θ_d) = Dir(``gamma [B, K]``_d), ``[K]``."""
    gamma = gamma.astype(np.float64)
    found: NDArray[np.float64] = (psi(gamma) - psi(gamma.sum(1, keepdims=True))).sum(0)
    return found
