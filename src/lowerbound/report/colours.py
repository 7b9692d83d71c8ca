"""How labels become colours: a few distinct ones by name, many numbers by a colour bar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.report.style import LINE, SEQUENCE, plain

Array = NDArray[Any]
MOST_GROUPS = 12
_MARKERS = "o^s"


@dataclass(frozen=True)
class Group:
    """Rows drawn alike: a name, which rows (bool ``[N]``), a colour and a marker."""

    name: str
    rows: NDArray[np.bool_]
    colour: str
    marker: str
    named: bool = True


@dataclass(frozen=True)
class Colouring:
    """Either ``groups``, or one number for each row: ``values [N]``."""

    groups: tuple[Group, ...] = ()
    values: Array | None = None

    @classmethod
    def of(cls, labels: Array | None) -> Colouring:
        """Of ``labels [N]`` of any type. Among many that are no numbers, the most frequent have their own colour."""
        if labels is None:
            return cls()
        numeric = labels.dtype.kind in "biuf"
        keys = labels if numeric else np.array([str(label) for label in labels])
        names, index, counts = np.unique(keys, return_inverse=True, return_counts=True)
        if len(names) > MOST_GROUPS and numeric:
            return cls(values=labels.astype(np.float64))
        return cls(groups=tuple(_groups(names, index, counts)))


def _groups(names: Array, index: Array, counts: Array) -> Iterator[Group]:
    crowded = len(names) > MOST_GROUPS
    own = np.sort(np.argsort(-counts, kind="stable")[: MOST_GROUPS - 1]) if crowded else np.arange(len(names))
    if crowded:
        others = ~np.isin(index, own)
        yield Group(f"{len(names) - len(own)} others", others, LINE, "o", named=False)
    for place, which in enumerate(own):
        marker = _MARKERS[place // len(SEQUENCE)]
        yield Group(plain(names[which]), index == which, SEQUENCE[place % len(SEQUENCE)], marker)
