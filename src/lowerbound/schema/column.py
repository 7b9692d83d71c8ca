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
Domain = Literal["real", "positive", "unit"]
Family = Literal["float", "int", "bool", "text", "category", "time", "duration", "decimal", "null"]
Level = str | int | float | bool
Name = str | int

KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES: tuple[Kind, ...] = ("binary", "categorical", "ordinal")
ASIDE: tuple[Kind, ...] = ("constant", "identifier")
_COUNTED = 1000
_MANY_ZEROS = 0.05  # share of zeros above which 0 is a point mass of positive numbers
LATER = {"bounded", "curved", "dispersion", "heavy", "markers"}  # fields that are absent from older schema files
DATES = (-719_162, 2_932_896)  # the first and last date of Python, in days from 1970
_FLOATS = {"float": "float32", "double": "float64", "halffloat": "float16"}  # arrow's names


@dataclass(frozen=True)
class Storage:
    """The data type of a column in its frame.

    ``family``: what the cells are. ``dtype``: the name of their type in the frame's library. ``unit`` and ``zone``: the
    unit and the time zone of times. ``digits``: precision and scale of decimals. ``categories``: those of a categorical
    type in their order (None if the type does not list them), and whether they are ``ordered``. ``detail``: further
    parameters of the type. ``arrow``: whether it is a pyarrow type in a pandas frame.
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
        """The floating-point type of the cells; float64 for cells that are not floats."""
        name = self.dtype.lower()
        known = self.family == "float" and re.fullmatch(r"(halffloat|float(16|32|64)?|double)", name)
        return np.dtype(_FLOATS.get(name, name)) if known else np.dtype(np.float64)

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest whole number that the type can hold, without the one that stands for NaT."""
        if self.unit == "D":
            return DATES if self.dtype == "object" else (-(2**31), 2**31 - 1)
        found = re.search(r"(u?)int(\d+)", self.dtype.lower()) if self.family == "int" else None
        if found is None:
            return -(2**63) + 1, 2**63 - 1
        bits = int(found[2])
        return (0, 2**bits - 1) if found[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@dataclass(frozen=True)
class Column:
    """The interpretation of a column: its ``kind``, and in words ``why`` it has that kind.

    To override what is inferred, give the kind and, optionally, ``low`` and ``high`` (bounds that no value can pass;
    for a datetime, dates or text like 2001-12-31), ``levels`` (the classes; for an ordinal, in ascending order),
    ``precision``, ``form`` or ``markers``. The other fields are measured from the data.

    ``low``, ``high``, ``precision``, ``atom`` and all other measurements are in encoded values. The encoded value of a
    whole number or time is (cell − ``offset``) / ``step``, in the column's own unit; other numbers are encoded as
    themselves.

    - ``problems``: notes for the user, in words.
    - ``missing``: the share of missing cells.
    - ``low``, ``high``: the range, declared or observed. ``bounded``: whether each of them is a bound.
    - ``precision``: the decimal grid to which draws are rounded, on which at least 90 % of the values lie (see
      ``measures.precision``); None if there is none. Observed cells are never rounded.
    - ``atom``: the most frequent value. ``atoms``: its share; a continuous density can grow without bound there.
    - ``heavy``: values that are modelled as point masses, because they are far more frequent than their neighbours (see
      ``measures.heavy``); the most frequent first.
    - ``heavy_tailed``: see ``measures.heavy_tailed``.
    - ``curved``: whether the values that are no point masses, or their logarithms or logits (see ``domain``), are far
      from normal (see ``measures.curved``).
    - ``dispersion``: variance over mean of counts (1 for a Poisson distribution).
    - ``centre``, ``scale``: the parameters of ``Schema.standardise``.
    - ``levels``: the classes, coded 0, 1, …. ``pooled``: rare levels, which share one more class, "other"; ``weights``:
      how often each of these was seen.
    - ``value``: the value of a constant column; None if all its cells are missing.
    - ``form``: the format in which numbers or times are written as text: "%d.%m.%Y" (as in ``strftime``) or "#,##0.00"
      (as in spreadsheets). Whole numbers can be dates of the form "%Y%m%d".
    - ``markers``: texts that stand for a missing cell. In a column with a form, "?", "-", "NA", blanks and the like
      are always missing.
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
    heavy: tuple[float, ...] = ()
    heavy_tailed: bool = False
    curved: bool = False
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
        """Whether the model sees the column; constant columns and identifiers are left out."""
        return self.kind not in ASIDE

    @property
    def is_between(self) -> bool:
        """Whether its values lie between two bounds."""
        return self.kind == "interval" or all(self.bounded)

    @property
    def domain(self) -> Domain:
        """Where its numbers lie, apart from point masses: ℝ, above 0, or between the bounds (shifted and scaled)."""
        if self.is_between:
            return "unit"
        zeros = 0 in self.heavy or (self.atom == 0 and (self.atoms or 0) > _MANY_ZEROS)
        above = self.low is not None and (self.low > 0 or zeros)
        return "positive" if self.kind in ("positive", "count") and above else "real"

    @property
    def large(self) -> bool:
        """Whether it holds counts above 1,000, for which a continuous density is as good as a probability mass."""
        return self.kind == "count" and self.high is not None and self.high > _COUNTED

    @property
    def n_classes(self) -> int:
        """The number of classes, including "other"; 0 for numbers and times."""
        return len(self.levels) + bool(self.pooled)

    @property
    def unit(self) -> str | None:
        """The unit of its times, before ``step``."""
        return self.inner.storage.unit

    @property
    def inner(self) -> Column:
        """The column after parsing: where it has a form, a column of the numbers or times that the texts stand for."""
        if self.form is None:
            return self
        family, dtype, unit, zone = written.laid_out(self.form)
        return replace(self, storage=Storage(family, dtype, unit, zone), form=None)

    def as_dict(self) -> dict[str, Any]:
        """The column as a dictionary for JSON."""
        return asdict(self)
