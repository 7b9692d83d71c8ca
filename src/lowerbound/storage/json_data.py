"""JSON as bytes, and back: nothing that is too large, too deep, or not a finite number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowerbound.checks import is_number, is_whole
from lowerbound.errors import FormatError
from lowerbound.storage.migrations import record_from_1

LARGEST_JSON = 1 << 26
_DEEPEST = 200  # lists and objects in each other


def json_bytes(value: Any) -> bytes:
    """``value`` as JSON. NaN and infinities are refused: they are not JSON."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def json_line(record: Mapping[str, float]) -> str:
    """A record of numbers as one line of JSON; one that is not finite becomes null."""
    values = {name: value if math.isfinite(value) else None for name, value in record.items()}
    return json.dumps(values, allow_nan=False) + "\n"


def parse_json(data: bytes, path: Path) -> Any:
    """JSON, or ``FormatError`` naming the file that it came from."""
    try:
        if len(data) > LARGEST_JSON:
            raise ValueError(f"{len(data)} bytes, where {LARGEST_JSON} are the most")
        found = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        _refuse_deep(found)
        return found
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not readable JSON ({error}); restore it or fit the model again.") from error


def parse_records(data: bytes, path: Path) -> list[dict[str, float]]:
    """The records of ``json_line``, or ``FormatError`` naming the file; null is NaN."""
    records = [parse_json(line, path) for line in data.splitlines()]
    records = [record_from_1(record) if isinstance(record, dict) else record for record in records]
    for record in records:
        numbers = isinstance(record, dict) and all(value is None or is_number(value) for value in record.values())
        if not numbers or not all(is_whole(record.get(key)) for key in ("epoch", "step")):
            raise FormatError(f"{path} is not a list of metrics; restore it or fit the model again.")
    return [{key: math.nan if value is None else value for key, value in record.items()} for record in records]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond the range of numbers")
    return number


def _refuse_deep(value: Any) -> None:
    """Refuse lists and objects that are nested deeper than any this library writes."""
    found = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        found = [
            item
            for each in found
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not found:
            return
    raise ValueError(f"lists and objects are more than {_DEEPEST} deep")
