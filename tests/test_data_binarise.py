"""Binarisation: its frequencies, its independence, and when it is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.data import Rows
from lowerbound.errors import DataError

Sampler = Callable[[Tensor, float, torch.Generator], Tensor]
LEVELS = (1, 2, 64, 128, 254)
Z_LIMIT = 5.61  # two-sided false-alarm rate 2e-8 a comparison, under 1e-6 for all those of a test


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(rows: Rows, seed: int = 0) -> Tensor:
    index = torch.arange(len(rows))
    return rows.batch(index, torch.full((len(rows),), 1 / len(rows)), generator(seed)).x


def largest_z(sample: Sampler, dtype: torch.dtype, max_value: float) -> float:
    """Largest |z| of the frequency of ones against g / max_value over the levels, of 200,000 draws each."""
    n, largest = 200_000, 0.0
    for level in LEVELS:
        p = level / 255
        x = torch.full((n, 1), level if dtype == torch.uint8 else p * max_value, dtype=dtype)
        ones = float(sample(x, max_value, generator(level)).sum())
        largest = max(largest, abs(ones - n * p) / math.sqrt(n * p * (1 - p)))
    return largest


def by_fixed(x: Tensor, max_value: float, g: torch.Generator) -> Tensor:
    return Rows(x, binarise="fixed", max_value=max_value, generator=g).x


def by_batch(x: Tensor, max_value: float, g: torch.Generator) -> Tensor:
    rows = Rows(x, binarise="afresh", max_value=max_value)
    return rows.batch(torch.arange(len(x)), torch.ones(len(x)), g).x


def by_threshold(x: Tensor, max_value: float, g: torch.Generator) -> Tensor:
    return (x > max_value / 2).to(torch.uint8)


def by_one_too_bright(x: Tensor, max_value: float, g: torch.Generator) -> Tensor:
    return (x >= torch.randint(int(max_value), x.shape, generator=g, dtype=torch.uint8)).to(torch.uint8)


def test_binarisation_has_the_right_frequencies() -> None:
    for sample in (by_fixed, by_batch):
        assert largest_z(sample, torch.uint8, 255) < Z_LIMIT
        assert largest_z(sample, torch.float32, 1.0) < Z_LIMIT
    assert largest_z(by_fixed, torch.float64, 16.0) < Z_LIMIT


@pytest.mark.parametrize("mutant", [by_threshold, by_one_too_bright])
def test_the_frequency_test_rejects_a_wrong_sampler(mutant: Sampler) -> None:
    assert largest_z(mutant, torch.uint8, 255) > Z_LIMIT


def pair_z(ones: Tensor) -> float:
    """|z| of the correlation, over rows and over columns, of neighbours among independent fair-ish draws."""
    centred = ones.double() - 128 / 255
    variance = 128 / 255 * 127 / 255
    zs = [
        float(t.sum()) / (variance * math.sqrt(t.numel()))
        for t in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1])
    ]
    return max(abs(z) for z in zs)


def test_pixels_are_drawn_independently_and_a_shared_draw_is_rejected() -> None:
    grey = torch.full((500, 400), 128, dtype=torch.uint8)
    assert pair_z(by_fixed(grey, 255, generator())) < Z_LIMIT
    shared = (grey > torch.randint(255, (500, 1), generator=generator())).to(torch.uint8)
    assert pair_z(shared.expand(500, 400)) > Z_LIMIT


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("max_value", [1, 16, 255])
def test_black_and_white_are_certain(dtype: torch.dtype, max_value: int) -> None:
    x = torch.tensor([0, max_value], dtype=dtype).repeat(50_000, 1)
    drawn = by_fixed(x, max_value, generator())
    assert not drawn[:, 0].any()
    assert drawn[:, 1].all()


def test_fixed_stays_and_afresh_changes() -> None:
    grey = torch.full((20, 30), 100, dtype=torch.uint8)
    fixed = Rows(grey, binarise="fixed", generator=generator(3))
    afresh = Rows(grey, binarise="afresh")
    assert fixed.x.dtype == torch.uint8
    assert torch.equal(whole(fixed, 0), whole(fixed, 1))
    assert not torch.equal(whole(afresh, 0), whole(afresh, 1))
    assert torch.equal(whole(afresh, 5), whole(afresh, 5))
    assert torch.equal(Rows(grey, binarise="fixed", generator=generator(3)).x, fixed.x)
    assert not torch.equal(Rows(grey, binarise="fixed", generator=generator(4)).x, fixed.x)
    assert torch.equal(afresh.x, grey)


def test_a_generator_goes_on_from_batch_to_batch() -> None:
    rows, g = Rows(torch.full((20, 30), 0.5), binarise="afresh"), generator()
    index, weight = torch.arange(20), torch.full((20,), 0.05)
    assert not torch.equal(rows.batch(index, weight, g).x, rows.batch(index, weight, g).x)


def test_bool_is_its_own_binarisation() -> None:
    x = torch.rand(40, 7, generator=generator()) < 0.3
    rows = Rows(x, binarise="fixed", generator=generator())
    assert torch.equal(whole(rows), x.float())


@pytest.mark.parametrize(
    ("x", "max_value", "said"),
    [
        (torch.tensor([[0, 9], [3, 17], [18, 0]], dtype=torch.uint8), 16, r"row 1, column 1 is 17, .*\[0, 16\]"),
        (torch.tensor([[0.5], [-0.25]]), None, r"row 1, column 0 is -0.25, outside \[0, 1\]"),
        (torch.tensor([[[0.5, float("nan")]]]), None, r"row 0, position \(0, 1\) is nan"),
        (torch.tensor([0, 200, 300]), None, "row 1 is 200, .*as max_value"),
    ],
)
def test_a_value_that_is_no_grey_is_refused(x: Tensor, max_value: float | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Rows(x, binarise="afresh", max_value=max_value)
    Rows(x)


def test_the_bits_of_a_grey_row_are_scored_each_by_a_threshold_of_its_own():
    """Over seeds a score spreads as log p of independent bits does: of one threshold for all of a row it does not."""
    vae = lb.VAE(1, binarise="afresh", hidden=(8,), epochs=1, random_state=0)
    vae.fit(np.random.default_rng(0).uniform(size=(100, 4)))
    with torch.no_grad():
        vae.model_.decoder.layers[-1].weight.zero_()
        vae.model_.decoder.layers[-1].bias.copy_(torch.tensor([2.0, -1.5, 0.5, -3.0]))
        for parameter in vae.posterior_.encoder.second.layers[-1].parameters():
            parameter.zero_()  # q = p(z): two draws are exact
    x, logit = np.array([[0.5, 0.5, 0.5, 0.5], [0.9, 0.3, 0.6, 0.2]]), np.array([2.0, -1.5, 0.5, -3.0])
    seed, scores = vae.seed_, []
    try:
        for vae.seed_ in range(300):
            scores.append(vae.score_samples(x, samples=2))
    finally:
        vae.seed_ = seed
    due = (x * (1 - x) * logit**2).sum(1)  # a bit moves log p by its logit
    np.testing.assert_allclose(np.var(scores, 0), due, rtol=0.3)
    together = np.minimum.outer(x[0], x[0]) - np.multiply.outer(x[0], x[0])  # covariance of bits by one threshold
    assert logit @ together @ logit < 0.5 * due[0]
