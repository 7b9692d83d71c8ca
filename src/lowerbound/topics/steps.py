"""What the learners of topic models share: documents that suit a model, random numbers of a step, arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.errors import DataError
from lowerbound.row_source import RowSource
from lowerbound.topics.model import TopicModel


def check_words(model: TopicModel, rows: RowSource) -> None:
    """Refuse documents of another vocabulary than the model's."""
    if tuple(rows.shape) != (model.n_words,):
        raise DataError(
            f"the documents are counts of {' × '.join(map(str, rows.shape))} words, and the model has "
            f"n_words = {model.n_words}; make both the same."
        )


def seeds(rng: torch.Generator) -> Tensor:
    """Four numbers, from which the random numbers of a step follow."""
    return torch.randint(-(2**63), 2**63 - 1, (4,), generator=rng, device=rng.device)


def generator_of(noise: Tensor) -> np.random.Generator:
    """NumPy's generator from the four numbers of a step."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(noise.cpu().numpy().view(np.uint64).tolist())))


def on_cpu(value: Tensor) -> NDArray[Any]:
    """A tensor as an array that shares its memory."""
    if value.device.type != "cpu":
        raise ValueError(f"topic models are learnt and used on the CPU, and this one is on {value.device}; move it.")
    return value.detach().numpy()
