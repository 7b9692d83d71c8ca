"""What the learners of deep LDA that see one minibatch at a time share: TLASGR, TLFSGR, SGRLD and SCIR."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lowerbound.draw import Batch
from lowerbound.row_source import RowSource
from lowerbound.topics.csr import Csr
from lowerbound.topics.deep_lda import DeepLDAModel, Globals, as_doubles
from lowerbound.topics.kernels import kernel
from lowerbound.topics.links import log_likelihood
from lowerbound.topics.steps import check_words, generator_of, on_cpu, seeds
from lowerbound.training import OF_ROWS, Metrics, Procedure, Scalars, State

Array = NDArray[Any]
_AT_ONCE = 2**16  # numbers in a temporary array of an update
_SEEN = 0.8  # share of a held-out document's tokens from which θ is inferred


@dataclass(frozen=True)
class MinibatchSampler(ABC):
    """A step of stochastic-gradient MCMC of Φ and r per minibatch, between Gibbs sweeps of its documents.

    Step t = 1, 2, … has the size ε_t = ``rate`` ((``delay`` + t)/(``delay`` + 1))^(−``decay``). ``burn_in``,
    ``collected``: Gibbs sweeps of a minibatch per layer; their counts are averaged over the collected ones and scaled
    by N/B. The running means M have the forgetting rate f_t = ½((20 + t)/21)^(−0.7); they begin with the first counts.
    Counts must be whole.

    The objective of training rows is log p(x | Φ, the mean θ of the document), which is no bound; that of held-out rows
    the log-probability of a fifth of each document's tokens given the others.
    """

    rate: float = 1.0
    delay: float = 20.0
    decay: float = 0.7
    burn_in: int = 20
    collected: int = 10

    posterior = None
    is_bound = False

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.delay >= 0 and self.decay >= 0):
            raise ValueError(
                f"rate must be above 0, delay and decay at least 0, got {self.rate}, {self.delay} and {self.decay}."
            )
        if self.burn_in < 0 or self.collected < 1:
            raise ValueError(
                f"burn_in must be at least 0 and collected at least 1, got {self.burn_in} and {self.collected}."
            )

    def describe(self) -> dict[str, Any]:
        """The settings that must not change when a fit resumes, as JSON."""
        return asdict(self)

    def start(self, model: DeepLDAModel, rows: RowSource) -> MinibatchProcedure:
        """Begin a fit of ``model`` to the documents ``rows``."""
        return MinibatchProcedure(self, model, rows)

    def step_size(self, step: int) -> float:
        """ε_t."""
        return float(self.rate * ((self.delay + step) / (self.delay + 1)) ** -self.decay)

    def has_mean(self) -> bool:
        """Whether a step changes the expanded mean of Φ, of which Φ are the shares."""
        return False

    @abstractmethod
    def update(self, past: Past, layer: int, phi: Array, n: Array, eta: float, rng: np.random.Generator) -> None:
        """Change Φ of a layer, in place, given the counts ``n [V, K]`` of all documents."""

    def update_r(self, past: Past, r: Array, shape: Array, rate: float, step: float, rng: np.random.Generator) -> Array:
        """r after a step in Gam(shape, 1/rate): |r + ε/M (shape − rate·r) + √(2εr/M) ξ|, M the running mean of rate."""
        size = step / max(float(past.top_rate), 1e-12)
        found: Array = np.abs(r + size * (shape - rate * r) + np.sqrt(2 * size * r) * rng.standard_normal(r.shape))
        return np.maximum(found, 1e-18)


class Past(nn.Module):
    """What a sampler remembers: the steps t, running means of the counts of each topic ``mass_l [K_l]`` and of the rate
    of r, and, if Φ has an expanded mean, that, ``mean_l``."""

    steps: Tensor
    top_rate: Tensor

    def __init__(self, model: DeepLDAModel, has_mean: bool) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("top_rate", torch.zeros((), dtype=torch.float64))
        for layer, phi in enumerate(model.phi):
            self.register_buffer(f"mass_{layer + 1}", torch.zeros(phi.shape[1], dtype=torch.float64))
            if has_mean:
                self.register_buffer(f"mean_{layer + 1}", phi * model.eta * len(phi))

    def mass(self, layer: int) -> Array:
        """M_k of a layer, counted from 0."""
        return on_cpu(self.get_buffer(f"mass_{layer + 1}"))

    def mean(self, layer: int) -> Array:
        """The expanded mean of Φ of a layer, counted from 0."""
        return on_cpu(self.get_buffer(f"mean_{layer + 1}"))

    def remember(self, totals: list[Array], rate: float) -> None:
        """Count a step, and move the running means towards the counts of each topic and the rate of r."""
        self.steps += 1
        step = int(self.steps)
        share = 1.0 if step == 1 else 0.5 * ((20 + step) / 21) ** -0.7
        for layer, total in enumerate(totals):
            mass = self.mass(layer)
            mass += share * (total - mass)
        self.top_rate += share * (rate - self.top_rate)


class MinibatchProcedure(Procedure):
    """The steps of a ``MinibatchSampler``."""

    def __init__(self, settings: MinibatchSampler, model: DeepLDAModel, rows: RowSource) -> None:
        check_words(model, rows)
        self.settings, self.model, self.rows = settings, model, len(rows)
        self.past = Past(model, settings.has_mean())
        self.state = State({"model": model, "past": self.past}, draws=False)

    def noise(self, rows: int, rng: torch.Generator) -> Tensor:
        return seeds(rng)

    def step(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> tuple[State, Metrics]:
        x, layers, model = as_doubles(Csr.from_batch(batch)), len(self.model.layers), self.model
        settings, common, streams = self.settings, Globals.of(model), streams_of(noise, batch)
        n = [np.zeros(phi.shape) for phi in common.phi]
        found = common.run(x, streams, layers * settings.burn_in, layers * settings.collected, n)
        each = log_likelihood(model.likelihood, x, common.phi[0], found.theta[0], kernel("gamma_poisson"))
        scale, rng = self.rows / x.rows, generator_of(noise)
        for total in n:
            total *= scale
        rate = model.c0 + scale * found.q
        self.past.remember([total.sum(0) for total in n], rate)
        for layer, phi in enumerate(common.phi):
            settings.update(self.past, layer, phi, n[layer], model.eta, rng)
        size, shape = settings.step_size(int(self.past.steps)), model.gamma0 / model.layers[-1] + scale * found.top
        r = settings.update_r(self.past, common.r, shape, rate, size, rng)
        model.r.copy_(torch.from_numpy(r))
        return state, {"objective": torch.as_tensor(each.mean(), dtype=batch.weight.dtype)}

    def epoch_end(self, state: State) -> None:
        self.model.keep_sample()

    def evaluate(self, state: State, batch: Batch, noise: Tensor, scalars: Scalars) -> Metrics:
        return completion(self.model, self.settings.burn_in, self.settings.collected, batch, noise)


def completion(model: DeepLDAModel, burn_in: int, collected: int, batch: Batch, noise: Tensor) -> Metrics:
    """log-probability of a fifth of the tokens of each document, given θ from the others and their number.

    ``burn_in``, ``collected``: sweeps per layer.
    """
    if model.link != "counts":
        raise NotImplementedError(
            f'documents are held out by their tokens, and link="{model.link}" has none; give validation=0.'
        )
    x, common, layers = as_doubles(Csr.from_batch(batch)), Globals.of(model), len(model.layers)
    seen = generator_of(noise).binomial(x.counts.astype(np.int64), _SEEN).astype(np.float64)
    part = Csr(x.indptr, x.indices, seen)
    found = common.run(part, streams_of(noise, batch), layers * burn_in, layers * collected).theta[0]
    p = kernel("gamma_poisson").rates(x, common.phi[0], found / found.sum(-1, keepdims=True))
    row = np.repeat(np.arange(x.rows), np.diff(x.indptr))
    each = torch.zeros_like(batch.weight)
    log_p = np.bincount(row, (x.counts - seen) * np.log(np.maximum(p, 1e-300)), x.rows)
    each[batch.weight > 0] = torch.from_numpy(log_p).to(each.dtype)
    return {"objective": batch.weight @ each, OF_ROWS: each}


def blocks(words: int, topics: int) -> Iterator[slice]:
    """All topics, some at a time, so that the temporary arrays of an update are small."""
    width = max(1, _AT_ONCE // words)
    return (slice(start, start + width) for start in range(0, topics, width))


def streams_of(noise: Tensor, batch: Batch) -> Any:
    """The kernels' random numbers of a step."""
    return kernel("gamma_poisson").streams(noise.cpu().numpy(), int((batch.weight > 0).sum()))
