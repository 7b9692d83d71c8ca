"""Colours of labels: one per group, or a colour bar for many numbers."""

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
    """Rows drawn with the same colour and marker: ``rows`` is a bool mask ``[N]``."""

    name: str
    rows: NDArray[np.bool_]
    colour: str
    marker: str
    named: bool = True


@dataclass(frozen=True)
class Colouring:
    """Colours of rows: by ``groups``, or by one number per row, ``values [N]``."""

    groups: tuple[Group, ...] = ()
    values: Array | None = None

    @classmethod
    def of(cls, labels: Array | None) -> Colouring:
        """Colour by ``labels [N]`` of any type. Of many text labels, only the most frequent have a colour."""
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
