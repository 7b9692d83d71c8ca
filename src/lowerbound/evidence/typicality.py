"""Typicality: whether rows are out of distribution, by log p(x) and by the two terms of its bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.distributions import generator
from lowerbound.draw import Batch
from lowerbound.errors import DataError
from lowerbound.evidence.importance import WeightTotal, chunks
from lowerbound.evidence.targets import like_of, settled
from lowerbound.inference import Data
from lowerbound.model import LatentVariableModel, draw
from lowerbound.modes import read_only
from lowerbound.posteriors import Posterior
from lowerbound.training import in_order

Array = NDArray[np.float64]
_ROWS = 100  # rows per batch


@dataclass(frozen=True)
class Terms:
    """Terms per row, in nats, ``[N]``: ``log_p``, an estimate of log p(x); ``log_lik``, E_q[log p(x|z)]; ``kl``,
    KL(q(z|x) ‖ p(z))."""

    log_p: Array
    log_lik: Array
    kl: Array


@dataclass(frozen=True)
class Typicality:
    """p-values of rows compared with reference rows; small values mean out of distribution.

    ``p_values [N, 3]``: two-sided, for each of the terms ``names``. ``p_value [N]``: of the three together, by
    Bonferroni's correction. ``low_density [N]``: one-sided, for low log p(x) only.
    """

    p_values: Array
    p_value: Array
    low_density: Array
    names: tuple[str, str, str] = ("log p(x)", "E log p(x|z)", "KL")


@read_only
def terms(model: LatentVariableModel, posterior: Posterior, x: Data, *, samples: int = 100, seed: int = 0) -> Terms:
    """Estimate log p(x) of rows ``x [N, *X]`` and the two terms of the ELBO from the same draws.

    ``samples``: draws per row. If the KL has no closed form, it is the mean of log q(z|x) − log p(z) over draws.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    like = like_of(model)
    rng = generator(seed, "typicality", device=like.device)
    rows = settled(x, model, rng)
    width = math.prod(rows.shape) * model.likelihood.n_parameters
    parts = []
    for batch, real in in_order(rows, min(_ROWS, len(rows)), rng):
        weights, sums = WeightTotal(), torch.zeros(2, len(batch.x), dtype=torch.float64, device=like.device)
        for some in chunks(samples, len(batch.x), width):
            log_w, both = _of_draws(model, posterior, batch, some, rng)
            weights.add(log_w)
            sums = sums + both
        parts.append(torch.cat([weights.result()[:1], sums / samples])[:, :real])
    return Terms(*torch.cat(parts, 1).cpu().numpy())


def typicality(reference: Terms, new: Terms) -> Typicality:
    """Compare the rows of ``new`` with those of ``reference``.

    Tests are two-sided, because a row with a *high* density can also be out of distribution: in many dimensions,
    typical rows are far from the mode. The p-values are exact for any model that was fitted to neither set of rows.
    With M reference rows, the smallest is 2/(M + 1). Nalisnick et al. 2019.
    """
    if not len(reference.log_p):
        raise DataError("reference has no rows; give terms of held-out rows that are in distribution.")
    known, asked = _columns(reference), _columns(new)
    p_values = two_sided(known, asked)
    below = np.searchsorted(np.sort(reference.log_p), new.log_p, side="right")
    return Typicality(p_values, bonferroni(p_values), (1 + below) / (1 + len(known)))


def two_sided(reference: Array, new: Array) -> Array:
    """Two-sided p-values ``[N, T]`` of ``new [N, T]`` among ``reference [M, T]``, per column.

    Twice the smaller of the shares of values (the new one included) that are not larger, and not smaller; at most 1.
    """
    found = []
    for known, values in zip(np.sort(reference, 0).T, new.T, strict=True):
        no_larger = np.searchsorted(known, values, side="right")
        no_smaller = len(known) - np.searchsorted(known, values, side="left")
        found.append(2 * (1 + np.minimum(no_larger, no_smaller)) / (1 + len(known)))
    p_values: Array = np.minimum(1.0, np.stack(found, 1))
    return p_values


def bonferroni(p_values: Array) -> Array:
    """The joint p-value ``[…]`` of ``p_values […, T]``: T times the smallest, at most 1."""
    together: Array = np.minimum(1.0, p_values.shape[-1] * p_values.min(-1))
    return together


def _of_draws(
    model: LatentVariableModel, posterior: Posterior, batch: Batch, draws: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """log w ``[K, B]``, and the sums over K draws of log p(x|z) and of the KL, ``[2, B]``."""
    drawn = draw(model, posterior, batch, rng, draws)
    return drawn.log_w, torch.stack([drawn.log_lik.double().sum(0), draws * drawn.mean_kl.double()])


def _columns(terms: Terms) -> Array:
    return np.stack([terms.log_p, terms.log_lik, terms.kl], 1)
