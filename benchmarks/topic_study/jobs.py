"""The jobs of the study. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PARTS = ("speed", "completion", "halves")
HALVES = ("online", "batch", "gibbs", "prodlda", "tlasgr", "scikit-learn", "gensim", "tomotopy")
SPEED = ("online", "gibbs", "split", "sweep", "scikit-learn", "gensim", "tomotopy")
COMPLETION: dict[
    str, tuple[tuple[int, ...], tuple[int, ...]]
] = {  # method → layers, and the epochs after which perplexity is measured
    "lda-gibbs": ((128,), (50, 100, 150, 200)),
    "tlasgr": ((128,), (1, 3, 5, 11, 17, 31, 62)),
    "tlasgr-3": ((128, 64, 32), (1, 3, 5, 11, 17, 31, 62)),
    "scir": ((128,), (1, 3, 5, 11, 17, 31, 62)),
    "deep-gibbs": ((128,), (50, 100, 200, 400)),
}
METHODS = tuple(dict.fromkeys((*COMPLETION, *HALVES, *SPEED)))
MINIBATCH = 200
EPOCHS = (1, 3, 10, 30)  # of ``halves``
SWEEPS = (10, 50, 100, 200)  # a sweep costs far less than an epoch of variational Bayes


@dataclass(frozen=True)
class Job:
    """``layers``: numbers of topics; ``marks``: the epochs at which it measures; ``quick``: on few documents."""

    part: str
    method: str
    layers: tuple[int, ...]
    seed: int
    marks: tuple[int, ...] = ()
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.part}-{self.method}-{'-'.join(map(str, self.layers))}-seed{self.seed}"


def all_jobs(parts: Iterable[str], seeds: Iterable[int], quick: bool) -> list[Job]:
    """All jobs of the parts: every method with the first seed before any with the second."""
    wanted, found = set(parts), []
    for seed in seeds:
        if "speed" in wanted:
            found += [Job("speed", method, (topics,), seed, (), quick) for topics in (50, 200) for method in SPEED]
        if "halves" in wanted:
            for method in HALVES:
                epochs = SWEEPS if method in ("gibbs", "tomotopy") else EPOCHS
                found.append(Job("halves", method, (50,), seed, epochs[: 1 if quick else None], quick))
        if "completion" in wanted:
            for method, (layers, marks) in COMPLETION.items():
                found.append(Job("completion", method, layers, seed, marks[: 1 if quick else None], quick))
    return found
