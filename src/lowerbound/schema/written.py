"""Read and write numbers, times and booleans as text of a given form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowerbound.schema import dates, numerals

Array = NDArray[Any]
Mask = NDArray[np.bool_]
BOOLS = {f"{no}|{yes}": (no, yes) for no, yes in (("false", "true"), ("False", "True"), ("FALSE", "TRUE"))}
"""Pairs of texts that are read as false and true."""
OLD = {"date": "%Y-%m-%d", "T": "%Y-%m-%dT%H:%M:%S", " ": "%Y-%m-%d %H:%M:%S"}
"""Names of three formats in older schema files."""
MARKERS = frozenset(
    {"", "?", "??", "-", "--", "---", ".", "..", "*", "\u2013", "\u2014", "na", "n/a", "n.a.", "n.a", "#n/a", "#na"}
    | {"#n/a n/a", "<na>", "nan", "-nan", "nat", "null", "(null)", "\\n", "none", "nil", "missing", "unknown", "unk"}
    | {"not available", "not applicable", "no data", "n.d.", "nd", "tbd", "#value!", "#ref!", "#div/0!", "#num!"}
    | {"0000-00-00", "0000-00-00 00:00:00", "00.00.0000", "00/00/0000"}
)
"""Texts that mark a missing number or time, in lower case."""


def is_marker(text: str, more: Iterable[str] = ()) -> bool:
    """Whether a text stands for a missing number or time."""
    return text.strip().casefold() in MARKERS or text in more


def is_dates(form: str) -> bool:
    """Whether a form is a date format."""
    return re.search("%[Yy]", form) is not None


def check(given: object) -> str:
    """Return the form if it is valid. Raises ValueError otherwise."""
    if not isinstance(given, str):
        raise ValueError(f"{given!r} is not text")
    form = OLD.get(given, given)
    if is_dates(form):
        dates.compiled(form)
    elif form not in BOOLS:
        numerals.compiled(form)
    return form


def is_form(given: object) -> bool:
    """Whether ``given`` is a valid form."""
    try:
        return bool(check(given))
    except ValueError:
        return False


def laid_out(form: str) -> tuple[Literal["time", "float", "bool"], str, str | None, str | None]:
    """The ``Storage`` of cells after parsing by a form: family, type, unit and zone."""
    if form in BOOLS:
        return "bool", "bool", None, None
    if not is_dates(form):
        return "float", "double", None, None
    at = dates.compiled(form)
    return "time", "object" if at.unit == "D" else "timestamp", at.unit, "UTC" if at.zoned else None


def read(values: Array, mask: Mask, form: str, markers: Sequence[str] = ()) -> tuple[Array, Mask, Mask]:
    """Parse cells of text or whole numbers by a form: values, a mask of parsed cells, a mask of cells that do not fit.

    A cell that marks a missing value is in neither mask. Each different text is parsed once.
    """
    family, _, _, _ = laid_out(form)
    found: Array = np.zeros(len(mask), {"bool": bool, "float": float, "time": np.int64}[family])
    there, unknown = np.zeros(len(mask), bool), np.zeros(len(mask), bool)
    given = values[mask]
    if given.dtype.kind in "iuf":
        levels, place = np.unique(given, return_inverse=True)
        texts = [f"{level:.0f}" if level == np.floor(level) else repr(level) for level in levels.tolist()]
    else:
        at = {text: j for j, text in enumerate(dict.fromkeys(given.tolist()))}
        texts, place = list(at), np.array([at[text] for text in given.tolist()], np.int64)
    numbers, ok = _read(texts, form)
    nothing = np.array([is_marker(text, markers) for text in texts], bool)
    place = place.reshape(-1)
    if len(texts):
        ok &= ~nothing
        found[mask], there[mask], unknown[mask] = numbers[place], ok[place], (~ok & ~nothing)[place]
    return found, there, unknown


def write(values: Array, form: str) -> list[str]:
    """Write numbers, times (in the form's unit) or truth values as texts."""
    if form in BOOLS:
        return [BOOLS[form][int(value)] for value in values.tolist()]
    return dates.write(values, form) if is_dates(form) else numerals.write(values, form)


def _read(texts: Sequence[str], form: str) -> tuple[Array, Mask]:
    if form in BOOLS:
        low = [text.strip().lower() for text in texts]
        return np.array([text == "true" for text in low]), np.array([text in ("true", "false") for text in low], bool)
    return dates.read(texts, form) if is_dates(form) else numerals.read(texts, form)
