"""Models of sequences, assembled from the parts of this library; ``recipes`` offers them by name."""

from __future__ import annotations

import torch

from lowerbound import likelihoods, posteriors, priors
from lowerbound.data import Sequences
from lowerbound.likelihoods import Bernoulli
from lowerbound.likelihoods.base import Factorised
from lowerbound.model import LatentVariableModel
from lowerbound.nn import (
    MLP,
    Cells,
    EachStep,
    GatedTransition,
    Recurrent,
    StepReader,
    Summary,
    Unrolled,
    seeded,
)
from lowerbound.posteriors import Posterior

_MOST = 2000  # rows from which a model starts


def deep_kalman_filter(
    rows: Sequences,
    latent_dim: int = 16,
    hidden: int = 64,
    *,
    likelihood: Factorised | None = None,
    cells: Cells | None = None,
    seed: int = 0,
) -> tuple[LatentVariableModel, Posterior]:
    """The deep Kalman filter: p(z_t|z_{t−1}) p(x_t|z_t), and q(z_t|z_{t−1}, h_t) with h_t a summary of x_{t:T}.

    ``hidden``: the units of the gated transition, of the emission's hidden layer and of the GRU. ``likelihood``: of one
    step, by default ``Bernoulli``. ``cells``: how the GRU reads the steps of a table. The model starts from ``rows``;
    it and the posterior are for ``fit(model, rows, AEVB(posterior))``. Krishnan, Shalit & Sontag 2017.
    """
    shape, steps = rows.shape[1:], rows.shape[0]
    given = Bernoulli() if likelihood is None else likelihood
    with seeded(seed):
        prior = priors.Markov(latent_dim, steps, GatedTransition(latent_dim, hidden))
        decoder = EachStep(MLP((latent_dim,), _outputs(given, shape), (hidden,)), given.n_parameters)
        encoder = Recurrent(shape, hidden, hidden, cells=cells)
        combined = MLP((latent_dim,), (2 * latent_dim,), (hidden,), context=hidden)
        posterior = posteriors.Markov(latent_dim, encoder, steps, combined)
    model = LatentVariableModel(prior, decoder, likelihoods.EachStep(given))
    _start(model, rows, cells)
    return model, posterior


def vrnn(
    rows: Sequences,
    latent_dim: int = 16,
    hidden: int = 64,
    *,
    likelihood: Factorised | None = None,
    smoothing: bool = False,
    seed: int = 0,
) -> tuple[LatentVariableModel, Posterior]:
    """The variational RNN: p(z_t|h_t) p(x_t|z_t, h_t), with h_t a GRU of x_{1:t−1} and z_{1:t−1}, and q(z_t|h_t, x_t).

    ``smoothing``: q reads x_{t:T} by a backward GRU instead of x_t alone. ``hidden``: the units of the GRU and of all
    hidden layers. ``likelihood``: of one step, by default ``Bernoulli``. The model and the posterior are for
    ``fit(model, rows, AEVB(posterior))`` or ``FIVO(posterior)``. Chung et al. 2015.
    """
    shape, steps = rows.shape[1:], rows.shape[0]
    given = Bernoulli() if likelihood is None else likelihood
    with seeded(seed):
        prior = priors.Recurrent(latent_dim, steps, shape, hidden)
        network = MLP((latent_dim + hidden,), _outputs(given, shape), (hidden,))
        encoder = Recurrent(shape, hidden, hidden) if smoothing else StepReader(shape, hidden, hidden)
        combined = MLP((hidden,), (2 * latent_dim,), (hidden,), context=hidden)
        posterior = posteriors.Recurrent(latent_dim, encoder, steps, hidden, combined)
    model = LatentVariableModel(prior, EachStep(network, given.n_parameters), likelihoods.EachStep(given))
    _start(model, rows)
    return model, posterior


def sequence_vae(
    rows: Sequences,
    latent_dim: int = 16,
    hidden: int = 64,
    *,
    likelihood: Factorised | None = None,
    seed: int = 0,
) -> tuple[LatentVariableModel, Posterior]:
    """One latent per sequence: q(z|x) by a GRU that reads the row in both directions, p(x|z) by a GRU that starts at z.

    ``hidden``: the units of each GRU. ``likelihood``: of one step, by default ``Bernoulli``. Bowman et al. 2016,
    without feeding x back to the decoder, so that all of x that the steps share is in z.
    """
    shape, steps = rows.shape[1:], rows.shape[0]
    given = Bernoulli() if likelihood is None else likelihood
    with seeded(seed):
        decoder = Unrolled(latent_dim, steps, _outputs(given, shape), given.n_parameters, hidden)
        posterior = posteriors.DiagonalNormal(latent_dim, Summary(shape, 2 * latent_dim, hidden))
    model = LatentVariableModel(priors.Normal(latent_dim), decoder, likelihoods.EachStep(given))
    _start(model, rows)
    return model, posterior


def _outputs(likelihood: Factorised, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if likelihood.n_parameters == 1 else (likelihood.n_parameters, *shape)


def _start(model: LatentVariableModel, rows: Sequences, cells: Cells | None = None) -> None:
    """Start the model where each value has its own distribution in the first rows."""
    index = torch.arange(min(len(rows), _MOST))
    batch = rows.batch(index, torch.ones(len(index)))
    model.initialise(batch.x, batch.mask)
    if cells is not None:
        seen = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
        there = seen.flatten(0, 1).any(1)
        cells.fit(batch.x.flatten(0, 1)[there], seen.flatten(0, 1)[there])
