"""Column of a table: its kind, and the data type of its cells."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from lowerbound.schema import written

Kind = Literal[
    "real",
    "positive",
    "interval",
    "count",
    "binary",
    "categorical",
    "ordinal",
    "datetime",
    "constant",
    "identifier",
]
Family = Literal["float", "int", "bool", "text", "category", "time", "duration", "decimal", "null"]
Level = str | int | float | bool
Name = str | int

KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES: tuple[Kind, ...] = ("binary", "categorical", "ordinal")
ASIDE: tuple[Kind, ...] = ("constant", "identifier")
_COUNTED = 1000
LATER = {"bounded", "dispersion", "markers"}  # fields that schemas of before do not have
DATES = (-719_162, 2_932_896)  # days that Python's dates reach, from 1970
_FLOATS = {"float": "float32", "double": "float64", "halffloat": "float16"}  # arrow's names


@dataclass(frozen=True)
class Storage:
    """How cells lie in the frame: ``dtype`` is the name of their type in its own library.

    ``unit`` and ``zone``: of times. ``digits``: a decimal's precision and scale. ``categories`` (in their order, None
    where the type does not say them) and whether they are ``ordered``. ``detail``: what else makes the type.
    ``arrow``: an arrow type inside pandas.
    """

    family: Family
    dtype: str = ""
    unit: str | None = None
    zone: str | None = None
    digits: tuple[int, int] | None = None
    categories: tuple[Level, ...] | None = None
    ordered: bool = False
    detail: tuple[str, ...] = ()
    arrow: bool = False

    @property
    def floating(self) -> np.dtype[Any]:
        """The floating type that the cells come in."""
        name = self.dtype.lower()
        known = self.family == "float" and re.fullmatch(r"(halffloat|float(16|32|64)?|double)", name)
        return np.dtype(_FLOATS.get(name, name)) if known else np.dtype(np.float64)

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest whole number that the type holds; of times, all but the one that is no time."""
        if self.unit == "D":
            return DATES if self.dtype == "object" else (-(2**31), 2**31 - 1)
        found = re.search(r"(u?)int(\d+)", self.dtype.lower()) if self.family == "int" else None
        if found is None:
            return -(2**63) + 1, 2**63 - 1
        bits = int(found[2])
        return (0, 2**bits - 1) if found[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@dataclass(frozen=True)
class Column:
    """The interpretation of a column: its ``kind``, and ``why``, in words.

    To override what is inferred, give the kind and, where the data do not tell them, ``low`` and ``high`` (bounds: of
    a datetime a date, or text as 2001-12-31), ``levels`` (of classes; an ordinal's in their order) or ``precision``.
    The rest is found:

    ``problems``: in words. ``missing``: the share of cells that hold nothing.
    ``low``, ``high``: the range, declared or observed; ``bounded``: which of the two no value can pass. ``precision``:
    the coarsest grid of a decimal step that holds every observed value, or None. ``atoms``: the share of the most
    repeated value, which is ``atom``: a continuous
    density has no bound there. ``heavy_tailed``: see ``measures.heavy_tailed``. ``dispersion``: of counts, variance
    over mean, which is 1 of Poisson's. All in encoded values: of whole numbers and times these are
    (cell − ``offset``) / ``step``, in the column's own unit; of others the cells.
    ``centre``, ``scale``: of ``Schema.standardise``.
    ``levels``: the classes, coded 0, 1, …; ``pooled``: those that share one more class, "other", each seen as often as
    ``weights`` say. ``value``: what a constant column holds, None if nothing.
    ``form``: how numbers or times are written as text, as "%d.%m.%Y" (of ``strftime``) or "#,##0.00" (of spreadsheets);
    whole numbers can be dates of the form "%Y%m%d". ``markers``: texts that stand for a missing cell; where there is a
    form, "?", "-", "NA", blanks and the like do so anyway.
    """

    kind: Kind
    name: Name = ""
    why: str = ""
    problems: tuple[str, ...] = ()
    missing: float = 0.0
    storage: Storage = Storage("null")
    low: float | None = None
    high: float | None = None
    bounded: tuple[bool, bool] = (False, False)
    precision: float | None = None
    atom: float | None = None
    atoms: float | None = None
    heavy_tailed: bool = False
    dispersion: float | None = None
    centre: float = 0.0
    scale: float = 1.0
    offset: int = 0
    step: int = 1
    levels: tuple[Level, ...] = ()
    pooled: tuple[Level, ...] = ()
    weights: tuple[int, ...] = ()
    form: str | None = None
    markers: tuple[str, ...] = ()
    value: Level | None = None

    @property
    def modelled(self) -> bool:
        """Whether a model sees it: constant columns and identifiers are kept aside."""
        return self.kind not in ASIDE

    @property
    def is_between(self) -> bool:
        """Whether its values lie between two bounds."""
        return self.kind == "interval" or all(self.bounded)

    @property
    def large(self) -> bool:
        """Whether it counts beyond what is told one by one: a density of its values is then as good as their masses."""
        return self.kind == "count" and self.high is not None and self.high > _COUNTED

    @property
    def n_classes(self) -> int:
        """How many classes it has, "other" among them; 0 of numbers and times."""
        return len(self.levels) + bool(self.pooled)

    @property
    def unit(self) -> str | None:
        """The unit of its times, before ``step``."""
        return self.inner.storage.unit

    @property
    def inner(self) -> Column:
        """The column as its cells are read: of numbers or times, where they are written by a form."""
        if self.form is None:
            return self
        family, dtype, unit, zone = written.laid_out(self.form)
        return replace(self, storage=Storage(family, dtype, unit, zone), form=None)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)
