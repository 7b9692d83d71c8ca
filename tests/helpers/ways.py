"""Ways to learn, as a user would write them, and fits by them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fits import Callbacks, die_at
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.distributions.densities import inverse_positive
from lowerbound.training import Metrics, Procedure, State

BATCH, EVERY, EPOCHS = 20, 5, 6


class Untouched(Procedure):
    """Leaves the model as it is."""

    def __init__(self, model: lb.LatentVariableModel) -> None:
        self.state = State({"model": model}, draws=False)

    def step(self, state, batch, noise, scalars):
        return state, self.evaluate(state, batch, noise, scalars)

    def evaluate(self, state, batch, noise, scalars):
        return {"objective": batch.weight.sum() * 0}


class Nothing:
    """An inference that learns nothing."""

    posterior = None
    is_bound = False

    def __init__(self, model: lb.LatentVariableModel, posterior: lb.posteriors.Posterior | None) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {}

    def start(self, model, rows) -> Untouched:
        return Untouched(model)


class Steps(Procedure):
    """EM of z ∈ {0, 1} ~ Bernoulli(π) and x | z ~ N(b + w z, σ²) with one σ per column: sums in each step, then M."""

    def __init__(self, model: lb.LatentVariableModel, columns: int) -> None:
        like = model.prior.logits
        sums = nn.Module()
        sums.register_buffer("n", like.new_zeros(2))
        sums.register_buffer("x", like.new_zeros(2, columns))
        sums.register_buffer("squares", like.new_zeros(columns))
        self.state = State({"model": model, "sums": sums}, draws=False)

    def log_joint(self, state: State, x: Tensor) -> Tensor:
        """log p(x, z) of both states, ``[2, B]``."""
        z = torch.tensor([0.0, 1.0], dtype=x.dtype).view(2, 1, 1).expand(2, len(x), 1)
        return state.modules["model"].log_joint(z, x)

    @torch.no_grad()
    def step(self, state, batch, noise, scalars):
        log_joint, sums = self.log_joint(state, batch.x), state.modules["sums"]
        shares = log_joint.softmax(0) * (batch.weight > 0)  # padding counts nothing
        sums.n += shares.sum(1)
        sums.x += shares @ batch.x
        sums.squares += shares.sum(0) @ batch.x.square()
        return state, {"objective": batch.weight @ log_joint.logsumexp(0)}

    def evaluate(self, state, batch, noise, scalars) -> Metrics:
        return {"objective": batch.weight @ self.log_joint(state, batch.x).logsumexp(0)}

    @torch.no_grad()
    def epoch_end(self, state: State) -> None:
        model, sums = state.modules["model"], state.modules["sums"]
        total, means = sums.n.sum(), sums.x / sums.n.unsqueeze(1)
        variance = (sums.squares - (sums.n.unsqueeze(1) * means.square()).sum(0)) / total
        set_mixture(model, sums.n[1] / total, means, variance.sqrt())
        for total in sums.buffers():
            total.zero_()


@torch.no_grad()
def set_mixture(model: lb.LatentVariableModel, share: Tensor, means: Tensor, scale: Tensor) -> None:
    """Make ``model`` the mixture of N(means[0], scale²) and, with probability ``share``, N(means[1], scale²)."""
    likelihood, layer = model.likelihood, model.decoder.layers[-1]
    low, high = (means - likelihood.shift) / likelihood.spread
    model.prior.logits.fill_(torch.logit(share))
    layer.bias.copy_(low)
    layer.weight.copy_((high - low).unsqueeze(1))
    likelihood.raw_scale.copy_(inverse_positive(scale / likelihood.spread - likelihood.min_scale))


class EM:
    """Maximum likelihood of a mixture of two normals, by expectation–maximisation."""

    posterior = None
    is_bound = True

    def __init__(self, model: lb.LatentVariableModel, posterior: lb.posteriors.Posterior | None) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"components": 2}

    def start(self, model, rows) -> Steps:
        return Steps(model, rows.batch(torch.tensor([0]), torch.ones(1, dtype=rows.dtype)).x.shape[1])


def rows(count: int = 143) -> np.ndarray:
    """One column, of two groups that overlap."""
    random = np.random.default_rng(0)
    group = random.random(count) < 0.3
    return np.where(group, 4.0, 0.5)[:, None] + random.normal(size=(count, 1))


MIXTURE = {"posterior": "Bernoulli", "likelihood": "Normal", "hidden": ()}
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {"inference": Nothing},
    "em": {"inference": EM, "validation": 0.0, "patience": None},
    "aevb": {"inference": "AEVB", "optimizer": "RMSprop", "gradient": "enumerated"},
}


def fit_by(way: str, run: Path | None, callbacks: Callbacks = [], epochs: int = EPOCHS) -> lb.VAE:  # noqa: B006
    """A VAE of two components, learnt by a way of its name."""
    settings = {"batch_size": BATCH, "epochs": epochs, "random_state": 0, "threads": 1} | MIXTURE | WAYS[way]
    return lb.VAE(1, callbacks=callbacks, **settings).fit(rows(), run_dir=run, checkpoint_every=EVERY)


def fit_until_killed(way: str, run: Path, *steps: int) -> None:
    """Fit, and die at a step."""
    warnings.simplefilter("error")
    fit_by(way, run, [die_at(step) for step in steps])
