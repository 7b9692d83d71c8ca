"""What is asked of a process, and its peak of memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


def peak_megabytes() -> float:
    """The peak of this process's memory, in MB (10⁶ bytes), of this program alone (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError("VmHWM")
