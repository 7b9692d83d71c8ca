"""The record of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Record = dict[str, float]
Stopped = Literal["epochs", "patience", "callback", "interrupted", "diverged"]


@dataclass
class History:
    """The record of a fit: metrics per epoch, the epoch whose state was kept, why it ended, and the rescues."""

    records: list[Record] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: Stopped | None = None
    rescues: list[str] = field(default_factory=list)
