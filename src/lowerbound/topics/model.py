"""The interface of topic models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.model import Model
from lowerbound.topics.csr import Csr


class TopicModel(Model, ABC):
    """A model of documents, each a mixture of K topics, which are distributions over V words.

    All that a fit changes is in buffers, so that checkpoints and saved folders hold it. The constructor's arguments
    are attributes of the same names; an argument may have become a buffer, which is then saved as a list of numbers.
    """

    sparse = True
    n_words: int

    @abstractmethod
    def topics(self) -> Tensor:
        """The probability of each word in each topic, ``[K, V]``; rows sum to 1."""

    @abstractmethod
    def transform(self, csr: Csr, seed: int) -> NDArray[np.floating[Any]]:
        """The topics' shares θ in each document, ``[N, K]``; rows sum to 1.

        Row i depends on document i, the model and ``seed`` alone, not on the other documents.
        """

    def word_probabilities(self, theta: Tensor) -> Tensor:
        """The probability of each word in each document ``[N, V]``, given the topics' shares ``theta [N, K]``."""
        topics = self.topics()
        return theta.to(topics) @ topics
