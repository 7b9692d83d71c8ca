"""The fits that faults are done to: small ones on digits, of several likelihoods, networks and optimisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lowerbound as lb
from lowerbound.training import Callback

EVERY = 5
ROWS = 600
BASE: dict[str, Any] = {"latent_dim": 3, "hidden": (16,), "epochs": 12, "batch_size": 50, "patience": 5, "threads": 1}

Own = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Victim:
    """A fit into a folder, and the networks that ``load`` needs back."""

    fit: Callable[..., object]
    own: Own = dict


@cache
def digits() -> np.ndarray[Any, Any]:
    """Rows of 8 × 8 pixels from 0 to 16."""
    return lb.data.digits().train[:ROWS]


def fit_vae(
    options: dict[str, Any], run: Path, callback: Callback = lambda event: None, every: int = EVERY, **more: Any
) -> lb.VAE:
    """A fit of the estimator."""
    vae = lb.VAE(**(BASE | {"random_state": 0} | options), callbacks=[callback])
    x = digits().astype(np.float32) if options.get("likelihood") == "Normal" else digits()
    return vae.fit(x, run_dir=run, checkpoint_every=every, **more)


def networks() -> dict[str, Any]:
    """Networks that are not the library's; one draws from torch's own generator."""
    with lb.nn.seeded(1):
        encoder = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.Dropout(0.2), torch.nn.Tanh(), torch.nn.Linear(16, 6)
        )
        decoder = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Unflatten(1, (8, 8)))
    return {"encoder": encoder, "decoder": decoder}


def fit_parts(run: Path, callback: Callback = lambda event: None, every: int = EVERY, **more: Any) -> lb.Fit:
    """A fit of parts put together by hand: dropout, momentum, a cosine schedule, no validation."""
    own, x = networks(), (torch.tensor(digits()) > 8).float()
    model = lb.LatentVariableModel(lb.priors.Normal(3), own["decoder"], lb.likelihoods.Bernoulli())
    posterior = lb.posteriors.DiagonalNormal(3, own["encoder"])
    inference = lb.AEVB(
        posterior,
        learning_rate=lb.training.Cosine(1e-4, epochs=12),
        optimizer=partial(torch.optim.SGD, momentum=0.9),
    )
    options = {"epochs": 12, "batch_size": 50, "validation": 0, "threads": 1, "callbacks": [callback]}
    return lb.fit(model, x, inference, run_dir=run, checkpoint_every=every, **options, **more)


def fit_without_encoder(
    kind: str, run: Path, callback: Callback = lambda event: None, every: int = EVERY, **more: Any
) -> lb.Fit:
    """A fit by "EM", of a mixture, or by "MonteCarloEM", of a decoder with hidden units."""
    x = digits().reshape(ROWS, -1).astype(np.float64)[:, ::4]
    rows, inference = lb.data.Rows.from_array(x, dtype=torch.float64), lb.EM()
    model = lb.recipes.gaussian_mixture(x, 3, "diagonal")
    if kind == "MonteCarloEM":
        with lb.nn.seeded(1):
            decoder = lb.nn.MLP((3,), (16,), (16,))
        likelihood = lb.likelihoods.Normal("scalar", shape=(16,))
        model = lb.LatentVariableModel(lb.priors.Normal(3), decoder, likelihood).double()
        inference = lb.MonteCarloEM(leapfrogs=2, pilot=1, transitions=1, updates=1)
    options = {"epochs": 12, "batch_size": 50, "threads": 1, "callbacks": [callback]}
    return lb.fit(model, rows, inference, run_dir=run, checkpoint_every=every, **options, **more)


def _vae(**options: Any) -> Victim:
    return Victim(partial(fit_vae, options))


VICTIMS = {
    "Bernoulli, binarised afresh, warm-up": _vae(binarise="afresh", max_value=16, warm_up=2),
    "Poisson, free bits": _vae(likelihood="Poisson", free_bits=0.1),
    "Normal, importance-weighted": _vae(likelihood="Normal", objective="iwae", draws=3),
    "discretised logistic, convolutions": _vae(
        likelihood="DiscretizedLogistic", network="conv", max_value=16, epochs=8
    ),
    "negative binomial, β = 0.5": _vae(likelihood="NegativeBinomial", beta=0.5),
    "categorical": _vae(likelihood="Categorical"),
    "own networks, dropout, momentum": Victim(fit_parts, networks),
    "wake-sleep": _vae(binarise="afresh", max_value=16, inference="wake-sleep"),
    "reweighted wake-sleep": _vae(likelihood="Poisson", inference="reweighted-wake-sleep", draws=3),
    "exact EM": Victim(partial(fit_without_encoder, "EM")),
    "chains per row": Victim(partial(fit_without_encoder, "MonteCarloEM")),
    "a q per row": _vae(likelihood="Normal", inference="local"),
    "an encoder's q, refined": _vae(likelihood="Poisson", inference="semi-amortised"),
    "weights with a posterior": _vae(binarise="afresh", max_value=16, inference="full-vb"),
}
