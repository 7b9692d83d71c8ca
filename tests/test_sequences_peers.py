"""The Kalman filter and smoother next to those of statsmodels, where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lowerbound.inference import state_space
from test_sequences import all_of, linear_model, linear_rows

peer: Any = pytest.importorskip("statsmodels.tsa.statespace.kalman_smoother")


@pytest.mark.parametrize(("d", "width", "lengths"), [(1, 1, (6, 3, 1, 6)), (2, 3, (5, 6, 2, 6)), (3, 2, (6, 6, 4, 6))])
def test_it_agrees_with_statsmodels(d: int, width: int, lengths: tuple[int, ...]) -> None:
    """log p(x), filtered and smoothed means and covariances, of missing values and rows of different lengths."""
    model = linear_model(d, width, 6)
    rows = linear_rows(model, lengths)
    batch = all_of(rows)
    with torch.no_grad():
        space = state_space(model)
        log_p, mean, covariance = space.filtered(batch.x, batch.mask)
        smooth, spread = space.posterior(batch.x, batch.mask, model.prior_given()).marginals()
    given = {name: value.detach().numpy() for name, value in vars(space).items()}
    for i, length in enumerate(lengths):
        theirs = peer.KalmanSmoother(k_endog=width, k_states=d, k_posdef=d)
        for name, value in (
            ("design", given["emission"]),
            ("obs_intercept", given["offset"]),
            ("obs_cov", np.diag(given["error"])),
            ("transition", given["transition"]),
            ("state_intercept", given["bias"]),
            ("selection", np.eye(d)),
            ("state_cov", np.diag(given["noise"])),
        ):
            theirs[name] = value
        theirs.initialize_known(given["mean"], np.diag(given["start"]))
        x = torch.where(batch.mask[i], batch.x[i], torch.nan)[:length].numpy()
        theirs.bind(np.ascontiguousarray(x))
        found = theirs.smooth()
        np.testing.assert_allclose(log_p[i], found.llf, rtol=0, atol=1e-8)
        for own, due in (
            (mean, found.filtered_state.T),
            (smooth, found.smoothed_state.T),
            (covariance, found.filtered_state_cov.transpose(2, 0, 1)),
            (spread, found.smoothed_state_cov.transpose(2, 0, 1)),
        ):
            np.testing.assert_allclose(own[i, :length], due, rtol=0, atol=1e-8)
