"""Diagnostics against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from lowerbound.diagnostics import active_units


def test_a_latent_is_active_when_its_means_vary_more_than_the_threshold():
    two_values = np.array([[-1.0], [1.0]])  # of variance 1, so that a scale squared is the variance
    means = 5 + two_values * np.sqrt([0.0, 0.0099, 0.0101, 1.0])
    assert active_units(means).tolist() == [False, False, True, True]
    assert active_units(means, threshold=0.5).tolist() == [False, False, False, True]


def test_single_precision_far_from_zero_is_not_taken_for_activity():
    means = np.full((100_000, 2), 1000.1, np.float32)
    means[::2, 1] += 1
    assert active_units(means).tolist() == [False, True]


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (4,)])
def test_too_few_rows_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 rows"):
        active_units(np.zeros(shape))
