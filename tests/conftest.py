"""One thread a test process: two processes of two threads on two cores wait for each other. What tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from oracles import PPCA  # noqa: E402

LONG = {
    "test_annealing",
    "test_calibration",
    "test_context",
    "test_contracts",
    "test_distributions",
    "test_evidence",
    "test_forged_folders",
    "test_gaps",
    "test_gradients",
    "test_imputer",
    "test_judging",
    "test_linear",
    "test_new_values",
    "test_parts",
    "test_posteriors",
    "test_precision",
    "test_queries",
    "test_row_independence",
    "test_rowwise",
    "test_schema_forged",
    "test_tables",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage without the modules that compute most: following each of their lines costs a quarter more."""
    for item in items:
        if item.path.stem in LONG:
            item.add_marker(pytest.mark.no_cover)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, whose rounds would take half of the time: all that is made stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def linear() -> tuple[PPCA, torch.Tensor]:
    """Probabilistic PCA with 5 latents, and the 400 rows that it is fitted to."""
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 5)) @ random.normal(size=(5, 8)) + 0.5 * random.normal(size=(400, 8))
    return PPCA.of(x, 5), torch.tensor(x)
