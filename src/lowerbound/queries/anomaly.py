"""Anomaly scores: −log p(x) of a row, split into contributions of its cells and of its latents."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lowerbound.evidence.estimates import Array
from lowerbound.likelihoods import Factorised
from lowerbound.model import LatentVariableModel
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.queries.posterior_sampling import ENOUGH, Part, Sampling, parts
from lowerbound.row_source import RowSource


@dataclass(frozen=True)
class Anomaly:
    """Anomaly scores per row, in nats: ``score`` = Σ ``cells`` + ``latent``.

    - ``score [N]``: −log p(x_observed), estimated by importance sampling.
    - ``cells [N, *X]``: −E[log p(x_j|z)] over p(z|x_observed); 0 for missing cells.
    - ``latent [N]``: KL(p(z|x_observed) ‖ p(z)), the distance of the row's latents from the prior.
    - ``standard_error [N]`` and ``ess [N]``: Monte Carlo error and effective sample size of the score.
    """

    score: Array
    standard_error: Array
    cells: Array
    latent: Array
    ess: Array


@read_only
def anomaly(
    model: LatentVariableModel, posterior: Posterior, rows: RowSource, rng: torch.Generator, samples: int = 1000
) -> Anomaly:
    """Score ``rows`` by −log p(x_observed) = −Σ_j E[log p(x_j|z)] + KL(p(z|x_observed) ‖ p(z)), in nats.

    All terms use the same weighted draws z_k ~ q(z|x_observed), k = 1 … ``samples``, so that the identity holds exactly
    for the estimates. Rows with too few effective draws are sampled again with a fitted proposal and more draws
    (``Sampling``); a warning counts those that still have too few. Rows without observed cells score 0.

    Contributions of discrete and continuous columns are not comparable, because densities depend on the units. Raises
    ValueError if the likelihood is not ``Factorised``. An & Cho 2015; for limitations, Nalisnick et al. 2019.
    """
    if not isinstance(model.likelihood, Factorised):
        raise ValueError(
            "anomaly needs cells that are independent given z, but those of "
            f"{type(model.likelihood).__name__} are not; use log_likelihood for the score alone."
        )
    score, error, latent, ess = (np.zeros(len(rows)) for _ in range(4))
    cells = np.zeros((len(rows), *rows.shape))
    for part in parts(model, posterior, rows, rng, Sampling(samples, refine=None), warn=False):
        estimate, error[part.places], ess[part.places], _ = part.answered(part.totals, 1).cpu().numpy()
        own = part.answered(_cells(model, model.likelihood, part)).cpu().numpy()
        score[part.places], cells[part.places] = -estimate, own
        rest = -estimate - own.reshape(len(own), -1).sum(1)
        latent[part.places] = np.where(np.isfinite(estimate), rest, 0.0)
    if (few := int((ess < min(ENOUGH, samples / 2)).sum())) > 0:
        warnings.warn(
            f"importance sampling has fewer than {ENOUGH} effective draws for {few} of {len(rows)} rows, whose scores "
            "are noisy and too high on average; use more samples.",
            stacklevel=3,
        )
    return Anomaly(score, error, cells, latent, ess)


def _cells(model: LatentVariableModel, likelihood: Factorised, part: Part) -> Tensor:
    """−Σ_k share_k log p(x_j|z_k), ``[B, *X]``."""
    x, mask = part.batch.x, part.batch.mask  # 0 where nothing is observed
    mean = part.mean(model, lambda params: likelihood.log_prob_per_value(params, x))
    return -mean if mask is None else torch.where(mask, -mean, 0)
