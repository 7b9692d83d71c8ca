"""Rules that infer a column's kind from its cells."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.schema import bounds, in_arrow, personal, scales, times
from lowerbound.schema.cells import Cells
from lowerbound.schema.column import ASIDE, CLASSES, Family, Kind, Level, Name, Storage
from lowerbound.schema.measures import FEW

_NUMBERS: tuple[Kind, ...] = ("real", "positive", "interval", "count")
ALLOWED: dict[Family, tuple[Kind, ...]] = {
    "float": (*_NUMBERS, *CLASSES, *ASIDE),
    "int": (*_NUMBERS, *CLASSES, *ASIDE),
    "bool": (*_NUMBERS, *CLASSES, *ASIDE),
    "decimal": (*_NUMBERS, *ASIDE),
    "duration": ("real", "positive", "interval", *ASIDE),
    "text": (*CLASSES, *ASIDE),
    "category": (*CLASSES, *ASIDE),
    "time": ("datetime", *ASIDE),
    "null": ASIDE,
}
"""The kinds that each family of cells can be declared to have."""
_GRADES, _EACH = 20, 10
_MEASURED = re.compile(  # names of counts, and of times and positions that are measured in ascending order
    r"(?i:^(t|time|time_?step|step|year|month|week|day|hour|minute|second|date|age|period|quarter|season|trial|epoch|"
    r"wave|visit|session|round|dose|depth|distance|lag|position|rank)s?(_?\d+)?$)|^n[A-Z]|^n_|(?i:num(ber)?_?of|counts?$"
    r"|freq)"
)
_LABELS = r"^unnamed: ?0$|^__index_level_\d+__$"  # pandas' own names
_KEY = re.compile(rf"(?i:(?:^|[^a-z])(?:id|key|uuid|guid|index|idx|serial)$|^row_?id$|{_LABELS})|[a-z](?:ID|Id)$")


@dataclass(frozen=True, eq=False)
class Look:
    """The observed cells of a column: ``seen [n]`` of ``rows`` cells; their different ``levels``, and ``counts``."""

    name: Name
    storage: Storage
    seen: NDArray[Any]
    levels: NDArray[Any]
    counts: NDArray[np.int64]
    rows: int

    @property
    def distinct(self) -> int:
        return len(self.levels)

    @property
    def complete(self) -> bool:
        return len(self.seen) == self.rows


def look(name: Name, storage: Storage, cells: Cells) -> Look:
    """Count the different cells. Categories stay in the order of their type; other levels are sorted."""
    seen = cells.values[cells.mask]
    if storage.family == "decimal":  # counted as decimals: different ones may become the same double
        each = sorted(Counter(seen.tolist()).items())
        counted = np.array([count for _, count in each], np.int64)
        numbers = np.array([float(level) for level, _ in each])
        return Look(name, storage, seen.astype(np.float64), numbers, counted, len(cells.mask))
    if seen.dtype != object:
        levels, counts = np.unique(seen, return_counts=True)
        return Look(name, storage, seen, levels, counts, len(cells.mask))
    found = Counter(seen.tolist())
    declared = storage.categories
    order = sorted(found) if declared is None else [level for level in declared if level in found]
    number = np.array([found[level] for level in order], np.int64)
    return Look(name, storage, seen, in_arrow.objects(order), number, len(cells.mask))


def kind_of(column: Look, max_categories: int) -> tuple[Kind, str]:
    """The kind of a column, and in words why it has that kind; ``infer`` lists the rules."""
    if column.distinct == 0:
        return "constant", "no values"
    if column.distinct == 1:
        return "constant", f"always {shown(column.levels[0], column.storage)}"
    family = column.storage.family
    if family in ("text", "category"):
        return _of_text(column, max_categories)
    if family == "bool":
        return "binary", "true or false"
    if family == "time":
        span = f"from {shown(column.levels[0], column.storage)} to {shown(column.levels[-1], column.storage)}"
        return "datetime", f"times {span}"
    if family == "duration":
        return ("positive" if column.levels[0] >= 0 else "real"), "durations"
    return _of_numbers(column)


def shown(level: Any, storage: Storage | None = None) -> str:
    """A cell as text for a message. Times and durations need their ``storage``."""
    if storage is not None and storage.unit is not None:
        return times.shown(int(level), storage)
    if isinstance(level, float | np.floating):
        number = float(level)
        return f"{number:.0f}" if abs(number) < 1e9 and number == round(number) else f"{number:.6g}"
    text = repr(level.item() if isinstance(level, np.generic) else level)
    return text if len(text) <= 24 else text[:21] + "..."


def are_codes(texts: list[str]) -> bool:
    """Whether texts of digits are codes rather than numbers: some begin with 0."""
    return any(len(text) > 1 and text[0] == "0" and text.isdigit() for text in texts)


def reads_as_key(name: Name) -> bool:
    """Whether a column's name is that of a key: id, customer_id, CustomerID, key, uuid, index, Unnamed: 0, …"""
    return isinstance(name, str) and _KEY.search(name) is not None


def _of_text(column: Look, max_categories: int) -> tuple[Kind, str]:
    n, distinct = len(column.seen), column.distinct
    if column.storage.ordered and distinct > 2:
        return "ordinal", f"{distinct} ordered categories"
    what = "text" if column.storage.family == "text" else "category"
    if distinct == 2 and not personal.is_called_so(column.name):
        return "binary", f"two kinds of {what}: {shown(column.levels[0])} and {shown(column.levels[1])}"
    if reads_as_personal(column) is not None:
        return "identifier", f"dropped: {distinct} different kinds of {what} in {n} cells"
    return "categorical", f"{distinct} kinds of {what}"


def reads_as_personal(column: Look) -> str | None:
    """The kind of personal data that a column seems to hold, such as e-mail addresses, or None."""
    if column.storage.family in ("text", "category"):
        return personal.reads_as(column.name, [str(level) for level in column.levels.tolist()], len(column.seen))
    many = personal.nearly_all_differ(column.distinct, len(column.seen)) and column.storage.family == "int"
    return f"personal data by its name, {column.name!r}" if many and personal.is_called_so(column.name) else None


def _of_numbers(column: Look) -> tuple[Kind, str]:
    low, high, n = column.levels[0], column.levels[-1], len(column.seen)
    span = f"from {shown(low)} to {shown(high)}"
    largest = max(abs(int(low)), abs(int(high)))
    top = bounds.share_or_percentage(column.name, column.levels, column.counts)
    if column.storage.family != "int" and (largest > times.EXACT or (column.levels != np.floor(column.levels)).any()):
        if column.distinct == 2 and n >= FEW and column.storage.family != "decimal":
            return "binary", f"two numbers: {shown(low)} and {shown(high)}"
        if top is not None:
            return "interval", f"{'shares' if top == 1 else 'percentages'} {span}"
        return ("positive" if low >= 0 else "real"), f"numbers {span}"
    if column.distinct == 2 and low == 0 and high == 1:
        return "binary", "0 or 1"
    if reads_as_personal(column) is not None:
        return "identifier", f"dropped: {column.distinct} different numbers in {n} cells"
    if column.storage.family == "int" and (key := _key(column)) is not None:
        return "identifier", key
    if column.distinct == 2 and n >= FEW:
        return "binary", f"two whole numbers: {shown(low)} and {shown(high)}"
    if low < 0 and column.distinct <= _GRADES and n >= _EACH * column.distinct and column.storage.family != "decimal":
        return "ordinal", f"{column.distinct} whole numbers {span}"
    if low < 0 or largest > times.EXACT:
        return "real", f"whole numbers {span}"
    few = (
        None
        if column.storage.family == "decimal"
        else scales.of_whole_numbers(column.name, column.levels, column.counts)
    )
    if few is not None:
        two = f"two whole numbers: {shown(low)} and {shown(high)}"
        return few, two if few == "binary" else f"{column.distinct} whole numbers {span}"
    return ("count", f"whole numbers {span}") if top is None else ("interval", f"percentages {span}")


def _key(column: Look) -> str | None:
    """Why whole numbers are a key, in words; None if they are not a key."""
    if not column.complete or column.distinct < max(FEW, column.rows):
        return None
    if reads_as_key(column.name):
        return "dropped: its name is that of a key, and all cells differ"
    if counts_rows(column) and not (isinstance(column.name, str) and _MEASURED.search(column.name)):
        first = int(column.seen[0])
        return f"dropped: it numbers the rows ({first}, {first + 1}, {first + 2}, …)"
    return None


def counts_rows(column: Look) -> bool:
    """Whether there are 20 or more whole numbers, and they are the row numbers, from 0 or 1."""
    if not column.complete or column.distinct < max(FEW, column.rows) or column.storage.family != "int":
        return False
    first = int(column.seen[0])
    return first in (0, 1) and bool((column.seen == np.arange(first, first + column.rows)).all())


def levels_of(column: Look) -> tuple[Level, ...]:
    """The levels as plain Python objects."""
    return tuple(level.item() if isinstance(level, np.generic) else level for level in column.levels)
