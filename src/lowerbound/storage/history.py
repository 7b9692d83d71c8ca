"""What is kept of the course of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Record = dict[str, float]
Stopped = Literal["epochs", "patience", "callback", "interrupted", "diverged"]


@dataclass
class History:
    """What happened in a fit: one record per epoch, the epoch whose state was kept, why it stopped, the rescues."""

    records: list[Record] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: Stopped | None = None
    rescues: list[str] = field(default_factory=list)
