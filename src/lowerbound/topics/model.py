"""The interface of topic models."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
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
    samples: int

    @abstractmethod
    def topics(self) -> Tensor:
        """The probability of each word in each topic, ``[K, V]``; rows sum to 1."""

    @abstractmethod
    def transform(self, csr: Csr, seed: int) -> NDArray[np.floating[Any]]:
        """The topics' shares θ in each document, ``[N, K]``; rows sum to 1.

        Row i depends on document i, the model and ``seed`` alone, not on the other documents.
        """

    def each_sample(self) -> Iterator[Self]:
        """Samples of a chain, each as a model of its own, the present state last; that alone if no others are kept."""
        kept = self._kept()
        numbers = range(max(0, kept - self.samples), kept)
        for number in numbers[not self._is_kept() :]:
            found = copy.copy(self)
            found.samples = 1
            found._buffers = {name: self._sample(name)[number % self.samples] for name in self._learnt()}
            yield found
        if not self._is_kept():
            yield self

    def keep_sample(self) -> None:
        """Keep the state at the end of an epoch as a sample, in place of the oldest if there are ``samples`` of them.

        The samples are a power of two of epochs apart, so that they come from the last quarter to half of all epochs.
        """
        if self.samples == 1:
            return
        self.get_buffer("epochs").add_(1)
        if self._is_kept():
            kept = self.get_buffer("kept")
            for name in self._learnt():
                self._sample(name)[int(kept) % self.samples] = self.get_buffer(name)
            kept += 1

    def _make_room(self, samples: int) -> None:
        """Buffers for so many samples of all other buffers; none for one sample, which is the model itself."""
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be a whole number of at least 1, got {samples!r}.")
        self.samples = samples
        if samples > 1:
            for name, value in list(self.named_buffers(recurse=False)):
                self.register_buffer(f"kept_{name}", value.new_zeros(samples, *value.shape))
            for name in ("kept", "epochs"):
                self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def _kept(self) -> int:
        """How many samples have been kept, also those that others have replaced."""
        return int(self.get_buffer("kept")) if self.samples > 1 else 0

    def _is_kept(self) -> bool:
        """Whether the state at the end of this epoch is one of the samples."""
        epochs = int(self.get_buffer("epochs")) if self.samples > 1 else 0
        apart = 1 << max(0, (epochs // (2 * self.samples)).bit_length() - 1)
        return epochs > 0 and epochs % apart == 0

    def _learnt(self) -> list[str]:
        """The names of the buffers that a sample has."""
        return [name.removeprefix("kept_") for name, _ in self.named_buffers(recurse=False) if name.startswith("kept_")]

    def _sample(self, name: str) -> Tensor:
        """A buffer of all samples, ``[samples, …]``."""
        return self.get_buffer(f"kept_{name}")

    def word_probabilities(self, theta: Tensor) -> Tensor:
        """The probability of each word in each document ``[N, V]``, given the topics' shares ``theta [N, K]``."""
        topics = self.topics()
        return theta.to(topics) @ topics
