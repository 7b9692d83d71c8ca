"""The words of topics, and the tree of topics across layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Topic:
    """A topic: its ``layer`` (1 is that of words), its ``number`` there, and its most probable ``words``.

    ``weight``: its share among the topics of the last layer or, of a child, its share in the topic above.
    """

    layer: int
    number: int
    weight: float
    words: dict[str, float]
    children: tuple[Topic, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines(""))

    def _lines(self, indent: str) -> list[str]:
        line = f"{indent}{self.weight:6.1%}  layer {self.layer}, topic {self.number}: {' '.join(self.words)}"
        return [line, *(each for child in self.children for each in child._lines(indent + "  "))]


def top_words(topics: Array, names: Sequence[str], n: int) -> list[dict[str, float]]:
    """The ``n`` most probable words of each topic ``[K, V]``, with their probabilities, the most probable first."""
    best = np.argsort(-topics, 1, kind="stable")[:, :n]
    return [{names[v]: float(topic[v]) for v in words} for topic, words in zip(topics, best, strict=True)]


def trees(layers: Sequence[Array], weights: Array, names: Sequence[str], n: int, children: int) -> tuple[Topic, ...]:
    """The topics of the last layer, each with those of the layers below, by weight.

    ``layers``: Φˡ ``[K_{l−1}, K_l]``, whose columns sum to 1; ``weights [K_T]`` sum to 1. The words of a topic of layer
    l are those of Φ¹ … Φˡ. A topic has at most ``children``, those with the largest weights.
    """
    words = [top_words(of_words.T, names, n) for of_words in accumulate(layers, np.matmul)]

    def topic(layer: int, number: int, weight: float) -> Topic:
        below: tuple[Topic, ...] = ()
        if layer > 1:
            shares = layers[layer - 1][:, number]
            below = tuple(topic(layer - 1, int(k), float(shares[k])) for k in _largest(shares)[:children])
        return Topic(layer, number, weight, words[layer - 1][number], below)

    return tuple(topic(len(layers), int(k), float(weights[k])) for k in _largest(weights))


def _largest(values: Array) -> Array:
    return np.argsort(-values, kind="stable")
