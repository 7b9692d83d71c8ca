"""Dates and times as text: detect, read and write ``strftime`` formats."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_LONG = ["", "January", "February", "March", "April", "May", "June", "July"]
_LONG += ["August", "September", "October", "November", "December"]
_DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
_MONTHS = ["", *(name[:3].lower() for name in _LONG[1:])]
_NAMED = "|".join([*(name for name in _LONG[1:]), "Sept", *(name[:3] for name in _LONG[1:])])
_TOKEN = re.compile(r"%(-?[mdHI]|\^?b|B|[1-9]?f|[YyMSpza])|([^%])", re.DOTALL)
_OFFSET = re.compile(r"(?<=[MSfp ])(Z|UTC|GMT|[+-]\d\d:?\d\d)$")
_PATTERNS = {
    **{"Y": r"(?P<Y>\d{4})", "y": r"(?P<Y>\d\d)", "m": r"(?P<m>\d{1,2})", "d": r"(?P<d>\d{1,2})"},
    **{"b": rf"(?P<b>{_NAMED})\.?", "H": r"(?P<H>\d{1,2})", "I": r"(?P<H>\d{1,2})", "M": r"(?P<M>\d\d)"},
    **{"S": r"(?P<S>\d\d)", "p": r"(?P<p>[AaPp]\.?[Mm]\.?)", "z": r"(?P<z>Z|UTC|GMT|[+-]\d\d:?\d\d)"},
    "a": rf"(?:{'|'.join(_DAYS)})[a-z]*",
}
_PER_SECOND = {"s": 1, "us": 10**6, "ns": 10**9}
_EPOCH, _DAY = datetime.date(1970, 1, 1).toordinal(), 86_400
_LONGEST = 40
_NUMERIC = tuple("YymdHIMS")
_ZONE = re.compile(r"(Z|UTC|GMT|[+-]\d\d:?\d\d)\s*$")
_LITERALS = re.compile(r"[ T/.,:'\-]*")


@dataclass(frozen=True)
class Format:
    """A parsed format: the pattern that reads it, the unit of its times, and minutes from UTC if it states a zone."""

    tokens: tuple[tuple[str, str], ...]
    pattern: re.Pattern[str]
    unit: str
    offset: int | None
    zoned: bool
    century: bool
    zone: str = ""


@lru_cache(maxsize=4096)
def compiled(form: str) -> Format:
    """Parse a format. Raises ValueError if it does not determine a date."""
    stem, offset = _without_offset(form)
    tokens = [(found[1] or "", found[2] or "") for found in _TOKEN.finditer(stem)]
    if "".join(f"%{code}" if code else literal for code, literal in tokens) != stem or len(form) > _LONGEST:
        raise ValueError(f"{form!r} is not a date format")
    codes = [code.strip("-^0123456789") for code, _ in tokens if code]
    plain = ["b" if code == "B" else "Y" if code == "y" else "H" if code == "I" else code for code in codes]
    there = set(plain)
    twelve = ("I" in codes) == ("p" in codes)
    steps = all(second not in there or first in there for first, second in ("HM", "MS", "Sf"))
    literal = "".join(text for _, text in tokens)
    if len(there) < len(plain) or "Y" not in there or not there & {"m", "b"} or {"m", "b"} <= there or not twelve:
        raise ValueError(f"{form!r} lacks the year or the month, or has a part twice")
    if any(code.endswith("f") and tokens[j - 1][1] not in (".", ",") for j, (code, _) in enumerate(tokens)):
        raise ValueError(f"{form!r} has a fraction without a decimal mark before it")
    if not steps or (offset is not None and "z" in there) or not _LITERALS.fullmatch(literal):
        raise ValueError(f"{form!r} is not a date format")
    if ("z" in there or offset is not None) and "M" not in there:
        raise ValueError(f"{form!r} has a time zone but no time")
    pattern = _pattern(tokens) + ("" if offset is None else re.escape(form[len(stem) :]))
    digits = next((code for code, _ in tokens if code.endswith("f")), None)
    unit = "D" if "H" not in there else "s" if digits is None else "ns" if digits[:1] in ("7", "8", "9") else "us"
    zoned = offset is not None or "z" in there
    reads = re.compile(rf"\s*{pattern}\s*", re.ASCII | re.I)
    return Format(tuple(tokens), reads, unit, offset, zoned, "Y" in codes, form[len(stem) :])


def read(texts: Sequence[str], form: str) -> tuple[Array, NDArray[np.bool_]]:
    """Parse texts: int64 since 1970 in the format's unit (in UTC if it has a zone), and which texts fit the format."""
    at = compiled(form)
    found, ok = np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)
    for row, text in enumerate(texts):
        match = at.pattern.fullmatch(text)
        value = None if match is None else _stamp(match.groupdict(), at)
        if value is not None:
            found[row], ok[row] = value, True
    return found, ok


def write(stamps: Array, form: str) -> list[str]:
    """Format times, given as int64 in the format's unit, as texts.

    Times are clipped to the years 1 to 9999, or to 1969 to 2068 for a format with two-digit years.
    """
    at = compiled(form)
    size = _PER_SECOND.get(at.unit, 1)
    per_day = 1 if at.unit == "D" else _DAY * size
    shift = (at.offset or 0) * 60 * size
    first, last = (datetime.date(1, 1, 1), datetime.date.max) if at.century else _CENTURY
    low, high = (date.toordinal() - _EPOCH for date in (first, last))
    levels, place = np.unique(stamps, return_inverse=True)
    texts = []
    for stamp in levels.tolist():
        day, rest = divmod(min(stamp, 2**62) + shift, per_day)
        if not low <= day <= high:
            day, rest = (low, 0) if day < low else (high, per_day - 1)
        texts.append(_text(at, datetime.date.fromordinal(day + _EPOCH), rest, size))
    return [texts[j] for j in place.reshape(-1).tolist()]


_CENTURY = datetime.date(1969, 1, 1), datetime.date(2068, 12, 31)  # two-digit years, as POSIX reads them


def candidates(texts: Sequence[str]) -> list[str]:
    """Formats in which any of these texts may be written, the more likely first."""
    found: dict[str, None] = {}
    for text in texts:
        match = _CLOCK.search(text)
        clock, date = ("", text) if match is None else (_clock(match), text[: match.start()])
        found |= dict.fromkeys(form + clock for form in _dates(date.strip()))
    return list(found)


def as_written(form: str, texts: Sequence[str]) -> str:
    """The variant of a format (zero padding, month names, …) that reproduces most of these texts exactly."""
    ok = read(texts, form)[1]
    given = [text for text, there in zip(texts, ok.tolist(), strict=True) if there]
    if form.endswith("%z"):
        zones = {found[1] for text in given if (found := _ZONE.search(text)) is not None}
        form = form[:-2] + zones.pop() if len(zones) == 1 else form
    best, most = form, -1
    for variant in _variants(form):
        same = sum(map(str.__eq__, write(read(given, variant)[0], variant), given))
        if same > most:
            best, most = variant, same
    return best


def _variants(form: str) -> list[str]:
    bare, short = re.sub(r"%([md])", r"%-\1", form), re.sub(r"%([HI])", r"%-\1", form)
    both = re.sub(r"%([HI])", r"%-\1", bare)
    found = dict.fromkeys([form, bare, short, both])
    if "%b" in form:
        found |= dict.fromkeys(each.replace("%b", "%^b") for each in list(found))
        found |= dict.fromkeys(each.replace("%b", "%B") for each in list(found))
    if "%f" in form:
        found |= dict.fromkeys(each.replace("%f", f"%{digits}f") for each in list(found) for digits in (3, 1, 2, 9))
    return list(found)


def _without_offset(form: str) -> tuple[str, int | None]:
    match = _OFFSET.search(form)
    return (form, None) if match is None else (form[: match.start()], minutes(match[1]))


def minutes(zone: str) -> int:
    """The offset in minutes east of UTC of Z, UTC, GMT, +01:00 or +0100."""
    if zone.upper() in ("Z", "UTC", "GMT"):
        return 0
    return (-1 if zone[0] == "-" else 1) * (60 * int(zone[1:3]) + int(zone[-2:]))


def _pattern(tokens: list[tuple[str, str]]) -> str:
    """The regular expression of a format. The fraction of a second may be left out."""
    parts: list[str] = []
    for j, (code, literal) in enumerate(tokens):
        name = code.lstrip("-^")
        if code.endswith("f"):
            parts[-1] = r"(?:[.,](?P<f>\d{1,9}))?"
        elif not code:
            parts.append(r"\s+" if literal == " " else re.escape(literal))
        else:
            found = _PATTERNS["b" if name == "B" else name]
            beside = tokens[max(j - 1, 0) : j] + tokens[j + 1 : j + 2]
            crowded = name in "mdHI" and any(other.strip("-")[:1] in _NUMERIC for other, _ in beside if other)
            parts.append(found.replace("{1,2}", "{2}") if crowded else found)
    return "".join(parts)


def _stamp(parts: dict[str, str | None], at: Format) -> int | None:
    year, month = int(parts["Y"] or 0), parts.get("m")
    if not at.century:
        year += 1900 if year > 68 else 2000
    number = int(month) if month is not None else _MONTHS.index((parts["b"] or "")[:3].lower())
    try:
        day = datetime.date(year, number, int(parts.get("d") or 1)).toordinal() - _EPOCH
    except ValueError:
        return None
    if at.unit == "D":
        return day
    hour, minute, second = (int(parts.get(name) or 0) for name in "HMS")
    if (half := parts.get("p")) is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half[0] in "Pp")
    if hour > 23 or minute > 59 or second > 59:
        return None
    zone = parts.get("z")
    east = at.offset or 0 if zone is None else minutes(zone)
    size = _PER_SECOND[at.unit]
    fraction = int(((parts.get("f") or "") + "0" * 9)[:9]) * size // 10**9
    return (day * _DAY + hour * 3600 + (minute - east) * 60 + second) * size + fraction


def _text(at: Format, date: datetime.date, rest: int, size: int) -> str:
    seconds, fraction = divmod(rest, size)
    hour, minute, second = seconds // 3600, seconds // 60 % 60, seconds % 60
    twelve = hour % 12 or 12
    name = _LONG[date.month]
    written = {
        **{"Y": f"{date.year:04d}", "y": f"{date.year % 100:02d}", "m": f"{date.month:02d}", "-m": str(date.month)},
        **{"d": f"{date.day:02d}", "-d": str(date.day), "b": name[:3], "^b": name[:3].upper(), "B": name},
        **{"H": f"{hour:02d}", "-H": str(hour), "I": f"{twelve:02d}", "-I": str(twelve), "M": f"{minute:02d}"},
        **{"S": f"{second:02d}", "p": "AM" if hour < 12 else "PM", "z": "+00:00", "a": _DAYS[date.weekday()]},
    }
    parts = []
    for code, literal in at.tokens:
        if code.endswith("f"):
            parts.append(f"{fraction * (10**9 // size):09d}"[: int(code[:-1] or 6)])
        else:
            parts.append(written[code] if code else literal)
    return "".join(parts) + at.zone


_CLOCK = re.compile(
    r"(?P<gap>T|, ?| +)(?P<h>\d{1,2}):\d\d(?P<s>:\d\d(?:(?P<point>[.,])\d{1,9})?)?"
    r"(?P<half> ?[AaPp]\.?[Mm]\.?)?(?P<space> ?)(?P<zone>Z|UTC|GMT|[+-]\d\d:?\d\d)?\s*$"
)


def _clock(match: re.Match[str]) -> str:
    half, gap = match["half"], "T" if match["gap"] == "T" else ", " if "," in match["gap"] else " "
    form = gap + ("%H" if half is None else "%I") + ":%M" + ("" if match["s"] is None else ":%S")
    form += "" if match["point"] is None else f"{match['point']}%f"
    form += "" if half is None else (" %p" if half.startswith(" ") else "%p")
    return form + ("" if match["zone"] is None else match["space"] + "%z")


_SHAPES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\d{4}([-/. ])\d{1,2}\1\d{1,2}", ("%Y{0}%m{0}%d",)),
    (r"\d{1,2}(/)\d{1,2}\1\d{4}", ("%m{0}%d{0}%Y", "%d{0}%m{0}%Y")),
    (r"\d{1,2}([-. ])\d{1,2}\1\d{4}", ("%d{0}%m{0}%Y", "%m{0}%d{0}%Y")),
    (r"\d{1,2}([./-])\d{1,2}\1\d\d", ("%d{0}%m{0}%y", "%m{0}%d{0}%y", "%y{0}%m{0}%d")),
    (r"()\d{8}", ("%Y%m%d",)),
    (r"\d{4}([-/])\d\d", ("%Y{0}%m",)),
    (r"\d{1,2}([/])\d{4}", ("%m{0}%Y",)),
    (r"\d{1,2}([- /])[A-Za-z]+\.?\1\d{4}", ("%d{0}%b{0}%Y",)),
    (r"\d{1,2}([- /])[A-Za-z]+\.?\1\d\d", ("%d{0}%b{0}%y",)),
    (r"()\d{1,2}[A-Za-z]{3}\d{4}", ("%d%b%Y",)),
    (r"()\d{1,2}\. [A-Za-z]+ \d{4}", ("%d. %b %Y",)),
    (r"()[A-Za-z]+\.? \d{1,2}, \d{4}", ("%b %d, %Y",)),
    (r"()[A-Za-z]+\.? \d{1,2} \d{4}", ("%b %d %Y",)),
    (r"()[A-Za-z]{3},? \d{1,2} [A-Za-z]{3} \d{4}", ("%a, %d %b %Y", "%a %d %b %Y")),
    (r"\d{4}([- /])[A-Za-z]+\1\d{1,2}", ("%Y{0}%b{0}%d",)),
    (r"[A-Za-z]{3,}\.?([- /])\d{4}", ("%b{0}%Y",)),
    (r"[A-Za-z]{3,}([-])\d\d", ("%b{0}%y",)),
    (r"\d{4}([- ])[A-Za-z]{3,}", ("%Y{0}%b",)),
)


def _dates(text: str) -> list[str]:
    """The formats in which the date in a text may be written."""
    found: list[str] = []
    for shape, forms in _SHAPES:
        if (match := re.fullmatch(shape, text, re.ASCII)) is not None:
            found += [form.format(match[1]) for form in forms]
    return found
