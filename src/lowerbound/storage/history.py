"""The record of a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Record = dict[str, float]
Stopped = Literal["epochs", "patience", "callback", "interrupted", "diverged"]


@dataclass
class History:
    """The record of a fit: metrics per epoch, the epoch whose state was kept, why it ended, and the rescues.

    The records of a last phase on all rows hold "last_phase", and no metrics of held-out rows.
    """

    records: list[Record] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: Stopped | None = None
    rescues: list[str] = field(default_factory=list)

    @property
    def held_out(self) -> Record:
        """The record of the epoch with the best objective of held-out rows; empty if no rows were held out."""
        judged = [record for record in self.records if math.isfinite(record.get("valid_objective", math.nan))]
        return max(judged, key=lambda record: record["valid_objective"], default={})
