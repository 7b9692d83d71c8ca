"""Diagnostics on plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST_DRAWS = 12  # per chain, for halves with autocorrelations


def active_units(means: NDArray[Any], threshold: float = 0.01) -> NDArray[np.bool_]:
    """Return which latents are active, ``[d]``: Var_x(E_q[z_j|x]) > ``threshold``, from posterior means ``[N, d]``.

    Burda et al. 2016, §5.2. Raises ``ValueError`` for fewer than 2 rows.
    """
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"active_units needs means [N, d] with at least 2 rows, got an array of shape {means.shape}.")
    active: NDArray[np.bool_] = means.var(0, dtype=np.float64) > threshold
    return active


def rhat(draws: NDArray[Any]) -> NDArray[np.float64]:
    """Return the convergence diagnostic R̂ of chains ``draws [T, C, …]``, for each number in them, ``[…]``.

    The larger one of the bulk and the tails: split R̂ of rank-normalised draws, and of their distances from the median.
    Values above 1.01 mean that the chains have not mixed. 1 for draws that are all equal. Vehtari et al. 2021.
    """
    halves = _halves(draws)
    folded = np.abs(halves - np.median(halves, (0, 1)))
    found: NDArray[np.float64] = np.maximum(_split_rhat(_normal_scores(halves)), _split_rhat(_normal_scores(folded)))
    return found


def effective_sample_size(draws: NDArray[Any]) -> NDArray[np.float64]:
    """Return the bulk effective sample size of chains ``draws [T, C, …]``, for each number in them, ``[…]``.

    T·C/τ with τ = 1 + 2 Σ_t ρ_t of the rank-normalised, split chains; the sum ends by Geyer's initial monotone
    sequence. T·C for draws that are all equal. Vehtari et al. 2021; Geyer 1992.
    """
    scores = _normal_scores(_halves(draws))
    length, chains = scores.shape[:2]
    centred = scores - scores.mean(0)
    power = np.abs(np.fft.rfft(centred, 2 * length, axis=0)) ** 2
    covariance = np.fft.irfft(power, axis=0)[:length].mean(1) / length
    within = covariance[0] * length / (length - 1)
    total = covariance[0] + scores.mean(0).var(0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = 1 - (within - covariance) / total
    rho[0] = 1
    count = (length - 1) // 2  # pairs of lags; the last ones rest on too few draws
    pairs = rho[: 2 * count].reshape(count, 2, *rho.shape[1:])
    positive = np.cumprod(pairs.sum(1) > 0, 0).astype(bool)
    positive[0], positive[-1] = True, False
    monotone = np.minimum.accumulate(np.where(positive, pairs.sum(1), np.inf), 0)
    ends = np.diff(positive.astype(int), axis=0, append=0) < 0  # the last pair of each sum
    after = np.roll(ends, 1, 0)
    after[0] = False
    tau = -1 + 2 * np.where(positive, monotone, 0).sum(0) + np.where(after, np.maximum(pairs[:, 0], 0), 0).sum(0)
    size = length * chains
    found: NDArray[np.float64] = size / np.maximum(tau, 1 / np.log10(size))
    return np.where(total > 0, found, size)


def _halves(draws: NDArray[Any]) -> NDArray[np.float64]:
    """Each chain as two, ``[T/2, 2C, …]``; if T is odd, without the draw in the middle."""
    if draws.ndim < 2 or len(draws) < _LEAST_DRAWS:
        raise ValueError(
            f"draws must be [T, C, …] with T of at least {_LEAST_DRAWS}, got an array of shape {draws.shape}."
        )
    half = len(draws) // 2
    return np.concatenate([draws[:half], draws[-half:]], 1).astype(np.float64)


def _normal_scores(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal quantiles of the draws' ranks in all chains, Φ⁻¹((r − 3/8)/(S + 1/4)). Blom 1958."""
    from scipy import special, stats

    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1)
    ranks = stats.rankdata(flat, axis=0).reshape(draws.shape)
    scores: NDArray[np.float64] = special.ndtri((ranks - 0.375) / (len(flat) + 0.25))
    return scores


def _split_rhat(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """√((W (T − 1)/T + B)/W) with B the variance of the chains' means and W the mean of their variances."""
    length = len(draws)
    within, between = draws.var(0, ddof=1).mean(0), draws.mean(0).var(0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = np.sqrt((within * (length - 1) / length + between) / within)
    return np.where((within == 0) & (between == 0), 1.0, found)
