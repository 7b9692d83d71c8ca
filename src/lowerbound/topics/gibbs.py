"""Upward-downward Gibbs sampling of deep LDA."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.row_source import RowSource
from lowerbound.topics.csr import Csr
from lowerbound.topics.deep_lda import DeepLDAModel, Globals, as_doubles
from lowerbound.topics.kernels import kernel
from lowerbound.topics.links import log_likelihood
from lowerbound.topics.minibatch import blocks, completion, streams_of
from lowerbound.topics.steps import check_words, generator_of, on_cpu, seeds
from lowerbound.topics.sweep import Documents, draw_phi, draw_r
from lowerbound.training import Metrics, Procedure, Scalars, State

_AT_ONCE = 1000  # documents whose θ are drawn together
_LEAST = 1e-30  # of θ in single precision
_FIXED = 10  # first sweeps in which p and c stay


@dataclass(frozen=True)
class UpwardDownwardGibbs:
    """Draw all variables of deep LDA in turn; an epoch is a sweep. Zhou, Cong and Chen 2016.

    θ and c of every document are kept, in the order of the rows. A batch has its upward pass and its new c; at the end
    of the epoch Φ, r and then all θ are drawn. batch_size changes nothing but memory and the random numbers. Counts
    must be whole. The model is that of the last sweep. In the first 10 sweeps c stays at 1.

    The objective of training rows is log p(x | Φ, θ) of the last sample, which is no bound; that of held-out rows the
    log-probability of a fifth of each document's tokens given the others, θ by ``burn_in`` and ``collected`` sweeps per
    layer.
    """

    burn_in: int = 20
    collected: int = 10

    posterior = None
    is_bound = False

    def __post_init__(self) -> None:
        if self.burn_in < 0 or self.collected < 1:
            raise ValueError(
                f"burn_in must be at least 0 and collected at least 1, got {self.burn_in} and {self.collected}."
            )

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return asdict(self)

    def start(self, model: DeepLDAModel, rows: RowSource) -> GibbsProcedure:
        """Begin a fit of ``model`` to the documents ``rows``."""
        return GibbsProcedure(self, model, rows)


class _Sample(nn.Module):
    """The variables of all documents, the sums of the sweep under way, and the numbers from which its end draws.

    ``theta_l``, ``m_l [N, K_l]``, ``c [N, T]``; ``n_l [K_(l-1), K_l]``, ``top [K_T]`` and ``q``.
    """

    c: Tensor
    top: Tensor
    q: Tensor
    sweeps: Tensor
    seeds: Tensor

    def __init__(self, model: DeepLDAModel, total: int) -> None:
        super().__init__()
        for layer, phi in enumerate(model.phi, 1):
            topics = phi.shape[1]
            self.register_buffer(f"theta_{layer}", torch.full((total, topics), 1 / topics))
            self.register_buffer(f"m_{layer}", torch.zeros(total, topics))
            self.register_buffer(f"n_{layer}", torch.zeros(phi.shape, dtype=torch.float64))
        self.register_buffer("c", torch.ones(total, len(model.layers)))
        self.register_buffer("top", torch.zeros(model.layers[-1], dtype=torch.float64))
        self.register_buffer("q", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sweeps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seeds", torch.zeros(4, dtype=torch.int64))


class GibbsProcedure(Procedure):
    """The steps of ``UpwardDownwardGibbs``."""

    def __init__(self, settings: UpwardDownwardGibbs, model: DeepLDAModel, rows: RowSource) -> None:
        check_words(model, rows)
        self.settings, self.model = settings, model
        self.sample = _Sample(model, rows.total)
        self.state = State({"model": model, "sample": self.sample}, draws=False)

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return seeds(rng)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        x, common, sample = as_doubles(Csr.from_batch(batch)), Globals.of(self.model), self.sample
        index = batch.index[batch.weight > 0]
        documents = self._documents(common, index, streams_of(noise, batch))
        each = log_likelihood(self.model.likelihood, x, common.phi[0], documents.theta[0], kernel("gamma_poisson"))
        common.up(documents, x, [on_cpu(total) for total in self._all("n")])
        if int(sample.sweeps) >= _FIXED:
            documents.scale(common.r)
        for kept, counts in zip(self._all("m"), documents.m, strict=True):
            kept[index] = torch.from_numpy(counts).to(kept.dtype)
        sample.c[index] = torch.from_numpy(documents.c).to(sample.c.dtype)
        sample.top += torch.from_numpy(documents.top.sum(0))
        sample.q += float(documents.q()[:, -1].sum())
        sample.seeds.copy_(noise)
        return state, {"objective": torch.as_tensor(each.mean(), dtype=batch.weight.dtype)}

    def epoch_end(self, state: State) -> None:
        """Draw Φ, r and then all θ, top down."""
        model, sample = self.model, self.sample
        rng = generator_of(sample.seeds + 1)
        for phi, n in zip(model.phi, self._all("n"), strict=True):
            for part in blocks(*phi.shape):
                on_cpu(phi)[:, part] = draw_phi(on_cpu(n)[:, part], model.eta, rng)
        r = draw_r(on_cpu(sample.top), on_cpu(sample.q), model.gamma0, model.c0, rng)
        model.r.copy_(torch.from_numpy(r))
        common, streams = Globals.of(model), kernel("gamma_poisson").streams
        for number, index in enumerate(torch.arange(len(sample.c)).split(_AT_ONCE)):
            seed = np.array([*(sample.seeds + 2).tolist(), number])
            documents = self._documents(common, index, streams(seed, len(index)))
            documents.down(common.phi, common.r)
            for kept, theta in zip(self._all("theta"), documents.theta, strict=True):
                kept[index] = torch.from_numpy(np.maximum(theta, _LEAST)).to(kept.dtype)
        for total in (*self._all("n"), sample.top, sample.q):
            total.zero_()
        sample.sweeps += 1
        model.keep_sample()

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        return completion(self.model, self.settings.burn_in, self.settings.collected, batch, noise)

    def _documents(self, common: Globals, index: Tensor, streams: Any) -> Documents:
        """The variables of some documents as arrays in double precision."""
        documents = common.begin(len(index), streams)
        documents.theta = [kept[index].double().numpy() for kept in self._all("theta")]
        documents.m = [kept[index].double().numpy() for kept in self._all("m")]
        documents.c = self.sample.c[index].double().numpy()
        return documents

    def _all(self, name: str) -> list[Tensor]:
        """A buffer of each layer."""
        return [self.sample.get_buffer(f"{name}_{layer + 1}") for layer in range(len(self.model.layers))]
