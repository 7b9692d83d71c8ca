"""Whole numbers and times as steps from an offset: exact in double precision up to 2^53 steps."""

from __future__ import annotations

import datetime
import re
import zoneinfo
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.schema.column import DATES, Storage

Array = NDArray[Any]
Floats = NDArray[np.float64]
EXACT = 2**53
PER_UNIT = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "D": 86_400 * 10**9}
"""Nanoseconds in each unit of time."""
_NATURAL = ("nanosecond", 1), ("microsecond", 10**3), ("millisecond", 10**6), ("second", 10**9)
NATURAL = {length: name for name, length in (*_NATURAL, ("minute", 60 * 10**9), ("hour", 3600 * 10**9))}
NATURAL[PER_UNIT["D"]] = "day"
_WORD = 2**64
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,2}")
_FIXED = re.compile(r"(UTC)?[+-]([01]\d|2[0-3]):[0-5]\d")


@lru_cache
def is_zone(name: str) -> bool:
    """Whether ``name`` is a fixed offset or a zone of the time zone database (any name, if there is no database)."""
    if _FIXED.fullmatch(name):
        return True
    return bool(_ZONE.fullmatch(name)) and (_in_database(name) or not _in_database("UTC"))


def _in_database(name: str) -> bool:
    try:
        return bool(zoneinfo.ZoneInfo(name).key)
    except (KeyError, ValueError, OSError):
        return False


def steps(whole: Array, offset: int, step: int) -> Floats:
    """(whole − offset) / step for int64 or uint64 ``[N]``, as the nearest double; differences do not overflow."""
    below = whole < offset
    apart = whole.astype(np.uint64) - np.uint64(offset % _WORD)  # modulo 2^64
    apart[below] = np.uint64(0) - apart[below]
    quotient, rest = np.divmod(apart, np.uint64(step))
    found: Floats = quotient.astype(np.float64) + rest.astype(np.float64) / step
    return np.where(below, -found, found)


def whole(values: Floats, offset: int, step: int, limits: tuple[int, int]) -> Array:
    """offset + step · values, rounded and clipped to ``limits``: int64, or uint64 if the limits need it."""
    low, high = limits
    dtype = np.int64 if high < 2**63 else np.uint64
    least, most = (low - offset) / step, (high - offset) / step
    size = np.abs(np.where((values > least) & (values < most), values, 0))
    parts = np.floor(size)
    apart = parts.astype(np.uint64) * np.uint64(step) + np.rint((size - parts) * step).astype(np.uint64)
    at = np.uint64(offset % _WORD)
    found: Array = np.where(values < 0, at - apart, at + apart).astype(dtype)
    found[values >= most] = dtype(high)
    found[values <= least] = dtype(low)
    return found


def natural_step(values: Array, offset: int, unit: str) -> int:
    """The longest of day, hour, minute, … that divides all differences from ``offset``; its length in ``unit``."""
    apart = np.unique(values.astype(np.uint64) - np.uint64(offset % _WORD))
    divisor = int(np.gcd.reduce(apart)) * PER_UNIT[unit]
    longest = max(length for length in NATURAL if length >= PER_UNIT[unit] and divisor % length == 0)
    return longest // PER_UNIT[unit]


def readable(unit: str, duration: bool = False, zoned: bool = False) -> tuple[int, int]:
    """The first and the last time, in ``unit``, that Python's datetime (or timedelta, for a ``duration``) can hold.

    The limits fit in 64 bits. For times of a zone they are a day narrower, so that local times are valid too.
    """
    day = PER_UNIT["D"] // PER_UNIT[unit]
    most = 2**63 - 1 - zoned * day
    first, last = -999_999_999 * day, 999_999_999 * day
    if not duration:
        first, last = (DATES[0] + zoned) * day, (DATES[1] + 1 - zoned) * day - 1
    return max(first, -most), min(last, most)


def shown(stamp: int, storage: Storage) -> str:
    """A time or duration as text; a time with a zone is shown in local time with its offset."""
    duration = storage.family == "duration"
    if storage.zone is not None and not duration and (local := _local(stamp, storage)) is not None:
        return local
    text = re.sub(r"(T00:00:00)?(\.0+)?$", "", str(np.array(stamp, f"{'m8' if duration else 'M8'}[{storage.unit}]")))
    return text if storage.zone is None or duration else f"{text} UTC"


def _local(stamp: int, storage: Storage) -> str | None:
    """The local time in its zone, to the microsecond; None if Python does not know the zone or cannot hold the time."""
    zone = re.fullmatch(r"([+-])(\d\d):?(\d\d)", storage.zone or "")
    try:
        if zone is None:
            known: datetime.tzinfo = zoneinfo.ZoneInfo(storage.zone or "")
        else:
            apart = datetime.timedelta(hours=int(zone[2]), minutes=int(zone[3]))
            known = datetime.timezone(-apart if zone[1] == "-" else apart)
        passed = datetime.timedelta(microseconds=stamp * PER_UNIT[storage.unit or "ns"] // 1000)
        at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + passed
        return at.astimezone(known).isoformat(" ")
    except (OverflowError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return None


def in_unit(values: Array, unit: str, to: str) -> Array:
    """Convert times to another unit: rounded down for a coarser one, clipped to 64 bits for a finer one."""
    have, want = PER_UNIT[unit], PER_UNIT[to]
    if have <= want:
        return values // (want // have)
    ratio, end = have // want, np.iinfo(np.int64).max // (have // want)
    return np.clip(values, -end, end) * ratio
