"""What is asked of a process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """``task`` on ``table`` by ``method``; ``mask``: which cells are hidden; ``quick``: few rows and epochs."""

    task: str
    table: str
    method: str
    mask: str = ""
    seed: int = 0
    quick: bool = False

    @property
    def name(self) -> str:
        """Its file's name in the cache."""
        parts = (self.task, self.table, self.mask, self.method.replace(" ", "_"), f"seed{self.seed}")
        return "-".join(part for part in parts if part)

    @property
    def ours(self) -> bool:
        """Whether it is run by lowerbound."""
        return self.method == "lowerbound"
