"""What was done, what came of it, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MOST_TOLD = 20


@dataclass
class Tally:
    """One kind of fault: how often it was injected, how each ended, and what should not have happened."""

    kind: str
    injected: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    told: list[str] = field(default_factory=list)

    def add(self, outcome: str, troubles: Iterable[str] = (), about: str = "") -> None:
        """A fault was injected, ended as ``outcome`` says, and left ``troubles``."""
        self.injected += 1
        self.outcomes[outcome] += 1
        self.trouble(troubles, about)

    def trouble(self, troubles: Iterable[str], about: str = "") -> None:
        """Something went wrong."""
        if found := list(troubles):
            self.failed += 1
            if len(self.told) < MOST_TOLD:
                self.told.append(f"{about}: {'; '.join(found)}"[:600])

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "injected": self.injected,
            "outcomes": dict(self.outcomes.most_common()),
            "failures": self.failed,
            "told": self.told,
        }
