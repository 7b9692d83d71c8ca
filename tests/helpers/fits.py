"""Short fits of every kind, by name, into a folder; some kill their own process at a step."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from lowerbound.distributions import generator
from lowerbound.training import Event

ROWS, BATCH, EPOCHS = 150, 20, 6
STEPS_PER_PASS = 7  # of 135 rows, after 15 are held out
EVERY = 5
DECODER = 16  # hidden units of the decoder of ``fit_parts``

Callbacks = list[Callable[[Any], Any]]


class Stop(Exception):
    """Ends a fit in this process."""


def stop_at(step: int) -> Callable[[Event], None]:
    """A callback that ends a fit at a step by raising ``Stop``."""

    def callback(event: Event) -> None:
        if event.step >= step:
            raise Stop

    return callback


def rows(kind: str) -> np.ndarray:
    """Rows that suit a likelihood."""
    rng = np.random.default_rng(0)
    grey = lb.data.digits().train[:ROWS]
    counts = rng.poisson(grey)
    return {
        "bernoulli": (grey > 8).astype(np.uint8),
        "normal": rng.normal(size=(ROWS, 5)) @ np.ones((5, 5)) + rng.normal(size=(ROWS, 5)),
        "categorical": rng.integers(0, 4, (ROWS, 6)),
        "discretized_logistic": grey,
        "poisson": counts,
        "negative_binomial": counts,
        "afresh": grey,
        "bf16": (grey > 8).astype(np.uint8),
        "compiled": (grey > 8).astype(np.uint8),
    }[kind]


VAES: dict[str, dict[str, Any]] = {
    "bernoulli": {"warm_up": 4},
    "normal": {"patience": 2},
    "categorical": {"objective": "iwae", "draws": 3},
    "discretized_logistic": {"max_value": 16, "network": "conv"},
    "poisson": {"learning_rate": lb.training.Cosine(3e-3, epochs=EPOCHS)},
    "negative_binomial": {"free_bits": 0.1, "beta": 0.5},
    "afresh": {"binarise": "afresh", "max_value": 16, "warm_up": 3, "patience": 3, "learning_rate": 0.02},
    "bf16": {"likelihood": "bernoulli", "precision": "bf16"},
    "compiled": {"likelihood": "bernoulli", "compile": True, "warm_up": 4},
}


def fit_vae(name: str, run: Path, callbacks: Callbacks = [], epochs: int = EPOCHS) -> lb.VAE:  # noqa: B006
    """A VAE with validation, by the estimator."""
    settings = {"likelihood": name} | VAES[name]
    if name == "afresh":
        del settings["likelihood"]
    vae = lb.VAE(
        3, hidden=(16,), batch_size=BATCH, epochs=epochs, random_state=0, threads=1, callbacks=callbacks, **settings
    )
    return vae.fit(rows(name), run_dir=run, checkpoint_every=EVERY)


def _fit(run: Path, model: lb.LatentVariableModel, data: Any, inference: Any, **options: Any) -> lb.Fit:
    """A fit on one thread, with a checkpoint every few steps."""
    return lb.fit(model, data, inference, batch_size=BATCH, threads=1, run_dir=run, checkpoint_every=EVERY, **options)


def fit_parts(run: Path, callbacks: Callbacks = [], epochs: int = EPOCHS) -> lb.Fit:  # noqa: B006
    """A model of parts, with dropout, in double precision, by SGD with momentum, without validation."""
    with lb.nn.seeded(0):
        encoder = lb.nn.MLP((8, 8), (6,), (16,))
        decoder = torch.nn.Sequential(torch.nn.Dropout(0.2), lb.nn.MLP((3,), (8, 8), (DECODER,)))
    model = lb.LatentVariableModel(lb.priors.Normal(3), decoder, lb.likelihoods.Bernoulli()).double()
    posterior = lb.posteriors.DiagonalNormal(3, encoder).double()
    data = lb.data.Rows.from_array(
        rows("afresh"), binarise="fixed", max_value=16, dtype=torch.float64, generator=generator(0, "binarise")
    )
    optimizer = partial(torch.optim.SGD, lr=1e-3, momentum=0.9)
    inference = lb.AEVB(posterior, learning_rate=lb.training.WarmUp(3, 1e-2), optimizer=optimizer)
    return _fit(
        run,
        model,
        data,
        inference,
        epochs=epochs,
        validation=0,
        callbacks=callbacks,
    )


def fit_finish(run: Path, callbacks: Callbacks = [], epochs: int = 3) -> lb.Fit:  # noqa: B006
    """A model with held-out rows that are learnt from in a last phase, which begins after step 21."""
    with lb.nn.seeded(0):
        encoder = lb.nn.MLP((5,), (6,), (16,), linear=True)
        likelihood = lb.likelihoods.Normal("dimension", (5,))
        model = lb.LatentVariableModel(lb.priors.Normal(3), lb.nn.MLP((3,), (5,), (16,)), likelihood)
    return _fit(
        run,
        model,
        rows("normal"),
        lb.AEVB(lb.posteriors.DiagonalNormal(3, encoder)),
        epochs=epochs,
        validation=0.1,
        finish=20,
        callbacks=callbacks,
    )


def fit_wake_sleep(method: Any, run: Path, callbacks: Callbacks = [], epochs: int = EPOCHS) -> lb.Fit:  # noqa: B006
    """A class above two normal latents, learnt by wake-sleep or its reweighted form; cells are missing."""
    with lb.nn.seeded(0):
        encoder, above = lb.nn.MLP((5,), (8,), (16,)), lb.nn.MLP((3,), (4,), ())
        posterior = lb.posteriors.Latents(
            {
                "y": lb.posteriors.Categorical(1, 3, lb.nn.MLP((8,), (3,), (), context=2)),
                "z": lb.posteriors.DiagonalNormal(2, lb.nn.MLP((8,), (4,), ())),
            },
            encoder=encoder,
            parents={"y": ["z"]},
        )
        parts = {"y": lb.priors.Categorical(1, 3), "z": lb.priors.ConditionalNormal(2, above)}
        likelihood = lb.likelihoods.Normal("dimension", (5,))
        prior = lb.priors.Latents(parts, parents={"z": ["y"]})
        model = lb.LatentVariableModel(prior, lb.nn.MLP((2,), (5,), (16,)), likelihood, parents=["z"])
    x = rows("normal")
    x[::7, 1] = np.nan
    return _fit(
        run,
        model,
        x,
        method(posterior, draws=2),
        epochs=epochs,
        validation=0.1,
        callbacks=callbacks,
    )


def fit_em(run: Path, callbacks: Callbacks = [], epochs: int = EPOCHS) -> lb.Fit:  # noqa: B006
    """A mixture of normals of full covariance, by exact EM."""
    x = rows("normal")
    return _fit(
        run,
        lb.recipes.gaussian_mixture(x, 2),
        lb.data.Rows.from_array(x, dtype=torch.float64),
        lb.EM(),
        epochs=epochs,
        callbacks=callbacks,
    )


def fit_mcem(run: Path, callbacks: Callbacks = [], epochs: int = EPOCHS) -> lb.Fit:  # noqa: B006
    """A decoder with hidden units, by Monte Carlo EM; cells are missing."""
    with lb.nn.seeded(0):
        decoder, likelihood = lb.nn.MLP((2,), (5,), (16,)), lb.likelihoods.Normal("dimension", (5,))
    x = rows("normal")
    x[::7, 1] = np.nan
    return _fit(
        run,
        lb.LatentVariableModel(lb.priors.Normal(2), decoder, likelihood),
        x,
        lb.MonteCarloEM(leapfrogs=3, pilot=2, transitions=2, chains=2),
        epochs=epochs,
        callbacks=callbacks,
    )


FITS: dict[str, Callable[..., Any]] = {name: partial(fit_vae, name) for name in VAES}
FITS |= {"parts": fit_parts, "finish": fit_finish}
FITS |= {"wake-sleep": partial(fit_wake_sleep, lb.WakeSleep)}
FITS |= {"reweighted": partial(fit_wake_sleep, lb.ReweightedWakeSleep)}
FITS |= {"em": fit_em, "mcem": fit_mcem}


def die_at(step: int) -> Callable[[Any], None]:
    """A callback that kills its own process with SIGKILL at ``step``, or as soon as it is told after it."""

    def callback(event: Any) -> None:
        if event.step >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    return callback


def fit_until_killed(name: str, run: Path, *steps: int) -> None:
    """Fit by name; the process kills itself at each of ``steps`` that it comes to."""
    warnings.simplefilter("error")
    FITS[name](run, [die_at(step) for step in steps])
