"""Wrong values for the fields of a JSON file, and every place of such a file with one of them in it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

DEEP: Any = [[]]
for _ in range(150):
    DEEP = [DEEP]

WRONG: dict[str, Any] = {
    "null": None,
    "true": True,
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "1e400": math.inf,
    "-1e400": -math.inf,
    "1e308": 1e308,
    "5e-324": 5e-324,
    "NaN": math.nan,
    "2⁶³": 2**63,
    "2⁶⁴": 2**64,
    "10¹²": 10**12,
    "-10⁴⁰⁰": -(10**400),
    "no text": "",
    "text": "x",
    "text of a number": "1",
    "a callable": "os.system",
    "a callable of arrow": "OSFile",
    "a wide type": "int999999999",
    "a wider type": "uint99999999999999999999",
    "an object of NumPy": "O",
    "400 MB of text": "U100000000",
    "a path": "../../../../etc/passwd",
    "a zone that is a file": "dateutil//etc/passwd",
    "half a surrogate": "\ud800",
    "a long text": "x" * 10_000,
    "an empty list": [],
    "a list of text": ["x"],
    "a list of one text twice": ["x", "x"],
    "a list of 1 and true": [1, True],
    "a list of null": [None],
    "a list of lists": [["x"], ["y"]],
    "a list of -1": [-1],
    "two huge numbers": [10**9, 10**9],
    "a list of infinity": [math.inf],
    "a deep list": DEEP,
    "many numbers": [0] * 10**4,
    "an object": {},
    "an object of a part": {"part": "likelihoods.Normal", "arguments": {}},
}
"""By what each is called."""


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in a JSON value; of a list of plain values, that of the first."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list | tuple):
        some = list(enumerate(value)) if any(isinstance(item, dict) for item in value) else list(enumerate(value))[:1]
        for at, item in some:
            yield from places(item, (*path, at))


def put(value: Any, path: Sequence[str | int], wrong: Any) -> Any:
    """``value`` with ``wrong`` at ``path``; the rest is shared with it."""
    found, (key, *rest) = copy.copy(value), path
    found[key] = put(value[key], rest, wrong) if rest else wrong
    return found


def without(value: Any, path: Sequence[str | int]) -> Any:
    """``value`` with nothing at ``path``; the rest is shared with it."""
    found, (key, *rest) = copy.copy(value), path
    if rest:
        found[key] = without(value[key], rest)
    else:
        del found[key]
    return found


def forged(value: Any) -> Iterator[tuple[str, Any]]:
    """``value`` with one place of it forged, in every way, and what was done."""
    for path in places(value):
        where = ".".join(map(str, path))
        for name, wrong in WRONG.items():
            yield f"{where} is {name}", put(value, path, wrong)
        if isinstance(path[-1], str):
            yield f"{where} is lacking", without(value, path)
            yield f"{where} has a key beside", put(value, (*path[:-1], "os.system"), "true")
