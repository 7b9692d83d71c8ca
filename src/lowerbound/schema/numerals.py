"""Parse and write formatted numbers: thousands separators, decimal commas, currencies, percent signs, brackets.

Patterns are like those of spreadsheets: ``#,##0.00`` is 1,234.50; ``# ##0,0##`` is 1 234,5; ``$0``, ``0 %`` and
``0.00;()`` (negative numbers in brackets). ``General`` writes a number with as many digits as it needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
GENERAL = "General"
_GROUPS = ",.'_ \u00a0\u202f\u2009\u2019"
_CODES = "USD|EUR|GBP|CHF|JPY|CNY|RMB|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RUB|TRY|BRL|MXN|ZAR|KRW|SGD|HKD"
_MARK = rf"(?:(?:US|A|C|R|HK|NZ|S)?\$|[£€¥₹₽₩₺₪฿₫₴₦₡₱]|{_CODES}|kr\.?|Rs\.?|zł|Kč|Ft|[%‰])"
_SPACE = "[ \u00a0\u202f\u2009]?"
_PATTERN = re.compile(
    rf"(?P<before>(?:{_MARK}{_SPACE})?)(?:#(?P<group>[{_GROUPS}])##0|0)(?:(?P<point>[.,])(?P<fixed>0*)(?P<most>#*))?"
    rf"(?P<after>(?:{_SPACE}{_MARK})?)(?P<brackets>;\(\))?"
)
_AROUND = re.compile(
    rf"(?P<open>\()?(?P<sign>[-+\u2212]?)(?P<before>(?:{_MARK}{_SPACE})?)(?P<inner>[-+\u2212]?)"
    rf"(?P<core>[\d{_GROUPS}]*\d)(?P<power>[eE][-+]?\d+)?(?P<after>(?:{_SPACE}{_MARK})?)(?P<close>\))?"
)
_STYLES = ((None, "."), (",", "."), (".", ","), (None, ","))
_SPACES = " \u00a0\u202f\u2009'\u2019_"


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern.

    ``before`` and ``after``: symbols around the number. ``group`` and ``point``: thousands separator and decimal mark.
    ``fixed`` and ``most``: the least and the largest number of decimals. ``brackets``: around negative numbers.
    """

    before: str = ""
    after: str = ""
    group: str | None = None
    point: str = "."
    fixed: int = 0
    most: int = 0
    brackets: bool = False
    general: bool = False

    def __str__(self) -> str:
        if self.general and self.point == ".":
            return GENERAL
        whole = "0" if self.group is None else f"#{self.group}##0"
        decimals = self.point + "0" * self.fixed + "#" * (self.most - self.fixed) if self.most else ""
        return self.before + whole + decimals + self.after + (";()" if self.brackets else "")


@lru_cache(maxsize=4096)
def compiled(form: str) -> Pattern:
    """Parse a pattern. Raises ValueError if it is invalid."""
    if form == GENERAL:
        return Pattern(general=True)
    found = _PATTERN.fullmatch(form)
    if found is None or len(form) > 60 or (found["group"] is not None and found["group"] == found["point"]):
        raise ValueError(f"{form!r} is not a number format")
    fixed, most = len(found["fixed"] or ""), len(found["most"] or "")
    point = found["point"] or ("," if found["group"] == "." else ".")
    return Pattern(
        found["before"], found["after"], found["group"], point, fixed, fixed + most, found["brackets"] is not None
    )


def read(texts: Sequence[str], form: str) -> tuple[Array, NDArray[np.bool_]]:
    """Parse texts: float64, and which texts fit the pattern; separators, symbols and decimals are optional."""
    at = compiled(form)
    found, ok = np.zeros(len(texts)), np.zeros(len(texts), bool)
    for row, text in enumerate(texts):
        value = _value(text, at)
        if value is not None:
            found[row], ok[row] = value, True
    return found, ok


def write(values: Array, form: str) -> list[str]:
    """Format float64 as texts."""
    at = compiled(form)
    return [_text(float(value), at) for value in values.tolist()]


def candidates(texts: Sequence[str]) -> list[str]:
    """Patterns in which these texts may be written, the more likely first."""
    parts = [found for text in texts if (found := _AROUND.fullmatch(text.strip())) is not None]
    if not parts:
        return []
    cores = [part["core"] for part in parts]
    groups = [(mark, point) for mark in _SPACES if any(mark in core for core in cores) for point in ".,"]
    before, after = (_commonest(part[side] for part in parts) for side in ("before", "after"))
    brackets = any(part["open"] for part in parts)
    powers = any(part["power"] for part in parts)
    forms = []
    for group, point in (*groups, *_STYLES):
        fits = [core for core in cores if _core(core, group, point)]
        if not fits or (group is not None and not any(group in core for core in fits)):
            continue
        if group is None and point == "," and not any("," in core for core in fits):
            continue
        decimals = [len(core.rpartition(point)[2]) if point in core else 0 for core in fits]
        low, high = min(decimals), max(decimals)
        plain = group is None and point == "." and not before and not after and not brackets
        general = plain and (powers or low < high)
        low = low if low == high else 0
        forms.append(str(Pattern(before, after, group, point, low, high, brackets, general)))
    return list(dict.fromkeys(forms))


def is_plain(form: str) -> bool:
    """Whether a pattern writes numbers as programs do: with a decimal point, no separators and no symbols."""
    at = compiled(form)
    return at.general or (at.group is None and at.point == "." and not (at.before or at.after or at.brackets))


def _commonest(given: Iterable[str]) -> str:
    """The most frequent non-empty text; the first of several."""
    counts: dict[str, int] = {}
    for text in given:
        if text:
            counts[text] = counts.get(text, 0) + 1
    return max(counts, key=lambda text: counts[text], default="")


def _core(core: str, group: str | None, point: str) -> bool:
    return re.fullmatch(_digits(group, point), core) is not None


@lru_cache(maxsize=256)
def _digits(group: str | None, point: str) -> str:
    whole = r"\d+" if group is None else rf"(?:\d{{1,3}}(?:{re.escape(group)}\d{{3}})+|\d+)"
    return rf"{whole}(?:{re.escape(point)}\d+)?"


def _value(text: str, at: Pattern) -> float | None:
    found = _AROUND.fullmatch(text.strip())
    if found is None or (found["sign"] and found["inner"]) or bool(found["open"]) != bool(found["close"]):
        return None
    if found["open"] and (not at.brackets or found["sign"] or found["inner"]):
        return None
    marks = {found["before"].strip(_SPACES), found["after"].strip(_SPACES)} - {""}
    if marks - {at.before.strip(_SPACES), at.after.strip(_SPACES)} or not _core(found["core"], at.group, at.point):
        return None
    plain = found["core"] if at.group is None else found["core"].replace(at.group, "")
    value = float(plain.replace(at.point, ".") + (found["power"] or ""))
    if not math.isfinite(value):
        return None
    negative = found["open"] or (found["sign"] or found["inner"]) in ("-", "\u2212")
    return -value if negative else value


def _text(value: float, at: Pattern) -> str:
    if at.general:
        return f"{value:.0f}" if abs(value) < 1e15 and value == round(value) else repr(value)
    text = f"{abs(value):,.{at.most}f}"
    whole, _, decimals = text.partition(".")
    kept = decimals[: at.fixed] + decimals[at.fixed :].rstrip("0")
    whole = whole.replace(",", at.group or "")
    text = at.before + whole + (at.point + kept if kept else "") + at.after
    if not value < 0 or not re.search("[1-9]", whole + kept):
        return text
    return f"({text})" if at.brackets else f"-{text}"
