"""Samples of a chain that a topic model keeps, and what averages over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import lowerbound as lb
from lowerbound import topics
from lowerbound.process import seeded
from lowerbound.training import Event


def chain(samples: int, epochs: int) -> tuple[topics.DeepLDAModel, list[dict[str, torch.Tensor]]]:
    """A fitted model, and its Φ and r after each epoch."""
    counts = np.random.default_rng(0).poisson(1.0, (30, 6))
    with seeded(0):
        model = topics.DeepLDAModel(6, [3, 2], samples=samples, burn_in=5, collected=5)
    states = []

    def note(event: Event) -> None:
        if event.record is not None:
            states.append({name: model.get_buffer(name).clone() for name in ("phi_1", "phi_2", "r")})

    rows = lb.data.Counts.from_sparse(csr_matrix(counts))
    lb.fit(model, rows, topics.TLASGR(), epochs=epochs, batch_size=15, validation=0, callbacks=[note])
    return model, states


@pytest.mark.parametrize(
    ("samples", "epochs", "expected"),
    [
        (1, 5, [5]),
        (3, 0, [0]),
        (3, 2, [1, 2]),
        (3, 5, [3, 4, 5]),
        (3, 13, [11, 12, 13]),  # two epochs apart from the 12th on, and the last one
        (3, 30, [24, 28, 30]),
        (2, 32, [28, 32]),
    ],
)
def test_samples_are_those_of_the_second_half(samples: int, epochs: int, expected: list[int]) -> None:
    if epochs:
        model, states = chain(samples, epochs)
    else:
        model = topics.DeepLDAModel(6, [3, 2], samples=samples)
        states = []
    states.insert(0, {name: model.get_buffer(name) for name in ("phi_1", "phi_2", "r")})
    found = list(model.each_sample())
    assert len(found) == len(expected)
    for sample, epoch in zip(found, expected, strict=True):
        for name, value in states[epoch].items():
            assert torch.equal(sample.get_buffer(name), value), (epoch, name)


def test_perplexity_averages_the_probabilities_of_the_samples() -> None:
    model, _ = chain(3, 6)
    seen, held = (lb.data.Counts.from_sparse(csr_matrix(np.full((4, 6), each))).csr for each in (2, 1))
    p = np.mean([each.transform(seen, 0) @ each.topics().numpy() for each in model.each_sample()], 0)
    assert len(list(model.each_sample())) == 3
    assert topics.perplexity(model, seen, held) == pytest.approx(np.exp(-np.log(p).mean()), rel=1e-6)
    alone = [topics.perplexity(one, seen, held) for one in model.each_sample()]
    assert topics.perplexity(model, seen, held) < np.exp(np.log(alone).mean())  # by Jensen


def test_samples_are_saved_and_loaded(tmp_path) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (30, 6))
    deep = lb.DeepLDA([3, 2], epochs=6, burn_in=5, collected=5, random_state=0).fit(counts)
    assert len(list(deep.model_.each_sample())) == 4
    deep.save(tmp_path / "deep")
    assert lb.load(tmp_path / "deep").perplexity(counts) == deep.perplexity(counts)
    gibbs = lb.LDA(3, inference="gibbs", epochs=20, random_state=0).fit(counts)
    assert len(list(gibbs.model_.each_sample())) == 4
    assert len(list(lb.LDA(3, epochs=6, random_state=0).fit(counts).model_.each_sample())) == 1


@pytest.mark.parametrize("samples", [0, 1.5, True])
def test_samples_must_be_a_whole_number(samples) -> None:
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1"):
        topics.DeepLDAModel(6, [3, 2], samples=samples)
    with pytest.raises(ValueError, match="samples"):
        lb.DeepLDA([3, 2], samples=samples).fit(np.ones((4, 6), int))
